"""Attention over a scan, what the encoder sees, spectra and the runs board: what a control does, and that the static twin is the same picture."""

from __future__ import annotations

import copy
import json
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from asapkit import analysis, charts, checkpoint, drawing, examples, exhibits, explore, figures, runs
from asapkit.config import Config
from asapkit.overlays import QUERY
from asapkit.types import Refused

GRID, PATCH, SPACING = (4, 3, 5), (6, 6, 4), (2.0, 2.0, 3.0)
VOLUME = np.random.default_rng(0).normal(-400, 300, tuple(g * p for g, p in zip(GRID, PATCH, strict=True))).astype(np.float32)


def even(**more) -> np.ndarray:
    shares = np.full(np.prod(GRID), 1 / np.prod(GRID))
    for patch, share in more.items():
        shares[int(patch.removeprefix("p"))] = share
    return shares


def test_attention_is_drawn_on_the_planes_of_the_patch_that_looks():
    query = int(np.ravel_multi_index((3, 1, 2), GRID))
    page = figures.attention(VOLUME, {"a": even(), "b": even(p0=0.5)}, query=query, spacing_mm=SPACING, patch=PATCH)
    planes = [" ".join(text.get_text().split()) for ax in page.axes for text in ax.texts]  # a narrow tile breaks its line
    assert [t for t in planes if " mm from" in t] == ["axial, 32 mm from I", "coronal, 19 mm from P"] * 2
    frames = [box for ax in page.axes for box in ax.patches if box.get_edgecolor() == to_rgba(QUERY)]
    assert [(f.get_x(), f.get_y(), f.get_width(), f.get_height()) for f in frames] == [(36, 12, 12, 12), (36, 24, 12, 12)] * 2, "in millimetres"
    assert any("30 times an even share" in t for t in planes)


def test_attention_that_does_not_fit_the_scan_is_refused():
    with pytest.raises(ValueError, match="60 shares"):
        figures.attention(VOLUME, {"a": np.ones(59)}, query=0, spacing_mm=SPACING, patch=PATCH)
    with pytest.raises(ValueError, match="one or more"):
        figures.attention(VOLUME, {}, query=0, spacing_mm=SPACING, patch=PATCH)
    with pytest.raises(IndexError, match="patch 60: there are 0 to 59"):
        figures.attention(VOLUME, {"a": even()}, query=60, spacing_mm=SPACING, patch=PATCH)


TOY = Config.at("toy")


@pytest.fixture(scope="module")
def store(toy_store):
    from asapkit import store

    return store.open(toy_store)


@pytest.fixture(scope="module")
def methods():
    return {name: checkpoint.make_method(name, TOY, {}).eval() for name in ("mae", "supervised")}


def named(widget) -> dict:
    return {child.description: child for child in widget.children if getattr(child, "description", "")}


def texts(page) -> list[str]:
    return [text.get_text().replace("\xa0", " ") for text in [*page.texts, *(t for ax in page.axes for t in ax.texts)]]


# ------------------------------------------------------------------------------------------------------------ what an encoder sees


@pytest.mark.slow
def test_each_view_of_the_widget_is_its_static_twin(store, methods):
    ids = examples.held_out(store)[:2]
    widget = explore.encoder_view(methods, store, ids=ids)
    show, said, picture, control = widget.children[0], widget.children[1], widget.children[2], named(widget)
    assert bytes(picture.value) == explore.hidden_view(methods["mae"], store, ids[0], title=f"mae: {ids[0]}")._repr_png_()
    show.value = "pca"
    assert bytes(picture.value) == explore.pca_view(methods, store, ids[0])._repr_png_()
    assert control["foreground"].layout.display == "" and control["layer"].layout.display == "none"
    control["one basis for all 2 volumes"].value = True
    assert bytes(picture.value) == explore.pca_view(methods, store, ids[0], together=ids)._repr_png_()
    show.value = "attention"
    assert (control["layer"].value, control["layer"].min, control["head"].options[1]) == (TOY.depth, 1, ("1", 0)), "counted from 1, as on the page"
    control["head"].value, control["layer"].value, control["bottom to top"].value = 1, 1, 2
    at = [control[name].value for name in ("left to right", "back to front", "bottom to top")]
    patch = int(np.ravel_multi_index(at, TOY.grid))
    assert bytes(picture.value) == explore.attention_view(methods, store, ids[0], patch=patch, layer=0, head=1)._repr_png_()
    assert not said.value


