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

from asapkit import checkpoint, runs, status, store, train, verdict
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


@pytest.mark.slow
def test_a_training_records_its_state_and_cost(toy_store, tmp_path):
    run = tmp_path / "mae"
    train.pretrain(store.open(toy_store), run, recipe="mae", config=replace(TOY, steps=2), progress=False)
    found = runs.read(run)
    assert (found.state, found.reason, found.steps, len(found.history)) == ("finished", "", 2, 2)
    assert 0 < found.seconds < 300 and found.seconds_per_step == pytest.approx(found.seconds / 2)
    assert found.memory_mb > 100 and not list(run.glob(".*"))
    assert str(tmp_path) not in (run / status.FILE).read_text()


@pytest.mark.slow
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


@pytest.mark.slow
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
    rows = ["task,dataset,encoder,finding,auroc,low,high", "zeroshot,store,mae,macro,.99,.98,1", "classify,store,mae,Nodule,.9,.8,.95"]
    rows += ["classify,store,mae,macro,.55,.5,.6"]
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


# ---------------------------------------------------------------------------------------------- the start, the store, what was kept


def change(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_runs_that_differ_in_their_start_or_their_store_alone_show_it(tmp_path):
    for name in ("a", "b", "c"):
        change(made(tmp_path / "runs" / name) / "method.json", **({} if name == "a" else {"init": f"/some/where/{name}/weights.pth"}))
        checkpoint.record_store(tmp_path / "runs" / name, tmp_path / ("one" if name != "c" else "two"))
    table = runs.table(tmp_path / "runs")
    assert set(table.columns[4:6]) == {"init", "store"}
    assert pd.isna(table.at["a", "init"]) and table["init"].tolist()[1:] == ["b/weights.pth", "c/weights.pth"], (
        "the shortest end that tells them apart"
    )
    assert table["store"].tolist() == ["one", "one", "two"]


def test_one_store_seen_from_two_depths_is_no_difference_nor_is_a_run_that_does_not_say(tmp_path):
    for name in ("a", "deep/b", "silent"):
        run = made(tmp_path / "runs" / name)
        if name != "silent":
            checkpoint.record_store(run, tmp_path / "store")
    assert runs.differing(runs.collect(tmp_path / "runs")) == []


def test_steps_since_the_last_checkpoint_are_done_and_what_was_kept_is_said(tmp_path):
    long = replace(TOY, steps=120)
    record(made(tmp_path / "a", config=long, done=0), state="crashed", error="RuntimeError", message="in train.step, line 5", step=90, steps=120)
    record(made(tmp_path / "b", config=long, done=80), step=90, steps=120)
    record(made(tmp_path / "c", config=long, done=0), step=3, steps=120)
    record(made(tmp_path / "d", config=long, done=1), state="stopped", step=1, steps=120)
    table = runs.table(tmp_path)
    assert table["done"].tolist() == [90, 90, 3, 1]
    assert table["reason"].tolist() == [
        "RuntimeError: in train.step, line 5; no checkpoint was kept", "kept up to step 80", "no checkpoint yet", "interrupted by hand",
    ]  # fmt: skip
    assert runs.tally(table) == "4 runs: 2 running, 1 stopped, 1 crashed"


# ------------------------------------------------------------------------------------------------------------- odd values in its files

ODD_STATUS = [
    ("error", 5), ("error", ["x"]), ("message", {}), ("host", None), ("gpu_memory_mb", "lots"), ("seconds", float("inf")), ("seconds", float("nan")),
    ("seconds", -1), ("pid", 0), ("pid", -1), ("pid", 1.5), ("step", True), ("step", "2"), ("steps", 10**30), ("born", None), ("updated", []),
    ("timed", 0.5), ("state", ["running"]), ("state", "asleep"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), ODD_STATUS, ids=str)
def test_an_odd_value_in_a_status_is_a_row_that_names_the_field(name, value, tmp_path):
    made(tmp_path / "good")
    record(made(tmp_path / "bad", done=2), **({"state": "crashed"} if name in ("error", "message") else {}) | {name: value})
    table = runs.table(tmp_path)
    assert table["state"].tolist() == ["damaged", "finished"]
    assert table.at["bad", "reason"].startswith(f"status.json: damaged (`{name}` is "), table.at["bad", "reason"]
    assert table.at["bad", "done"] == 2


def test_a_status_that_lacks_a_field_or_has_no_bottom_is_named(tmp_path):
    run = made(tmp_path / "a", done=2)
    (run / status.FILE).write_text('{"state": "running"}')
    assert runs.read(run).reason == "status.json: damaged (`pid` is missing)"
    (run / status.FILE).write_text("[" * 100_000)
    assert runs.read(run).reason.startswith("status.json: damaged")


@pytest.mark.parametrize("pid", [0, -1, 10**30])
def test_no_process_has_such_a_number(pid):
    assert not status.alive(pid)


@pytest.mark.parametrize(
    "value", [[1], None, {}, {"value": [1]}, {"value": None}, {"value": {}}, {"value": "lots"}, {"value": float("inf")}], ids=str
)
def test_an_odd_score_leaves_the_run_as_it_is_and_is_said(value, tmp_path):
    made(tmp_path / "a")
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": {"a": value}}))
    (tmp_path / "grounding_a.json").write_text(json.dumps({"hit": 0.3, "intervals": {"hit": {"value": 0.3, "low": [1], "high": {}}}}))
    found = runs.read(tmp_path / "a")
    assert found.state == "finished" and found.reason.startswith("probes.json: no number stands for `probe`")
    assert set(found.scores) == {"hit"} and found.scores["hit"][0] == 0.3 and pd.isna(found.scores["hit"][1])


def test_score_files_that_cannot_be_read_are_said(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "probes.json").write_text("{")
    (tmp_path / "scores.csv").write_text("encoder,finding,share,auroc\na,macro,many,.5\na,macro,,words\na,macro,0.5,.6\n")
    found = runs.read(tmp_path / "a")
    assert (found.state, found.reason, found.scores["probe"][0]) == (
        "finished",
        "probes.json: damaged; scores.csv: no number stands for `probe`",
        0.6,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": [1]}, "method.json: damaged (`options` is a list, where fields by name belong)"),
        ({"weights": "many"}, "method.json: damaged (`weights` is words, where fields by name belong)"),
        ({"weights": {"reconstruct": []}}, "method.json: damaged (`weights.reconstruct` is a list, where a number belongs)"),
        ({"recipe": None}, "method.json: damaged (`recipe` is nothing, where words belong)"),
        ({"init": 5}, "method.json: damaged (`init` is 5, where words belong)"),
    ],
)
def test_a_damaged_method_names_its_field(changes, says, tmp_path):
    change(made(tmp_path / "a") / "method.json", **changes)
    assert (runs.read(tmp_path / "a").state, runs.read(tmp_path / "a").reason.split(";")[0]) == ("damaged", says)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("method.json", "[1]", "method.json: damaged (a list, where fields by name belong)"),
        ("method.json", "{}", "method.json: damaged (`recipe` is missing)"),
        ("method.json", "{", "method.json: damaged (Expecting"),
        ("data.json", '{"store": 5}', "data.json: damaged (`store` is 5, where words belong)"),
        ("data.json", "[]", "data.json: damaged (a list, where fields by name belong)"),
    ],
)  # fmt: skip
def test_a_file_of_another_shape_is_named(name, text, says, tmp_path):
    (made(tmp_path / "a") / name).write_text(text)
    assert runs.read(tmp_path / "a").state == "damaged" and runs.read(tmp_path / "a").reason.startswith(says)


