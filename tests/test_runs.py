"""Run folders as one table: what differs, how far, how it ended, what it scored and cost. Nothing in a folder makes the table fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from asapkit import runs, status, store, train
from asapkit.config import Config
from asapkit.types import Refused

TOY = Config.at("toy", steps=4)


def made(folder: Path, *, config: Config = TOY, done: int = 4, recipe: str = "mae", options: dict | None = None, weights: dict | None = None) -> Path:
    """A run folder as `pretrain` leaves it, without the training."""
    folder.mkdir(parents=True)
    config.save(folder / "config.json")
    said = {"recipe": recipe, "options": options or {}, "weights": weights or {"reconstruct": 1.0}}
    (folder / "method.json").write_text(json.dumps(said))
    if done:
        rows = [{"step": n, "loss": 1.0 / (n + 1), "reconstruct": 1.0 / (n + 1)} for n in range(done)]
        pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
        (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


def record(run: Path, **changes) -> None:
    told = {"state": "running", "pid": os.getpid(), "born": status.born(os.getpid()), "host": status.socket.gethostname(), "updated": time.time()}
    told |= {"step": 2, "steps": 4, "seconds": 30.0, "timed": 2, "memory_mb": 900.0}
    (run / status.FILE).write_text(json.dumps(told | changes))


def test_only_what_differs_is_shown(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "deep" / "b", config=replace(TOY, lr=3e-3, top_k=(1, 2)))
    made(tmp_path / "c", options={"norm_pixels": True})
    table = runs.table(tmp_path)
    assert list(table.index) == ["a", "c", "deep/b"]
    fixed = {"state", "reason", "done", "steps", "last reconstruct"}
    assert set(table.columns) == fixed | {"lr", "top_k", "norm_pixels"}
    assert table.at["deep/b", "lr"] == 3e-3 and table.at["deep/b", "top_k"] == "1 x 2"
    assert table.at["c", "norm_pixels"] is True and pd.isna(table.at["a", "norm_pixels"])
    assert table["last reconstruct"].tolist() == [0.25] * 3


def test_a_weight_that_another_recipe_has_not_is_no_difference_but_another_value_is(tmp_path):
    made(tmp_path / "a", recipe="asap", weights={"reconstruct": 1.0, "organs": 1.0})
    made(tmp_path / "b", weights={"reconstruct": 1.0})
    assert runs.differing(runs.collect(tmp_path)) == ["recipe"]
    made(tmp_path / "c", recipe="asap", weights={"reconstruct": 1.0, "organs": 0.0})
    assert runs.differing(runs.collect(tmp_path)) == ["recipe", "weight of organs"]


def test_a_training_records_its_state_and_cost(toy_store, tmp_path):
    run = tmp_path / "mae"
    train.pretrain(store.open(toy_store), run, recipe="mae", config=replace(TOY, steps=2), progress=False)
    found = runs.read(run)
    assert (found.state, found.reason, found.steps, len(found.history)) == ("finished", "", 2, 2)
    assert 0 < found.seconds < 300 and found.seconds_per_step == pytest.approx(found.seconds / 2)
    assert found.memory_mb > 100 and not list(run.glob(".*"))
    assert str(tmp_path) not in (run / status.FILE).read_text()


def test_a_training_that_fails_says_why_and_goes_on_being_counted(toy_store, tmp_path, monkeypatch):
    held, run, config = store.open(toy_store), tmp_path / "mae", replace(TOY, steps=3)
    real, calls = train.train_step, []

    def fails(*given, **how):
        calls.append(1)
        if len(calls) == 3:
            raise Refused(f"{toy_store}/records/x.json: damaged; take it from a copy")
        return real(*given, **how)

    monkeypatch.setattr(train, "train_step", fails)
    with pytest.raises(Refused):
        train.pretrain(held, run, recipe="mae", config=config, save_every=1, progress=False)
    found = runs.read(run)
    assert (found.state, found.reason) == ("crashed", "Refused: x.json: damaged; take it from a copy")
    assert len(found.history) == 2 and str(tmp_path) not in (run / status.FILE).read_text()
    monkeypatch.setattr(train, "train_step", real)
    train.pretrain(held, run, recipe="mae", config=config, resume=True, progress=False)
    again = status.read(run)
    assert (again.state, again.timed, again.error) == ("finished", 3, "") and again.seconds > found.seconds


def test_words_of_a_foreign_error_are_not_kept(tmp_path):
    tmp_path = made(tmp_path / "run")
    with pytest.raises(KeyError), status.recorded(tmp_path, start=0, steps=4, lead=True):
        raise KeyError("There is a nodule in the right upper lobe.")
    assert "nodule" not in (tmp_path / status.FILE).read_text()
    assert runs.read(tmp_path).state == "finished", "all steps are there: the error came later"
    with pytest.raises(KeyboardInterrupt), status.recorded(tmp_path, start=0, steps=4, lead=True):
        raise KeyboardInterrupt
    assert status.verdict(status.read(tmp_path)) == ("stopped", "interrupted by hand")


def test_a_killed_training_is_crashed_and_its_number_in_another_process_too(tmp_path):
    run = made(tmp_path / "run", done=2)
    code = f"""
        import time
        from pathlib import Path
        from asapkit import status
        with status.recorded(Path({str(run)!r}), start=0, steps=4, lead=True) as record:
            record.beat(2)
            print("ready", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        assert runs.read(run).state == "running"
        child.send_signal(signal.SIGKILL)
        child.wait()
    finally:
        child.kill()
    found = runs.read(run)
    assert found.state == "crashed" and found.reason.startswith("killed: its process is gone")
    if status.born(os.getpid()):
        record(run, born=status.born(os.getpid()) + 1)
        assert runs.read(run).state == "crashed", "another process has the same number now"
    record(run)
    assert runs.read(run).state == "running"


def test_on_another_host_silence_decides(tmp_path):
    run = made(tmp_path / "run", done=2)
    record(run, host="elsewhere", pid=1, updated=time.time() - 120)
    assert (runs.read(run).state, runs.read(run).reason) == ("running", "on another host, last sign of life 2 min ago")
    record(run, host="elsewhere", pid=1, updated=time.time() - 7200)
    assert (runs.read(run).state, runs.read(run).reason) == ("crashed", "silent: on another host, last sign of life 2 h ago")
    record(run, host="elsewhere", pid=1, updated=time.time() - 7200, seconds=2000.0, timed=2)
    assert runs.read(run).state == "running", "its steps take a quarter of an hour each"


def damage(run: Path, kind: str) -> None:
    text = {"config cut": ("config.json", '{"scale": "to'), "no method": ("method.json", None), "config of words": ("config.json", '"words"')}
    text |= {"history of bytes": ("history.csv", "\x00\x01,,\n1"), "history of words": ("history.csv", "step,loss\n0,many\n")}
    text |= {"status cut": (status.FILE, '{"state": "run'), "status of a list": (status.FILE, "[1]"), "no weights": ("weights.safetensors", None)}
    text |= {"status with words": (status.FILE, '{"state": "running", "pid": "a"}'), "empty history": ("history.csv", "")}
    name, said = text[kind]
    (run / name).unlink(missing_ok=True) if said is None else (run / name).write_text(said)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("config cut", "config.json: damaged"), ("no method", "method.json: not there"), ("config of words", "config.json: damaged"),
        ("history of bytes", "history.csv: damaged"), ("history of words", "history.csv: damaged"), ("status cut", "status.json: damaged"),
        ("status of a list", "status.json: damaged"), ("no weights", "weights.safetensors: not there"),
        ("status with words", "status.json: damaged"), ("empty history", "history.csv: damaged"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_a_row_with_the_reason(kind, says, tmp_path):
    made(tmp_path / "good")
    damage(made(tmp_path / "bad"), kind)
    table = runs.table(tmp_path)
    assert table.loc["good", "state"] == "finished"
    assert table.loc["bad", "state"] == "damaged"
    assert says in table.loc["bad", "reason"] and str(tmp_path) not in table.loc["bad", "reason"]


def test_a_run_that_says_nothing_of_its_end_is_unknown(tmp_path):
    made(tmp_path / "old", done=2)
    made(tmp_path / "begun", done=0)
    table = runs.table(tmp_path)
    assert set(table["state"]) == {"unknown"}
    assert table.at["old", "reason"] == "2 of 4 steps, and no status.json that says how it ended"
    assert runs.table(tmp_path / "old").index.tolist() == ["old"], "the folder may be a run itself"


def test_scores_are_found_beside_the_runs_with_their_intervals(tmp_path):
    for name in ("asap", "mae", "other"):
        made(tmp_path / "runs" / name)
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": {"asap": {"value": 0.7, "low": 0.6, "high": 0.8}}}))
    hit = {"hit": 0.3, "intervals": {"hit": {"value": 0.3, "low": 0.2, "high": 0.4}}}
    (tmp_path / "grounding_asap.json").write_text(json.dumps(hit))
    rows = ["task,dataset,encoder,finding,auroc,low,high", "classify,store,mae,Nodule,.9,.8,.95", "classify,store,mae,macro,.55,.5,.6"]
    (tmp_path / "runs" / "mae" / "scores.csv").write_text("\n".join(rows))
    (tmp_path / "runs" / "other" / "scores.csv").write_text("nothing\n\x00")
    table = runs.table(tmp_path / "runs")
    assert table.loc["asap", ["probe", "probe_low", "probe_high", "hit", "hit_low", "hit_high"]].tolist() == [0.7, 0.6, 0.8, 0.3, 0.2, 0.4]
    assert table.loc["mae", ["probe", "probe_low", "probe_high"]].tolist() == [0.55, 0.5, 0.6] and pd.isna(table.at["mae", "hit"])
    assert table.loc["other", ["probe", "hit"]].isna().all()


def test_scores_of_a_namesake_elsewhere_are_not_taken(tmp_path):
    made(tmp_path / "sweep" / "asap")
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": {"asap": {"value": 0.7, "low": 0.6, "high": 0.8}}}))
    assert runs.read(tmp_path / "sweep" / "asap").scores == {}


def test_other_folders_are_no_runs_and_links_do_not_go_round(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"hidden_size": 3}')
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "copy")
    assert runs.find(tmp_path) == [tmp_path / "a"]
    assert runs.table(tmp_path / "b" / "up").shape[0] == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert runs.table(empty).empty
    with pytest.raises(Refused, match="no such folder"):
        runs.table(tmp_path / "nowhere")


def test_settings_are_named_once(tmp_path):
    run = runs.read(made(tmp_path / "a", options={"lr": 5}))
    assert run.settings["lr"] == TOY.lr and run.settings["option lr"] == 5
    assert set(asdict(TOY)) < set(run.settings)
