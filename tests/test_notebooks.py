"""Every notebook keeps the manners of the house, and runs from top to bottom at scale toy."""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pytest

from asapkit import parameters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CODE_CELLS, MAX_CODE_LINES, MAX_SECONDS = 12, 80, 25
EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str = "code") -> list:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def code(path: Path) -> str:
    """All code without magics, so that it can be parsed."""
    return "\n".join(re.sub(r"^\s*[%!].*$", "pass", c.source, flags=re.M) for c in cells(path))


def test_there_are_notebooks():
    assert NOTEBOOKS


@EVERY
def test_names_number_the_order(path):
    assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", path.stem), "NN_verb_object.ipynb"


@EVERY
def test_committed_without_outputs(path):
    for cell in cells(path):
        assert not cell.outputs, "nbstripout removes outputs"
        assert cell.execution_count is None


@EVERY
def test_the_first_cell_asks_and_shows(path):
    """Question as title, what is read, what is written, and the committed figure, so that it is seen on the web."""
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\?", first.source), "the title is a question"
    pictures = re.findall(r"!\[[^\]]*\]\((\.\./figures/[^)]+\.png)\)", first.source)
    assert pictures, "the figure: ![](../figures/NN_name.png)"
    assert all(Path(p).name.startswith(path.stem[:2]) for p in pictures)
    for word in ("read", "writ"):
        assert word in first.source.lower(), "what is read and what is written"


@EVERY
def test_the_parameters_are_annotated_explained_and_checked(path):
    """Second cell tagged `parameters`, with scale and out among them; the next one checks names and types."""
    notebook = nbformat.read(path, as_version=4)
    assert "parameters" in notebook.cells[1].metadata.get("tags", ()), "the second cell is tagged parameters"
    known = parameters.read(path)
    assert all(line.count("=") < 2 for line in notebook.cells[1].source.splitlines()), "papermill passes over a line with two equals signs"
    assert known["scale"].annotation == "str"
    assert known["out"].default == "build"
    unexplained = [p.name for p in known.values() if not p.meaning]
    assert not unexplained, f"say what {', '.join(unexplained)} means, after a #"
    for parameter in known.values():
        assert parameter.value(parameter.default) == parameter.default, f"the default of {parameter.name} is of its type"
    assert "workflow.check(globals())" in cells(path)[1].source, "the cell after the parameters checks names and types"


@EVERY
def test_whole_numbers_say_from_where_on_they_make_sense(path):
    """A slice takes -3 for "all but the last three", and a mean over no seed is none: both are refused before anything is read."""
    for parameter in (p for p in parameters.read(path).values() if p.annotation == "int"):
        assert parameter.least is not None, f"say from which number on {parameter.name} may go: `1 or more`"
        with pytest.raises(ValueError, match=f"^{parameter.name} must be {parameter.least} or more, not {parameter.least - 1}$"):
            parameter.value(parameter.least - 1)