@pytest.mark.parametrize("steps", ["many", [4], None, float("inf"), 4.5, True])
def test_odd_steps_in_a_configuration_are_a_row(steps, tmp_path):
    change(made(tmp_path / "a") / "config.json", steps=steps)
    table = runs.table(tmp_path)
    assert table.at["a", "state"] == "damaged" and table.at["a", "reason"].startswith("config.json: damaged")


# ------------------------------------------------------------------------------------------------------------------------ the answer


def test_the_answer_reads_well_for_no_run_one_and_many(tmp_path):
    assert verdict.answer(runs.table(tmp_path)) == "There is no run yet: `asapkit pretrain` makes one."
    made(tmp_path / "a")
    said = verdict.answer(runs.table(tmp_path))
    assert said.startswith("There is one run, `a`: it finished. Its training time is not recorded. No probe's score lies beside it yet")
    record(tmp_path / "a", state="finished", step=4, seconds=184.0)
    scores = {"a": {"value": 0.7, "low": 0.6, "high": 0.8}}
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": scores}))
    assert (
        verdict.answer(runs.table(tmp_path))
        == "There is one run, `a`: it finished. It trained for 3 min 4 s. Its probe reaches 0.700 (0.600 to 0.800)."
    )
    damage(made(tmp_path / "b"), "no method")
    said = verdict.answer(runs.table(tmp_path))
    assert said.startswith("There are 2 runs: 1 finished, 1 damaged. The recorded training took 3 min 4 s in all. Only `a` has a probe: 0.700")
    assert "`b` is damaged: method.json: not there" in said
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": scores | {"b": 0.5}}))
    assert "The best probe is that of `a`, 0.700 (0.600 to 0.800), before `b`, 0.500; without both intervals" in verdict.answer(runs.table(tmp_path))
    (tmp_path / "probes.json").write_text(json.dumps({"probe_macro_auroc": scores | {"b": {"value": 0.5, "low": 0.4, "high": 0.55}}}))
    assert "their intervals lie apart." in verdict.answer(runs.table(tmp_path))


@pytest.mark.parametrize("kind", ["empty", "no step"])
def test_the_notebook_goes_on_to_its_answer_where_there_is_nothing_to_draw(kind, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    if kind == "no step":
        made(tmp_path / "runs" / "a", done=0)
    shown = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda *given: shown.extend(given))
    names, notebook = {}, json.loads((Path(__file__).parents[1] / "notebooks" / "35_runs_board.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= {"scale": "toy", "runs": str(tmp_path / "runs")}
    assert shown[-1].data == verdict.answer(names["table"])
    assert "no run has finished a step yet" in names["curves"].data.lower() and str(tmp_path) not in names["curves"].data
    assert (tmp_path / "build" / "35_runs_board.png").exists() == (kind == "no step")
