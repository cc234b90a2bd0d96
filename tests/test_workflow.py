"""Notebooks as batch jobs: what is refused before anything runs, what is coerced, what a matrix skips and what a failure leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import nbformat
import pytest
import yaml

from asapkit import parameters, workflow

PARAMETERS = """
lr: float = 1.5e-4  # learning rate
top_k: list[int] = [1, 2]  # visible patches
scale: str = "toy"  # toy | small
store: str | None = None
verbose: bool = False
out: str = "build"  # figures go here
volumes: int = 5  # held-out volumes, 1 or more
patch: int = -1  # which patch, -1 or more; -1: the fullest
""".strip()


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    node.cells = [nbformat.v4.new_markdown_cell("# A question?"), nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    node.cells += [nbformat.v4.new_code_cell(c) for c in ("from asapkit import workflow\nworkflow.check(globals())", *cells)]
    nbformat.write(node, path)
    return path


@pytest.fixture
def notebook(tmp_path) -> Path:
    save = "from pathlib import Path\nPath(out).mkdir(parents=True, exist_ok=True)\n(Path(out) / 'ran.txt').write_text(repr((lr, top_k)))"
    return write_notebook(tmp_path / "10_ask.ipynb", save)


def test_parameters_are_read_with_type_default_and_meaning(notebook):
    known = parameters.read(notebook)
    assert list(known) == ["lr", "top_k", "scale", "store", "verbose", "out", "volumes", "patch"]
    assert [p.least for p in known.values()] == [None] * 6 + [1, -1]
    assert known["lr"] == parameters.Parameter("lr", "float", 1.5e-4, "learning rate")
    assert known["top_k"].default == [1, 2]


@pytest.mark.parametrize(
    "annotation, given, value",
    [
        ("float", "1e-3", 1e-3),  # YAML reads it as a string
        ("float", 1, 1.0),
        ("int", "4", 4),
        ("int", "1e3", 1000),
        ("bool", "true", True),
        ("bool", False, False),
        ("str", "toy", "toy"),
        ("str | None", "none", None),
        ("str | None", "asap", "asap"),
        ("int | str", "7", 7),
        ("list[int]", "[1, 2]", [1, 2]),  # papermill's -p
        ("list[int]", "1,2", [1, 2]),
        ("list[int]", "3", [3]),
        ("list[str]", "asap, mae", ["asap", "mae"]),
        ("list[str]", "[asap, mae]", ["asap", "mae"]),
        ("tuple[float, float, float]", "[3, 3, 6]", (3.0, 3.0, 6.0)),
        ("tuple[int, ...]", (1, 2), (1, 2)),
        ("dict[str, float]", "{organs: 0.0}", {"organs": 0.0}),
        ("Literal['correct', 'official']", "official", "official"),
        ("list", "[1, a]", [1, "a"]),
    ],
)
def test_values_become_the_annotated_type(annotation, given, value):
    result = parameters.as_type(given, annotation, name="x")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "annotation, given",
    [
        ("float", "fast"), ("int", 1.5), ("int", "inf"), ("int", True), ("bool", "maybe"), ("bool", 3), ("str", 3), ("list[int]", "[1, x]"),
        ("tuple[int, int]", "[1, 2, 3]"), ("Literal['a', 'b']", "c"), ("dict[str, float]", "[1]"), ("int | None", "many"), ("float", None),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(annotation, given):
    with pytest.raises(ValueError, match=r"^x must be .*, not "):
        parameters.as_type(given, annotation, name="x")


@pytest.mark.parametrize(
    "source", ["lr = 1e-4", "lr: float", "lr: float = abs(-1)", "import os\nlr: float = 1.0"], ids=["bare", "no value", "no literal", "an import"]
)
def test_a_parameters_cell_holds_annotated_literals_only(source):
    with pytest.raises(ValueError):
        parameters.declared(source)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lrr": 1}, "10_ask.ipynb has no parameter 'lrr'; did you mean lr"),
        ({"lr": "fast"}, "lr must be float, not 'fast'"),
        ({"top_k": "[a]"}, "top_k must be"),
        ({"scale": 7}, "scale must be str, not 7"),
        ({"scale": "7"}, "scale must be one of toy, small, not '7'"),
        ({"volumes": -3}, "volumes must be 1 or more, not -3"),
        ({"volumes": "0"}, "volumes must be 1 or more, not '0'"),
        ({"patch": -2}, "patch must be -1 or more, not -2"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(notebook, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        workflow.run([notebook], settings=settings, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_wrong_cell_of_a_matrix_stops_all_before_anything_runs(notebook, tmp_path):
    with pytest.raises(ValueError, match="lr must be float"):
        workflow.run([notebook], matrix={"lr": [1e-3, "fast"]}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("written", ["3", "[]", "{}", "[a]", "[1, 2]", ""])
def test_a_matrix_of_another_form_is_refused(tmp_path, written):
    (tmp_path / "matrix.yaml").write_text(written)
    with pytest.raises(ValueError, match="matrix: lr has no value"):
        workflow.cells({"lr": []})
    with pytest.raises(ValueError, match="a matrix is"):
        workflow.cells(tmp_path / "matrix.yaml")


def test_a_matrix_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "matrix.yaml").write_text("a: [1\nb: }")
    with pytest.raises(ValueError, match="is not readable YAML"):
        workflow.cells(tmp_path / "matrix.yaml")


def test_a_setting_in_two_places_is_refused(notebook, tmp_path):
    with pytest.raises(ValueError, match="lr is set for all cells and by the matrix"):
        workflow.run([notebook], settings={"lr": 1}, matrix={"lr": [1, 2]}, out=tmp_path)


def test_missing_and_broken_notebooks_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        workflow.run([tmp_path / "absent.ipynb"], out=tmp_path)
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.ipynb is not a readable notebook"):
        workflow.run([broken], out=tmp_path)


def test_a_mapping_gives_every_combination_and_a_list_its_items():
    assert list(workflow.cells({"lr": [1, 2], "scale": ["toy", "small"]})) == [
        "lr=1,scale=toy", "lr=1,scale=small", "lr=2,scale=toy", "lr=2,scale=small",
    ]  # fmt: skip
    assert workflow.cells([{"lr": 1}, {"scale": "toy"}]) == {"lr=1": {"lr": 1}, "scale=toy": {"scale": "toy"}}


def test_cells_whose_names_look_alike_keep_apart():
    assert len(workflow.cells({"store": ["a/b", "a b", "x" * 200, "x" * 201]})) == 4


@pytest.mark.slow
def test_a_run_executes_exports_and_records(notebook, tmp_path):
    (result,) = workflow.run([notebook], settings={"lr": "1e-3", "top_k": "4,5"}, out=tmp_path / "out")
    assert result.status == "done", result.error
    assert (tmp_path / "out" / "ran.txt").read_text() == "(0.001, [4, 5])", "`out` of the notebook is the run's folder"
    assert "A question?" in (tmp_path / "out" / "10_ask.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.slow
def test_a_page_holds_its_pictures_and_asks_for_nothing_else(tmp_path, root):
    """Pictures above the notebook's folder too; no script from elsewhere; no widget, which would need its kernel."""
    picture = sorted((root / "figures").glob("*.png"))[0]
    node = nbformat.v4.new_notebook()
    shown = [
        nbformat.v4.new_output("display_data", {"text/plain": text} | more) for text, more in (("a number", {}), ("a widget", {workflow.WIDGET: {}}))
    ]
    node.cells = [nbformat.v4.new_markdown_cell(f"![one](../figures/{picture.name}) ![two](../figures/none.png)")]
    pixel = {"image/png": b64encode(picture.read_bytes()[:90]).decode()}
    shown += [nbformat.v4.new_output("display_data", pixel, metadata=told) for told in ({"image/png": {"alt": "what is <seen>"}}, {})]
    shown += [nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"}, metadata={"image/svg+xml": {"alt": "a chart of it"}})]
    node.cells += [nbformat.v4.new_markdown_cell("## What is asked"), nbformat.v4.new_code_cell("1", outputs=shown)]
    nbformat.write(node, tmp_path / "10_ask.ipynb")
    page = workflow.export_html(tmp_path / "10_ask.ipynb", pictures_from=root / "notebooks").read_text(encoding="utf-8")
    assert b64encode(picture.read_bytes()).decode() in page
    assert "../figures/none.png" in page, "what is not there stays a link"
    assert "a number" in page
    assert "a widget" not in page
    assert re.findall(r'<img[^>]*alt="([^"]*)"', page) == ["one", "two", "what is &lt;seen&gt;", "What is asked", "a chart of it"]
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](https?:)?//", page)
    assert "cdnjs" not in page and "unpkg" not in page


