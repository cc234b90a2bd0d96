"""One scan, one sentence: the map lies on the scan's own grid whatever its axes, and the list, the map and the picture say the same."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from asapkit import checkpoint
from asapkit.config import Config
from asapkit.look import look
from asapkit.types import Refused

SENTENCE = "There is a nodule in the right upper lobe."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as pre-training leaves it, untrained."""
    folder = tmp_path_factory.mktemp("run")
    config = Config.at("toy")
    config.save(folder / "config.json")
    (folder / "method.json").write_text(json.dumps({"recipe": "asap", "options": {}, "weights": {}}))
    method = checkpoint.make_method("asap", config, {})
    save_file(checkpoint.trained_state(method), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A body with two air-filled lungs, stored with axes superior, left, anterior and 7 x 3.5 x 3 mm voxels."""
    x, y, z = np.meshgrid(np.linspace(-180, 180, 104), np.linspace(-150, 150, 101), np.linspace(-150, 150, 44), indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[(x / 160) ** 2 + (y / 110) ** 2 < 1] = 40
    hu[((np.abs(x) - 75) / 55) ** 2 + (y / 75) ** 2 + (z / 120) ** 2 < 1] = -850
    hu += np.random.default_rng(0).normal(0, 15, hu.shape)
    hu[..., : hu.shape[2] // 3][hu[..., : hu.shape[2] // 3] > 0] += 20
    affine = np.array([[0, -3.5, 0, 180], [0, 0, 3.0, -150], [7.0, 0, 0, -150], [0, 0, 0, 1]])
    stored = np.ascontiguousarray(hu.transpose(2, 0, 1)[:, ::-1]).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    return path


@pytest.fixture(scope="module")
def seen(run, scan, tmp_path_factory):
    return look(scan, run=run, sentence=SENTENCE, out=tmp_path_factory.mktemp("look"))


def test_the_map_lies_on_the_scans_own_grid(seen, scan):
    written, original = nibabel.load(seen.similarity_map), nibabel.load(scan)
    assert written.shape == original.shape
    assert nibabel.aff2axcodes(written.affine) == ("S", "L", "A")
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
    assert written.get_data_dtype() == np.float32


def test_the_list_and_the_map_say_the_same(seen):
    """At the centre of each listed patch the map has the listed similarity, and nothing in the map is higher than rank 1."""
    image = nibabel.load(seen.similarity_map)
    field = np.asanyarray(image.dataobj)
    for _, row in seen.patches.iterrows():
        voxel = np.linalg.inv(image.affine) @ [row.x_mm, row.y_mm, row.z_mm, 1]
        assert field[tuple(np.rint(voxel[:3]).astype(int))] == pytest.approx(row.similarity, abs=2e-4)
    assert np.nanmax(field) == pytest.approx(seen.patches.similarity[0], abs=2e-4)


def test_outside_the_field_of_view_and_in_outer_air_the_map_is_not_a_number(seen):
    """The toy crop is 360 x 288 x 288 mm; the scan is taller, and its corners hold air alone."""
    field = np.asanyarray(nibabel.load(seen.similarity_map).dataobj)
    assert np.isnan(field[[0, -1]]).all(), "the scan's first and last slices lie beyond the crop"
    assert np.isnan(field[field.shape[0] // 2, 0, 0]), "a corner of the middle slice"
    assert np.isfinite(field[tuple(n // 2 for n in field.shape)])
    assert np.isfinite(field).mean() > 0.3


def test_nothing_is_found_in_the_mirror_images_around_a_small_scan(run, tmp_path):
    """Padding repeats the scan beyond its faces: no patch of it is listed or mapped."""
    x, y, _ = np.meshgrid(*[np.arange(n) * 6.0 for n in (40, 30, 24)], indexing="ij")
    hu = np.where((x - 117) ** 2 + (y - 87) ** 2 < 80**2, 40, -1000) + np.where((np.abs(x - 117) < 40) & (np.abs(y - 87) < 30), -890, 0)
    nibabel.save(
        nibabel.Nifti1Image((hu + np.random.default_rng(0).normal(0, 15, hu.shape)).astype(np.int16), np.diag([6.0, 6, 6, 1])), tmp_path / "s.nii"
    )
    seen = look(tmp_path / "s.nii", run=run, sentence=SENTENCE, out=tmp_path / "out")
    where = seen.patches[["x_mm", "y_mm", "z_mm"]].to_numpy()
    assert (where > -3).all() and (where < np.array([40, 30, 24]) * 6 - 3).all()
    field = np.asanyarray(nibabel.load(seen.similarity_map).dataobj)
    assert np.nanmax(field) == pytest.approx(seen.patches.similarity[0], abs=2e-4)


def test_a_picture_and_the_list_are_written(seen):
    listed = pd.read_csv(seen.picture.with_suffix(".csv"))
    assert list(listed.columns) == ["rank", "x_mm", "y_mm", "z_mm", "similarity"]
    assert len(listed) == len(seen.patches)
    assert listed["similarity"].is_monotonic_decreasing
    assert seen.picture.read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_looked_at_is_refused_by_name(run, scan, tmp_path):
    with pytest.raises(ValueError, match="the sentence is empty"):
        look(scan, run=run, sentence=" ", out=tmp_path)
    with pytest.raises(Refused, match="only stop words"):
        look(scan, run=run, sentence="There is of the.", out=tmp_path)
    with pytest.raises(Refused, match="give a run folder"):
        look(scan, run=tmp_path, sentence=SENTENCE, out=tmp_path)
    with pytest.raises(Refused, match=r"absent\.nii"):
        look(tmp_path / "absent.nii.gz", run=run, sentence=SENTENCE, out=tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_recipe_without_sentences_is_named(run, scan, tmp_path):
    mae = tmp_path / "mae"
    mae.mkdir()
    config = Config.at("toy")
    config.save(mae / "config.json")
    (mae / "method.json").write_text(json.dumps({"recipe": "mae", "options": {}, "weights": {}}))
    save_file(checkpoint.trained_state(checkpoint.make_method("mae", config, {})), mae / "weights.safetensors")
    with pytest.raises(ValueError, match="aligns no sentences"):
        look(scan, run=mae, sentence=SENTENCE, out=tmp_path / "out")


def test_a_real_scan_can_be_looked_at(run, shared, tmp_path):
    """DICOM in a zip: the map has the series' shape."""
    source = shared / "data/volumes/cip_ct64/ct-64.nrrd"
    seen = look(source, run=run, sentence=SENTENCE, out=tmp_path)
    assert nibabel.load(seen.similarity_map).shape == (64, 64, 79)
    assert len(seen.patches) >= 1


def test_stored_values_are_refused_unless_they_are_rescaled(run, scan, tmp_path):
    from asapkit import ct
    from asapkit.types import Volume

    held = ct.read(scan)
    stored = tmp_path / "stored.nii.gz"
    ct.save(Volume((held.array + 8192).astype(np.int16), held.affine), stored)
    with pytest.raises(Refused, match=r"stored.nii.gz: values are not HU: they look like HU \+8192"):
        look(stored, run=run, sentence="A nodule in the left lung.", out=tmp_path / "out")
    one = look(stored, run=run, sentence="A nodule in the left lung.", out=tmp_path / "a", intercept=-8192.0)
    two = look(scan, run=run, sentence="A nodule in the left lung.", out=tmp_path / "b")
    assert one.patches.equals(two.patches)
