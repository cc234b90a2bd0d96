"""Pictures are the right way round and to scale, keep their colours on disk, and are the same bytes every time."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from asapkit import charts, drawing, figures, planes, plates
from asapkit.types import FINDINGS, ORGANS

SPACING, PATCH, GRID = (4.0, 5.0, 8.0), (6, 6, 4), (10, 8, 6)
SHAPE = tuple(g * p for g, p in zip(GRID, PATCH))
N = int(np.prod(GRID))
DEPENDS = {
    "own": 1, "exchanged": 2, "positions": 3, "chance": 4, "rise": 1, "rise_positive": np.nan, "explained": np.nan, "correlation": 0.3,
    "overlap": 0.2, "overlap_chance": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def body():
    """Soft tissue with two lungs in air, HU."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    hu[(np.abs(x) - 0.4) ** 2 * 9 + y**2 * 3 + z**2 < 0.7] = -850
    return hu.astype(np.int16)


@pytest.fixture(scope="module")
def organs(body):
    labels = np.zeros(SHAPE, np.uint8)
    labels[35:50, 15:35, 4:20][body[35:50, 15:35, 4:20] < -800] = 4
    labels[20:40, 20:30, 5:12] = 6
    labels[28:31, 12:16, 2:22] = 9
    return labels


@pytest.fixture(scope="module")
def truth():
    bits = np.zeros(SHAPE, np.uint32)
    bits[10:16, 20:26, 8:12] |= 1 << 0
    bits[12:18, 20:26, 8:12] |= 1 << 5
    return bits


def pixels(figure, dpi=60):
    out = io.BytesIO()
    figure.savefig(out, dpi=dpi)
    return np.asarray(Image.open(out).convert("RGB")).astype(float)


def marked(voxels):
    volume = np.full(SHAPE, -1000, np.int16)
    volume[voxels] = 1000
    return volume


@pytest.mark.parametrize(
    ("plane", "voxels", "up", "left"),
    [
        ("axial", np.s_[:10, 38:, :], True, False),  # patient's left, anterior
        ("axial", np.s_[50:, :10, :], False, True),  # patient's right, posterior
        ("coronal", np.s_[:10, :, 18:], True, False),  # left, superior
        ("sagittal", np.s_[:, 38:, :6], False, True),  # anterior, inferior
    ],
)
def test_planes_lie_as_radiologists_see_them(plane, voxels, up, left):
    cut = planes.cuts(marked(voxels), SPACING, (plane,))[0]
    page, tiles = drawing.mosaic([cut.size_mm[0]], [cut.size_mm[1]], width=4, top=0, bottom=0, left=0, right=0)
    planes.ct(tiles[0, 0], cut, marked(voxels), "full", interpolation="nearest")
    planes.frame(tiles[0, 0], cut, marks=False, bar=False)
    bright = np.argwhere(pixels(page).mean(-1) > 128) / np.array(pixels(page).shape[:2])
    assert (bright[:, 0].mean() < 0.5) == up and (bright[:, 1].mean() < 0.5) == left
    half = bright.max(0) - bright.min(0)
    extent = [np.ptp(np.nonzero(cut.take(marked(voxels)) > 0)[a]) + 1 for a in (0, 1)]
    assert np.allclose(half, np.array(extent) / cut.take(marked(voxels)).shape, atol=0.03)


def test_tiles_share_one_millimetre_scale():
    page, tiles = drawing.mosaic([240, 120], [200, 100], width=8)
    size = np.array([[t.get_window_extent().width, t.get_window_extent().height] for t in tiles.ravel()])
    per_mm = size / np.array([[240, 200], [120, 200], [240, 100], [120, 100]])
    assert np.allclose(per_mm, per_mm[0, 0])
    assert page.get_size_inches()[0] == 8


