"""Real scans through the whole house at the paper's size: read, refused or warned about, preprocessed, trained on, looked at.

Reports belong to other patients: they are paired by order and nothing is read out of the pairing. Texts never reach names, logs or messages.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from asapkit import chest, ct, doctor, formats, organs, reports, store
from asapkit.config import Config
from asapkit.datasets import folder
from asapkit.types import ORGANS, Volume

pytestmark = pytest.mark.slow

BASE = Config.at("base")
CHESTS = {
    "ts_chest_cta": "ts_chest_cta/example_ct.nii.gz", "pyradiomics_lung1": "pyradiomics_lung1/lung1_image.nrrd",
    "cip_nrrd": "cip_ct64/ct-64.nrrd", "cip_dicom": "cip_ct64/ct-64Dicom", "lung_dx_B40f": "lung_dx_a0002/Lung_Dx-A0002.zip#B40f",
    "lung_dx_B70f": "lung_dx_a0002/Lung_Dx-A0002.zip#B70f", "lidc_0314": "lidc_idri_0314_every2nd/LIDC-IDRI-0314_every_second_slice.zip",
}  # fmt: skip
REFUSED = {
    "abdomen": ("ts_abdomen_not_chest/example_ct.nii.gz", "not a chest"), "abdomen_top": ("ts_abdomen_not_chest/example_ct_sm.nii.gz", "not a chest"),
    "two_slices": ("cip_lobes_crop/crop_ct_2slices.nrrd", "too thin: 2 slices"),
    "two_series": ("lung_dx_a0002/Lung_Dx-A0002.zip", "2 axial series of the same size"),
}  # fmt: skip
WARNED = {
    "lung_dx_B40f": "coarse slices: 8.0 mm", "lung_dx_B70f": "coarse slices: 8.0 mm", "cip_nrrd": "coarse pixels: 4.2 mm",
    "cip_dicom": "coarse pixels: 4.2 mm", "lidc_0314": "2.00 mm apart but are 1.00 mm thick by their tag",
}  # fmt: skip
PATIENTS = {"cip_nrrd": "cip", "cip_dicom": "cip", "lung_dx_B40f": "lung_dx", "lung_dx_B70f": "lung_dx", "abdomen": "ab", "abdomen_top": "ab"}
SENTENCE = "There is a pleural effusion on the right."


def texts(shared: Path) -> list[tuple[str, str]]:
    """(findings, impression) of real reports of two origins, those with both sections."""
    folder = shared / "data/text"
    with (folder / "ctclip_reports_200.csv").open(newline="", encoding="utf-8-sig") as file:
        whole = [reports.sections(row["report_text"]) for row in csv.DictReader(file)]
    chinese = json.loads((folder / "ctrg_300.json").read_text(encoding="utf-8"))
    pairs = [(r["findings"], r["impression"]) for r in whole] + [(r["report"], r["result"]) for r in chinese]
    return [(f, i) for f, i in pairs if len(reports.split(f)) > 5 and i.strip()]


@pytest.fixture(scope="module")
def volumes(shared) -> Path:
    return shared / "data/volumes"


@pytest.fixture(scope="module")
def table(shared, volumes, tmp_path_factory) -> Path:
    """A csv of the folder layout over every scan, with heart and aorta (masks on two grids) for the one that has them."""
    place = tmp_path_factory.mktemp("real")
    masks = place / "masks"
    masks.mkdir()
    shutil.copy(volumes / "ts_chest_cta/masks_same_grid/heart.nii.gz", masks)
    shutil.copy(volumes / "ts_chest_cta/masks_cropped_grid_a/aorta.nii.gz", masks)
    files = CHESTS | {id: path for id, (path, _) in REFUSED.items()}
    said = texts(shared)[:: len(texts(shared)) // len(files)]
    rows = []
    for number, (id, path) in enumerate(files.items()):
        findings, impression = said[number]
        patient = PATIENTS.get(id, id)
        rows.append(
            {"path": str(volumes / path), "id": id, "patient": patient, "study": patient, "findings": findings, "impression": impression,
             "organs": "masks" if id == "ts_chest_cta" else "", "extra:report_of": "another patient"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(place / "scans.csv", index=False)
    return place / "scans.csv"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    seconds: float
    peak_gb: float


def command(*arguments: object) -> Ran:
    """`python -m asapkit ...` in a process of its own, with its time and the most memory that it held."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-m", "asapkit", *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as running:
        out, err = running.communicate()
        code = running.returncode
    import resource

    return Ran(code, out, err, time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)