@EVERY
def test_notebooks_call_and_do_not_define(path):
    blocks = cells(path)
    lines = [line for c in blocks for line in c.source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(blocks) <= MAX_CODE_CELLS, f"{len(blocks)} code cells"
    assert len(lines) <= MAX_CODE_LINES, f"{len(lines)} lines of code"
    defined = [n.name for n in ast.walk(ast.parse(code(path))) if isinstance(n, ast.ClassDef)]
    assert not defined, f"class {defined} belongs in the library"


@EVERY
def test_figures_are_saved_and_the_answer_is_computed(path):
    assert re.search(r"figures\.save\(", code(path)), "ends with figures.save(...)"
    assert not re.search(r"[\"'](?:/|[A-Z]:\\)\w+/", code(path)), "paths are parameters"


def execute(path: Path, folder: Path, *settings: str) -> tuple[subprocess.CompletedProcess, float]:
    """Plain papermill from a folder of its own, as a reader of the README would; and the processor seconds that it and its kernel took.

    Processor time with one thread is what a reader waits on an idle machine, and is the same on a busy one.
    """
    command = [sys.executable, "-m", "papermill", str(path), str(folder / path.name), "-k", "python3", "--no-progress-bar", *settings]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """One working folder for all: what an earlier notebook made (cohort, store, run) is found there by a later one."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@EVERY
def test_runs_at_toy_scale_from_any_folder(path, folder):
    done, seconds = execute(path, folder, "-p", "scale", "toy")
    assert done.returncode == 0, done.stderr[-3000:]
    assert seconds < MAX_SECONDS, f"{seconds:.0f} s at scale toy, at most {MAX_SECONDS}"
    number = path.stem[:2]
    pictures = sorted((folder / "build").rglob(f"{number}_*.png"))
    assert pictures, "a figure is saved under `out`"
    for picture in pictures:
        assert picture.with_suffix(".csv").is_file(), f"{picture.name} has its numbers beside it"
    notebook = nbformat.read(folder / path.name, as_version=4)
    warned = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr" and "Warning" in o.text]
    assert not warned, warned[0].text


@pytest.mark.slow
def test_a_mistyped_parameter_fails_under_plain_papermill(folder):
    done, _ = execute(NOTEBOOKS[0], folder, "-p", "scal", "toy")
    assert done.returncode
    assert "no parameter 'scal'; did you mean scale?" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number, name, value", [("31", "volumes", "-3"), ("40", "seeds", "0")])
def test_a_number_that_makes_no_sense_is_refused_in_one_line(number, name, value, folder):
    done, _ = execute(next(p for p in NOTEBOOKS if p.stem.startswith(number)), folder, "-p", name, value)
    assert done.returncode
    assert f"ValueError: {name} must be 1 or more, not {value}" in done.stderr


@pytest.mark.slow
def test_scans_of_yours_are_shown_beside_the_phantom(folder):
    path = next(p for p in NOTEBOOKS if p.stem.startswith("01"))
    scan = folder / "my chest.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(-300, 400, (64, 64, 20)).astype(np.int16), np.diag([5, 5, 10, 1])), scan)
    done, _ = execute(path, folder, "-p", "scale", "toy", "-y", json.dumps({"scans": [f"{scan} = made here"], "out": "mine"}))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "mine" / "01_beside_real.png").is_file()
    assert "real: my chest" in (folder / "mine" / "01_beside_real.csv").read_text()


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A store of scans and reports alone, without truth or labels, as a folder of one's own gives it."""
    from asapkit.__main__ import main

    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    x, y = np.meshgrid(*(np.linspace(-1, 1, 48),) * 2, indexing="ij")
    body = np.where(x**2 + y**2 < 0.8, 40, -1000)[..., None]
    body = np.where((((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.6) ** 2 < 1)[..., None], -850, body)
    lines = ["path,findings,impression,split"]
    for n in range(8):
        array = (body + rng.normal(0, 20, (48, 48, 24))).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([7.5, 7.5, 13, 1])), root / f"s{n}.nii.gz")
        lines.append(f"s{n}.nii.gz,There is a nodule in the left lung. No pleural effusion.,Nodule.,{'valid' if n > 4 else 'train'}")
    (root / "scans.csv").write_text("\n".join(lines) + "\n")
    assert main(["preprocess", str(root), str(root / "store"), "--layout", "folder", "--scale", "toy", "--workers", "1"]) == 0
    settings = [word for setting in ("batch_size=2", "aki=false") for word in ("--set", setting)]
    assert main(["pretrain", str(root / "store"), str(root / "runs" / "asap"), "--recipe", "asap", "--scale", "toy", "--steps", "1", *settings]) == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("number", ["32", "34", "40", "90"])
def test_a_store_without_truth_or_labels_is_shown_to_the_end(number, own):
    path = next(p for p in NOTEBOOKS if p.stem.startswith(number))
    done, _ = execute(path, own, "-p", "scale", "toy", "-p", "store", str(own / "store"), "-p", "runs", str(own / "runs"))
    assert done.returncode == 0, done.stderr[-3000:]
    answer = nbformat.read(own / path.name, as_version=4).cells[-1].outputs
    assert "could not be measured" in str(answer) and (number == "90" or "asapkit" in str(answer)), "what is missing, and how to get it"
