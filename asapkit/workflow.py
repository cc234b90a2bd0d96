"""Notebooks as batch jobs: names and types checked first, then papermill, HTML beside each, and a matrix that goes on where it stopped.

    run(["notebooks/31_effective_rank.ipynb"], settings={"scale": "toy"}, out="build")

One cell of a matrix is one folder; a notebook run in it leaves `<name>.ipynb`, `<name>.html` and, once it is finished, `<name>.json`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asapkit import parameters
from asapkit.pages import headed
from asapkit.parameters import check as check  # notebooks say workflow.check(globals())

log = logging.getLogger(__name__)

WIDGET = "application/vnd.jupyter.widget-view+json"
OUTPUT = """{{% block data_{kind} scoped %}}<div class="jp-RenderedImage jp-OutputArea-output {{{{ extra_class }}}}">
<img src="data:{mime};base64,{{{{ output.data['{mime}']{filter} | escape_html }}}}"
alt="{{{{ output | get_metadata('alt', '{mime}') | escape_html }}}}">
</div>{{% endblock data_{kind} %}}"""
PICTURES = {"image/png": "", "image/svg+xml": " | text_base64"}  # and what makes base64 of one
PAGE = "".join((
    "{% extends 'lab/index.html.j2' %}",
    *(f"{{% block {name} %}}{{% endblock %}}" for name in (
        "html_head_js_requirejs", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs"
    )),
    *(OUTPUT.format(kind=mime[6:9], mime=mime, filter=encoded) for mime, encoded in PICTURES.items()),
))  # fmt: skip
"""JupyterLab's page without the scripts that it would fetch from elsewhere, and with words for those who do not see its pictures."""


@dataclass(frozen=True)
class Result:
    """What became of one notebook in one cell. `status` is done, finished before (skipped) or failed; `error` is one line."""

    notebook: str
    cell: str
    status: str
    seconds: float
    output: Path
    error: str = ""


@dataclass(frozen=True)
class Job:
    notebook: Path
    cell: str
    settings: dict[str, Any]
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / self.notebook.name

    @property
    def record(self) -> Path:
        return self.output.with_suffix(".json")

    def identity(self) -> dict[str, Any]:
        """What a finished run is known by: the cells of the notebook and the parameters. Outputs and formatting do not count."""
        cells = [c.get("source", "") for c in json.loads(self.notebook.read_text(encoding="utf-8"))["cells"]]
        sources = ["".join(s) if isinstance(s, list) else s for s in cells]
        return {"notebook": hashlib.sha256("\0".join(sources).encode()).hexdigest(), "parameters": json.loads(json.dumps(self.settings))}

    def is_finished(self) -> bool:
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return {k: known.get(k) for k in ("notebook", "parameters")} == self.identity() and self.output.is_file()


def run(
    notebooks: Iterable[str | Path],
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    matrix: str | Path | Mapping | Sequence | None = None,
    skip_finished: bool | None = None,
    progress: bool = True,
) -> list[Result]:
    """Runs every notebook in every cell of the matrix (one cell without a matrix) and goes on after a failure.

    Names and types of all settings are checked against the parameters cell of each notebook before anything runs. A notebook's parameter `out`,
    unless it is among the settings, is the cell's folder. Finished cells of a matrix are skipped; `skip_finished` says so, or not, for any run.
    Finished means the same notebook with the same parameters: what lies in the folders that they name is not compared.

    Raises: ValueError or FileNotFoundError, before anything has run, for what cannot be run as given.
    """
    jobs = plan(notebooks, settings=settings or {}, matrix=matrix, out=Path(out))
    skip = matrix is not None if skip_finished is None else skip_finished
    results = []
    for number, job in enumerate(jobs, start=1):
        if skip and job.is_finished():
            results.append(Result(job.notebook.name, job.cell, "skipped", 0.0, job.output))
            continue
        log.info("%d of %d: %s %s", number, len(jobs), job.notebook.name, job.cell)
        results.append(_run_one(job, progress=progress))
    return results


def plan(notebooks: Iterable[str | Path], *, settings: Mapping[str, Any], matrix: Any, out: Path) -> list[Job]:
    """All jobs, checked. Raises: as `run`."""
    paths = [Path(n) for n in notebooks]
    if not paths:
        raise ValueError("no notebook given")
    names = [p.name for p in paths]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"two notebooks are called {twice[0]}; their results would overwrite each other")
    known = {path: parameters.read(path) for path in paths}
    jobs = []
    for name, cell in cells(matrix).items():
        if both := sorted(set(cell) & set(settings)):
            raise ValueError(f"{both[0]} is set for all cells and by the matrix; set it in one place")
        for path in paths:
            given = parameters.checked({**settings, **cell}, known[path], where=path.name)
            if "out" in known[path]:
                given.setdefault("out", str(out / name))
            given = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}  # papermill writes lists
            jobs.append(Job(path, name, given, out / name))
    return jobs