@pytest.fixture(scope="module")
def preprocessed(table) -> tuple[Ran, store.Store]:
    ran = command("preprocess", table, table.parent / "store", "--layout", "folder", "--scale", "base", "--workers", 1)
    print(f"\npreprocess, {len(CHESTS)} scans at base: {ran.seconds:.0f} s, {ran.peak_gb:.1f} GB at most")
    return ran, store.open(table.parent / "store")


# ------------------------------------------------------------------------------------------------------------- preprocess


def test_every_chest_is_taken_and_what_is_refused_is_listed_with_exit_code_2(preprocessed):
    ran, made = preprocessed
    assert ran.code == 2, ran.err
    assert set(made.ids) == set(CHESTS)
    assert dict(zip(made.refused["id"], made.refused["reason"], strict=True)).keys() == REFUSED.keys()
    for id, (_, reason) in REFUSED.items():
        (line,) = [line for line in ran.err.splitlines() if line.startswith(f"{id}: ")]
        assert reason in line
    assert f"{len(CHESTS)} volumes written, 0 already there, {len(REFUSED)} refused" in ran.out
    assert "Traceback" not in ran.err
    assert made.contract == BASE.contract


def test_nothing_of_a_report_is_printed(preprocessed, table):
    ran, made = preprocessed
    for text in pd.read_csv(table)["findings"]:
        assert all(sentence not in ran.out + ran.err for sentence in reports.split(text))
    assert (made.table["findings"].str.len() > 100).all() and (made.table["report_of"] == "another patient").all()


def test_coarse_voxels_and_lying_tags_are_warned_about_and_nothing_else(preprocessed):
    warned = preprocessed[1].table["warnings"]
    for id in CHESTS:
        assert (WARNED[id] in warned[id]) if id in WARNED else not len(warned[id]), warned[id]


def test_a_second_run_finds_everything_done(preprocessed, table):
    again = store.write(folder.scans(table), table.parent / "store", config=BASE, progress=False)
    assert set(again.skipped) == set(CHESTS) and not again.written and len(again.refused) == len(REFUSED)


# ---------------------------------------------------------------------------------------------------- the right way round


@pytest.mark.parametrize("id", CHESTS)
def test_chests_lie_on_their_back_with_the_head_up(preprocessed, id):
    made = preprocessed[1]
    array, affine = made.ct(id), made.affine(id)
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.sqrt((affine[:3, :3] ** 2).sum(0)), BASE.spacing_mm, atol=1e-6)
    assert array.dtype == np.int16 and array.min() >= -1000 and array.max() <= 1000
    states = {axis: state for axis, (state, _) in chest.upright(chest.survey(Volume(array, affine))).items()}
    assert states["y"] == "right" and states["z"] in ("right", "unknown")
    assert states["z"] == "right" or id == "lidc_0314"  # a raised diaphragm and a tumour fill what should be air


def left_and_right(array: np.ndarray, affine: np.ndarray) -> tuple[float, float, float]:
    """What a reader looks at: how far the tissue between the lungs lies to the left (mm), and where the left and the right lung end below (mm)."""
    seen = chest.survey(Volume(array, affine))
    where = seen.lung_slices
    middle = round(np.argwhere(seen.inside[:, :, where])[:, 0].mean())
    quarter = (where.stop - where.start) // 4
    between = []
    for k in range(where.start + quarter, where.start + 2 * quarter):
        for lungs, inside in zip(seen.lung[:, :, k].T, (seen.inside & (seen.hu > -100))[:, :, k].T):
            ends = np.flatnonzero(lungs)
            if len(ends) > 8 and ends[0] < middle < ends[-1]:
                between.append(ends[0] + np.flatnonzero(inside[ends[0] : ends[-1]]))
    areas = (side.sum((0, 1)) * 0.16 for side in (seen.lung[:middle], seen.lung[middle:]))
    left, right = (float(np.flatnonzero(area > 10)[0]) * chest.COARSE_MM for area in areas)
    return (middle - float(np.concatenate(between).mean())) * chest.COARSE_MM, left, right


