"""The whole job at scale toy: cohort to summary, resumable, one folder one experiment."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from asapkit import evidence, examples, store
from asapkit.types import Refused

PLAN = replace(evidence.PLANS["toy"], seeds=1, workers=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment")
    return out, evidence.experiment(out, plan=PLAN)


@pytest.mark.slow
def test_the_summary_has_the_asked_form(done):
    out, result = done
    assert json.loads((out / "summary.json").read_text()) == result
    assert set(result["probe_macro_auroc"]) == {"asap", "asap_paper", "mae", "random", "supervised"}
    assert all(set(v) >= {"value", "low", "high"} for v in result["probe_macro_auroc"].values())
    assert set(result["difference"]) == {"asap-random", "asap-mae"}
    for key in ("grounding", "grounding_paper"):
        assert set(result[key]) >= {"hit", "chance", "other_patient", "organ_only", "location_prior", "auroc"}
        assert 0 <= result[key]["hit"] <= 1
    assert {"encoder", "share", "finding", "auroc"} <= set(pd.read_csv(out / "scores.csv"))
    table = evidence.closing_table(result, [], out)
    assert "asap-random" in table and "location prior" in table
    assert table.count("patient dependence: ") == 2, "a line for each run that aligns"


@pytest.mark.slow
def test_a_second_run_takes_what_is_there_and_another_plan_is_refused(done):
    out, result = done
    before = {p: p.stat().st_mtime_ns for p in out.rglob("weights.safetensors")}
    assert evidence.experiment(out, plan=PLAN) == result
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("weights.safetensors")} and len(before) == 4
    with pytest.raises(Refused, match=r"holds an experiment with other settings \(config, steps\)"):
        evidence.experiment(out, plan=replace(PLAN, steps=5))
    assert evidence.experiment(out, plan=replace(PLAN, workers=2)) == result, "with how many processes says nothing of what is found"


@pytest.mark.slow
def test_examples_are_held_out_and_show_what_they_say(done):
    held = store.open(done[0] / "store")
    id = examples.example(held)
    assert held.table.at[id, "split"] == "valid" and id in examples.held_out(held)
    said = examples.sentences_of(held, id)
    assert (said["bits"] != 0).any()
    raw = examples.original(held, id)
    assert -1100 < raw.array.min() < -900, "in HU: slope and intercept of the table were applied"
    with pytest.raises(Refused, match="nobody"):
        examples.example(held, id="nobody")


@pytest.mark.slow
def test_a_restored_volume_keeps_its_visible_patches(done):
    import torch

    from asapkit import checkpoint
    from asapkit.vit3d import patchify

    held = store.open(done[0] / "store")
    method = checkpoint.load_method(done[0] / "runs" / "mae")
    seen = examples.reconstruct(method, held, examples.example(held))
    patches = [patchify(torch.from_numpy(seen[k].astype("float32"))[None, None], method.config.patch)[0] for k in ("volume", "restored")]
    visible = torch.from_numpy(~seen["hidden"])
    assert torch.allclose(patches[0][visible], patches[1][visible], atol=0.1)
    assert seen["error_hidden"] > 0 and seen["error_mean"] > 0
    assert examples.reconstruct(checkpoint.load_method(done[0] / "runs" / "supervised"), held, seen["id"]) == {}


def test_what_is_measured_of_a_run_comes_after_it_and_is_left_out_once_it_is_there(tmp_path):
    work, after = evidence.train_and_measure(tmp_path, PLAN)
    assert list(work)[: len(PLAN.methods)] == list(PLAN.methods), "trainings first, the longest in front"
    assert after == {f"features of {name}": {name} for name in PLAN.methods} | {"features of random": {PLAN.methods[0]}} | {
        f"{part} of {name}": {name} for part in ("grounding", "dependence") for name in evidence.ALIGNED
    }
    for name in (*evidence.PROBES, "grounding_asap.csv", "grounding_asap.json"):
        (tmp_path / name).touch()
    work, after = evidence.train_and_measure(tmp_path, PLAN)
    assert set(after) == {"dependence of asap", "grounding of asap_paper", "dependence of asap_paper"} == work.keys() - set(PLAN.methods)


@pytest.mark.slow
def test_the_probe_finds_the_features_that_were_kept_for_it_and_a_finished_folder_has_no_work(done):
    assert len(list((done[0] / "features").iterdir())) == len(PLAN.methods) + 1
    assert evidence.train_and_measure(done[0], PLAN) == ({}, {})


def test_a_run_that_is_not_there_is_refused_with_the_ones_that_are():
    with pytest.raises(Refused, match="no run 'masp'; there are asap, mae"):
        evidence.Named({"asap": Path("a"), "mae": Path("b")})["masp"]
