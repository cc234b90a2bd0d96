"""napari's layers lie where the scan lies, in millimetres; the reader and the widget that its manifest offers work; a window can be photographed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from napari.components import ViewerModel
from scipy.spatial import ConvexHull

import asapkit
from asapkit import analysis, ct, examples, planes, viewer
from asapkit.config import Config
from asapkit.types import FINDINGS, ORGANS, Refused
from asapkit.viewer import sources
from asapkit.viewer.straight import straightened

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


def written(folder, *, config, recipe):
    """A run folder as pre-training leaves it, untrained."""
    from safetensors.torch import save_file

    from asapkit import checkpoint

    folder.mkdir(parents=True)
    config.save(folder / "config.json")
    (folder / "method.json").write_text(json.dumps({"recipe": recipe, "options": {}, "weights": {}}))
    save_file(checkpoint.trained_state(checkpoint.make_method(recipe, config, {})), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as pre-training leaves it, untrained."""
    return written(tmp_path_factory.mktemp("place") / "run", config=CONFIG, recipe="asap")


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


def test_truth_is_packed_into_as_few_layers_as_overlaps_allow_and_cut_to_where_it_lies():
    truth = np.zeros((12, 10, 8), np.uint32)
    truth[3:6, 2:4, 5:7] |= 1 << 2
    truth[4:9, 2:4, 5:7] |= 1 << 31
    truth[8:10, 7:9, 1:3] |= 1 << 7
    described = viewer.volume_layers(truth.astype(np.int16), oblique(), truth=truth, names={2: "Lung nodule, left"})
    first, second = viewer.layers(described).layers[1:]
    assert first.name == "truth" and first.features["finding"].tolist() == ["", "Lung nodule, left", "instance 7"]
    assert second.name == "truth 2" and second.features["finding"].tolist() == ["", "instance 31"]
    for layer, value, bit in ((first, 1, 2), (first, 2, 7), (second, 3, 31)):
        lit = np.argwhere((truth >> np.uint32(bit)) & 1)
        found = np.array([world(layer, index) for index in np.argwhere(layer.data == value)])
        assert np.allclose(np.unique(found.round(6), axis=0), np.unique((lit @ oblique()[:3, :3].T + oblique()[:3, 3]).round(6), axis=0))
    assert first.data.shape == (6, 7, 7)


def test_similarity_frames_and_ranks_lie_on_the_patches():
    grid, patch, affine = (5, 4, 3), (3, 2, 4), oblique()
    similarity = np.random.default_rng(1).normal(size=60).astype(np.float32)
    field, frames, ranks = viewer.layers(viewer.sentence_layers(similarity, affine, grid=grid, patch=patch, k=7, sentence=SENTENCE)).layers
    top, centres = analysis.top_patches(similarity, 7), analysis.patch_centres_mm(grid, patch, affine)
    assert field.interpolation2d == "nearest" and SENTENCE in field.name
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
    model = viewer.layers(sources.stored(store, id).layers())
    assert model.layers[0].name == "CT, HU" and model.layers[0].metadata == {"role": "ct", "store": str(store.root), "id": id}
    organs = model.layers["organs"]
    assert organs.contour == 1 and organs.features["organ"].tolist() == ["", *ORGANS]
    said = [name for layer in model.layers if layer.name.startswith("truth") for name in layer.features["finding"][1:]]
    assert len(said) == (store.instances["id"] == id).sum() and all(any(f in name for f in FINDINGS) for name in said)


def test_air_is_no_evidence():
    similarity = np.arange(60, dtype=np.float32)
    similarity[40:] = np.nan
    described = viewer.sentence_layers(similarity, np.eye(4), grid=(5, 4, 3), patch=(3, 2, 4), k=50, sentence="x")
    assert len(described[1][0]) == 40 and described[0][1]["contrast_limits"] == (19.5, 39.0)
    viewer.layers(described)


