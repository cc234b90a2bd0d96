"""Bad input by the front door: the commands as typed. One line each that names the file or field and what to do; nothing else is lost.

What a single reader says of a single fault is held by test_ct, test_doctor, test_organs, test_datasets, test_store and test_train.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from asapkit import checkpoint, store
from asapkit.__main__ import main
from asapkit.config import Config

TOY = Config.at("toy")
GOOD = ("good_1", "good_2")


def chest(seed: int = 0) -> np.ndarray:
    """A body with two lungs, a windpipe, a spine and a table, int16 HU, 60 x 48 x 50 voxels of 6 mm."""
    shape = (60, 48, 50)
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * 6.0 for n in shape], indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(np.abs(x) < 160) & (y > -135) & (y < -122)] = 50
    hu[(x / 150) ** 2 + (y / 105) ** 2 < 1] = 40
    hu[((np.abs(x) - 72) / 52) ** 2 + (y / 75) ** 2 + ((z - 10) / 110) ** 2 < 1] = -850
    hu[x**2 + (y + 75) ** 2 < 18**2] = 500
    hu[(x**2 + (y + 20) ** 2 < 11**2) & (z > 20)] = -990
    return np.rint(hu + np.random.default_rng(seed).normal(0, 12, shape)).astype(np.int16)


def save(path: Path, array: np.ndarray, *, origin=(-180.0, -150.0, 100.0)) -> Path:
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = origin
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def without_spacing(path: Path, value: float) -> None:
    """Takes both orientations out of a header and puts `value` where the spacing stood."""
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[252:256] = bytes(4)
    header[80:92] = np.float32(value).tobytes() * 3
    path.write_bytes(gzip.compress(bytes(header)))


def make_files(root: Path) -> None:
    hu = chest()
    for number, name in enumerate(GOOD):
        save(root / f"{name}.nii.gz", chest(number))
    arrays = {
        "nan": np.where(hu > 450, np.nan, hu).astype(np.float32), "four_axes": np.stack([hu, hu], 3), "two_axes": hu[:, :, 20],
        "shifted": hu + np.int16(1024), "scaled": (hu / 1000).astype(np.float32), "plain": hu, "zero": hu, "not_a_number": hu,
    }  # fmt: skip
    for name, array in arrays.items():
        save(root / f"{name}.nii.gz", array)
    without_spacing(root / "zero.nii.gz", 0.0)
    without_spacing(root / "not_a_number.nii.gz", float("nan"))
    whole = (root / "plain.nii.gz").read_bytes()
    (root / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (root / "no_scan.nii.gz").write_text("this is a letter, not a scan\n" * 50)
    save(root / "heart.nii.gz", (hu > 30).astype(np.uint8), origin=(4000.0, 4000.0, 4000.0))


BAD = {
    # id: (changes to a good row, what its line says)
    "truncated": ({"path": "truncated.nii.gz"}, ("truncated.nii.gz", "truncated", "fetch the file again")),
    "wrong_magic": ({"path": "no_scan.nii.gz"}, ("no_scan.nii.gz", "magic", "check what it is")),
    "four_axes": ({"path": "four_axes.nii.gz"}, ("four_axes.nii.gz", "4-D", "three axes")),
    "two_axes": ({"path": "two_axes.nii.gz"}, ("two_axes.nii.gz", "2-D", "three axes")),
    "zero_spacing": ({"path": "zero.nii.gz"}, ("zero.nii.gz", "spacing", "repair the header")),
    "nan_spacing": ({"path": "not_a_number.nii.gz"}, ("not_a_number.nii.gz", "spacing", "repair the header")),
    "nan_voxels": ({"path": "nan.nii.gz"}, ("nan.nii.gz", "NaN", "repair or drop")),
    "not_hu": ({"path": "shifted.nii.gz"}, ("shifted.nii.gz", "not HU", "subtract 1024")),
    "for_a_network": ({"path": "scaled.nii.gz"}, ("scaled.nii.gz", "not HU", "use the original file")),
    "empty_report": ({"findings": " ", "impression": "Not given."}, ("report is empty", "fill findings or impression")),
    "no_volume": ({"path": "lost.nii.gz"}, ("lost.nii.gz", "a report without a volume", "fetch it or drop the row")),
    "no_path": ({"path": ""}, ("path is empty",)),
    "other_grid": ({"organs": "heart.nii.gz"}, ("heart.nii.gz", "different grids")),
    "good_1": ({"path": "plain.nii.gz"}, ("good_1", "twice", "its own")),
    "a/b": ({"id": "a/b"}, ("a/b", "path separator", "plain name")),
    "a\\b": ({"id": "a\\b"}, ("path separator", "plain name")),
    "label_value": ({"Lung nodule": "maybe"}, ("Lung nodule", "maybe", "labels are 1, 0")),
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    make_files(root)
    blank = {"path": "", "id": "", "findings": "Both lungs are clear.", "impression": "Normal.", "organs": "", "Lung nodule": "0"}
    rows = [blank | {"path": f"{GOOD[0]}.nii.gz", "id": GOOD[0]}]
    rows += [blank | {"path": "plain.nii.gz", "id": id} | changes for id, (changes, _) in BAD.items()]
    rows += [blank | {"path": f"{GOOD[1]}.nii.gz", "id": GOOD[1]}]
    pd.DataFrame(rows).to_csv(root / "scans.csv", index=False)
    return root


@pytest.fixture(scope="module")
def made(dataset) -> Path:
    path = dataset.parent / f"{dataset.name}_store"
    assert main(["preprocess", str(dataset), str(path), "--layout", "folder", "--scale", "toy", "--workers", "1"]) == 2
    return path


def one_line(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asapkit: ")]
    return line


def test_every_bad_row_has_its_line_and_the_good_ones_are_written(dataset, tmp_path, capsys):
    assert main(["preprocess", str(dataset), str(tmp_path / "s"), "--layout", "folder", "--scale", "toy", "--workers", "1"]) == 2
    shown = capsys.readouterr()
    made = store.open(tmp_path / "s")
    assert tuple(made.ids) == GOOD and store.check(tmp_path / "s", progress=False) == []
    assert len(made.refused) == len(BAD)
    reasons = dict(zip(made.refused["id"], made.refused["reason"], strict=True))
    for id, (_, says) in BAD.items():
        reason = reasons["no_path" if id == "no_path" else id]
        assert all(word in reason for word in says), (id, reason)
        assert "\n" not in reason and len(reason) < 400 and "Traceback" not in reason
        assert reason in shown.err, "listed by the command too"
    assert f"2 volumes written, 0 already there, {len(BAD)} refused" in shown.out
    assert "lungs are clear" not in shown.out + shown.err, "no text of a report is printed"


def test_a_patient_in_two_splits_is_said_at_the_end(dataset, tmp_path, capsys):
    rows = [{"path": dataset / f"{id}.nii.gz", "findings": "Clear.", "patient": "p1", "split": split} for id, split in zip(GOOD, ("train", "valid"))]
    for split, warned in (("train", False), ("valid", True)):
        rows[1]["split"] = split
        pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
        assert main(["preprocess", str(tmp_path), str(tmp_path / "s"), "--layout", "folder", "--scale", "toy", "--workers", "1"]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "several splits" in line]
        assert (
            lines
            == ["warning: patients in several splits: p1 in train and valid; split by patient, or scores on held-out volumes say too much"] * warned
        )


def test_the_doctor_finds_them_too(dataset, capsys):
    assert main(["doctor", str(dataset), "--layout", "folder", "--workers", "1"]) == 2
    listed = capsys.readouterr().err
    for word in ("truncated", "magic", "4-D", "2-D", "spacing", "NaN", "not HU", "report is empty", "without a volume", "twice", "path separator"):
        assert word in listed
    assert "heart.nii.gz" in listed


def test_the_doctor_reads_a_store_back(made, tmp_path, capsys):
    root = Path(shutil.copytree(made, tmp_path / "s"))
    assert main(["doctor", str(root)]) == 0 and "2 looked at, 0 with errors" in capsys.readouterr().out
    file = root / "ct" / f"{GOOD[0]}.b2nd"
    file.write_bytes(file.read_bytes()[:200])
    assert main(["doctor", str(root)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert GOOD[0] in line and "run preprocess again" in line


def test_unknown_labels_are_refused_before_a_store_is_begun(dataset, tmp_path, capsys):
    (tmp_path / "scans.csv").write_text("path,findings,Lung noodle\na.nii.gz,Clear.,1\n")
    assert main(["preprocess", str(tmp_path), str(tmp_path / "s"), "--layout", "folder"]) == 1
    line = one_line(capsys)
    assert "scans.csv" in line and "Lung noodle" in line and "labels are spelled as" in line and not (tmp_path / "s").exists()


# ------------------------------------------------------------------------------------------------------ stores and run folders


def test_a_store_of_another_contract_is_named_by_every_command(dataset, made, tmp_path, capsys):
    assert main(["preprocess", str(dataset), str(made), "--layout", "folder", "--scale", "small", "--workers", "1"]) == 1
    assert "spacing_mm is (6.0, 6.0, 12.0) in the store, (3.5, 3.5, 7.0) asked for" in one_line(capsys)
    assert main(["pretrain", str(made), str(tmp_path / "run"), "--scale", "small"]) == 1
    line = one_line(capsys)
    assert "another contract" in line and "spacing_mm" in line and "preprocess again" in line and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(made) -> Path:
    path = made.parent / f"{made.name}_run"
    assert (
        main(["pretrain", str(made), str(path), "--recipe", "asap", "--scale", "toy", "--steps", "1", "--set", "batch_size=2", "--set", "aki=false"])
        == 0
    )
    return path


def damaged(run: Path, place: Path, name: str) -> Path:
    """A copy of the run with one thing wrong."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(run, place / "run"))
    if name == "missing key":
        state = load_file(copy / "weights.safetensors")
        save_file({k: v for k, v in state.items() if k != "encoder.norm.weight"}, copy / "weights.safetensors")
    elif name == "no weights":
        (copy / "weights.safetensors").unlink()
    else:
        file = copy / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return copy


