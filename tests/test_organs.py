"""Organ masks are taken by name, placed where they lie in the world, and turned into the paper's soft proportions."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest

from asapkit import ct, organs
from asapkit.config import Config
from asapkit.types import ORGANS, Refused, Volume

AFFINE = np.array([[1.5, 0, 0, -30], [0, 1.5, 0, 10], [0, 0, 3, 200], [0, 0, 0, 1.0]])


def like(shape=(40, 36, 24)) -> Volume:
    return Volume(np.zeros(shape, np.int16), AFFINE)


def truth(shape=(40, 36, 24)) -> np.ndarray:
    """Nine boxes, one per organ, at places of their own."""
    labels = np.zeros(shape, np.uint8)
    for k in range(9):
        labels[4 * k + 1 : 4 * k + 4, 3 * k + 2 : 3 * k + 6, 2 * k : 2 * k + 4] = k + 1
    return labels


def write(path: Path, array: np.ndarray, affine=AFFINE, names: dict[int, str] | None = None) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    if names:
        rows = "".join(f'<Label Key="{value}" Red="1" Green="0" Blue="0" Alpha="1">{name}</Label>' for value, name in names.items())
        text = f'<?xml version="1.0"?><CaretExtension><VolumeInformation><LabelTable>{rows}</LabelTable></VolumeInformation></CaretExtension>'
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


VERSION_2 = {
    10: ORGANS[0],
    11: ORGANS[1],
    12: ORGANS[2],
    13: ORGANS[3],
    14: ORGANS[4],
    51: "heart",
    61: ORGANS[6],
    15: "esophagus",
    52: "aorta",
    5: "liver",
}


def numbered(labels: np.ndarray, names: dict[int, str]) -> np.ndarray:
    numbers = np.zeros(10, np.uint8)
    for value, name in names.items():
        if name in ORGANS:
            numbers[ORGANS.index(name) + 1] = value
    stored = numbers[labels]
    stored[-1, -1, -1] = 5  # the liver: a label, but none of the nine
    return stored


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('{"-1": "heart"}', "-1' of 'heart' is no label value"), ('{"heart": -1}', "-1 of 'heart' is no label value"),
        ('{"heart": 6, "aorta": 6}', "6 is 'heart' and 'aorta'"), ('{"1": "heart", "1": "aorta"}', "1 is 'heart' and 'aorta'"),
        ('{"heart": 1.7}', "1.7 of 'heart' is no label value"), ('{"aorta": true}', "True of 'aorta' is no label value"),
        ('{"heart": 1e400}', "inf of 'heart' is no label value"), ("[1]", "no object"), ("{", "Expecting"), ('{"a": ' * 4000 + "1" + "}" * 4000, ""),
    ],
)  # fmt: skip
def test_names_that_say_nothing_sure_of_a_value_are_refused(tmp_path, table, said):
    file = write(tmp_path / "case.nii.gz", truth())
    (tmp_path / "labels.json").write_text(table)
    with pytest.raises(Refused, match="^labels.json: no table of label values and names") as refused:
        organs.read(file, like())
    assert said in str(refused.value)


def test_values_that_a_mask_does_not_have_cost_nothing(tmp_path):
    file = write(tmp_path / "case.nii.gz", truth())
    (tmp_path / "labels.json").write_text("\ufeff" + json.dumps({99_999_999_999: "heart"}), encoding="utf-8")
    assert not organs.read(file, like()).any()


@pytest.mark.parametrize("where", ["header", "sidecar", "labels.json", "argument", "other way round"])
def test_a_multi_label_file_is_read_by_its_names(tmp_path, where):
    path = write(tmp_path / "case.nii.gz", numbered(truth(), VERSION_2), names=VERSION_2 if where == "header" else None)
    if where == "sidecar":
        (tmp_path / "case.json").write_text(json.dumps(VERSION_2))
    if where == "labels.json":
        (tmp_path / "labels.json").write_text(json.dumps(VERSION_2))
    if where == "other way round":
        (tmp_path / "labels.json").write_text(json.dumps({name: value for value, name in VERSION_2.items()}))
    read = organs.read(path, like(), labels=VERSION_2 if where == "argument" else None)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, truth())


def test_numbers_without_names_are_refused_and_names_without_organs_too(tmp_path):
    path = write(tmp_path / "case.nii.gz", truth())
    with pytest.raises(Refused, match="numbers alone say nothing"):
        organs.read(path, like())
    with pytest.raises(Refused, match="none of its 1 labels"):
        organs.read(path, like(), labels={1: "spleen"})


def test_a_folder_of_masks_is_read_and_other_files_are_left_alone(tmp_path):
    for k, name in enumerate(ORGANS):
        write(tmp_path / f"{name}.nii.gz", (truth() == k + 1).astype(np.uint8))
    write(tmp_path / "liver.nii.gz", np.ones((40, 36, 24), np.uint8))
    np.testing.assert_array_equal(organs.read(tmp_path, like()), truth())
    (tmp_path / "heart.nii.gz").unlink()
    assert not (organs.read(tmp_path, like()) == 6).any()
    with pytest.raises(Refused, match="one of the nine organs"):
        organs.read(tmp_path / "..", like())


def test_a_single_file_called_after_an_organ_is_that_organ(tmp_path):
    path = write(tmp_path / "aorta.nii.gz", (truth() == 9).astype(np.uint8))
    np.testing.assert_array_equal(organs.read(path, like()), np.where(truth() == 9, 9, 0))


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_cropped_and_turned_grids_are_placed_by_world_coordinates(tmp_path, flip):
    start, stop = (1, 2, 0), (40, 33, 22)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    cut, affine = truth()[box], AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ start
    turn = np.stack([range(3), flip], 1)
    stored = nibabel.orientations.apply_orientation(cut, turn)
    write(tmp_path / "case.nii.gz", stored, affine @ nibabel.orientations.inv_ornt_aff(turn, cut.shape))
    (tmp_path / "labels.json").write_text(json.dumps({k + 1: name for k, name in enumerate(ORGANS)}))
    np.testing.assert_array_equal(organs.read(tmp_path / "case.nii.gz", like()), truth())


def test_masks_elsewhere_in_the_world_are_refused(tmp_path):
    far = AFFINE.copy()
    far[2, 3] = 5000
    (tmp_path / "labels.json").write_text(json.dumps({k + 1: name for k, name in enumerate(ORGANS)}))
    for path in (
        write(tmp_path / "case.nii.gz", truth(), far),
        write(tmp_path / "folder" / "heart.nii.gz", (truth() == 6).astype(np.uint8), far).parent,
    ):
        with pytest.raises(Refused, match=r"no labelled voxel lies in the CT.*5000") as refused:
            organs.read(path, like())
        assert "\n" not in str(refused.value)


def test_masks_that_are_no_labels_are_refused(tmp_path):
    for array, says in [(truth() * 0.3, "no whole numbers"), (truth().astype(np.int16) - 1000, "negative")]:
        with pytest.raises(Refused, match=says):
            organs.read(write(tmp_path / "heart.nii.gz", array.astype(np.float32)), like())


# ------------------------------------------------------------------------------------------------------------ proportions


@pytest.mark.parametrize("depth", [3, 4, 6, 8, 16])  # along z runs of one to eight voxels count at once where they share a label
@pytest.mark.parametrize("size", [1, 3])
def test_proportions_equal_counting_voxel_by_voxel(depth, size):
    labels, patch = np.random.default_rng(0).integers(0, 10, (12, 8, 2 * depth)).astype(np.uint8), (4, 2, depth)
    labels = labels[::size, ::size, ::size].repeat(size, 0).repeat(size, 1).repeat(size, 2)[:12, :8, : 2 * depth]
    expected = []
    for x in range(0, 12, 4):
        for y in range(0, 8, 2):
            for z in range(0, 2 * depth, depth):
                inside = labels[x : x + 4, y : y + 2, z : z + depth]
                expected.append([(inside == k).sum() / (8 * depth) for k in range(1, 10)])
    ours = organs.proportions(labels, patch)
    assert ours.dtype == np.float32 and ours.shape == (3 * 4 * 2, 9)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_proportions_of_nothing_are_zero_and_wrong_shapes_or_labels_raise():
    assert not organs.proportions(np.zeros((4, 4, 4), np.uint8), (2, 2, 2)).any()
    with pytest.raises(ValueError, match="not filled"):
        organs.proportions(np.zeros((5, 4, 4), np.uint8), (2, 2, 2))
    with pytest.raises(ValueError, match="label 10"):
        organs.proportions(np.full((4, 4, 4), 10, np.uint8), (2, 2, 2))


# ---------------------------------------------------------------------------------------------------- the other program

PROGRAM = """#!/usr/bin/env python3
import json, os, pathlib, shutil, sys
home = pathlib.Path(os.environ["TOTALSEG_HOME_DIR"])
assert json.loads((home / "config.json").read_text())["send_usage_stats"] is False
arguments = sys.argv[1:]
if "broken" in arguments[arguments.index("-i") + 1]:
    sys.exit("no weights")