@pytest.mark.slow
def test_a_matrix_goes_on_after_a_failure_and_skips_what_is_finished(tmp_path):
    """The second run executes the failed cell alone; a changed notebook runs again."""
    flag = tmp_path / "mended"
    fails = f"import pathlib\nif lr > 1 and not pathlib.Path({str(flag)!r}).exists():\n    raise RuntimeError('too fast')"
    notebook = write_notebook(tmp_path / "10_ask.ipynb", fails)
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(yaml.safe_dump({"lr": ["1e-3", 2]}))
    first = workflow.run([notebook], matrix=matrix, out=tmp_path / "out")
    assert [r.status for r in first] == ["done", "failed"]
    assert first[1].error == "RuntimeError: too fast"
    assert first[1].output.with_suffix(".html").is_file(), "what a failed notebook got to is there to be read"
    flag.touch()
    assert [r.status for r in workflow.run([notebook], matrix=matrix, out=tmp_path / "out")] == ["skipped", "done"]
    write_notebook(notebook, "lr")
    assert [r.status for r in workflow.run([notebook], matrix=matrix, out=tmp_path / "out")] == ["done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "lr", "1e-3", "-p", "top_k", "[4, 5]"], None),
        (["-p", "lrr", "1"], "this notebook has no parameter 'lrr'; did you mean lr?"),
        (["-p", "lr", "fast"], "lr must be float, not 'fast'"),
    ],
    ids=["right", "wrong name", "wrong type"],
)
def test_plain_papermill_checks_names_and_types_too(notebook, tmp_path, arguments, message):
    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-k", "python3", "--no-progress-bar", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if message:
        assert done.returncode
        assert message in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "build" / "ran.txt").read_text() == "(0.001, [4, 5])"


def test_check_works_in_a_script_too():
    namespace = {}
    exec("lr: float = '1e-3'\nnames: list[str] = 'a,b'", namespace)
    assert workflow.check(namespace) == {"lr": 1e-3, "names": ["a", "b"]}
    assert namespace["lr"] == 1e-3
    with pytest.raises(ValueError, match="no parameters cell"):
        workflow.check({})