def test_what_the_widget_cannot_show_is_said_in_it_and_it_goes_on(store, methods):
    widget = explore.encoder_view({"supervised": methods["supervised"]}, store)
    show, said, picture = widget.children[:3]
    assert "restores no image" in said.value and picture.layout.display == "none"
    show.value = "attention"
    assert not said.value and picture.layout.display == "" and bytes(picture.value).startswith(b"\x89PNG")
    named(widget)["runs"].value = ()
    assert said.value == "choose a run"
    other = checkpoint.make_method("mae", Config.at("toy", spacing_mm=(5.0, 6.0, 12.0)), {}).eval()
    assert "made under another contract: spacing_mm" in explore.encoder_view({"other": other}, store).children[1].value
    with pytest.raises(IndexError, match="head 9: mae has 4, from 0; or 'mean'"):
        explore.attention_view(methods, store, store.ids[0], head=9)


def test_one_basis_gives_a_colour_one_meaning_in_all_volumes(store, methods, monkeypatch):
    drawn, real = {}, figures.pca_maps

    def kept(volume, maps, **how):
        drawn[how["title"]] = maps
        return real(volume, maps, **how)

    monkeypatch.setattr(figures, "pca_maps", kept)
    first, second = examples.held_out(store)[:2]
    for id in (first, second):
        explore.pca_view({"mae": methods["mae"]}, store, id, together=(first, second))
    tokens, body = examples.tokens({"mae": methods["mae"].encoder}, store, [first, second])
    expected, _ = analysis.pca_maps(tokens["mae"], body, TOY.grid)
    assert np.allclose(drawn[first]["mae"], expected[0]) and np.allclose(drawn[second]["mae"], expected[1])


def test_attention_starts_where_the_findings_are(store):
    id = store.instances["id"].iloc[0]
    patch = explore.encoder.telling_patch(store, id, patch=TOY.patch)
    low = np.array(np.unravel_index(patch, TOY.grid)) * TOY.patch
    truth = store.cropped(id, "truth")[0] > 0
    planes = [np.take(truth, range(a, a + p), axis=axis).any() for axis, (a, p) in enumerate(zip(low, TOY.patch, strict=True))]
    assert all(planes)


# ------------------------------------------------------------------------------------------------------------------------- spectra


@pytest.mark.slow
def test_charts_hold_the_numbers_and_their_static_twin_and_ask_the_network_for_nothing(store, methods, tmp_path):
    ids = examples.held_out(store)[:2]
    table, curves = exhibits.ranks_and_spectra({name: m.encoder for name, m in methods.items()}, store, ids)
    assert len(table) == 2 * 2 * TOY.depth and set(curves) == set(methods)
    for chart, twin in ((explore.ranks(table), charts.effective_rank(table)), (explore.spectra(curves), charts.spectra(curves))):
        bundle, words = chart._repr_mimebundle_()
        assert bundle["image/svg+xml"] == drawing.svg(twin) and "image/png" not in bundle, "with a png beside it the chart would stand still"
        assert words["image/svg+xml"]["alt"] == twin.alt
        drawn = bundle["application/vnd.plotly.v1+json"]
        assert not re.findall(r"https?:", json.dumps(drawn))
        assert all(trace["hovertemplate"] for trace in drawn["data"] if trace["type"] == "scatter")
    means = {t.name: t.y for t in explore.ranks(table).figure.select_traces({"mode": "lines+markers"})}
    assert np.allclose(means["mae"], table[table.encoder == "mae"].groupby("layer")["effective_rank"].mean())
    page = explore.spectra(curves).write_html(tmp_path / "spectra.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page) and len(page) > 3_000_000


# ---------------------------------------------------------------------------------------------------------------------- runs board


def ran(folder, name: str, *, steps: int = 4, done: int = 4, loss: str = "reconstruct", **changes) -> None:
    run = folder / name
    run.mkdir(parents=True)
    Config.at("toy", steps=steps, **changes).save(run / "config.json")
    (run / "method.json").write_text(json.dumps({"recipe": "mae", "options": {}, "weights": {loss: 1.0}}))
    pd.DataFrame({"step": range(done), "loss": 1.0, loss: np.linspace(1, 0.5, done)}).to_csv(run / "history.csv", index=False)
    (run / "weights.safetensors").write_bytes(b"weights")


def test_the_board_shows_states_differences_and_scores(tmp_path):
    ran(tmp_path / "runs", "a", lr=1e-3)
    ran(tmp_path / "runs", "b", lr=2e-3, done=2)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "method.json").write_text("{")
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": {"a": {"value": 0.712, "low": 0.6, "high": 0.8}}}))
    said = texts(explore.board_view(tmp_path / "runs", title="Runs"))
    for word in ("a", "b", "broken", "finished", "unknown", "damaged", "4 of 4", "2 of 4", "0.712", "lr 0.001", "lr 0.002", "cannot be read"):
        assert word in said, word
    assert not any("width" in t for t in said), "what is the same everywhere is not told"


