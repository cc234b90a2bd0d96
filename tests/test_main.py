"""The command line: its words, its exit codes (0 good, 2 some volumes refused, 1 nothing usable or wrong usage), one clear line and no traceback."""

from __future__ import annotations

import re
import subprocess
import sys

import pandas as pd
import pytest

import asapkit
from asapkit.__main__ import main

COMMANDS = ("phantom", "doctor", "label", "preprocess", "pretrain", "evaluate", "estimate", "parity", "look", "run", "gallery", "view", "demo")


def said(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def usage(arguments: list[str], capsys) -> tuple[int, str]:
    """Exit code and text of what argparse ends by itself."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    shown = capsys.readouterr()
    return end.value.code, shown.out + shown.err


@pytest.mark.parametrize("command", [[sys.executable, "-m", "asapkit"], ["asapkit"]], ids=["module", "script"])
def test_both_spellings_tell_the_version(command):
    if command == ["asapkit"]:
        command = [str(__import__("pathlib").Path(sys.executable).with_name("asapkit"))]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"asapkit {asapkit.__version__}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    code, text = usage([name, "--help"], capsys)
    assert code == 0
    assert "usage" in text


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["phantom"], ["phantom", "out", "--volumes", "many"], ["preprocess", "a", "b", "--layout", "dicom"], ["look", "a.nii.gz", "out"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_1_in_one_line(arguments, capsys):
    code, text = usage(arguments, capsys)
    assert code == 1
    assert text.count("\n") == 1
    assert "--help" in text


@pytest.mark.parametrize("command", [["phantom", "out"], ["preprocess", "a", "b"], ["doctor", "a"], ["label", "a", "b.csv"]], ids=" ".join)
@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_no_command_takes_less_than_one_worker(command, number, capsys):
    code, text = usage([*command, f"--workers={number}"], capsys)
    assert code == 1 and text.count("\n") == 1
    assert f"argument --workers: must be a whole number, at least 1, not '{number}'" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["preprocess", "absent", "store"], "absent: no such dataset"),
        (["preprocess", ".", "store"], "no volumes"),
        (["preprocess", ".", "store", "--scale", "huge"], "unknown scale 'huge'; there are toy, small, base"),
        (["pretrain", "absent", "run"], "absent"),
        (["pretrain", "absent", "run", "--recipe", "magic"], "unknown recipe 'magic'; there are"),
        (["pretrain", "absent", "run", "--set", "lr=fast"], "lr must be float, not 'fast'"),
        (["pretrain", "absent", "run", "--set", "lr"], "--set 'lr' is not of the form NAME=VALUE"),
        (["pretrain", "absent", "run", "--set", "lr=1", "--set", "lr=2"], "--set lr is given twice"),
        (["pretrain", "absent", "run", "--share", "one=much"], "--share 'one=much' is not of the form NAME=NUMBER"),
        (["pretrain", "absent", "run", "--share", "one"], "--share 'one' is not of the form NAME=NUMBER"),
        (["look", "absent.nii.gz", "--run", "absent", "--sentence", "Nodule.", "out"], "absent"),
        (["look", "absent.nii.gz", "--run", "absent", "--sentence", " ", "out"], "the sentence is empty"),
        (["estimate", "--volumes", "0", "--epochs", "1"], "volumes 0: give a number above 0"),
        (["evaluate", "absent", "."], ". is no store"),
        (["parity", "nowhere"], "nowhere: lacks manifest.json"),
        (["evaluate", "absent", "nowhere"], "nowhere: no such folder"),
        (["evaluate", "random", ".", "--tasks", "juggle"], "unknown task 'juggle'; there are"),
        (["evaluate", "random", ".", "--prompts", "hlip-v1"], "--prompts needs --tasks zeroshot"),
        (["label", "absent", "out.csv"], "absent: no such dataset"),
        (["label", "absent.csv", "out.csv"], "absent.csv: no such file"),
        (["label", "absent", "out.csv", "--labeller", "endpoint", "--model", "m"], "labeller endpoint needs url"),
        (["label", "absent", "out.csv", "--labeller", "huggingface"], "labeller huggingface needs model"),
        (["label", "absent", "out.csv", "--labeller", "oracle"], "unknown labeller 'oracle'; there are rules, huggingface, endpoint"),
        (["label", "absent", "out.csv", "--url", "http://localhost"], "url is not for labeller rules"),
        (
            ["label", "absent", "out.csv", "--labeller", "endpoint", "--model", "m", "--url", "https://models.example/v1"],
            "models.example is not this machine; reports would leave it",
        ),
        (["view", "absent", "train_1_a_1", "--sentence", "Nodule."], "--sentence needs --run"),
        (["run", "absent.ipynb"], "absent.ipynb: no such file"),
        (["gallery", "absent", "site"], "absent: no executed notebooks there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_exit_code_1_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in said(capsys)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_an_error_is_said_on_a_line_of_its_own(monkeypatch, capsys):
    from tqdm import tqdm

    def fail(*_, **__):
        bar = tqdm(total=3, desc="half way")
        bar.update()
        raise ValueError("no")

    monkeypatch.setattr("asapkit.evidence.demo", fail)
    assert main(["demo"]) == 1
    assert re.search(r"[\r\n]asapkit: no\n", capsys.readouterr().err)


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        main(["--debug", "run", "absent.ipynb"])


@pytest.mark.parametrize("written, refused, code", [(3, 0, 0), (3, 1, 2), (0, 2, 1), (0, 0, 1)])
def test_preprocess_tells_by_its_exit_code_what_was_refused(written, refused, code, tmp_path, monkeypatch, capsys):
    from asapkit import datasets, store
    from asapkit.datasets import ct_rate
    from asapkit.preprocess import Outcome

    rows = tuple(Outcome(f"train_{n}_a_1", "", "truncated file") for n in range(refused))
    monkeypatch.setattr(ct_rate, "scans", lambda root: iter([datasets.Unusable("train_0_a_1", None, "truncated file")]))
    monkeypatch.setattr(store, "write", lambda *a, **k: store.Report(tuple(map(str, range(written))), (), rows))
    assert main(["preprocess", str(tmp_path), str(tmp_path / "store")]) == code
    assert capsys.readouterr().err.splitlines() == [f"train_{n}_a_1: truncated file" for n in range(refused)]


def test_a_stopped_command_says_that_it_can_go_on(tmp_path, monkeypatch, capsys):
    from asapkit import workflow

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "run", stop)
    assert main(["run", "a.ipynb"]) == 130
    assert "run the same command again" in said(capsys)


def test_failed_notebooks_are_listed_and_exit_code_1(monkeypatch, capsys, tmp_path):
    from asapkit import workflow

    results = [
        workflow.Result("30_a.ipynb", "lr=1", "done", 1.0, tmp_path),
        workflow.Result("31_b.ipynb", "lr=1", "failed", 1.0, tmp_path, "ValueError: no"),
    ]  # fmt: skip
    monkeypatch.setattr(workflow, "run", lambda *a, **k: results)
    assert main(["run", "30_a.ipynb", "31_b.ipynb"]) == 1
    assert said(capsys) == "31_b.ipynb lr=1: ValueError: no"


@pytest.mark.slow
def test_phantom_to_look_by_hand(tmp_path, capsys):
    """The documented path on a handful of volumes: cohort, store, encoder, one sentence in one scan."""
    import nibabel

    data, store, run, out = (str(tmp_path / n) for n in ("data", "store", "run", "out"))
    assert main(["phantom", data, "--volumes", "12", "--seed", "1", "--scale", "toy", "--workers", "1"]) == 0
    assert main(["doctor", data, "--workers", "1"]) == 0
    assert main(["preprocess", data, store, "--scale", "toy", "--workers", "1"]) == 0
    assert main(["pretrain", store, run, "--recipe", "asap", "--scale", "toy", "--steps", "2", "--set", "batch_size=2"]) == 0
    assert re.search(r"^4 volumes in \d+ s, start-up included, \S+ TFLOP/s per device; predicted \d+ s at", capsys.readouterr().out, re.M)
    assert main(["pretrain", store, run, "--recipe", "asap", "--scale", "toy", "--steps", "2", "--set", "batch_size=2"]) == 1, "the run is there"
    assert main(["evaluate", run, store, "--tasks", "classify", "ground", "--out", str(tmp_path / "scores")]) == 0
    assert main(["evaluate", "random", store, "--tasks", "ground"]) == 1, "random weights match no sentences"
    scores = (tmp_path / "scores" / "scores.csv").read_text()
    assert "classify" in scores and "ground" in scores and "macro" in scores
    capsys.readouterr()
    scan = sorted((tmp_path / "data" / "train").rglob("train_*_1.nii.gz"))[0]
    asked = ["look", str(scan), "--run", run, "--sentence", "There is a nodule in the right upper lobe.", out]
    assert main(asked) == 1, "CT-RATE's files hold stored values; what to add stands in its table"
    told = pd.read_csv(tmp_path / "data" / "train_metadata.csv").set_index("VolumeName").loc[scan.name]
    assert main([*asked, "--slope", str(told["RescaleSlope"]), "--intercept", str(told["RescaleIntercept"])]) == 0
    seen, image = nibabel.load(tmp_path / "out" / "similarity.nii.gz"), nibabel.load(scan)
    assert seen.shape == image.shape
    assert abs(seen.affine - image.affine).max() < 1e-4
    top = pd.read_csv(tmp_path / "out" / "look.csv")
    assert list(top.columns) == ["rank", "x_mm", "y_mm", "z_mm", "similarity"]
    assert top["similarity"].is_monotonic_decreasing
    assert (tmp_path / "out" / "look.png").is_file()