def cells(matrix: str | Path | Mapping | Sequence | None) -> dict[str, dict[str, Any]]:
    """Cells of a matrix by folder name. A mapping of lists gives every combination, a list of mappings gives its items; None one unnamed cell.

    Raises: ValueError for a file that is neither.
    """
    if matrix is None:
        return {"": {}}
    if isinstance(matrix, str | Path):
        matrix = _read_yaml(Path(matrix))
    if isinstance(matrix, Mapping) and matrix:
        values = [v if isinstance(v, list) else [v] for v in matrix.values()]
        if none := [name for name, v in zip(matrix, values, strict=True) if not v]:
            raise ValueError(f"matrix: {none[0]} has no value, so that there is nothing to run")
        chosen = [dict(zip(matrix, combination, strict=True)) for combination in itertools.product(*values)]
    elif isinstance(matrix, list | tuple) and matrix and all(isinstance(c, Mapping) for c in matrix):
        chosen = [dict(c) for c in matrix]
    else:
        raise ValueError("a matrix is a mapping `name: [values]`, or a list of mappings `name: value`")
    named: dict[str, dict[str, Any]] = {}
    for cell in chosen:
        name = _folder_name(cell)
        if name in named and named[name] != cell:
            name = f"{name}-{_digest(cell)}"
        named[name] = cell
    return named


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable YAML: {_one_line(str(error))}") from error


def _folder_name(cell: Mapping[str, Any]) -> str:
    written = ",".join(f"{k}={'-'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in cell.items())
    safe = re.sub(r"[^\w.,=+-]+", "_", written)
    return safe if len(safe) <= 120 else f"{safe[:100]}-{_digest(cell)}"


def _digest(cell: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(cell, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _run_one(job: Job, *, progress: bool) -> Result:
    from papermill.exceptions import PapermillExecutionError

    job.folder.mkdir(parents=True, exist_ok=True)
    job.record.unlink(missing_ok=True)
    identity = job.identity()
    start, status, error = time.perf_counter(), "done", ""
    try:
        execute(job.notebook, job.output, settings=job.settings, progress=progress)
    except PapermillExecutionError as failure:
        status, error = "failed", _one_line(f"{failure.ename}: {failure.evalue}")
    except Exception as failure:  # a kernel that died, a full disk: this notebook failed, the others still run
        status, error = "failed", _one_line(f"{type(failure).__name__}: {failure}")
    if job.output.is_file():
        export_html(job.output, pictures_from=job.notebook.parent)
    result = Result(job.notebook.name, job.cell, status, round(time.perf_counter() - start, 1), job.output, error)
    if status == "done":
        _write_record(job, identity, result)
    return result


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _write_record(job: Job, identity: dict, result: Result) -> None:
    from asapkit import version

    record = identity | {"seconds": result.seconds, "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "asapkit": version()}
    partial = job.record.with_suffix(".json.part")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, job.record)


def execute(notebook: Path, output: Path, *, settings: Mapping[str, Any], progress: bool = True) -> None:
    """One notebook through papermill, with a kernel of this very interpreter whatever kernels are installed.

    Raises: papermill's PapermillExecutionError; the executed part is in `output`.
    """
    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]  # not a warning per kernel
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters=dict(settings),
        kernel_name="python3",
        language="python",
        kernel_manager_class=ThisInterpreter,
        progress_bar={"desc": notebook.stem, "leave": True} if progress else False,
        start_timeout=120,
    )


def export_html(notebook: Path, *, pictures_from: Path) -> Path:
    """An executed notebook as one HTML file with its pictures inside; those that its text links to are looked up from `pictures_from`.

    The page asks for nothing beyond itself. Widgets need their kernel, so they stay out: their static twins are on the page.
    """
    import nbformat
    from nbconvert import HTMLExporter

    node = nbformat.read(notebook, as_version=4)
    for cell, heading in headed(node.cells):
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            for output, mime in itertools.product(cell.outputs, PICTURES):
                if mime in output.get("data", {}):
                    output.metadata.setdefault(mime, {}).setdefault("alt", heading)
        elif cell.cell_type == "markdown":
            _attach_pictures(cell, pictures_from, called=heading)
    html, _ = HTMLExporter(raw_template=PAGE).from_notebook_node(node, {"metadata": {"name": notebook.stem}})
    target = notebook.with_suffix(".html")
    target.write_text(html, encoding="utf-8")
    return target


def _attach_pictures(cell, folder: Path, *, called: str) -> None:
    """Linked PNG files become attachments of their cell: nbconvert's own embedding leaves out those above the notebook's folder.

    called: what one without words of its own is.
    """

    def attach(link: re.Match) -> str:
        file = folder / link["path"]
        if not file.is_file():
            return link[0]
        cell.setdefault("attachments", {})[file.name] = {"image/png": base64.b64encode(file.read_bytes()).decode("ascii")}
        return f"![{link['text'] or called}](attachment:{file.name})"

    cell.source = re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^):]+\.png)\)", attach, cell.source)


def as_table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Results as rows for a csv or a printed table."""
    return [asdict(r) | {"output": str(r.output)} for r in results]