FAULTS = {
    "missing key": "lacks encoder.norm.weight", "no weights": "weights.safetensors: no weights there", "weights.safetensors": "weights.safetensors",
    "config.json": "config.json", "method.json": "method.json",
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_run_is_named(run, dataset, tmp_path, capsys, name):
    broken = damaged(run, tmp_path, name)
    arguments = ["look", str(dataset / "good_1.nii.gz"), "--run", str(broken), "--sentence", "A nodule.", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert FAULTS[name] in one_line(capsys) and not (tmp_path / "out").exists()


def test_a_damaged_store_is_named(made, tmp_path, capsys):
    for file in ("volumes.parquet", "preprocess.json"):
        copy = Path(shutil.copytree(made, tmp_path / file.replace(".", "_")))
        content = (copy / file).read_bytes()
        (copy / file).write_bytes(content[: len(content) // 2])
        assert main(["pretrain", str(copy), str(tmp_path / "run"), "--scale", "toy", "--set", "aki=false"]) == 1
        assert file in one_line(capsys) and not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------------ full disk


def limited(limit: int, *arguments: object) -> subprocess.CompletedProcess:
    """The command with a limit on the size of any file: the kernel refuses the bytes beyond it, as a full disk does."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, "-m", "asapkit", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False, preexec_fn=lower)


@pytest.mark.slow
def test_bytes_that_do_not_fit_stop_preprocessing_in_one_line_and_keep_what_is_finished(dataset, made, tmp_path):
    arguments = ("preprocess", dataset, tmp_path / "s", "--layout", "folder", "--scale", "toy", "--workers", 1)
    small = (made / "ct" / "good_1.b2nd").stat().st_size // 2
    done = limited(small, *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("asapkit: ")]
    assert "cannot write" in line and "run again to go on" in line
    assert not list((tmp_path / "s").rglob("*.b2nd"))
    assert main([str(word) for word in arguments]) == 2
    assert store.check(tmp_path / "s", progress=False) == [] and len(store.open(tmp_path / "s")) == 2


@pytest.mark.slow
def test_bytes_that_do_not_fit_stop_training_in_one_line_and_keep_the_last_checkpoint(made, tmp_path):
    first = ("pretrain", made, tmp_path / "run", "--recipe", "mae", "--scale", "toy", "--set", "batch_size=2")
    done = limited(100_000, *first, "--steps", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if "asapkit: " in line]
    assert "state.pt" in line and "free some disk space" in line
    assert not list((tmp_path / "run").glob("*.part"))
    assert main([str(word) for word in (*first, "--steps", 1, "--resume")]) == 0
    assert json.loads((tmp_path / "run" / "method.json").read_text())["recipe"] == "mae"
    checkpoint.load_encoder(tmp_path / "run")


@pytest.mark.slow
def test_bytes_that_do_not_fit_leave_no_half_picture(run, dataset, tmp_path):
    done = limited(20_000, "look", dataset / "good_1.nii.gz", "--run", run, "--sentence", "A nodule.", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("asapkit: ")]
    assert "look.png" in line and "free some disk space" in line
    assert not [path for path in (tmp_path / "out").glob("*") if path.is_file()]
