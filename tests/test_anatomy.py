"""Classes of AKI: lists of organs and lesions, and what a patch holds of each."""

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_batch

from asapkit import anatomy, checkpoint, ct, doctor, organs, store, train
from asapkit.batch import Items
from asapkit.config import Config
from asapkit.datasets import folder
from asapkit.explore import sheet
from asapkit.types import ORGANS, Refused, Volume
from asapkit.viewer import sources

TOY = Config.at("toy", augment=False)


def test_the_papers_lists_have_names_and_any_other_is_read():
    assert anatomy.classes("nine") == tuple((name,) for name in ORGANS)
    assert [len(one) for one in anatomy.classes("grouped")] == [2, 3, 2, 1, 1]
    assert {name for one in anatomy.classes("grouped") for name in one} == set(ORGANS)
    assert anatomy.classes("heart + aorta, lesion") == (("heart", "aorta"), ("lesion",))
    assert anatomy.classes("nine,lesion") == (*anatomy.classes("nine"), ("lesion",))
    assert anatomy.needed(anatomy.classes("lesion")) == ("lesions",)
    assert anatomy.needed(anatomy.classes("heart,lesion")) == ("organs", "lesions")


@pytest.mark.parametrize(
    ("said", "why"),
    [("liver", "'liver': there are nine, grouped, or names"), ("", "'': there are"), ("heart,heart", "'heart' is there twice"),
     ("heart+aorta,aorta", "'aorta' is there twice"), ("heart+lesion", "lesion is a class of its own")],
)  # fmt: skip
def test_a_list_that_is_none_is_refused(said, why):
    with pytest.raises(ValueError, match=why):
        anatomy.classes(said)


def test_the_share_of_a_class_is_that_of_its_organs_together():
    batch = made_batch(TOY)
    batch.has_lesions[0] = batch.has_organs[1] = False
    share, known = anatomy.shares(batch, anatomy.classes("aorta,heart+esophagus,lesion"))
    heart, esophagus, aorta = (ORGANS.index(name) for name in ("heart", "esophagus", "aorta"))
    assert torch.equal(share[..., 0], batch.organs[..., aorta])
    assert torch.allclose(share[..., 1], batch.organs[..., heart] + batch.organs[..., esophagus])
    assert torch.equal(share[..., 2], batch.lesions)
    assert known.tolist()[:2] == [[True, True, False], [False, False, True]]


