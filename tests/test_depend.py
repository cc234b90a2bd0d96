"""Patient dependence of methods: read as they were trained, any method with `match`, and the released ASAP from its own file."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import official
import pandas as pd
import pytest
import torch

from asapkit import checkpoint, dependence, evidence, exhibits, objectives, released, runs, scores, store, verdict
from asapkit.batch import Items
from asapkit.config import Config
from asapkit.recipes import asap, mae
from asapkit.tasks import depend
from asapkit.types import Refused

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy")
LOCAL = evidence.LOCAL


@pytest.fixture(scope="module")
def held(toy_store):
    opened = store.open(toy_store)
    patients = opened.table["patient"]
    opened.table["split"] = ["train" if p == patients.iloc[0] else "valid" for p in patients]  # twelve volumes have one held-out patient
    return opened


def made(**options) -> asap.Method:
    torch.manual_seed(0)
    return asap.Method(TOY, vocabulary=torch.arange(1996, 2600), **options).eval()


class Plain(torch.nn.Module):
    """A method with nothing but the two functions that every aligning recipe has."""

    def __init__(self, inner: asap.Method, *, sharpen: float = 1.0):
        super().__init__()
        self.encoder, self.config, self.inner, self.sharpen = inner.encoder, inner.config, [inner], sharpen

    def aligned(self, image):
        return self.inner[0].aligned(image)

    def match(self, aligned, sentences):
        similarity, k = self.inner[0].match(aligned, sentences)
        return similarity * self.sharpen, k


def test_what_is_read_is_what_training_contrasts(held):
    """Own loss of the diagnosis = the align loss of a training step where nothing is hidden, less the prior of K."""
    config = Config.at("toy", hide=1 / 80, top_k=(80,))
    torch.manual_seed(0)
    method = asap.Method(config, vocabulary=torch.arange(1996, 2600), prior=0.0).eval()
    ids = depend.held_out(held)
    view, _ = depend.look(method, held, ids, progress=False)
    batch = Items(held, config, augment=False).batch(ids)
    sentence = method.alignment.sentences(method.text, batch)
    levels = [(method.aligned(batch.image), None)]
    trained = objectives.align_in_report(
        sentence, levels[0][0].mean(1, keepdim=True).expand_as(sentence), batch.sentence_real, meaning=batch.sentence_meaning
    )
    own = dependence.losses(replace_k(view, 80), dependence.evidence(replace_k(view, 80)), np.arange(len(ids)), block=np.zeros(len(ids), int))
    assert dependence._means(view, own, draws=1, seed=0)[0] == pytest.approx(float(trained), rel=1e-4)


def replace_k(view, k):
    from dataclasses import replace

    return replace(view, k=torch.full_like(view.k, k))


def test_the_loss_over_images_is_that_of_a_training_step(held):
    """Every patch takes part in `align_on` all: the diagnosis of one batch gives the very loss that the step minimises."""
    method = made(**LOCAL | {"align_from": "stem"}, prior=0.0)
    ids = depend.held_out(held)
    view, _ = depend.look(method, held, ids, progress=False)
    batch = Items(held, TOY, augment=False).batch(ids)
    sentence = method.alignment.sentences(method.text, batch)
    with torch.no_grad():
        mixture = method.alignment.selector(sentence)
        trained = method.alignment.loss(batch, sentence, [(method.aligned(batch.image), None)], mixture=mixture)
    own = dependence.losses(view, dependence.evidence(view), np.arange(len(ids)), block=np.zeros(len(ids), int))
    assert dependence._means(view, own, draws=1, seed=0)[0] == pytest.approx(float(trained), rel=1e-4)


def test_candidates_are_those_of_the_training(held):
    batch = Items(held, TOY, augment=False).batch(held.ids[:3])
    gated = made(organ_gate=True)
    for found, wanted in zip(depend.candidates(gated, batch), gated.alignment.gate(batch, None), strict=True):
        assert torch.equal(found, wanted)
    whole = made(align_from="stem", align_on="all")
    assert torch.equal(depend.candidates(whole, batch)[0], whole.alignment.gate(batch, None)[0])
    assert depend.candidates(made(), batch)[0].all(), "the paper's form hides air as often as body"


def test_a_method_without_said_is_read_by_its_match(held):
    """Where each sentence is encoded alone, the axes of the space give the same features, K and numbers."""
    inner = made(encode="sentence")
    ids = depend.held_out(held)
    a, b = (depend.look(m, held, ids, progress=False) for m in (inner, Plain(inner)))
    torch.testing.assert_close(objectives.unit(a[0].sentences), b[0].sentences, atol=1e-4, rtol=1e-3)
    assert torch.equal(a[0].k, b[0].k) and a[1] == b[1]
    assert a[0].owner.tolist() == b[0].owner.tolist() and len(a[1]) == len(a[0].owner)
    with pytest.raises(Refused, match="`match` is no cosine"):
        depend.look(Plain(inner, sharpen=2.0), held, ids, progress=False)


def test_one_volume_of_every_held_out_patient_is_read_and_no_truth(held, monkeypatch):
    ids = depend.held_out(held)
    rows = held.table.loc[ids]
    assert rows["patient"].is_unique and set(rows["split"]) == {"valid"}
    monkeypatch.setattr(type(held), "truth", lambda *_: pytest.fail("truth was read"))
    found = depend.depend(made(), held, draws=20, exchanges=2, progress=False)
    assert found.summary["patients"] == len(ids) and found.summary["sentences"] == len(found.told)
    assert found.summary["line"].startswith("patient dependence: ")
    json.dumps(found.summary)


def test_meanings_are_one_number_across_batches(held):
    ids = depend.held_out(held)
    a, b = (depend.look(made(), held, ids, batch_size=n, progress=False)[0] for n in (1, 8))
    assert a.meaning.tolist() == b.meaning.tolist() and a.owner.tolist() == b.owner.tolist()
    torch.testing.assert_close(a.patches, b.patches, atol=1e-5, rtol=1e-4)


def test_only_sentences_that_are_aligned_are_read(held):
    every, positive = (depend.look(made(align_only=only), held, depend.held_out(held), progress=False)[0] for only in ("all", "positive"))
    assert positive.positive.all() and len(positive.owner) == int(every.positive.sum()) < len(every.owner)


def test_the_task_gives_a_row_per_measure(held):
    table = depend.score(made(), depend.fit(made(), held), held, progress=False)
    assert table["measure"].tolist() == list(depend.MEASURES) and list(table) == ["measure", "value", "low", "high"]
    assert "depend" in scores.known_tasks()


def test_what_cannot_be_examined_is_refused(held):
    with pytest.raises(Refused, match="mae does not match sentences to patches"):
        depend.depend(mae.Method(TOY), held)
    with pytest.raises(Refused, match="1 held-out patients; patient dependence needs two patients"):
        depend.depend(made(), held, volumes=1, progress=False)
    with pytest.raises(Refused, match="made under another contract"):
        depend.depend(asap.Method(Config.at("toy", crop=(60, 48, 12)), vocabulary=torch.arange(1996, 2600)), held)


def test_places_are_of_common_sentences_half_of_them_positive(held):
    found = depend.depend(made(), held, draws=5, exchanges=1, progress=False)
    table = exhibits.places(found, grid=TOY.grid)
    assert table.groupby("sentence").ngroups == 4 and len(table) == 4 * found.summary["patients"]
    assert table.drop_duplicates("sentence")["positive"].tolist() == [True, True, False, False]
    assert table[["x", "y", "z"]].max().le(np.array(TOY.grid) - 1).all()


# --- the released ASAP


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    text = official.text_folder(folder / "text")
    method = official.method(text)
    torch.save({"model": {f"module.{name}": value for name, value in official.state(method).items()}, "epoch": 130}, folder / "asap.pth")
    return folder / "asap.pth", text, method


def geometry(method) -> dict:
    return {"crop": method.config.crop, "spacing_mm": method.config.spacing_mm}


def test_the_released_method_is_loaded_whole_from_its_own_file(weights):
    file, text, method = weights
    found = released.load(file, text_encoder=str(text), **geometry(method))
    assert found.config == method.config and found.switches == method.switches and not found.training
    for name, value in method.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)


def test_patient_dependence_of_the_released_method_is_that_of_the_method(weights, held):
    file, text, method = weights
    found, own = (
        depend.depend(m, held, draws=10, exchanges=2, progress=False)
        for m in (released.load(file, text_encoder=str(text), **geometry(method)), method)
    )
    assert found.summary["form"] == "report" and found.view.mean == "batch" and found.view.inside.all()
    assert set(found.view.k.tolist()) <= {min(TOY.patches, round(k * TOY.patches / method.config.visible)) for k in method.config.top_k}
    for name in ("own", "exchanged", "positions", "correlation"):
        assert found.summary[name]["value"] == pytest.approx(own.summary[name]["value"], rel=1e-4)


def test_load_method_takes_the_released_file_too(weights, monkeypatch):
    file, text, method = weights
    load = released.load
    monkeypatch.setattr(released, "load", lambda path: load(path, text_encoder=str(text), **geometry(method)))
    assert checkpoint.load_method(file).config == method.config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"finding_align_img_mlp.dense_to_output.weight": None}, "no released ASAP with its alignment head"),
        ({"align_text_mlp.dense_to_output.bias": None}, "not in both: alignment.text.dense_to_output.bias"),
        ({"norm.weight": torch.ones(3)}, r"other shapes: encoder.norm.weight \(3,\) for \(64,\)"),
        ({"backbone.conv.weight": torch.ones(3)}, "backbone.conv.weight is no parameter of the released ASAP model"),
        ({"pos_embed": torch.ones(1, 81, 64)}, "not the released sin-cos code"),
        ({"decoder_blocks.0.norm1.weight": None}, "decoder.blocks.0.norm1.weight"),
        ({"norm.weight": torch.full((64,), float("nan"))}, "norm.weight holds NaN or infinity"),
        ({"bert_mlp.bias": torch.full((96,), float("inf"))}, "bert_mlp.bias holds NaN or infinity"),
    ],
)
def test_a_file_that_does_not_fill_the_method_is_refused_in_one_line(weights, tmp_path, change, says):
    _, text, method = weights
    state = {name: value for name, value in (official.state(method) | change).items() if value is not None}
    torch.save({"model": state}, tmp_path / "asap.pth")
    with pytest.raises(Refused, match=says) as error:
        released.load(tmp_path / "asap.pth", text_encoder=str(text), **geometry(method))
    assert "\n" not in str(error.value)


def test_a_file_in_half_precision_is_taken_and_one_without_its_last_block_is_not(weights, tmp_path):
    _, text, method = weights
    state = {name: value.half() if value.is_floating_point() else value for name, value in official.state(method).items()}
    torch.save({"model": state}, tmp_path / "half.pth")
    assert released.load(tmp_path / "half.pth", text_encoder=str(text), **geometry(method)).config == method.config
    published = Config.at("base")
    for name in ("depth", "decoder_depth", "word_depth"):
        short = dataclasses.replace(published, **{name: getattr(published, name) - 1})
        with pytest.raises(ValueError, match=f"{name}: the file is incomplete, or give {name}={getattr(short, name)}"):
            released.require_all_blocks(short, {})
        released.require_all_blocks(short, {name: getattr(short, name)})
    released.require_all_blocks(published, {})


def test_positions_of_another_grid_are_no_fault_where_the_crop_is_given(weights, tmp_path):
    _, text, method = weights
    other = official.state(method) | {"pos_embed": torch.ones(1, 31, 64)}
    torch.save({"model": other}, tmp_path / "asap.pth")
    assert released.load(tmp_path / "asap.pth", text_encoder=str(text), **geometry(method)).config == method.config
    with pytest.raises(ValueError, match=r"positions of 30 patches, a crop of \(224, 224, 112\) has 2744; give the crop"):
        released.sizes(other | {"patch_embed.proj.weight": torch.zeros(64, 1, 16, 16, 8)}, text_encoder=str(text))


# --- where a reader meets it


def test_a_run_says_its_dependence_on_the_board_and_in_the_answer(tmp_path):
    for name in ("a", "b", "c"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        TOY.save(folder / "config.json")
        (folder / "method.json").write_text(json.dumps({"recipe": "asap", "options": {}, "weights": {}}))
    (tmp_path / "dependence_a.json").write_text(json.dumps({"rise": {"value": 1.0, "low": 0.5, "high": 1.5}, "line": "x"}))
    rows = [("depend", "b", "own", 9.0, 8.0, 9.5), ("depend", "b", "rise", 0.1, -0.1, 0.3)]
    pd.DataFrame(rows, columns=["task", "encoder", "measure", "value", "low", "high"]).to_csv(tmp_path / "scores.csv", index=False)
    table = runs.table(tmp_path / "runs")
    assert table.loc["a", ["rise", "rise_low", "rise_high"]].tolist() == [1.0, 0.5, 1.5]
    assert table.loc["b", ["rise", "rise_low", "rise_high"]].tolist() == [0.1, -0.1, 0.3]
    assert pd.isna(table.at["c", "rise"])
    told = verdict.answer(table)
    assert "`a`: its alignment loss rises by 1.00 (0.50 to 1.50) when images are exchanged: it looks at the patient." in told
    assert "`b`: its alignment loss rises by 0.10 (-0.10 to 0.30) when images are exchanged: no sign that it looks at the patient." in told
    assert "`c`: its" not in told


def test_the_closing_table_has_a_line_per_run(tmp_path):
    result = {"probe_macro_auroc": {}, "difference": {}, "grounding": {}, "grounding_paper": {}}
    (tmp_path / "dependence_asap.json").write_text(json.dumps({"line": "patient dependence: the loss rises"}))
    assert "asap" in evidence.closing_table(result, [], tmp_path) and "patient dependence: the loss rises" in evidence.closing_table(
        result, [], tmp_path
    )