def test_a_patch_frame_encloses_its_patch_and_only_planes_that_cut_it_draw_it():
    cut = planes.Cut("coronal", 3 * 6 + 2, SPACING, SHAPE)
    _, tiles = drawing.mosaic([cut.size_mm[0]], [cut.size_mm[1]])
    index = [int(np.ravel_multi_index(p, GRID)) for p in ((7, 3, 2), (7, 4, 2))]
    assert cut.boxes(tiles[0, 0], index, GRID, PATCH) == 1
    box = tiles[0, 0].patches[0].get_bbox()
    assert np.allclose([box.x0, box.x1], [7 * 24, 8 * 24]) and np.allclose([box.y0, box.y1], [2 * 32, 3 * 32])


def test_the_busiest_slice_is_chosen(truth):
    assert planes.busiest("axial", truth > 0) in range(8, 12)
    assert planes.busiest("axial", np.zeros(SHAPE, bool)) == SHAPE[2] // 2
    assert planes.bits_of(truth) == [0, 5]


def test_a_plane_through_two_findings_is_preferred_to_one_through_a_large_one(body):
    bits = np.zeros(SHAPE, np.uint32)
    bits[5:30, 5:30, 4] = 1
    bits[40:42, 40:42, 15] = 2
    bits[50:52, 10:12, 15] = 4
    assert planes.richest(body, truth=bits)[2] == 15


def tables():
    rng = np.random.default_rng(0)
    names = ("random", "mae", "asap", "one of mine")
    ranks = [(e, layer, rng.uniform(1, 40), rng.uniform(0, 1)) for e in names for layer in range(1, 4) for _ in range(5)]
    ground = pd.DataFrame({"finding": ("macro", *FINDINGS), "hit": rng.random(19), "chance": 0.1, "n": 7.0})
    ground.loc[3, "n"] = np.nan
    probe = pd.DataFrame([(e, s, 0.6, 0.55, 0.66) for e in names for s in (0.05, 1.0)], columns=["encoder", "share", "value", "low", "high"])
    dots = pd.DataFrame([(f, e, rng.random()) for e in names for f in FINDINGS], columns=["finding", "encoder", "value"])
    steps = pd.DataFrame({"step": range(1, 31), "align": rng.random(30), "reconstruct": rng.random(30), "lr": 1e-3})
    return {
        "rank": pd.DataFrame(ranks, columns=["encoder", "layer", "effective_rank", "normalised"]), "ground": ground, "probe": probe, "dots": dots,
        "reach": pd.DataFrame(
            [(e, layer, head, rng.uniform(20, 99), rng.uniform(1, N)) for e in names for layer in (1, 2) for head in (1, 2, 3)],
            columns=["encoder", "layer", "head", "distance_mm", "spread"],
        ),
        "steps": steps, "k": pd.DataFrame({"k": [2, 4, 8, 2], "n": [5, 6, 0, 3], "group": ["positive"] * 3 + ["normal"]}),
        "depends": pd.DataFrame(
            [(e, m, v, v - 0.1, v + 0.1) for e in ("asap", "mine") for m, v in DEPENDS.items()],
            columns=["run", "measure", "value", "low", "high"],
        ),
        "places": pd.DataFrame(
            [(e, s, *rng.integers(0, GRID)) for e in ("asap", "mine") for s in ("A nodule.", "No effusion. " * 20) for _ in range(9)],
            columns=["run", "sentence", "x", "y", "z"],
        ),
        "extent": pd.DataFrame({"finding": FINDINGS * 2, "k": [2, 4, 8] * 12, "patches": range(1, 37)}),
    }  # fmt: skip