@pytest.mark.parametrize("id", CHESTS)
def test_the_heart_lies_to_the_left_or_the_right_lung_has_shrunk(preprocessed, id):
    """Without masks: the heart lies left of the middle; where a tumour drew it to the right, the right lung is the smaller and higher one."""
    made = preprocessed[1]
    array, affine = made.ct(id), made.affine(id)
    to_left, bottom_left, bottom_right = left_and_right(array, affine)
    assert bottom_right >= bottom_left, "the right diaphragm stands higher, over the liver"
    left_ml, right_ml = chest.survey(Volume(array, affine)).lung_ml
    if id.startswith("lung_dx"):
        assert right_ml < left_ml and -10 < to_left < 0
    else:
        assert to_left > 3


def test_heart_and_aorta_keep_their_density_and_place(preprocessed):
    made = preprocessed[1]
    array, labels, affine = made.ct("ts_chest_cta"), made.organs("ts_chest_cta"), made.affine("ts_chest_cta")
    heart, aorta = (labels == ORGANS.index(name) + 1 for name in ("heart", "aorta"))
    assert set(np.unique(labels)) == {0, ORGANS.index("heart") + 1, ORGANS.index("aorta") + 1}
    assert array[heart].mean() == pytest.approx(405, abs=16) and array[aorta].mean() == pytest.approx(353, abs=16)
    ml = np.prod(BASE.spacing_mm) / 1000
    overlap = 12  # ml of the root that both masks claim; the later in ORGANS, the aorta, gets it
    assert heart.sum() * ml == pytest.approx(669, abs=overlap) and aorta.sum() * ml == pytest.approx(246, abs=2)
    told = chest.placed(labels, affine)
    assert told["y"][0] == "right" and told["z"][0] == "right", told
    middle = np.argwhere(array > -300)[:, 0].mean()
    assert np.argwhere(heart)[:, 0].mean() < middle - 8, "x grows to the right: the heart lies lower"
    crop, _ = made.cropped("ts_chest_cta", "organs")
    share = organs.proportions(crop, BASE.patch)
    assert share.shape == (BASE.patches, 9) and share[:, 5].max() == 1 and share[:, 8].max() > 0.5 and not share[:, :5].any()


def test_two_readings_of_one_scan_are_one_volume(preprocessed):
    made = preprocessed[1]
    assert np.abs(made.ct("cip_nrrd").astype(int) - made.ct("cip_dicom")).max() <= 1
    np.testing.assert_allclose(made.affine("cip_nrrd")[:3, :3], made.affine("cip_dicom")[:3, :3], atol=1e-4)


def test_thirds_of_the_lungs_fall_on_air_on_their_sides(preprocessed, volumes):
    made = preprocessed[1]
    like = Volume(made.ct("cip_nrrd"), made.affine("cip_nrrd"))
    raw = formats.load(volumes / "cip_ct64/lm-64.nrrd")
    regions = ct.resample_labels(Volume(*ct.to_ras(raw.array & 255, raw.affine)), like)
    mean_x = {side: np.argwhere(np.isin(regions, r))[:, 0].mean() for side, r in {"left": (9, 10, 11), "right": (12, 13, 14)}.items()}
    assert mean_x["left"] < mean_x["right"] - 40 and like.array[np.isin(regions, range(9, 15))].mean() < -700
    height = [np.argwhere(np.isin(regions, r))[:, 2].mean() for r in ((9, 12), (10, 13), (11, 14))]
    assert height == sorted(height, reverse=True), "upper, middle and lower thirds"