def test_marks_of_any_name_count_and_lie_where_the_patient_is(tmp_path):
    like = Volume(np.zeros((8, 8, 8), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    marks = np.zeros((8, 8, 8), np.uint8)
    marks[1:3, 4, 5] = 7
    _write(tmp_path / "a.nii.gz", marks, like.affine)
    assert np.array_equal(organs.marked(tmp_path / "a.nii.gz", like), marks > 0)
    moved = like.affine.copy()
    moved[0, 3] = 4.0  # two voxels to the left of the CT's origin
    _write(tmp_path / "several" / "b.nii.gz", marks, moved)
    _write(tmp_path / "several" / "c.nii.gz", np.zeros_like(marks), like.affine)
    assert np.argwhere(organs.marked(tmp_path / "several", like)).tolist() == [[3, 4, 5], [4, 4, 5]]
    assert not organs.marked(tmp_path / "several" / "c.nii.gz", like).any(), "a scan may have no lesion"
    moved[0, 3] = 400.0
    _write(tmp_path / "far.nii.gz", marks, moved)
    with pytest.raises(Refused, match="far.nii.gz: no labelled voxel lies in the CT"):
        organs.marked(tmp_path / "far.nii.gz", like)
    _write(tmp_path / "several" / "d.nii.gz", marks, moved)
    with pytest.raises(Refused, match="d.nii.gz: no labelled voxel lies in the CT"):
        organs.marked(tmp_path / "several", like)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="empty: no mask in this folder"):
        organs.marked(tmp_path / "empty", like)


def test_a_lesion_smaller_than_a_voxel_of_the_grid_is_kept(tmp_path):
    """Beside a large one, and alone; where it lies, and nowhere else."""
    like = Volume(np.zeros((8, 8, 8), np.int16), np.diag([5.0, 5.0, 5.0, 1.0]))
    fine, affine = np.zeros((40, 40, 40), np.uint8), np.eye(4)
    fine[22:24, 12, 7] = 1  # between the middles of the coarse voxels at 20 and 25 mm
    _write(tmp_path / "small.nii.gz", fine, affine)
    assert np.argwhere(organs.marked(tmp_path / "small.nii.gz", like)).tolist() == [[4, 2, 1]]
    fine[0:20, 20:30, 20:30] = 1
    _write(tmp_path / "both.nii.gz", fine, affine)
    both = organs.marked(tmp_path / "both.nii.gz", like)
    assert both[4, 2, 1] and both.sum() == 4 * 2 * 2 + 1


def test_one_hot_labels_take_the_largest_organ_and_a_lesion_beside_it():
    found = anatomy.classes("heart,aorta,lesion")
    share = torch.tensor([[[0.3, 0.4, 0.6], [0.0, 0.0, 0.4], [0.9, 0.1, 0.5]]])
    assert anatomy.one_hot(share, found).tolist() == [[[0, 1, 1], [0, 0, 0], [1, 0, 1]]]


def test_a_background_is_of_the_nine_alone_however_they_are_listed():
    official = {"fidelity": "official", "organ_classes": ",".join(ORGANS)}
    assert checkpoint.make_method("asap", TOY, official).background
    for other in ("nine,lesion", "heart"):
        with pytest.raises(ValueError, match="organ_background is of the nine organs alone"):
            checkpoint.make_method("asap", TOY, official | {"organ_classes": other})
    assert not checkpoint.make_method("asap", TOY, {"fidelity": "official", "organ_classes": "heart", "organ_background": False}).background


def test_the_doctor_looks_at_lesion_masks(tmp_path):
    _write(tmp_path / "ct.nii.gz", np.random.default_rng(0).normal(-500, 400, (40, 40, 40)).astype(np.int16), np.diag([5.0, 5.0, 5.0, 1.0]))
    _write(tmp_path / "marks.nii.gz", np.zeros((4, 4, 4, 3), np.uint8), np.eye(4))
    (fault,) = [f for f in doctor.examine(tmp_path / "ct.nii.gz", lesions=tmp_path / "marks.nii.gz") if f.code == "lesions"]
    assert fault.level == "error" and "a mask has three axes" in fault.message


@pytest.mark.slow
def test_lesions_of_a_csv_reach_the_batch_and_are_learned(tmp_path, toy_store):
    """A dataset with marks on some scans: through reader, store and crop, as shares of patches; the scans without them teach nothing of lesions."""
    held = store.open(toy_store)
    rows = []
    for number, id in enumerate(held.ids[:6]):
        volume, affine = held.ct(id), held.affine(id)
        _write(tmp_path / f"{id}.nii.gz", volume, affine)
        row = {"path": f"{id}.nii.gz", "findings": "There is a nodule.", "split": "train"}
        if number < 4:
            marks = np.zeros(volume.shape, np.uint8)
            marks[tuple(slice(n // 2 - 3, n // 2 + 3) for n in volume.shape)] = 1 + number
            _write(tmp_path / "marks" / f"{id}.nii.gz", marks, affine)
            row["lesions"] = f"marks/{id}.nii.gz"
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
    store.write(folder.scans(tmp_path), tmp_path / "store", config=TOY, workers=1, check=False, progress=False)
    made = store.open(tmp_path / "store")
    assert made.table["has_lesions"].tolist() == [True] * 4 + [False] * 2 and not made.table["has_organs"].any()
    batch = Items(made, TOY).batch(made.ids)
    whole = int(np.prod(TOY.patch)) * batch.lesions.sum(1)
    cropped = [int(ct.fit(made.lesions(id), TOY.crop, fit=TOY.fit).sum()) for id in made.ids[:4]]
    assert torch.allclose(whole[:4], torch.tensor(cropped).float(), rtol=1e-4) and min(cropped) > 0
    assert not batch.lesions[4:].any() and batch.has_lesions.tolist() == [True] * 4 + [False] * 2
    crop = sheet.crop_of(made, made.ids[0])
    assert crop.names == {0: "lesion"} and crop.truth.sum() == cropped[0] and sheet.crop_of(made, made.ids[5]).truth is None
    (shown,) = [settings for _, settings, kind in sources.Stored(made, made.ids[0]).layers() if settings["metadata"]["role"] == "truth"]
    assert "lesion" in str(shown["features"])
    config = Config.at("toy", steps=2, batch_size=3)
    history = train.pretrain(made, tmp_path / "run", recipe="asap", config=config, options={"organ_classes": "lesion"}, progress=False)
    assert (history["organs"] > 0).all()


def test_a_store_of_before_lesions_has_none(tmp_path, toy_store):
    import shutil

    shutil.copytree(toy_store, tmp_path / "store")
    table = pd.read_parquet(tmp_path / "store" / "volumes.parquet").drop(columns="has_lesions")
    table.to_parquet(tmp_path / "store" / "volumes.parquet", index=False)
    old = store.open(tmp_path / "store")
    assert old.lesions(old.ids[0]) is None and not old.table["has_lesions"].any()


def _write(file, array, affine):
    import nibabel

    file.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