def drawn(name, body, organs, truth):
    rng, t = np.random.default_rng(1), tables()
    similarity, hidden = rng.normal(size=N), rng.random(N) < 0.5
    scan = {"spacing_mm": SPACING, "patch": PATCH}
    say = {"title": "A title", "caption": "A long caption. " * 20}
    share = np.stack([rng.random(N) * (o in (3, 5, 8)) for o in range(len(ORGANS))], 1)
    steps = [figures.Step("stored", body[::-1], SPACING, oriented=False), figures.Step("ready", body[::2, ::2], (8, 10, 8), note="coarse")]
    items = [{"name": "a", "volume": body, "spacing_mm": SPACING, "credit": "by a"}, {"name": "b", "volume": body[:30], "spacing_mm": SPACING}]
    curves = {"asap": np.exp(-np.arange(20) / 5.0)[None].repeat(4, 0), "mae": np.exp(-np.arange(12) / 3.0)[None]}
    row = {"sentence": "Long. " * 40, "similarity": np.where(hidden, np.nan, similarity), "volume": body, "truth": truth > 0}
    return {
        "slices": lambda: figures.slices(body, spacing_mm=SPACING, organs=organs, truth=truth, names={5: "Lung nodule"}, **say),
        "one plane": lambda: figures.slices(body, spacing_mm=SPACING, planes=("sagittal",), windows=("bone",), at=(3, 4, 5)),
        "scan_sheet": lambda: figures.scan_sheet(
            body, spacing_mm=SPACING, sentences=["Something is seen. " * 6] * 30, bits=[1, 0, 33] + [0] * 27, truth=truth, organs=organs, **say
        ),
        "bare sheet": lambda: figures.scan_sheet(body, spacing_mm=SPACING, sentences=[]),
        "gallery": lambda: figures.gallery(items, **say),
        "preprocess_steps": lambda: figures.preprocess_steps(steps, **say),
        "patch_grid": lambda: figures.patch_grid(body, hidden, **scan, **say),
        "organ_proportions": lambda: figures.organ_proportions(body, organs, share, **scan, **say),
        "reconstruction": lambda: figures.reconstruction(body, hidden, body + 10, **scan, **say),
        "pca_maps": lambda: figures.pca_maps(body, {"asap": rng.random((*GRID, 3)), "mae": np.zeros((*GRID, 3))}, **scan, **say),
        "smooth pca": lambda: figures.pca_maps(
            body, {"a_b": rng.random((*GRID, 3))}, truth=truth, names={0: "Lung nodule"}, interpolation="linear", levels=3, **scan, **say
        ),
        "sentence_patches": lambda: figures.sentence_patches(
            [row | {"k": k} for k in (1, 4, 9)],
            **scan,
            **say,
        ),
        "one sentence": lambda: figures.sentence_patches([{"sentence": "A.", "similarity": similarity, "k": 2, "volume": body}], **scan),
        "attention_sheet": lambda: figures.attention_sheet(
            body,
            {"asap": {"layer 1": rng.dirichlet(np.ones(N)), "layer 2": np.full(N, 1 / N)}, "random": {"layer 1": np.full(N, 0.0)}},
            query=100,
            **scan,
            **say,
        ),
        "attention_reach": lambda: figures.attention_reach(t["reach"], even_mm=90, **say),
        "sentence_map": lambda: figures.sentence_map(body, similarity, sentence="A nodule.", k=9, truth=truth > 0, note="hit", **scan),
        "holes": lambda: figures.sentence_map(body, np.where(hidden, np.nan, similarity), sentence="Air is no evidence.", k=3, **scan),
        "rows": lambda: figures.sentence_maps(body, [{"sentence": "A.", "similarity": similarity, "k": 2, "truth": truth > 0}] * 2, **scan, **say),
        "flat map": lambda: figures.sentence_map(body, np.zeros(N), sentence="Nothing.", k=1, interpolation="nearest", **scan),
        "history": lambda: figures.history({"asap": t["steps"], "mae": t["steps"][["step", "reconstruct"]]}, **say),
        "one history": lambda: figures.history(t["steps"]),
        "effective_rank": lambda: figures.effective_rank(t["rank"], value="normalised", **say),
        "spectra": lambda: figures.spectra(curves, **say),
        "grounding_bars": lambda: figures.grounding_bars(t["ground"], **say),
        "probe_bars": lambda: figures.probe_bars(t["probe"], **say),
        "probe_dots": lambda: figures.probe_dots(t["dots"], **say),
        "selected_k": lambda: figures.selected_k(t["k"], **say),
        "k_extent": lambda: figures.k_extent(t["extent"], **say),
        "patient_dependence": lambda: figures.patient_dependence(t["depends"], t["places"], body=rng.random(GRID), patch_mm=(24, 30, 32), **say),
    }[name]()