def test_boxes_drawn_on_slices_of_a_zip_fall_on_the_tumour_in_the_right_lung(preprocessed, volumes, tmp_path):
    """Boxes are in pixels of single DICOM files, read here by other means than asapkit: their world places must hold the tumour."""
    import SimpleITK as sitk

    made = preprocessed[1]
    boxes = {p.stem: [int(xml.parse(p).find(f".//{k}").text) for k in ("xmin", "ymin", "xmax", "ymax")]
             for p in (volumes / "lung_dx_a0002/annotation_xml").glob("*.xml")}  # fmt: skip
    inside, x_mm = [], []
    array, affine = made.ct("lung_dx_B40f"), made.affine("lung_dx_B40f")
    to_voxel, middle = np.linalg.inv(affine), np.argwhere(array > -300)[:, 0].mean()
    with zipfile.ZipFile(volumes / "lung_dx_a0002/Lung_Dx-A0002.zip") as archive:
        for number, member in enumerate(m for m in archive.infolist() if m.filename.endswith(".dcm")):
            file = tmp_path / f"{number}.dcm"
            file.write_bytes(archive.read(member))
            image = sitk.ReadImage(str(file))
            if (box := boxes.get(image.GetMetaData("0008|0018").strip().strip("\0"))) is None:
                continue
            left, top, right, bottom = box
            ends = [image.TransformIndexToPhysicalPoint(corner) for corner in ((left, top, 0), (right, bottom, 0))]
            ras = np.array([[-x, -y, z, 1] for x, y, z in ends]) @ to_voxel.T
            (x0, y0, z), (x1, y1, _) = np.rint(ras[:, :3]).astype(int)
            (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
            x, y = (x0 + x1) // 2, (y0 + y1) // 2  # the middle: corners of a box hold lung
            inside.append(np.median(array[x - 3 : x + 4, y - 3 : y + 4, z]))
            x_mm.append((x0 + x1) / 2)
    assert len(inside) == len(boxes)
    assert min(x_mm) > middle, "x grows to the right"
    assert min(inside) > -20 and max(inside) < 100, "tumour in the middle of every box"


# ------------------------------------------------------------------------------------------------------------------ doctor


def test_the_doctor_names_the_wrong_origin_and_the_wrong_body_part(table):
    listed = [scan for scan in folder.scans(table) if scan.id in ("abdomen", "abdomen_top", "cip_nrrd", "cip_dicom")]
    found = doctor.check(listed, progress=False)
    (origin,) = [f for f in found if f.code == "origin"]
    assert (origin.id, origin.level) == ("abdomen_top", "error") and "30 slices" in origin.message and "-246 mm" in origin.message
    assert {f.id for f in found if f.code == "chest"} == {"abdomen", "abdomen_top"}
    assert {f.id for f in found if f.code == "copy"} <= {"cip_nrrd", "cip_dicom"}
    assert not [f for f in found if f.level == "error" and f.id.startswith("cip")]


# ------------------------------------------------------------------------------------------- two steps at the paper's size


@pytest.fixture(scope="module")
def trained(preprocessed):
    """Two steps of ASAP, ViT-B on 224 x 224 x 112 voxels, one volume each, on the CPU; gigabytes that are not left behind."""
    made = preprocessed[1].root
    run = made.parent / "run"
    ran = command("pretrain", made, run, "--recipe", "asap", "--scale", "base", "--steps", 2, "--set", "batch_size=1")
    print(f"\npretrain, 2 steps at base: {ran.seconds:.0f} s, {ran.peak_gb:.1f} GB at most")
    assert ran.code == 0, ran.err[-3000:]
    (run / "state.pt").unlink()
    yield ran, run
    shutil.rmtree(run)


@pytest.fixture(scope="module")
def pictures(trained, preprocessed, root) -> dict:
    """Features, colours and a sentence's map of the contrast scan by the method just trained, drawn."""
    from asapkit import analysis, checkpoint, examples, features, figures

    run, made, id = trained[1], preprocessed[1], "ts_chest_cta"
    method = checkpoint.load_method(run)
    found = features.extract(method.encoder, made, ids=[id], tokens=True, progress=False)
    colours, shares = analysis.pca_maps([found.tokens[0]], [found.in_body[0]], method.encoder.grid)
    volume, _ = made.cropped(id)
    similarity, k = examples.matched(method, volume, [SENTENCE], contract=made.contract, shape=made.layer(id, "ct").shape)
    how = {"spacing_mm": made.contract.spacing_mm, "patch": BASE.patch, "caption": "Untrained: two steps. The reports are of other patients."}
    drawn = {
        "pca": (figures.pca_maps(volume, {"ASAP, untrained": colours[0]}, **how), pd.DataFrame({"share": shares})),
        "sentence": (figures.sentence_map(volume, similarity[0], sentence=SENTENCE, k=int(k[0]), **how), pd.DataFrame({"similarity": similarity[0]})),
    }  # fmt: skip
    out = root / "build" / "real"  # git ignores it; a person may want to look
    paths = {name: figures.save(figure, f"real_{name}", numbers, out=out) for name, (figure, numbers) in drawn.items()}
    return {"method": method, "features": found, "shares": shares, "similarity": similarity[0], "k": int(k[0]), "paths": paths}


def test_two_steps_on_real_chests_have_finite_losses_and_fit_a_laptop(trained):
    ran, run = trained
    history = pd.read_csv(run / "history.csv")
    assert len(history) == 2 and np.isfinite(history.to_numpy()).all() and (history["grad_norm"] > 0).all()
    assert {"reconstruct", "organs", "align", "words"} <= set(history)
    assert ran.peak_gb < 8
    assert Config.load(run / "config.json") == Config.at("base", batch_size=1, steps=2)


def test_features_and_colours_of_a_real_chest(pictures):
    found, method = pictures["features"], pictures["method"]
    assert method.encoder.grid == (14, 14, 14) and found.tokens.shape == (1, 2744, 768) and found.pooled.shape == (1, 2 * 768)
    assert np.isfinite(found.pooled).all() and found.pooled.std() > 0.01
    assert 0.3 < found.in_body.mean() < 0.95
    assert (pictures["shares"] > 0.01).all() and pictures["shares"].sum() < 1


def test_pictures_of_a_real_chest_are_drawn_and_small(pictures):
    for path in pictures["paths"].values():
        assert path.read_bytes()[:4] == b"\x89PNG" and 20_000 < path.stat().st_size <= 400_000
        assert path.with_suffix(".csv").exists()


def test_a_sentence_has_a_map_over_the_body_in_the_scan_only(pictures, preprocessed):
    from asapkit import examples

    similarity, made = pictures["similarity"], preprocessed[1]
    there = pictures["features"].in_body[0] & examples.scanned(made.layer("ts_chest_cta", "ct").shape, BASE.contract, BASE.patch)
    assert 0.4 < there.mean() < 0.8
    np.testing.assert_array_equal(np.isfinite(similarity), there)
    assert -1 <= np.nanmin(similarity) < np.nanmax(similarity) <= 1
    assert pictures["k"] in [k * BASE.patches // BASE.visible for k in BASE.top_k], "the method chooses among three budgets"


def test_look_maps_a_sentence_on_the_scans_own_grid(trained, volumes, tmp_path):
    scan = volumes / "ts_chest_cta/example_ct.nii.gz"
    ran = command("look", scan, "--run", trained[1], "--sentence", SENTENCE, tmp_path / "look")
    assert ran.code == 0, ran.err[-2000:]
    original, written = nibabel.load(scan), nibabel.load(tmp_path / "look/similarity.nii.gz")
    assert written.shape == original.shape == (233, 167, 191) and nibabel.aff2axcodes(written.affine) == ("L", "P", "S")
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-4)
    top, field = pd.read_csv(tmp_path / "look/look.csv"), np.asanyarray(written.dataobj)
    index = np.rint((np.c_[top[["x_mm", "y_mm", "z_mm"]], np.ones(len(top))] @ np.linalg.inv(original.affine).T)[:, :3]).astype(int)
    assert (index >= 0).all() and (index < original.shape).all(), "no patch lies in the mirror images around the scan"
    np.testing.assert_allclose(field[tuple(index.T)], top["similarity"], atol=2e-4)
    assert np.nanmax(field) == pytest.approx(top["similarity"][0], abs=2e-4)
    air = np.asanyarray(original.dataobj)[np.isnan(field)]
    assert np.median(air) < -900, "what has no value is air, or lies beyond the field of view"
    assert (tmp_path / "look/look.png").stat().st_size > 20_000