@pytest.mark.slow
def test_the_board_widget_reads_again_sorts_and_draws_the_chosen(tmp_path):
    ran(tmp_path, "a", lr=2e-3)
    ran(tmp_path, "b", lr=1e-3, loss="labels")
    widget = explore.board(tmp_path)
    (refresh, said), table, picture, control = widget.children[0].children, widget.children[1], widget.children[-1], named(widget)
    assert said.value == "2 runs: 2 finished" and table.value.index("<b>a</b>") < table.value.index("<b>b</b>")
    assert bytes(picture.value) == explore.curves_view(runs.collect(tmp_path))._repr_png_() == explore.curves_view(tmp_path)._repr_png_()
    control["runs"].value = ("b",)
    only = [run for run in runs.collect(tmp_path) if run.name == "b"]
    assert bytes(picture.value) == explore.curves_view(only)._repr_png_()
    control["loss"].value = "reconstruct"
    assert picture.layout.display == "none", "b has no such loss"
    ran(tmp_path, "<c>", done=1)
    refresh.click()
    assert said.value == "3 runs: 2 finished, 1 unknown" and "<c>" not in table.value and "&lt;c&gt;" in table.value
    assert control["runs"].value == ("b",) and control["loss"].value == "reconstruct"
    control["sort by"].value = "lr"
    order = re.findall(r"<b>(.*?)</b>", table.value)
    assert order.index("a") < order.index("b")


def test_odd_files_take_down_neither_the_board_nor_the_widget(tmp_path):
    odd = [{"error": ["x"]}, {"gpu_memory_mb": "lots"}, {"seconds": float("inf")}, {"pid": -1, "state": "running"}, {"message": "\ud800 $x"}]
    for number, changes in enumerate(odd):
        ran(tmp_path / "runs", f"r{number}", done=2)
        told = {"state": "crashed", "pid": 1, "born": 0, "host": "h", "updated": 1.0, "step": 3, "steps": 4, "seconds": 3.0, "timed": 3, "error": "E"}
        (tmp_path / "runs" / f"r{number}" / "status.json").write_text(json.dumps(told | changes))
    scores = {"r0": {"value": [1]}, "r1": {"value": 0.6, "low": 0.5, "high": "x"}, "r2": {}}
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": scores}))
    said = texts(explore.board_view(tmp_path / "runs"))
    assert said.count("damaged") == 4 and said.count("crashed") == 1 and "3 of 4" in said and "0.600" in said
    explore.board_view(tmp_path / "runs")._repr_png_()
    widget = explore.board(tmp_path / "runs")
    assert widget.children[0].children[1].value == "5 runs: 1 crashed, 4 damaged"
    assert "nan" not in widget.children[1].value and "kept up to step 2" in widget.children[1].value