def test_a_frame_lies_around_its_patch_in_each_plane():
    grid, chosen = (5, 4, 3), np.array([7, 59])
    for plane, (fixed, across, up, _) in planes.PLANES.items():
        corners = viewer.frames(chosen, grid, plane=plane)
        middle = np.stack(np.unravel_index(chosen, grid)[::-1], -1)
        assert np.allclose(corners.mean(1), middle)
        size = np.ptp(corners, axis=1)
        assert (size[:, 2 - fixed] == 0).all() and (size[:, [2 - across, 2 - up]] == 1).all()


def test_a_world_point_is_the_same_voxel_in_every_layer_of_every_view(run):
    """CT, similarity, attention and colours of an oblique scan of uneven voxels, in three views: the same value at the same millimetre."""
    affine, grid, patch = oblique(), (5, 4, 3), (3, 2, 4)
    rng = np.random.default_rng(2)
    hu, values = rng.normal(size=(15, 8, 12)).astype(np.float32), rng.normal(size=60).astype(np.float32)
    colours = rng.random((*grid, 3)).astype(np.float32)
    described = viewer.volume_layers(hu, affine) + viewer.sentence_layers(values, affine, grid=grid, patch=patch, k=3, sentence="x")
    described += viewer.attention_layers(values, affine, grid=grid, patch=patch, asked=17, name="x")
    described += viewer.colour_layers(colours, affine, patch=patch, name="x")
    views = viewer.Triple(viewer.layers(described)).views.values()
    for voxel in [(0, 0, 0), (14, 7, 11), (7, 3, 5), (4, 6, 10)]:
        point = (affine @ [*voxel, 1.0])[:3]
        place = tuple(v // p for v, p in zip(voxel, patch))
        for view in views:
            for layer in view.layers:
                if layer._type_string != "image":
                    continue
                at = tuple(np.floor(np.array(layer.world_to_data(point[::-1])) + 0.5).astype(int))
                expected = hu[voxel] if layer.name == "CT, HU" else colours[place] if layer.rgb else values[np.ravel_multi_index(place, grid)]
                assert np.allclose(layer.data[at], expected), layer.name


def test_a_scan_that_lies_askew_is_shown_straight_with_every_overlay_in_its_place():
    """A block of bright voxels and the patch over it, tilted about two axes: where CT, map and frames say it is, is where it is."""
    c, s = np.cos(0.3), np.sin(0.3)
    affine, grid, patch = np.eye(4), (5, 6, 4), (4, 4, 4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.diag([2.0, 3.0, 4.0])
    affine[:3, 3] = (-20, 30, 7)
    best, hu = (3, 2, 1), np.full((20, 24, 16), -1000, np.int16)
    hu[12:16, 8:12, 4:8] = 500
    values = np.zeros(grid, np.float32)
    values[best] = 1
    described = viewer.volume_layers(hu, affine, organs=(hu > 0).astype(np.uint8))
    described += viewer.sentence_layers(values.ravel(), affine, grid=grid, patch=patch, k=1, sentence="x")
    described += viewer.colour_layers(np.repeat(values[..., None], 3, -1), affine, patch=patch, name="colours")
    triple = viewer.Triple(viewer.layers(straightened(described)))
    rng = np.random.default_rng(4)
    for view in triple.views.values():
        for layer in view.layers:
            turn = layer._transforms[1:].simplified.linear_matrix
            assert np.allclose(turn, np.diag(np.diag(turn))), f"napari would draw {layer.name} without its tilt"
        for voxel in rng.uniform((0, 0, 0), (19, 23, 15), (300, 3)):
            inside = np.abs((voxel - (13.5, 9.5, 5.5)) / 2)
            if 0.75 < inside.max() < 1.25:
                continue  # an edge: grids round it
            point = (affine @ [*voxel, 1])[2::-1]
            for name, high in (("CT, HU (straightened)", 400), ("organs", 1), ("similarity: x", 0.9), ("colours", 0.9)):
                layer = view.layers[name]
                at = tuple(np.floor(np.array(layer.world_to_data(point))[:3] + 0.5).astype(int))
                assert (np.max(layer.data[at]) >= high) == (inside.max() < 1), (name, voxel)
    block = np.array(list(itertools.product((11.5, 15.5), (7.5, 11.5), (3.5, 7.5)))) @ affine[:3, :3].T + affine[:3, 3]
    for plane, view in triple.views.items():
        fixed = 2 - planes.PLANES[plane][0]
        frames = view.layers["top 1 patches"]
        corners = [np.array([frames.data_to_world(tuple(corner)) for corner in one]) for one in frames.data]
        assert (frames.face_color[:, 3] == 0).all() and (frames.edge_color == 1).all()
        assert len(corners) > 4 and all(np.ptp(one[:, fixed]) < 1e-6 for one in corners) and len(frames.features) == len(corners)
        assert all(_inside(block, one[:, ::-1]) for one in corners)
        low, high = block[:, 2 - fixed].min(), block[:, 2 - fixed].max()
        assert min(one[0, fixed] for one in corners) < low + 4 and max(one[0, fixed] for one in corners) > high - 4


def _inside(block, points):
    """Whether points lie in the block, give or take what napari's single precision loses."""
    hull = ConvexHull(block)
    return (points @ hull.equations[:, :3].T + hull.equations[:, 3] < 1e-3).all()


def test_a_scan_that_lies_straight_is_left_alone():
    described = viewer.volume_layers(np.zeros((6, 5, 4), np.int16), np.diag([2.0, 3.0, 5.0, 1.0]))
    assert straightened(described)[0][0] is described[0][0]


def test_three_planes_follow_one_crosshair_both_ways(store):
    model = viewer.layers(sources.stored(store, store.ids[0]).layers())
    triple = viewer.Triple(model)
    shown = {name: tuple(view.dims.displayed) for name, view in triple.views.items()}
    assert shown == {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}
    for name, view in triple.views.items():
        low, high = (np.array([r[n] for r in model.dims.range]) for n in (0, 1))
        point = tuple(low + (high - low) * {"axial": 0.3, "coronal": 0.6, "sagittal": 0.8}[name])
        view.dims.point = point
        assert all(np.allclose(other.dims.point, point) for other in triple.views.values()), name
    lines = model.layers["crosshair"].data
    assert np.allclose(sorted(set(lines[:, 0, 0].round(3)))[1], point[0], atol=1e-3)
    assert all(np.array_equal(view.layers["crosshair"].data, lines) for view in triple.sides.values())


@pytest.mark.slow
def test_the_views_hold_the_same_layers_and_change_together(store, run):
    bench = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    triple = viewer.Triple(bench.viewer)
    bench.choose_run(run)
    bench.find(SENTENCE)
    names = [layer.name for layer in bench.viewer.layers]
    assert all([layer.name for layer in view.layers] == names for view in triple.sides.values())
    triple.sides["coronal"].layers["organs"].opacity = 0.25
    triple.sides["sagittal"].layers["CT, HU"].contrast_limits = (-100, 200)
    assert bench.viewer.layers["organs"].opacity == triple.sides["sagittal"].layers["organs"].opacity == 0.25
    assert list(bench.viewer.layers["CT, HU"].contrast_limits) == [-100, 200]
    framed = next(name for name in names if name.startswith("top "))
    corners = triple.sides["coronal"].layers[framed].data
    assert all(np.ptp(one, axis=0)[1] == 0 for one in corners) and len(corners) == len(bench.viewer.layers[framed].data)
    bench.choose_volume(store.ids[1])
    assert [layer.name for layer in triple.sides["coronal"].layers] == [layer.name for layer in bench.viewer.layers]
    assert tuple(triple.sides["coronal"].dims.displayed) == (0, 2)
    triple.close()
    bench.viewer.layers["organs"].opacity = 0.5
    assert "crosshair" not in bench.viewer.layers and triple.sides["coronal"].layers["organs"].opacity == 0.7, "each on its own"


def test_a_click_moves_the_crosshair_and_a_drag_does_not(store):
    model = viewer.layers(sources.stored(store, store.ids[0]).layers())
    triple = viewer.Triple(model)
    low, high = (np.array([r[n] for r in model.dims.range]) for n in (0, 1))
    side, before = triple.sides["sagittal"], model.dims.point
    event = SimpleNamespace(type="mouse_press", button=1, position=tuple(low + 0.4 * (high - low)))
    drag = side.mouse_drag_callbacks[-1](side, event)
    next(drag)
    event.type = "mouse_move"
    next(drag)
    event.type = "mouse_release"
    assert list(drag) == [] and model.dims.point == before
    event.type = "mouse_press"
    click = side.mouse_drag_callbacks[-1](side, event)
    next(click)
    event.type = "mouse_release"
    assert list(click) == [] and np.allclose(model.dims.point, low + 0.4 * (high - low))


def test_a_run_is_asked_for_a_sentence_for_features_and_for_attention(store, run):
    bench = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    assert bench.sentences[0] == store.sentences[store.sentences["id"] == store.ids[0]]["sentence"].iloc[0]
    bench.choose_run(run)
    found = bench.find(f"  {SENTENCE} ")
    method = bench.run.method
    (similarity,), (k,) = examples.matched(
        method, store.cropped(store.ids[0])[0], [SENTENCE], contract=store.contract, shape=store.layer(store.ids[0], "ct").shape
    )
    assert found.k == k and np.array_equal(found.similarity, similarity, equal_nan=True)
    frames = bench.viewer.layers[f"top {k} patches"]
    assert frames.features["similarity"].tolist() == pytest.approx(np.sort(similarity[np.isfinite(similarity)])[::-1][:k])
    assert frames.features["label"][0] == f"1: {np.nanmax(similarity):.2f}" and frames.text.values[0] == frames.features["label"][0]
    assert bench.patch_asked() == np.nanargmax(similarity)
    best = analysis.patch_centres_mm(CONFIG.grid, CONFIG.patch, bench.field.affine)[bench.patch_asked()]
    assert (
        np.abs(np.array(bench.viewer.dims.point) - best[::-1]).max() <= max(CONFIG.patch_mm) / 2 and bench.patch_at_crosshair() == bench.patch_asked()
    )
    shares = bench.colours()
    assert shares.shape == (3,) and 0 < shares.sum() <= 1 + 1e-9
    assert not bench.viewer.layers[f"similarity: {SENTENCE}"].visible, "one overlay at a time"
    assert bench.attend(patch=3, layer=0, head=1) == 3
    seen = bench.viewer.layers["attention: layer 1, head 2"]
    heads = examples.of_layer(examples.looked_at(method.encoder, store, store.ids[0], patches=[3]), 0)[:, 0]
    assert np.array_equal(seen.data.transpose(2, 1, 0).ravel(), heads[1])
    bench.attend(patch=5)
    assert "attention: layer 1, head 2" not in bench.viewer.layers and "attention: last layer, mean of heads" in bench.viewer.layers


def test_the_map_goes_out_on_the_scans_own_grid(store, run, tmp_path):
    bench = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    bench.choose_run(run)
    with pytest.raises(Refused, match="no sentence has been found"):
        bench.export(tmp_path / "map")
    found = bench.find(SENTENCE)
    path = bench.export(tmp_path / "map")
    written, (scan, _) = nibabel.load(path), bench.volume.origin()
    original = nibabel.load(scan)
    assert path.name == "map.nii.gz" and written.shape == original.shape and np.allclose(written.affine, original.affine)
    centres = analysis.patch_centres_mm(CONFIG.grid, CONFIG.patch, bench.field.affine)
    checked = 0
    for patch in np.flatnonzero(np.isfinite(found.similarity))[::7]:
        voxel = np.rint(np.linalg.solve(original.affine, [*centres[patch], 1.0])[:3]).astype(int)
        if (voxel >= 0).all() and (voxel < original.shape).all():
            assert written.dataobj[tuple(voxel)] == pytest.approx(found.similarity[patch], abs=1e-6)
            checked += 1
    assert checked > 3
    with pytest.raises(Refused, match="no such folder"):
        bench.export(tmp_path / "absent" / "map.nii")


def test_a_scan_in_a_file_is_placed_in_millimetres_and_asked_like_a_stored_volume(store, run, tmp_path):
    scan, _ = sources.stored(store, store.ids[0]).origin()
    volume = examples.original(store, store.ids[0])
    hu = tmp_path / "scan.nii.gz"
    ct.save(volume, hu)
    (described,) = viewer.reader(str(hu))(str(hu))
    layer = viewer.layers([described]).layers[0]
    for voxel in [(0, 0, 0), (5, 7, 3)]:
        assert np.allclose(world(layer, voxel[::-1]), (volume.affine @ [*voxel, 1])[:3]) and layer.data[voxel[::-1]] == volume.array[voxel]
    bench = viewer.Bench(viewer.layers([described]))
    bench.choose_run(run)
    assert bench.sentences == []
    similarity = bench.find(SENTENCE).similarity
    stored = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    stored.choose_run(run)
    assert np.allclose(similarity, stored.find(SENTENCE).similarity, atol=1e-4, equal_nan=True)
    assert nibabel.load(bench.export(tmp_path / "map.nii")).shape == volume.array.shape
    bench.open(store.root, store.ids[1])
    assert bench.volume.id == store.ids[1] and [layer.name for layer in bench.viewer.layers][:2] == ["CT, HU", "organs"]
    raw = viewer.Bench(viewer.layers(sources.opened(scan).layers()))  # stored values: the table's slope and intercept are not told here
    raw.choose_run(run)
    with pytest.raises(Refused, match=f"{scan.name}: .*HU"):
        raw.find(SENTENCE)


def test_a_run_opens_the_store_that_it_was_trained_on(store, run, tmp_path):
    from asapkit import checkpoint

    with pytest.raises(Refused, match="does not say which store"):
        sources.store_of(run)
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, tmp_path / "runs" / "asap")
    checkpoint.record_store(tmp_path / "runs" / "asap", store.root)
    assert sources.store_of(tmp_path / "runs" / "asap").resolve() == store.root.resolve()
    described = viewer.read([str(tmp_path / "runs" / "asap")])
    assert described[0][1]["metadata"]["run"] == str(tmp_path / "runs" / "asap")
    bench = viewer.Bench(ViewerModel())
    bench.open(tmp_path / "runs" / "asap")
    assert bench.volume.id == store.ids[0] and bench.run.path == tmp_path / "runs" / "asap"
    assert [p.name for p in sources.runs_beside(tmp_path / "runs")] == ["asap"] == [p.name for p in sources.runs_beside(bench.run.path)]
    checkpoint.record_store(tmp_path / "runs" / "asap", tmp_path / "gone")
    with pytest.raises(Refused, match="gone, which is not there"):
        sources.store_of(tmp_path / "runs" / "asap")


def test_pretraining_writes_down_where_its_store_lies(store, tmp_path):
    from asapkit import checkpoint, train

    train.pretrain(store, tmp_path / "runs" / "mae", recipe="mae", config=Config.at("toy", steps=1, batch_size=1), progress=False, ids=store.ids)
    assert not json.loads((tmp_path / "runs" / "mae" / "data.json").read_text())["store"].startswith("/")
    assert checkpoint.trained_on(tmp_path / "runs" / "mae").resolve() == store.root.resolve()
    bench = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    bench.choose_run(tmp_path / "runs" / "mae")
    with pytest.raises(Refused, match="aligns no sentences"):
        bench.find(SENTENCE)
    bench.colours()
    assert bench.attend() == bench.patch_at_crosshair()


def test_the_sample_is_a_phantom_with_organs_truth_and_report():
    described = viewer.sample()
    assert [settings["name"] for _, settings, _ in described][:3] == ["CT, HU", "organs", "truth"]
    bench = viewer.Bench(viewer.layers(described))
    assert len(bench.sentences) > 5 and bench.volume.store.scale == "small"


def test_what_cannot_be_shown_says_why(store, run, tmp_path):
    bench = viewer.Bench(ViewerModel())
    for action, why in (
        (lambda: bench.find(SENTENCE), "no run is chosen"), (lambda: bench.choose_run(tmp_path), "no config.json"),
        (lambda: bench.find(" ... "), "is empty"), (lambda: bench.find("There is of the"), "only stop words"),
        (lambda: bench.open(tmp_path / "absent.nii.gz"), "no such file"), (lambda: bench.open(tmp_path), "no DICOM|no file|no image"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=why):
            action()
    bench.choose_run(run)
    with pytest.raises(Refused, match="no volume is open"):
        bench.find(SENTENCE)
    bench.open(store.root)
    for action, why in (
        (lambda: bench.attend(patch=10_000), "patch 10000"), (lambda: bench.attend(patch=0, layer=7), "layer 7"),
        (lambda: bench.attend(patch=0, head=99), "no such attention"), (lambda: bench.choose_volume("nobody"), "not in store"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=why):
            action()
    bench.viewer.dims.point = tuple(r[1] for r in bench.viewer.dims.range)
    bench._field = examples.Field(bench.field.hu, bench.field.affine @ np.diag([0.1, 0.1, 0.1, 1]), bench.field.shape, bench.field.contract)
    with pytest.raises(Refused, match="outside"):
        bench.patch_at_crosshair()
    (tmp_path / "no_scan.nii.gz").write_bytes(b"not a scan at all")
    with pytest.raises(Refused, match="no_scan.nii.gz: neither NIfTI"):
        viewer.reader(str(tmp_path / "no_scan.nii.gz"))(str(tmp_path / "no_scan.nii.gz"))


def test_a_run_of_another_contract_is_refused_naming_what_differs(store, run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    settings = json.loads((run / "config.json").read_text()) | {"spacing_mm": [7.0, 6.0, 12.0]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    bench = viewer.Bench(viewer.layers(sources.stored(store, store.ids[0]).layers()))
    bench.choose_run(tmp_path / "other")
    with pytest.raises(Refused, match=r"other does not fit store store, .*spacing_mm \(6.0, 6.0, 12.0\) instead of \(7.0, 6.0, 12.0\)"):
        bench.find(SENTENCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("set_to", "why"), [({}, "no display"), ({"DISPLAY": ":1", "QT_QPA_PLATFORM": "offscreen"}, "offscreen"), ({"DISPLAY": ":987"}, "display :987")]
)
def test_without_a_display_the_command_line_says_so_in_one_line(store, set_to, why):
    environment = {k: v for k, v in os.environ.items() if k not in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")} | set_to
    if sys.platform != "linux":
        pytest.skip("displays are named so on Linux")
    done = subprocess.run([sys.executable, "-m", "asapkit", "view", str(store.root)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and why in done.stderr, done.stderr


def test_a_sentence_needs_a_run_and_a_volume_must_be_there(store):
    with pytest.raises(ValueError, match="needs a run"):
        viewer.show(store, store.ids[0], sentence=SENTENCE)
    with pytest.raises(Refused, match="not in store"):
        viewer.show(store, "nobody")


@pytest.mark.slow
def test_importing_the_viewer_loads_neither_napari_nor_qt():
    code = "import sys, asapkit.viewer; print(*[m for m in ('napari', 'qtpy', 'PySide6', 'vispy', 'magicgui') if m in sys.modules])"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_manifest_is_valid_and_its_commands_exist():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert {c.id for c in manifest.contributions.commands} == {"asapkit.read", "asapkit.sample", "asapkit.panel"}


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


PANEL = """
import napari
from pathlib import Path
from asapkit import store, viewer
from qtpy.QtCore import QCoreApplication, QEvent
stored, runs, broken, shot = (Path(p) for p in {paths!r})
window = napari.Viewer()
window.window.resize(1000, 700)
window.open(str(stored), plugin="asapkit")
opened = store.open(stored)
_, panel = window.window.add_plugin_dock_widget("asapkit", "Sentences, features and attention")
assert panel.volume.value == opened.ids[0] and list(panel.volume.choices) == opened.ids and len(panel.said.choices) > 5
panel.find.changed.emit(True)
assert "no run is chosen" in panel.message.value or "empty" in panel.message.value, panel.message.value
panel.folder.value = broken
assert "no run folder here" in panel.message.value, panel.message.value
window.open(str(runs / "asap"), plugin="asapkit")
assert panel.bench.run.path.name == "asap" and panel.run.value == str(runs / "asap") and list(panel.layer.choices) == ["last", "1", "2"]
panel.said.value = [panel.said.choices[0]]
assert "patches selected" in panel.message.value and panel.typed.value == panel.said.choices[0], panel.message.value
panel.typed.value = "There is of the"
panel.find.changed.emit(True)
assert "only stop words" in panel.message.value
panel.volume.value = opened.ids[1]
assert panel.bench.volume.id == opened.ids[1] and window.layers[0].metadata["id"] == opened.ids[1]
panel.planes.changed.emit(True)
panel.attend.changed.emit(True)
assert "attention of patch" in panel.message.value, panel.message.value
panel.colours.changed.emit(True)
assert "variance" in panel.message.value
panel.run.value = str(runs / "other")
assert "does not fit" in panel.message.value and "spacing_mm" in panel.message.value, panel.message.value
panel.run.value = str(runs / "mae")
panel.typed.value = {sentence!r}
panel.find.changed.emit(True)
assert "aligns no sentences" in panel.message.value, panel.message.value
panel.run.value = str(runs / "asap")
panel.ask({sentence!r})
panel.target.value = shot.with_suffix(".nii.gz")
panel.export.changed.emit(True)
assert shot.with_suffix(".nii.gz").is_file(), panel.message.value
sides = next(held for name, held in window.window.dock_widgets.items() if name.startswith("coronal"))
assert viewer.three_planes(window) is viewer.three_planes(window) and "crosshair" in window.layers
window.window.remove_dock_widget(sides)
QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
assert "crosshair" not in window.layers
assert "crosshair" in viewer.three_planes(window).main.layers
window.close()
viewer.screenshot(opened, path=shot, run=runs / "asap", sentence={sentence!r}, size=(700, 1100))
"""


@pytest.mark.slow
def test_a_run_is_opened_and_a_sentence_chosen_in_a_window_under_a_virtual_display(store, run, tmp_path):
    """The whole way: Qt, GL, what is dropped, every control of the panel, three planes, the picture of it."""
    if not shutil.which("xvfb-run"):
        pytest.skip("xvfb-run is not installed (tests/apt.txt)")
    from asapkit import checkpoint

    for name, config, recipe in (("asap", CONFIG, "asap"), ("mae", CONFIG, "mae"), ("other", Config.at("toy", spacing_mm=(7.0, 6.0, 12.0)), "asap")):
        written(tmp_path / "runs" / name, config=config, recipe=recipe)
        checkpoint.record_store(tmp_path / "runs" / name, store.root)
    (tmp_path / "empty").mkdir()
    shot = tmp_path / "shot.png"
    code = PANEL.format(paths=[str(p) for p in (store.root, tmp_path / "runs", tmp_path / "empty", shot)], sentence=SENTENCE)
    environment = {k: v for k, v in os.environ.items() if k not in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"LIBGL_ALWAYS_SOFTWARE": "1"}
    command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1200x24", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    if "could not connect to display" in done.stderr or "no Qt platform plugin" in done.stderr:
        pytest.skip(f"no virtual display: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    from PIL import Image

    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert seen.std() > 20 and (np.ptp(seen, axis=-1) > 60).mean() > 0.005, "CT in grey, similarity and outlines in colour"
    dark = (seen[60:660, 280:820] < 12).all(-1).mean()
    assert dark < 0.9, "the canvas is not black"