assert arguments[arguments.index("--roi_subset") + 1] == "lung_upper_lobe_left" and "--ml" in arguments
shutil.copy(os.environ["MADE_BEFORE"], arguments[arguments.index("-o") + 1])
"""


def test_the_outside_program_runs_with_usage_statistics_off(tmp_path, monkeypatch):
    program = tmp_path / "TotalSegmentator"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    made = write(tmp_path / "made.nii.gz", numbered(truth(), VERSION_2), names=VERSION_2)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("MADE_BEFORE", str(made))
    found = organs.segment(tmp_path / "case.nii.gz", tmp_path / "out", program=str(program))
    np.testing.assert_array_equal(organs.read(found, like()), truth())
    with pytest.raises(Refused, match="exit 1.*no weights"):
        organs.segment(tmp_path / "broken.nii.gz", tmp_path / "out", program=str(program))
    settings = tmp_path / "home" / "config.json"
    settings.write_text(json.dumps({"send_usage_stats": True, "totalseg_id": "kept"}))
    organs.segment(tmp_path / "case.nii.gz", tmp_path / "out", program=str(program))
    assert json.loads(settings.read_text()) == {"send_usage_stats": False, "totalseg_id": "kept"}


def test_without_the_program_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(Refused, match="environment of its own"):
        organs.segment(tmp_path / "case.nii.gz", tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- real scans


def test_heart_and_aorta_of_a_real_scan_lie_where_they_should(shared):
    folder = shared / "data/volumes/ts_chest_cta"
    scan = ct.read(folder / "example_ct.nii.gz")
    base = ct.to_contract(scan, Config.at("base").contract)
    for grid, name, ml, hu in [("masks_same_grid", "heart", 669, 405), ("masks_cropped_grid_a", "aorta", 246, 353)]:
        for volume, near in [(scan, 1.0), (base, 16.0)]:
            here = organs.read(folder / grid, volume) == ORGANS.index(name) + 1
            assert here.sum() * np.prod(volume.spacing_mm) / 1000 == pytest.approx(ml, abs=1.5)
            assert volume.array[here].mean() == pytest.approx(hu, abs=near)
    with pytest.raises(Refused, match="nine organs"):
        organs.read(folder / "masks_cropped_grid_b", scan)


def test_names_in_a_real_header_are_read_and_another_scan_is_refused(shared):
    folder = shared / "data/volumes"
    small = ct.read(folder / "ts_abdomen_not_chest/example_ct_sm.nii.gz")
    labels = organs.read(folder / "ts_abdomen_not_chest/example_seg.nii.gz", small)
    counts = np.bincount(labels.ravel(), minlength=10)
    assert dict(zip(ORGANS, counts[1:].tolist(), strict=True)) == {
        "lung_upper_lobe_left": 259, "lung_lower_lobe_left": 1312, "lung_upper_lobe_right": 0, "lung_middle_lobe_right": 1,
        "lung_lower_lobe_right": 2735, "heart": 0, "atrial_appendage_left": 0, "esophagus": 0, "aorta": 997,
    }  # fmt: skip
    assert small.array[(labels > 0) & (labels < 6)].mean() < -650 and 20 < small.array[labels == 9].mean() < 80
    with pytest.raises(Refused, match="different grids"):
        organs.read(folder / "ts_abdomen_not_chest/example_seg.nii.gz", ct.read(folder / "ts_chest_cta/example_ct.nii.gz"))


def test_lobes_of_a_real_scan_lie_on_two_slices_of_it(shared):
    from asapkit import formats

    folder = shared / "data/volumes/cip_lobes_crop"
    two = formats.load(folder / "crop_ct_2slices.nrrd")
    lobes = formats.load(folder / "crop_ct_interactiveLobeSegmentation.nrrd")
    image, masks = Volume(*ct.to_ras(two.array, two.affine)), Volume(*ct.to_ras(lobes.array & 255, lobes.affine))
    placed = ct.resample_labels(masks, image)
    np.testing.assert_array_equal(placed, masks.array[:, :, 60:62])
    x = {value: np.argwhere(placed == value)[:, 0].mean() for value in (4, 6, 7, 8) if (placed == value).any()}
    assert min(x[v] for v in (4, 6) if v in x) > max(x[v] for v in (7, 8) if v in x)
    assert image.array[(placed >= 4) & (placed <= 8)].mean() < -700