def test_a_folder_without_runs_is_said_in_the_widget(tmp_path):
    widget = explore.board(tmp_path / "absent")
    assert "no such folder" in widget.children[0].children[1].value
    (tmp_path / "absent").mkdir()
    widget.children[0].children[0].click()
    assert widget.children[0].children[1].value == "no run folder there yet"
    ran(tmp_path / "absent", "a")
    widget.children[0].children[0].click()
    assert widget.children[0].children[1].value == "1 run: 1 finished"
    with pytest.raises(Refused, match="no run folder there"):
        explore.board_view(pd.DataFrame())
    with pytest.raises(Refused, match="no curve"):
        explore.curves_view([])


def test_a_run_that_lacks_the_first_loss_has_its_name_in_the_legend():
    tables = {"a": pd.DataFrame({"step": [0, 1], "reconstruct": [1, 0.5]}), "b": pd.DataFrame({"step": [0, 1], "labels": [1, 0.5]})}
    legend = figures.history(tables).axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(184, "3 min 4 s"), (7325, "2 h 2 min"), (90000, "1 d 1 h"), (2.25, "2.2 s"), (float("nan"), ""), (float("inf"), ""), (-1.0, "")],
)
def test_durations_are_told_in_two_units(seconds, said):
    assert runs.duration(seconds) == said


def test_nothing_to_show_is_said_in_one_line(store, methods):
    encoder, empty = next(iter(methods.values())).encoder, copy.copy(store)
    empty.ids, empty.table = [], store.table.iloc[:0]
    for asked, why in (
        (lambda: exhibits.ranks_and_spectra({}, store, store.ids[:1]), "nothing to measure"),
        (lambda: exhibits.ranks_and_spectra({"a": encoder}, store, []), "nothing to measure"),
        (lambda: explore.spectra({}), "no spectra"),
        (lambda: explore.ranks(pd.DataFrame({"encoder": [], "id": [], "layer": [], "effective_rank": []})), "is empty"),
        (lambda: explore.encoder_view({}, store), "no run is given"),
        (lambda: explore.encoder_view(methods, store, ids=["nobody"]), "nobody: not in store"),
        (lambda: explore.compare_view({}, store, ids=store.ids[:1], sentence="a nodule"), "nothing to compare"),
        *((lambda at=at: explore.scan_view(store, store.ids[0], at_mm=at), "give three numbers") for at in ((float("nan"), 0, 0), (0, 0), "x", 3.0)),
        (lambda: explore.pca_view({"a": encoder}, store, store.ids[0], foreground="x"), "unknown foreground 'x'; there are body, component"),
        (lambda: explore.attention_view({"a": encoder}, store, store.ids[0], head="max"), "head max: a has 4, from 0; or 'mean'"),
        (lambda: explore.attention_view({"a": encoder}, store, store.ids[0], patch=10**6), "patch 1000000"),
        (lambda: explore.attention_view({"a": encoder}, store, store.ids[0], window="liver"), "unknown window 'liver'; there are lung"),
        (lambda: explore.attention_view({"a": encoder}, store, "nobody"), "nobody: not in store"),
        (lambda: explore.attention_view({}, store, store.ids[0]), "no encoder is given"),
        (lambda: explore.pca_view({}, store, store.ids[0]), "no encoder is given"),
        *((lambda show=show: show(empty), "holds no volume") for show in (explore.browse, partial(explore.encoder_view, methods))),
        (
            lambda: explore.ranks(pd.DataFrame({"encoder": ["a"], "id": ["x"], "layer": [1], "effective_rank": [np.nan]})),
            "1 of 1 ranks are not finite",
        ),
        *(
            (lambda one=one: explore.spectra({"a": one}), "spectra of a .*: give finite numbers")
            for one in (np.ones(3), np.ones((0, 3)), np.array([[np.nan]]))
        ),
    ):
        with pytest.raises((ValueError, LookupError), match=why):
            asked()


def test_ranks_are_measured_on_a_store_of_the_encoders_contract_alone(store):
    from asapkit.vit3d import Encoder

    with pytest.raises(Refused, match="spacing_mm"):
        exhibits.ranks_and_spectra({"a": Encoder(Config.at("toy", spacing_mm=(8.0, 8.0, 12.0)))}, store, store.ids[:1])
