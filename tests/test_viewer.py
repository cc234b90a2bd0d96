"""napari's layers lie where the scan lies, in millimetres; the reader and the widget that its manifest offers work; a window can be photographed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import asapkit
from asapkit import analysis, viewer
from asapkit.config import Config
from asapkit.types import FINDINGS, ORGANS, Refused

CONFIG = Config.at("toy")
MANIFEST = Path(asapkit.__file__).with_name("napari.yaml")
SENTENCE = "There is a nodule in the right upper lobe."


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two phantom volumes at scale toy."""
    from asapkit import store
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    folder = tmp_path_factory.mktemp("viewer")
    dataset = cohort.make(folder / "dataset", volumes=2, seed=3, scale="toy")
    store.write(ct_rate.scans(dataset), folder / "store", config=CONFIG, progress=False)
    return store.open(folder / "store")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as pre-training leaves it, untrained."""
    from safetensors.torch import save_file

    from asapkit import checkpoint

    folder = tmp_path_factory.mktemp("run")
    CONFIG.save(folder / "config.json")
    (folder / "method.json").write_text(json.dumps({"recipe": "asap", "options": {}, "weights": {}}))
    save_file(checkpoint.trained_state(checkpoint.make_method("asap", CONFIG, {})), folder / "weights.safetensors")
    return folder


def oblique():
    """Voxels of 2 x 3 x 5 mm, turned by 20 degrees about z, first axis to the left."""
    c, s = np.cos(0.35), np.sin(0.35)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-c, -s, 0], [-s, c, 0], [0, 0, 1]]) @ np.diag([2, 3, 5])
    affine[:3, 3] = (100, -80, 40)
    return affine


def world(layer, index):
    """World x, y, z of an index z, y, x of a layer."""
    return np.array(layer.data_to_world(tuple(index)))[::-1]


@pytest.mark.parametrize("affine", [np.diag([2.0, 3.0, 5.0, 1.0]), oblique()])
def test_every_voxel_lies_at_its_world_coordinates_in_millimetres(affine):
    rng = np.random.default_rng(0)
    ct, organs = rng.normal(size=(6, 5, 4)).astype(np.float32), rng.integers(0, 10, (6, 5, 4)).astype(np.uint8)
    model = viewer.layers(viewer.volume_layers(ct, affine, organs=organs))
    for layer, array in zip(model.layers, (ct, organs)):
        for x, y, z in [(0, 0, 0), (5, 4, 3), (2, 1, 3)]:
            assert layer.data[z, y, x] == array[x, y, z]
            assert np.allclose(world(layer, (z, y, x)), (affine @ [x, y, z, 1])[:3])
        assert {str(u) for u in layer.units} == {"millimeter"} and layer.axis_labels == ("z", "y", "x")
        assert np.allclose(layer.scale, [5, 3, 2])


def test_truth_is_one_layer_per_instance_cut_to_where_it_lies():
    truth = np.zeros((12, 10, 8), np.uint32)
    truth[3:6, 2:4, 5:7] |= 1 << 2
    truth[4:9, 2:4, 5:7] |= 1 << 31
    described = viewer.volume_layers(truth.astype(np.int16), oblique(), truth=truth, names={2: "Lung nodule, left"})
    model = viewer.layers(described)
    nodule, other = model.layers[1:]
    assert nodule.name == "truth: Lung nodule, left" and other.name == "truth: instance 31"
    assert nodule.data.shape == (2, 2, 3) and nodule.data.all()
    assert np.allclose(world(nodule, (0, 0, 0)), (oblique() @ [3, 2, 5, 1])[:3])


def test_similarity_frames_and_ranks_lie_on_the_patches():
    grid, patch, affine = (5, 4, 3), (3, 2, 4), oblique()
    similarity = np.random.default_rng(1).normal(size=60).astype(np.float32)
    field, frames, ranks = viewer.layers(viewer.sentence_layers(similarity, affine, grid=grid, patch=patch, k=7, sentence=SENTENCE)).layers
    top, centres = analysis.top_patches(similarity, 7), analysis.patch_centres_mm(grid, patch, affine)
    assert field.interpolation2d == "nearest" and field.blending == "additive" and SENTENCE in field.name
    for rank, patch_index in enumerate(top):
        x, y, z = np.unravel_index(patch_index, grid)
        assert field.data[z, y, x] == similarity[patch_index]
        assert np.allclose(world(field, (z, y, x)), centres[patch_index])
        assert np.allclose(world(ranks, ranks.data[rank]), centres[patch_index])
        corners = np.array([world(frames, corner) for corner in frames.data[rank]])
        assert np.allclose(corners.mean(0), centres[patch_index])
        assert np.allclose(np.ptp((corners - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T, axis=0), [3, 2, 0], atol=1e-4)
    assert frames.features["rank"].tolist() == list(range(1, 8)) and ranks.features["similarity"][0] == pytest.approx(similarity.max())
    assert np.allclose(ranks.features[["x_mm", "y_mm", "z_mm"]], centres[top])


def test_axial_planes_are_turned_the_radiologists_way_and_opened_at_the_best_patch():
    similarity = np.arange(60, dtype=np.float32)
    described = viewer.volume_layers(np.zeros((15, 8, 12), np.int16), np.diag([2.0, 3.0, 5.0, 1.0]))
    described += viewer.sentence_layers(similarity, np.diag([2.0, 3.0, 5.0, 1.0]), grid=(5, 4, 3), patch=(3, 2, 4), k=2, sentence="x")
    model = viewer.layers(described)
    assert [str(getattr(o, "value", o)) for o in model.scene.camera.orientation2d] == ["up", "left"]
    best = analysis.patch_centres_mm((5, 4, 3), (3, 2, 4), np.diag([2.0, 3.0, 5.0, 1.0]))[59]
    assert np.abs(np.array(model.dims.point) - best[::-1]).max() <= 2.5


def test_a_stored_volume_shows_its_organs_by_name_and_its_findings(store):
    id = store.instances["id"].iloc[0]
    model = viewer.layers(viewer.stored(store, id))
    assert model.layers[0].name == "CT, HU" and model.layers[0].metadata == {"store": str(store.root), "id": id}
    organs = model.layers["organs"]
    assert organs.contour == 1 and organs.features["organ"].tolist() == ["", *ORGANS]
    findings = [layer.name for layer in model.layers if layer.name.startswith("truth")]
    assert findings and all(any(f in name for f in FINDINGS) for name in findings)


def test_air_is_no_evidence():
    similarity = np.arange(60, dtype=np.float32)
    similarity[40:] = np.nan
    described = viewer.sentence_layers(similarity, np.eye(4), grid=(5, 4, 3), patch=(3, 2, 4), k=50, sentence="x")
    assert len(described[1][0]) == 40 and described[0][1]["contrast_limits"] == (19.5, 39.0)
    viewer.layers(described)


def test_a_sentence_is_found_with_a_run(store, run):
    field, frames, _ = viewer.found(store, store.ids[0], run=run, sentence=SENTENCE)
    assert field[0].shape == CONFIG.grid[::-1]
    assert len(frames[0]) == len(frames[1]["features"]["rank"]) >= 1


def test_what_cannot_be_shown_says_why(store, run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="belong together"):
        viewer.show(store, store.ids[0], run=run)
    with pytest.raises(Refused, match="not in store"):
        viewer.show(store, "nobody")
    shutil.copytree(run, tmp_path / "other")
    settings = json.loads((run / "config.json").read_text()) | {"spacing_mm": [7.0, 6.0, 12.0]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(Refused, match="contract"):
        viewer.found(store, store.ids[0], run=tmp_path / "other", sentence=SENTENCE)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(os, "uname", lambda: type("Linux", (), {"sysname": "Linux"}))
    with pytest.raises(Refused, match="no display"):
        viewer.show(store, store.ids[0])


def test_the_manifest_is_valid_and_its_commands_exist():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert {c.id for c in manifest.contributions.commands} == {"asapkit.read", "asapkit.sentence"}


def test_napari_reads_a_store_and_a_single_volume_through_the_plugin(store, tmp_path):
    from npe2 import PluginManager, PluginManifest
    from npe2.io_utils import read

    manager = PluginManager.instance()
    if "asapkit" not in manager:
        manager.register(PluginManifest.from_file(MANIFEST))
    for path, id in ((store.root, store.ids[0]), (store.root / "ct" / f"{store.ids[1]}.b2nd", store.ids[1])):
        described = read([str(path)], stack=False, plugin_name="asapkit")
        assert described[0][1]["metadata"]["id"] == id and described[0][2] == "image"
        assert np.array_equal(described[0][0], store.ct(id).transpose(2, 1, 0))
    assert viewer.reader(str(tmp_path)) is None and viewer.reader([str(store.root), str(tmp_path)]) is None and viewer.reader([]) is None


def test_the_widget_adds_what_it_finds(store, run):
    from napari.components import ViewerModel

    model = viewer.layers(viewer.stored(store, store.ids[0]))
    before = len(model.layers)
    viewer.find_sentence(model, run=run, sentence=SENTENCE)
    assert len(model.layers) == before + 3
    with pytest.raises(Refused, match="type a sentence"):
        viewer.find_sentence(model, run=run, sentence=" ")
    with pytest.raises(Refused, match="no layer here"):
        viewer.find_sentence(ViewerModel(), run=run, sentence=SENTENCE)


@pytest.mark.slow
def test_a_window_is_photographed_under_a_virtual_display(store, run, tmp_path):
    """The whole way: Qt, GL, the layers and the widget made from the manifest's command."""
    if not shutil.which("xvfb-run"):
        pytest.skip("xvfb-run is not installed (tests/apt.txt)")
    code = f"""
from asapkit import store, viewer
opened = store.open({str(store.root)!r})
viewer.screenshot(opened, opened.ids[0], {str(tmp_path / "shot.png")!r}, run={str(run)!r}, sentence={SENTENCE!r}, size=(600, 800))
import napari
window = napari.Viewer()
viewer.layers(viewer.stored(opened, opened.ids[0]), viewer=window)
before = len(window.layers)
_, widget = window.window.add_plugin_dock_widget("asapkit", "Find a sentence")
widget[0].value, widget[1].value = {str(run)!r}, {SENTENCE!r}
widget[2].changed.emit(True)
assert len(window.layers) == before + 3
window.close()
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(["xvfb-run", "-a", sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    if "could not connect to display" in done.stderr or "no Qt platform plugin" in done.stderr:
        pytest.skip(f"no virtual display: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    from PIL import Image

    seen = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    assert seen.std() > 20 and (np.ptp(seen, axis=-1) > 60).mean() > 0.001, "CT in grey, similarity and outlines in colour"
