"""The doctor finds planted faults by name, says nothing of clean data, and tells real chests from what is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from asapkit import chest, ct, doctor, store
from asapkit.config import Config
from asapkit.datasets import Unusable
from asapkit.types import ORGANS, Refused, Scan, Volume

CHESTS = (
    "ts_chest_cta/example_ct.nii.gz", "pyradiomics_lung1/lung1_image.nrrd", "cip_ct64/ct-64.nrrd", "cip_ct64/ct-64Dicom",
    "lung_dx_a0002/Lung_Dx-A0002.zip#B40f", "lung_dx_a0002/Lung_Dx-A0002.zip#B70f",
    "lidc_idri_0314_every2nd/LIDC-IDRI-0314_every_second_slice.zip",
)  # fmt: skip
SPACING = (6.0, 6.0, 6.0)


def torso(*, right_lung=1.0, left_lung=1.0, seed=0) -> np.ndarray:
    """A drawn torso in RAS, 60 x 48 x 50 voxels of 6 mm: body, table behind, spine, two lungs with a trachea above, heart below left."""
    shape = (60, 48, 50)
    x, y, z = (np.arange(n) - (n - 1) / 2 for n in shape)
    x, y, z = np.meshgrid(x * 6.0, y * 6.0, z * 6.0, indexing="ij")
    hu = np.full(shape, -1000.0, np.float32)
    hu[(np.abs(x) < 160) & (y > -135) & (y < -122)] = 50  # table
    hu[(x / 150) ** 2 + (y / 105) ** 2 < 1] = 40
    for side, size in ((1, right_lung), (-1, left_lung)):
        if size:
            lung = ((x - side * 72) / 52) ** 2 + (y / 75) ** 2 + ((z - 10) / (110 * size)) ** 2 < 1
            hu[lung] = -850
    hu[((x + 25) / 55) ** 2 + ((y - 25) / 45) ** 2 + ((z + 30) / 50) ** 2 < 1] = 45  # heart, leaning left
    hu[(x**2 + (y + 75) ** 2 < 18**2)] = 500  # spine
    hu[(x**2 + (y + 20) ** 2 < 11**2) & (z > 20)] = -990  # trachea
    return np.rint(hu + np.random.default_rng(seed).normal(0, 12, shape)).astype(np.int16)


def affine(spacing=SPACING, origin=(-180.0, -150.0, 100.0)) -> np.ndarray:
    made = np.diag([*spacing, 1.0])
    made[:3, 3] = origin
    return made


def codes(findings, *levels) -> set[str]:
    return {f.code for f in findings if f.level in (levels or ("error", "warning"))}


def saved(path: Path, array, its_affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine() if its_affine is None else its_affine), path)
    return path


# ------------------------------------------------------------------------------------------------------------- one volume


def test_a_clean_torso_has_nothing_wrong_but_its_coarse_voxels():
    volume = Volume(torso(), affine())
    assert doctor.check_volume(volume) == []


PLANTED = {
    "intercept forgotten": lambda a: a + 1024, "scaled twice": lambda a: a - 1024, "8192": lambda a: a.astype(np.float32) + 8192,
    "8-bit": lambda a: ((a.clip(-1000, 1000) + 1000) / 2000 * 255).astype(np.uint8),
    "scaling for a network": lambda a: a.clip(-1000, 1000).astype(np.float32) / 1000, "cut off": lambda a: (a - 1024).clip(-1000, 1000),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_values_that_are_not_hu_are_named_with_the_fix(fault):
    with pytest.raises(Refused, match=f"not HU.*{fault}.*; .*") as refused:
        doctor.check_volume(Volume(PLANTED[fault](torso()), affine()), name="case")
    assert str(refused.value).startswith("case: ") and "\n" not in str(refused.value)


def test_a_body_without_lungs_is_no_chest_and_one_lung_is_warned_about():
    with pytest.raises(Refused, match="not a chest"):
        doctor.check_volume(Volume(torso(right_lung=0.3, left_lung=0.3), affine()))
    assert any("one lung holds hardly any air" in w for w in doctor.check_volume(Volume(torso(right_lung=0), affine())))


def test_a_field_of_impossible_size_points_at_the_spacing():
    assert any("is the spacing right" in w for w in doctor.check_volume(Volume(torso(), affine((16.0, 16.0, 16.0)))))


@pytest.mark.parametrize("axis, says", [(1, "front and back"), (2, "top and bottom")])
def test_a_torso_on_its_head_or_belly_is_noticed_and_a_mirrored_one_is_unknown(tmp_path, axis, says):
    findings = doctor.examine(saved(tmp_path / "a.nii.gz", np.flip(torso(), axis)))
    assert [f for f in findings if f.code == "orientation" and f.level == "warning" and says in f.message]
    mirrored = doctor.examine(saved(tmp_path / "b.nii.gz", torso()[::-1]))
    assert [f for f in mirrored if f.code == "orientation" and f.level == "note" and "left and right: unknown" in f.message]


@pytest.mark.parametrize("axis, says", [(1, "front and back look swapped"), (2, "top and bottom look swapped")])
def test_the_store_takes_a_torso_on_its_head_and_remembers_that_it_looks_so(tmp_path, axis, says):
    scans = [
        Scan(id, id, id, saved(tmp_path / f"{id}.nii.gz", array), "The lungs are clear.", "")
        for id, array in (("upright", torso()), ("turned", np.flip(torso(), axis)))
    ]
    assert store.write(scans, tmp_path / "s", config=Config.at("toy"), progress=False).refused == ()
    told = store.open(tmp_path / "s").table["warnings"]
    assert says in told["turned"] and "look swapped" not in told["upright"]


ABSURD = {"metres of voxels": (300.0,) * 3, "decimetres": (40.0,) * 3, "a wide field": (18.0, 18.0, 18.0), "micrometres": (0.003,) * 3}


@pytest.mark.parametrize("what", ABSURD)
def test_an_absurd_spacing_is_refused_before_anything_is_allocated(tmp_path, monkeypatch, what):
    monkeypatch.setattr(ct, "resample", lambda *_, **__: pytest.fail("this would take gigabytes"))
    array = np.tile(torso(), (2, 2, 2))
    (found,) = doctor.examine(saved(tmp_path / "a.nii.gz", array, affine(ABSURD[what])))
    size = f"{array.shape[0] * ABSURD[what][0]:.4g} x "
    assert (found.level, found.code) == ("error", "spacing") and f"{ABSURD[what][0]:.3g} x" in found.message and size in found.message
    assert "repair the spacing or units" in found.fix and "\n" not in str(found)


def test_one_volume_without_memory_does_not_stop_the_rest(tmp_path, monkeypatch):
    survey = chest.survey

    def short(volume):
        if volume.affine[0, 3] == 7.0:
            raise MemoryError
        return survey(volume)

    monkeypatch.setattr(chest, "survey", short)
    scans = [
        scan("big", saved(tmp_path / "big.nii.gz", torso(), affine(origin=(7.0, 0.0, 0.0)))),
        scan("off", saved(tmp_path / "b.nii.gz", torso() + 1024)),
    ]
    found = [f for f in doctor.check(scans, progress=False) if f.level == "error"]
    assert {(f.code, f.id) for f in found} == {("memory", "big"), ("hu", "off")}
    assert "60 x 48 x 50 voxels of 6 x 6 x 6 mm" in next(f.message for f in found if f.id == "big")
    assert [f.code for f in doctor.examine(tmp_path / "big.nii.gz")] == ["memory"]


def lobes(flip=None) -> np.ndarray:
    """Two lobes a side, right ones on high x, on the lungs of `torso`."""
    labels = np.zeros((60, 48, 50), np.uint8)
    air = torso() < -700
    x, z = np.arange(60)[:, None, None], np.arange(50)[None, None, :]
    inner = air & (np.abs(x - 29.5) > 4) & (np.abs(x - 29.5) < 22) & (z > 5) & (z < 46)
    inner[:, :12], inner[:, -12:] = False, False
    for k, (right, upper) in {1: (False, True), 2: (False, False), 3: (True, True), 5: (True, False)}.items():
        labels[inner & ((x > 29.5) == right) & ((z > 26) == upper)] = k
    return labels if flip is None else np.flip(labels, flip)


def test_organ_masks_tell_left_from_right(tmp_path):
    labels = {k + 1: name for k, name in enumerate(ORGANS)}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    right = doctor.examine(saved(tmp_path / "a.nii.gz", torso()), organs=saved(tmp_path / "o.nii.gz", lobes()))
    assert not codes(right) - {"spacing"} and not [f for f in right if "left and right" in f.message]
    wrong = doctor.examine(saved(tmp_path / "b.nii.gz", torso()[::-1]), organs=saved(tmp_path / "p.nii.gz", lobes(0)))
    assert [f for f in wrong if f.level == "warning" and "left and right look swapped" in f.message]


def test_the_store_believes_organ_masks_more_than_the_eye(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({k + 1: name for k, name in enumerate(ORGANS)}))
    arrays = {"mirrored": (torso()[::-1], lobes(0)), "odd": (np.flip(torso(), 2), lobes()), "good": (torso(), lobes())}
    scans = [
        Scan(id, id, id, saved(tmp_path / f"{id}.nii.gz", array), "Clear.", "", organs=saved(tmp_path / "masks" / f"{id}.nii.gz", labels))
        for id, (array, labels) in arrays.items()
    ]
    (tmp_path / "labels.json").rename(tmp_path / "masks" / "labels.json")
    store.write(scans, tmp_path / "s", config=Config.at("toy"), progress=False)
    told = store.open(tmp_path / "s").table["warnings"]
    assert "left and right look swapped" in told["mirrored"]
    assert "top and bottom" not in told["odd"] and "look swapped" not in told["good"]


def test_masks_beside_their_organs_are_noticed(tmp_path):
    (tmp_path / "labels.json").write_text('{"1": "lung_upper_lobe_left", "3": "lung_upper_lobe_right"}')
    moved = np.roll(lobes(), 26, 0)
    found = doctor.examine(saved(tmp_path / "a.nii.gz", torso()), organs=saved(tmp_path / "o.nii.gz", np.where(torso() > 0, 1, 0).astype(np.uint8)))
    assert "organs" in codes(found, "error")
    far = affine(origin=(9000.0, 0.0, 0.0))
    assert "organs" in codes(doctor.examine(tmp_path / "a.nii.gz", organs=saved(tmp_path / "far.nii.gz", moved, far)), "error")


DAMAGED = {"cut.nii.gz": "truncated", "same.nii.gz": "constant", "none.nii.gz": "missing", "thin.nii.gz": "thin"}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_become_findings_with_their_code(tmp_path, name):
    good = saved(tmp_path / "good.nii.gz", torso()).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(good[:5000])
    saved(tmp_path / "same.nii.gz", np.zeros((20, 20, 20), np.int16))
    saved(tmp_path / "thin.nii.gz", torso()[:, :, :9])
    (found,) = doctor.examine(tmp_path / name)
    assert (found.level, found.code) == ("error", DAMAGED[name]) and found.fix and "\n" not in str(found)


# -------------------------------------------------------------------------------------------------------------- a dataset


def scan(id: str, path: Path, **fields) -> Scan:
    return Scan(**({"id": id, "patient": id, "study": id, "path": path, "findings": f"words on {id}"} | fields))


def test_leaks_duplicates_and_missing_halves_are_listed(tmp_path):
    here, secret = saved(tmp_path / "a.nii.gz", torso()), "A sentence that must not be shown."
    findings = doctor.dataset([
        scan("a", here, patient="p"), scan("b", here, patient="p", split="valid"), scan("c", here, findings=secret),
        scan("d", here, findings=secret.upper(), split="valid"), scan("e", here), scan("e", here), scan("f", here, findings=""),
        scan("g", tmp_path / "gone.nii.gz"), Unusable("h", None, "line 9: no path"),
    ])  # fmt: skip
    assert {(f.code, f.id) for f in findings} == {
        ("patient_split", "p"), ("report_split", "c"), ("duplicate_id", "e"), ("no_report", "f"), ("no_volume", "g"), ("unusable", "h")
    }  # fmt: skip
    assert secret not in " ".join(map(str, findings)) and doctor.dataset([scan("a", here), scan("b", here, split="valid")]) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_check_reads_every_volume_and_compares_their_voxels(tmp_path, workers):
    whole, other = torso(), torso(seed=1)
    scans = [
        scan("whole", saved(tmp_path / "whole.nii.gz", whole)), scan("other", saved(tmp_path / "other.nii.gz", other)),
        scan("copy", saved(tmp_path / "copy.nii.gz", whole), split="valid"),
        scan("cut", saved(tmp_path / "cut.nii.gz", whole[:, :, 20:])),  # its header still says that it begins at slice 0
        scan("broken", saved(tmp_path / "broken.nii.gz", np.zeros((9, 9, 9), np.int16))),
        scan("off", saved(tmp_path / "off.nii.gz", torso(seed=2) + 1024)),
    ]  # fmt: skip
    found = {(f.code, f.id) for f in doctor.check(scans, workers=workers, progress=False) if f.code != "spacing"}
    assert {("copy", "copy"), ("origin", "cut"), ("constant", "broken"), ("hu", "off")} <= found
    assert not {id for _, id in found} & {"whole", "other"}


def test_a_warning_of_many_volumes_is_said_once(tmp_path):
    scans = [scan(f"s{k}", saved(tmp_path / f"{k}.nii.gz", torso(seed=k))) for k in range(5)]
    (one,) = [f for f in doctor.check(scans, progress=False) if "coarse pixels" in f.message]
    assert "5 volumes: s0, s1, s2" in one.message


def test_a_cut_that_lies_where_it_was_cut_is_only_a_copy(tmp_path):
    moved = affine(origin=(-180.0, -150.0, 100.0 + 6 * 15))
    scans = [scan("whole", saved(tmp_path / "whole.nii.gz", torso())), scan("cut", saved(tmp_path / "cut.nii.gz", torso()[:, :, 15:], moved))]
    found = [f for f in doctor.check(scans, progress=False) if f.code in ("copy", "origin")]
    assert [(f.code, f.level, f.id) for f in found] == [("copy", "warning", "cut")]


def test_many_copies_are_one_line_and_a_moved_one_advises_no_origin(tmp_path):
    """The moved ones come first: the order of a table says nothing of who is right."""
    places = {"moved": affine(origin=(0.0, 0.0, 0.0)), "too": affine(origin=(0.0, 0.0, 0.0))} | {f"s{k}": affine() for k in range(5)}
    scans = [scan(id, saved(tmp_path / f"{id}.nii.gz", torso(), place)) for id, place in places.items()]
    copy, moved = (f for f in doctor.check(scans, progress=False) if f.code in ("copy", "origin"))
    assert (copy.code, copy.level, copy.id) == ("copy", "warning", "s1") and "5 identical volumes: s0, s1, s2, s3, s4" in copy.message
    assert (moved.code, moved.level, moved.id) == ("origin", "error", "moved") and "differ in origin" in moved.message and "too" in moved.message
    assert "+180, +150, -100 mm" in moved.message and "those of s0" in moved.message
    assert "take the origin" not in moved.fix and "which origin is right" in moved.fix


def test_volumes_of_equal_slices_are_one_line_and_a_copy_elsewhere_in_the_split_is_a_leak(tmp_path):
    array = np.repeat(torso()[:, :, 25:26], 50, 2)
    array[:, :, :10] = torso()[:, :, :10]
    cut = array[:, :, 5:]
    scans = [
        scan(id, saved(tmp_path / f"{id}.nii.gz", a), split=s) for id, a, s in (("a", array, "train"), ("b", array, "valid"), ("c", cut, "train"))
    ]
    found = [f for f in doctor.check(scans, progress=False) if f.code in ("copy", "origin")]
    assert [(f.code, f.level, f.id) for f in found] == [("copy", "error", "b"), ("origin", "error", "c")]


# -------------------------------------------------------------------------------------------------------------- environment


@pytest.mark.slow
def test_the_environment_is_described_and_imports_stay_light():
    known = doctor.environment()
    assert {"python", "torch", "torch build", "numpy", "cores", "memory", "display", "GL", "gpu"} <= set(known)
    assert all(isinstance(value, str) and value for value in known.values())
    heavy = "import sys, asapkit.doctor; print(*[m for m in ('SimpleITK', 'pandas', 'scipy', 'nibabel', 'napari', 'monai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.split() == []


# -------------------------------------------------------------------------------------------------------------- real scans


@pytest.mark.slow
@pytest.mark.parametrize("name", CHESTS)
def test_real_chests_pass_and_the_same_turned_over_are_noticed(shared, name):
    volume = ct.read(shared / "data/volumes" / name)
    assert doctor.check_volume(volume) == []
    for offset in (1024, -1024):
        with pytest.raises(Refused, match="not HU"):
            doctor.check_volume(Volume(volume.array.astype(np.float32) + offset, volume.affine))
    for axis, says in {1: "front and back look swapped", 2: "top and bottom look swapped"}.items():
        turned = [str(f) for f in doctor._look(Volume(np.flip(volume.array, axis), volume.affine))]
        assert any(says in f for f in turned) or ("LIDC" in name and axis == 2)
    assert not any("look swapped" in str(f) for f in doctor._look(volume))


def test_a_real_abdomen_is_refused_as_not_a_chest_and_its_cut_out_has_a_wrong_origin(shared):
    folder = shared / "data/volumes/ts_abdomen_not_chest"
    for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz"):
        with pytest.raises(Refused, match="not a chest"):
            doctor.check_volume(ct.read(folder / name))
    both = [scan(name, folder / f"{name}.nii.gz", patient="p") for name in ("example_ct", "example_ct_sm")]
    (wrong,) = [f for f in doctor.check(both, progress=False) if f.code == "origin"]
    assert wrong.id == "example_ct_sm" and "30 slices" in wrong.message and "example_ct" in wrong.message and "-246 mm" in wrong.message


def test_masks_of_a_real_scan_fit_it_and_not_another(shared):
    folder = shared / "data/volumes/ts_chest_cta"
    fits = doctor.examine(folder / "example_ct.nii.gz", organs=folder / "masks_same_grid")
    assert not codes(fits)
    other = doctor.examine(shared / "data/volumes/pyradiomics_lung1/lung1_image.nrrd", organs=folder / "masks_same_grid")
    assert codes(other, "error") == {"organs"}


def test_a_store_contract_keeps_real_chests_accepted(shared):
    for scale in ("toy", "small", "base"):
        ready = ct.to_contract(ct.read(shared / "data/volumes" / CHESTS[0]), Config.at(scale).contract)
        assert doctor.check_volume(ready) == []