EVERY = (
    "slices", "one plane", "scan_sheet", "bare sheet", "gallery", "preprocess_steps", "patch_grid", "organ_proportions", "reconstruction", "pca_maps",
    "sentence_map", "holes", "rows", "flat map", "history", "one history", "effective_rank", "spectra", "grounding_bars", "probe_bars", "probe_dots",
    "selected_k", "k_extent", "smooth pca", "sentence_patches", "one sentence", "attention_sheet", "attention_reach",
    "patient_dependence",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_figure_draws_without_a_warning(name, body, organs, truth):
    with warnings.catch_warnings(action="error"):  # not around what the fixtures import
        figure = drawn(name, body, organs, truth)
        seen = pixels(figure)
    assert seen.std() > 5
    assert 3 < figure.get_size_inches()[0] <= 10


def test_a_figure_is_saved_small_with_its_numbers_and_the_same_bytes_again(tmp_path, body, organs, truth):
    numbers = pd.DataFrame({"finding": ["a", "b"], "value": [1 / 3, 2.0]})
    paths = [figures.save(drawn("slices", body, organs, truth), "01_look", numbers, out=tmp_path / run) for run in ("one", "two")]
    assert paths[0].name == "01_look.png" and paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size <= 400_000 and not Image.open(paths[0]).info.keys() & {"Software", "Creation Time", "date"}
    assert (tmp_path / "one" / "01_look.csv").read_bytes() == b"finding,value\na,0.333333\nb,2\n"


@pytest.mark.slow
def test_a_noisy_scan_still_fits_and_outlines_keep_their_colour(tmp_path):
    """Noise does not compress: resolution and grey levels give way, an organ's colour does not."""
    rng = np.random.default_rng(0)
    volume, label = rng.normal(0, 300, (150, 150, 100)).astype(np.int16), np.zeros((150, 150, 100), np.uint8)
    label[40:110, 40:110, 20:80] = 1
    path = figures.save(figures.slices(volume, spacing_mm=(2, 2, 3), organs=label, windows=("lung",)), "01_noise", pd.DataFrame(), out=tmp_path)
    assert path.stat().st_size <= 400_000
    seen = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(drawing.ORGANS[0][i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(seen - wanted).max(-1) < 12).sum() > 500


def test_the_callers_settings_neither_matter_nor_change(body):
    import matplotlib

    plain = pixels(figures.slices(body, spacing_mm=SPACING))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "image.origin": "upper"}):
        assert np.array_equal(pixels(figures.slices(body, spacing_mm=SPACING)), plain)
        assert matplotlib.rcParams["font.size"] == 30


def test_jupyter_shows_a_figure_without_pyplot_and_with_words_for_the_blind(body):
    from IPython.core.formatters import DisplayFormatter

    shown, told = DisplayFormatter().format(figures.slices(body, spacing_mm=SPACING, title="A scan", caption="In three planes."))
    assert shown["image/png"].startswith(b"\x89PNG") and "text/plain" in shown
    assert told["image/png"] == {"alt": "A scan. In three planes"}


def test_encoders_keep_their_colours_and_no_two_share_one():
    names = ["asap", "mae", "random", "x", "y", "z"]
    colours = drawing.encoder_colours(names)
    assert colours["asap"] == drawing.encoder_colours(["q", "asap"])["asap"]
    assert len(set(colours.values())) == len(names)


def test_charts_and_overlays_name_what_does_not_fit(body):
    with pytest.raises(ValueError, match="lacks low, high"):
        charts.probe_bars(tables()["dots"].assign(share=1.0))
    with pytest.raises(ValueError, match="no column is a loss"):
        charts.history(pd.DataFrame({"step": [1], "lr": [1.0]}))
    with pytest.raises(ValueError, match="does not divide into patches"):
        figures.patch_grid(body[:-1], np.zeros(N, bool), spacing_mm=SPACING, patch=PATCH)


def test_bars_are_the_numbers_of_the_table():
    table = tables()["probe"].query("share == 1.0")
    bars = charts.probe_bars(table).axes[0].patches
    assert [b.get_y() + b.get_height() for b in bars] == pytest.approx(table.value.tolist())
    hits = tables()["ground"]
    widths = sorted(b.get_width() for b in charts.grounding_bars(hits).axes[0].patches)
    assert widths == pytest.approx(sorted(hits.hit))
    without = charts.grounding_bars(hits[1:]).axes[0].patches
    assert without[0].get_width() == pytest.approx(hits.hit[1:].mean()), "the mean over findings is drawn even if its row is absent"


