"""What the benchmarks measure is comparable: the reference gives our losses and voxels, counts are true, every row can be printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asapkit import ct, evidence, parity, released, reports, train
from asapkit.config import Config, Contract
from asapkit.language import tokenizer
from benchmarks import bench, cures, data_rows, pace, recipes, reference_data, seeds
from benchmarks.models import Models, largest_difference, step
from benchmarks.reference import Reference

pytestmark = pytest.mark.slow  # networks of published sizes: a minute that `make check` has not


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(quick=True, volumes=3, dropout=0.0)


def test_the_reference_gives_the_losses_of_official_mode(models):
    assert largest_difference(models) < 1e-5


def test_the_reference_gives_them_with_empty_sentence_slots_too(models):
    """Their ties go to the lowest index: equal where visible patches are shuffled in ascending order."""
    batch, official = models.batch, models.official.eval()
    real, index = batch.sentence_real.clone(), batch.findings_sentence.clone()
    real[1, 4:], index[1][index[1] >= 4] = False, -1
    changes = {"sentence_real": real, "findings_sentence": index, "patch_order": batch.patch_order.sort(1).values}
    with torch.no_grad():
        wanted = models.reference.eval()(replace(batch, **changes))
        found = official(replace(models.padded, **changes))
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.slow
def test_the_reference_gives_the_losses_of_the_released_code(shared):
    """On the stored inputs and generated weights of the released implementation; ties of padded slots lowest index first."""
    folder = shared / "golden"
    manifest = parity.read(folder / "manifest.json")
    inputs, outputs = (parity.read(folder / f"{name}.npz") for name in ("inputs", "outputs"))
    ours = parity.build(manifest, inputs, outputs)
    reference = Reference(ours.config, ours.text.bert.config, dropout=0.0).eval()
    state = {e["name"]: torch.from_numpy(parity.generated(e, manifest["seed"])) for e in manifest["tensors"] if e["kind"] == "generated"}
    left = reference.load_state_dict(state, strict=False)
    assert all(name.startswith("bert_encoder.cls.") for name in left.missing_keys), left.missing_keys
    assert all(released.why_dropped(name) for name in left.unexpected_keys), left.unexpected_keys
    organs, masked = (torch.from_numpy(inputs[name]).long() for name in ("organ_labels", "masked_ids"))
    with torch.no_grad():
        losses = reference(parity.make_batch(inputs, outputs, patch=ours.encoder.patch), organs.squeeze(1), masked)
    for name, stored in zip(parity.LOSS_NAMES, outputs["lowtie_losses"], strict=True):
        assert losses[name].item() == pytest.approx(float(stored), rel=parity.LOSSES), name


def test_the_gradients_agree_too(models):
    reference, official = models.reference.eval(), models.official.eval()
    sum(reference(models.batch).values()).backward()
    sum(official(models.padded).values()).backward()
    there, here = reference.model, official
    for one, other in (
        (there.patch_embed["proj"].weight.grad.flatten(1), here.encoder.embed.weight.grad),
        (there.decoder_blocks[-1].attn["qkv"].weight.grad, here.decoder.blocks[-1].attn.qkv.weight.grad),
        (there.align_text_mlp.dense_to_hidden.weight.grad, here.alignment.text.dense_to_hidden.weight.grad),
        (there.bert_decoder.cls["predictions"].decoder.weight.grad, here.report.words.decoder.weight.grad),
    ):
        assert (one - other).norm() <= 1e-4 * one.norm()
    reference.zero_grad(), official.zero_grad()


@pytest.mark.parametrize("axes", ["RAS", "LPS"])
def test_preprocessing_agrees_to_one_hu(axes, tmp_path):
    contract = Contract(spacing_mm=(6.0, 6.0, 12.0), crop=(60, 48, 24), resampler="official")
    file = data_rows.Folder(tmp_path, quick=True).scan(axes=axes)
    ours, theirs = ct.to_contract(ct.read(file), contract).array, reference_data.preprocess(file, contract)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_items_agree_with_randomness_off(tmp_path):
    assert data_rows.equal_items(data_rows.Folder(tmp_path, quick=True))


def test_the_plain_division_is_the_official_one():
    text = data_rows.FINDINGS.format(n=11).replace("segment 5.", "the middle lobe.")  # a single digit before a stop divides nothing there
    found = reference_data.encode(text, "", tokenizer("minilm"))["sentence_mask_f"]
    assert int(found.max()) == len(reports.split(text, official=True))


@pytest.mark.slow
def test_every_row_is_printed(capsys):
    rows = bench.main(["--quick", "--count", "1"])
    shown = capsys.readouterr().out
    assert len(rows) == 25
    assert all(row.what in shown for row in rows)


def test_one_group_can_be_asked_for(capsys):
    (row,) = bench.main(["--quick", "--count", "1", "--only", "losses"])
    assert row.ratio > 0
    assert row.what in capsys.readouterr().out


def test_a_step_leaves_no_gradient(models):
    step(models.correct, models.batch)
    assert all(p.grad is None for p in models.correct.parameters())


def test_the_gpu_script_says_in_one_line_that_there_is_none(monkeypatch, capsys):
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_gpu_script_runs_to_its_end(monkeypatch, capsys):
    from benchmarks import gpu

    monkeypatch.setattr(gpu.estimate, "matmul_rate", lambda **_: 1e12)
    assert gpu.main(["--device", "cpu", "--quick", "--batch", "2", "--steps", "1", "--loaders", "0"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("reference", "correct", "waiting for data"))


def test_benchmarks_keep_the_size_rules_of_the_house():
    for path in Path(bench.__file__).parent.glob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") <= 400, path.name


def test_scales_of_the_benchmarks_are_those_of_the_paper():
    assert Models().config == Config.at("base")


def test_the_pace_of_a_recipe_is_told_beside_asaps(capsys):
    table = pace.main(["--quick", "--only", "mae", "simcrop"]).set_index("recipe")
    assert set(table.index) == {"mae", "simcrop"} and (table[["gflop", "seconds", "beside"]] > 0).all(axis=None)
    assert table.at["simcrop", "gflop"] > 10 * table.at["mae", "gflop"], "mae encodes no text"
    assert "above 1.15: " in capsys.readouterr().out


def test_every_recipe_is_measured_in_one_table(tmp_path, monkeypatch):
    short = replace(recipes.QUICK, volumes=12, steps=2, workers=1, methods=("asap", "mae"))
    monkeypatch.setattr(recipes, "QUICK", short)
    table = recipes.main(["--quick", "--out", str(tmp_path)]).set_index("recipe")
    assert set(table.index) == {"asap", "mae", "random"}
    assert (table.loc[["asap", "mae"], ["first", "last"]] > 0).all(axis=None) and (table["steps"].dropna() == 2).all()
    assert set(recipes.PLAN.methods) == set(train.recipes())


@pytest.fixture
def few(monkeypatch):
    """Two cures and two ways to a K, in this process."""
    monkeypatch.setattr(cures, "QUICK", replace(cures.QUICK, steps=2, workers=1))
    monkeypatch.setattr(cures, "CURES", {name: cures.CURES[name] for name in ("paper", "combined")})
    every = cures.selectors
    monkeypatch.setattr(cures, "selectors", lambda scale: {name: every(scale)[name] for name in ("combined", "frozen", "fixed_2")})


def test_every_cure_and_selector_is_measured_and_what_is_there_is_kept(tmp_path, few):
    tables = cures.main(["--quick", "--out", str(tmp_path)])
    assert set(tables["cures"]["variant"]) == {"paper", "combined", "untrained"}
    assert set(tables["selectors"]["variant"]) == {"combined", "frozen", "fixed_2", "untrained"}
    both = {part: rows.set_index(["variant", "measure"]) for part, rows in tables.items()}
    for measure in ("rise", "probe", "hit", "chance", "organ_only", "location_prior", "focal_hit", "spearman", "k_normal", "k_focal"):
        assert ("paper", measure) in both["cures"].index, measure
    paper = both["cures"].loc["paper"]
    assert paper.loc["rise", "patients_low"] <= paper.loc["rise", "mean"] <= paper.loc["rise", "patients_high"]
    assert both["selectors"].loc[("fixed_2", "k_focal"), "mean"] == 2 and np.isnan(both["selectors"].loc[("fixed_2", "spearman"), "mean"])
    gain = both["cures"].loc[("combined", "probe"), "gain"]
    assert gain == pytest.approx(both["cures"].loc[("combined", "probe"), "mean"] - paper.loc["probe", "mean"])
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*") if p.suffix in (".json", ".safetensors")}
    again = cures.main(["--quick", "--only", "cures", "--out", str(tmp_path)])
    assert list(again) == ["cures"] and again["cures"].equals(tables["cures"])
    assert {p: p.stat().st_mtime_ns for p in written if p.name != "plan.json"} == {p: t for p, t in written.items() if p.name != "plan.json"}
    with pytest.raises(SystemExit):
        cures.main(["--quick", "--seeds", "0", "--out", str(tmp_path)])


def test_the_demos_methods_are_measured_with_several_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "QUICK", replace(seeds.QUICK, steps=2, workers=1))
    monkeypatch.setattr(seeds, "METHODS", ["asap_paper", "mae"])
    rows = seeds.main(["--quick", "--seeds", "2", "--out", str(tmp_path)]).set_index(["variant", "measure"])
    assert set(rows.index.get_level_values(0)) == {"asap_paper", "mae", "untrained"} and (rows["seeds"] == 2).all()
    assert ("mae", "hit") not in rows.index and rows.loc[("asap_paper", "hit"), "mean"] >= 0
    probe = rows.xs("probe", level="measure")
    assert probe.loc["asap_paper", "gain"] == pytest.approx(probe.loc["asap_paper", "mean"] - probe.loc["mae", "mean"])
    assert len(set(probe.loc["mae", "values"].split())) == 2, "two seeds, two trainings"


def test_seed_0_is_the_demos_own_training():
    demo = evidence.PLANS["small"]
    assert {seeds.PLAN.training(f"{name}_0") == demo.training(name) for name in evidence.METHODS} == {True}
    fields = ("scale", "volumes", "seed", "steps", "seeds")
    assert [getattr(seeds.PLAN, field) for field in fields] == [getattr(demo, field) for field in fields]


def test_an_interval_over_seeds_is_students():
    from scipy import stats

    values = [0.2, 0.5, 0.35]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert cures.over_seeds(values) == pytest.approx((0.35, low, high))
    assert cures.over_seeds([0.2, np.nan])[0] == 0.2 and np.isnan(cures.over_seeds([0.2, np.nan])[1:]).all()


def test_the_long_form_names_every_cure_of_the_method():
    from asapkit.alignment import OPTIONS

    options = {option: value for changes, _ in cures.CURES.values() for option, value in changes.items()}
    assert set(OPTIONS) - {"align_mean"} <= set(options) and {"organ_gate", "positive_weight"} <= set(options)
    from asapkit.selection import SELECTORS

    kinds = {"straight_through"} | {changes.get("selector") for changes, _ in cures.selectors("small").values()}
    assert set(SELECTORS) <= kinds
    seeds = {evidence.EVIDENCE.seed, *(plan.seed for plan in evidence.PLANS.values()), recipes.PLAN.seed}
    assert cures.PLAN.seed not in seeds