@pytest.mark.parametrize(("layers", "panels"), [(1, 1), (2, 2), (3, 3), (12, 3)])
def test_spectra_have_no_empty_panel(layers, panels):
    figure = charts.spectra({"asap": np.exp(-np.arange(20) / 5.0)[None].repeat(layers, 0)})
    assert len(figure.axes) == panels and all(ax.lines for ax in figure.axes)


def test_the_left_plane_goes_to_a_truth_that_the_best_patch_misses(body, truth):
    similarity = np.zeros(N)
    similarity[int(np.ravel_multi_index((9, 7, 5), GRID))] = 1
    page = figures.sentence_map(body, similarity, sentence="A.", k=1, truth=truth > 0, spacing_mm=SPACING, patch=PATCH)
    said = [next(t.get_text() for t in ax.texts if "from" in t.get_text()) for ax in page.axes[:4]]
    assert said[0] != said[1] and said[2] != said[3]
    assert all(len(ax.collections) == (n % 2 == 0) for n, ax in enumerate(page.axes[:4])), "outlined left, absent right"


def test_slices_are_those_that_show_lesions_and_arrows_point_at_them(body):
    bits = np.zeros(SHAPE, np.uint32)
    bits[10:14, 20:24, 5:7] |= 1
    bits[40:42, 10:12, 17] |= 2
    bits[:, :, 2:20] |= 4  # too spread out to point at
    assert plates.lesion_slices(bits, patch=PATCH, count=2) == [5, 17]
    filled = plates.lesion_slices(bits, patch=PATCH, count=4)
    assert {5, 17} < set(filled) and len({z // PATCH[2] for z in filled}) == 4
    assert len(plates.lesion_slices(bits, patch=PATCH, count=99)) == GRID[2]
    page = figures.pca_maps(body, {"a": np.ones((*GRID, 3))}, spacing_mm=SPACING, patch=PATCH, levels=2, truth=bits, names={1: "Lung nodule"})
    arrows = [[p for p in ax.patches if isinstance(p, FancyArrowPatch)] for ax in page.axes]
    assert [len(a) for a in arrows] == [1, 1, 1, 1], "one lesion on each slice, on the CT and on the map"
    for ax, z in ((0, 5), (1, 17), (2, 5), (3, 17)):
        x, y = (np.array(arrows[ax][0]._posA_posB[1]) / SPACING[:2]).astype(int)
        assert bits[x, y, z] & 3
    said = [t.get_text() for ax in page.axes for t in ax.texts]
    assert said.count("Lung nodule") == 1


def test_blended_colours_stay_within_the_body_and_keep_patch_middles(body):
    rng = np.random.default_rng(0)
    colours = rng.uniform(0.2, 1, (*GRID, 3))
    cut = planes.Cut("axial", 2 * PATCH[2] + 2, SPACING, SHAPE)
    slab = plates._slab(colours, cut, PATCH, "linear")
    assert slab.shape == (SHAPE[1], SHAPE[0], 3) and slab.min() >= 0.2 - 1e-6 and slab.max() <= 1 + 1e-6
    near = slab[3 * PATCH[1] + 2 : 3 * PATCH[1] + 4, 4 * PATCH[0] + 2 : 4 * PATCH[0] + 4].mean((0, 1))
    assert np.abs(near - colours[4, 3, 2]).max() < 0.2
    holes = colours.copy()
    holes[:3] = 0
    assert plates._slab(holes, cut, PATCH, "linear").min() > 0.19, "black around the body does not bleed in"
    inside = plates.body_of(body[:, :, cut.index])
    assert inside[SHAPE[0] // 2, SHAPE[1] // 2] and not inside[0, 0]
    lung = body[:, :, cut.index] < -800
    assert lung.any() and inside[lung & (np.hypot(*np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")) < 0.8)].all()


def test_the_slice_of_a_sentence_shows_most_of_its_patches(body):
    top = np.array([np.ravel_multi_index(p, GRID) for p in ((1, 1, 1), (2, 2, 4), (3, 3, 4), (4, 4, 1))])
    truth = np.zeros(SHAPE, bool)
    truth[6:8, 6:8, 7] = True
    assert plates._fullest("axial", body, SPACING, top, PATCH, truth).index == 7, "of equals the best patch's slab, where the truth lies in it"
    assert plates._fullest("axial", body, SPACING, top[:3], PATCH, None).index == 4 * PATCH[2] + PATCH[2] // 2
    with pytest.raises(ValueError, match="no sentence"):
        figures.sentence_patches([], spacing_mm=SPACING, patch=PATCH)


def test_ridges_are_the_encoders_with_their_means():
    table = tables()["rank"]
    left = charts.effective_rank(table, value="normalised").axes[0]
    said = [t.get_text() for t in left.get_yticklabels()]
    assert said == [f"{e}\nmean {table[table.encoder == e].normalised.mean():.3g}" for e in reversed(list(dict.fromkeys(table.encoder)))]


def test_k_is_drawn_by_group_in_the_tables_order():
    panels = charts.selected_k(tables()["k"]).axes
    assert [ax.get_title(loc="left").splitlines() for ax in panels] == [
        ["positive", "11 sentences, mean K 3.1"],
        ["normal", "3 sentences, mean K 2.0"],
    ]
    assert [b.get_height() for b in panels[0].patches] == pytest.approx([5 / 11, 6 / 11, 0])


@pytest.mark.slow
def test_a_vector_file_is_made_on_demand_only_and_is_the_same_bytes_again(tmp_path):
    numbers = pd.DataFrame({"a": [1]})
    figures.save(charts.history(tables()["steps"]), "10_h", numbers, out=tmp_path / "plain")
    files = [figures.save(charts.history(tables()["steps"]), "10_h", numbers, out=tmp_path / run, vector=True) for run in ("one", "two")]
    assert not list((tmp_path / "plain").glob("*.pdf"))
    one, two = (f.with_suffix(".pdf").read_bytes() for f in files)
    assert one.startswith(b"%PDF") and one == two and b"/Creator" not in one


def test_a_history_of_several_stores_has_a_curve_for_each():
    table = pd.DataFrame({"step": range(6), "reconstruct": [3.0, 9.0, 2.0, 8.0, 1.0, 7.0], "source": ["a", "b"] * 3})
    axis = figures.history({"mae": table}).axes[0]
    bold = {line.get_label(): line.get_xdata().tolist() for line in axis.lines if not line.get_label().startswith("_")}
    assert bold == {"mae a": [0, 2, 4], "mae b": [1, 3, 5]}


EMPTY = {
    "grounding_bars": ("finding", "hit", "n"), "probe_bars": ("encoder", "share", "value", "low", "high"),
    "probe_dots": ("finding", "encoder", "value"),
    "selected_k": ("k", "n"), "k_extent": ("k", "patches", "finding"),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_a_chart_of_nothing_says_what_is_missing(name):
    page = getattr(figures, name)(pd.DataFrame(columns=EMPTY[name]), title="Title")
    (panel,) = page.axes
    assert panel.texts[0].get_text().startswith("No ")
    assert pixels(page).std() > 0


def test_sentence_maps_of_nothing_say_so(body):
    page = figures.sentence_maps(body, [], spacing_mm=SPACING, patch=PATCH)
    assert "No positive sentence" in page.axes[0].texts[0].get_text()


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_a_position_is_told_from_the_edge_where_the_array_begins(plane, axis):
    """Arrays are RAS: the first voxels are the patient's left, back and bottom; the page turns two axes round and still says so."""
    first, last = (planes.Cut(plane, index, (1.0, 2.0, 3.0), (40, 30, 20)) for index in (0, (40, 30, 20)[axis] - 1))
    begins = {"R": "L", "A": "P", "S": "I"}["RAS"[axis]]
    assert planes.position(first).endswith(f"from\xa0{begins}")
    assert float(planes.position(first).split("\xa0")[0]) < float(planes.position(last).split("\xa0")[0])
