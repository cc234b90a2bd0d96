"""The house stands as it was drawn: imports flow one way, names say what they mean, files and functions stay short, `import asapkit` is light."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "asapkit"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A room (first name below asapkit) and the rooms that it may import. A module that is in no room fails: say where it belongs.
WORDS = {"types", "config"}
DATA = {
    "ct", "formats", "dicom", "chest", "organs", "reports", "prompts", "labels", "phantom", "datasets", "doctor", "machine", "store", "preprocess",
    "tables", "workers", "writing",
}  # fmt: skip
NETS = {
    "stem", "slices", "vit3d", "rotary", "stages", "swin", "resnet", "encoders", "language", "blanks", "pairing", "pooling", "codebook", "masking",
    "selection", "alignment", "objectives", "ontology", "anatomy", "metrics", "analysis", "dependence",
}  # fmt: skip
METHODS = {"recipes"}
STEPS = {"batch"}
TRAINING = {"train", "distributed", "sources", "optimisers", "checkpoint", "released", "peers", "hub", "features", "status", "runs", "verdict"}
TASKS = {"tasks"}
SHOWING = {"figures", "drawing", "planes", "overlays", "plates", "charts", "ranks", "explore", "viewer", "look", "examples", "exhibits"}
RUNNING = {"estimate", "parity", "scores", "parameters", "workflow", "jobs", "evidence", "gallery", "pages", "__main__"}
FLOW = [
    (WORDS, WORDS),
    (DATA, WORDS | DATA),
    (NETS, WORDS | NETS),
    (METHODS, WORDS | NETS),
    (STEPS, WORDS | DATA | NETS | STEPS),
    (TRAINING, WORDS | DATA | NETS | METHODS | STEPS | TRAINING),
    (TASKS, WORDS | DATA | NETS | METHODS | STEPS | TRAINING | TASKS),
    (SHOWING, WORDS | DATA | NETS | METHODS | STEPS | TRAINING | TASKS | SHOWING),
    (RUNNING, WORDS | DATA | NETS | METHODS | STEPS | TRAINING | TASKS | SHOWING | RUNNING),
]
MAY_IMPORT = {room: allowed for rooms, allowed in FLOW for room in rooms}
SEES_NO_NETWORK = ("figures", "analysis")
NETWORKS = {"vit3d", "swin", "resnet", "language", "recipes", "train", "checkpoint"}

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "engine"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Import names that differ from the distribution that brings them.
DISTRIBUTIONS = {
    "sklearn": "scikit-learn", "SimpleITK": "simpleitk", "yaml": "PyYAML", "PIL": "pillow", "dask": "distributed", "IPython": "ipykernel",
    "traitlets": "ipykernel", "jupyter_client": "ipykernel", "tokenizers": "transformers", "PySide6": "PySide6-Essentials", "qtpy": "napari",
    "vispy": "napari", "magicgui": "napari", "npe2": "napari",
}  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """asapkit.tasks.classify -> tasks"""
    return (module.split(".") + [""])[1]


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports, anywhere in it unless told; imports for type checkers only do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found.update(f"{source}.{alias.name}" for alias in node.names)
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def own_rooms(path: Path, *, top_level_only: bool = False) -> set[str]:
    return {room(name) for name in imports(path, top_level_only=top_level_only) if name.startswith("asapkit.")} - {"__version__", "version"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_flow_one_way(path):
    here = room(module_name(path))
    if not here:
        assert not own_rooms(path), "asapkit/__init__.py imports submodules lazily, by name only"
        return
    assert here in MAY_IMPORT, f"{path.name} is in no room: add it to the flow in this test and to the tree in README.md"
    wrong = own_rooms(path) - MAY_IMPORT[here] - {here}
    assert not wrong, f"{module_name(path)} imports {', '.join(sorted(wrong))}, against the flow of imports"


@pytest.mark.parametrize("folder", ["recipes", "datasets", "tasks"])
def test_siblings_do_not_import_each_other(folder):
    """A recipe never imports another recipe; datasets and tasks neither. What two share moves down a room."""
    for path in (PACKAGE / folder).glob("*.py"):
        mine = module_name(path)
        others = {f"asapkit.{folder}.{p.stem}" for p in (PACKAGE / folder).glob("[a-z]*.py")} - {mine}
        met = {name for name in imports(path) if any(f"{name}.".startswith(f"{other}.") for other in others)}
        assert not met or path.name == "__init__.py", f"{mine} imports {', '.join(sorted(met))}"


@pytest.mark.parametrize("start", SEES_NO_NETWORK)
def test_figures_and_analysis_never_reach_a_network(start):
    seen, queue = set(), [start]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        files = [PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py")]
        for path in files:
            if path.is_file():
                queue.extend(own_rooms(path))
    assert not seen & NETWORKS, f"{start} reaches {', '.join(sorted(seen & NETWORKS))}"


@pytest.mark.parametrize("path", [p for p in SOURCES if room(module_name(p)) in DATA], ids=module_name)
def test_the_data_side_needs_torch_for_its_types_only(path):
    torch = {name for name in imports(path, top_level_only=True) if name.split(".")[0] == "torch"}
    assert not torch, f"{module_name(path)} imports torch at the top: inside a function, if it must"


@pytest.mark.parametrize("path", [p for p in SOURCES if room(module_name(p)) != "viewer"], ids=module_name)
def test_only_the_viewer_knows_napari_and_qt(path):
    gui = {name for name in imports(path) if name.split(".")[0] in {"napari", "qtpy", "PySide6", "vispy", "magicgui"}}
    assert not gui, f"{module_name(path)} imports {', '.join(sorted(gui))}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_and_functions_stay_short_and_well_named(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, f"{path.name}: {text.count(chr(10))} lines, at most {MAX_FILE_LINES}"
    assert not FORBIDDEN_NAMES & set(module_name(path).split(".")), f"{path.name}: say what it holds"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__main__.py"], ids=module_name)
def test_the_library_prints_nothing(path):
    """Progress goes through tqdm, the rest through logging and warnings; only the command line prints."""
    calls = [
        n.lineno for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
    ]
    assert not calls, f"{path.name} prints in line {calls[0]}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_functions_take_few_positional_arguments_and_no_boolean_ones(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_") or node.name in ("forward", "train"):
            continue  # private, or torch.nn.Module's own signatures
        positional = [a for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
        booleans = [a.arg for a in positional if a.annotation is not None and ast.unparse(a.annotation) == "bool"]
        assert not booleans, f"{path.name}: {node.name} takes {booleans[0]} by position; put it after *"
        assert len(positional) <= 4, f"{path.name}: {node.name} takes {len(positional)} arguments by position; put all but the data after *"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_debugger_and_no_fixed_device(path):
    text = path.read_text(encoding="utf-8")
    for wrong in (r"\.cuda\(", r"\bbreakpoint\(", r"\bi?pdb\b"):
        assert not re.search(wrong, text), f"{path.name} holds {wrong}"


def test_no_machine_path_is_tracked():
    """Paths are parameters, relative, or the tests' tmp_path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    machine_path = re.compile(r"(?<![\w.}])/(?:root|work|home|tmp|mnt)/\w")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".png", ".gz", ".npz", ".safetensors", ".parquet"} or not path.is_file():
            continue
        hit = machine_path.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not hit, f"{name} holds the machine path {hit.group()}..."


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[\[<>=~!; ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in listed}
    for path in SOURCES:
        for name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "asapkit":
                continue
            distribution = DISTRIBUTIONS.get(top, top).lower().replace("_", "-")
            assert distribution in declared, f"{path.name} imports {top}, which pyproject.toml does not declare"


def test_import_is_light():
    """`import asapkit` takes under a second and loads neither torch nor napari; so does asking for the version."""
    code = (
        "import time; t = time.perf_counter(); import asapkit, asapkit.__main__; s = time.perf_counter() - t; import sys; "
        "print(s, *[m for m in ('torch', 'napari', 'pandas', 'transformers', 'SimpleITK', 'matplotlib') if m in sys.modules])"
    )
    seconds, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy
    assert float(seconds) < 1


def test_the_version_is_the_installed_one():
    import asapkit

    assert asapkit.version() == metadata.version("asapkit") == asapkit.__version__


def test_shapes_are_checked_while_tests_run():
    """The hook of conftest.py: a one-dimensional array where (N, D) is annotated fails at the call, not in some later sum."""
    import numpy as np
    from jaxtyping import TypeCheckError

    from asapkit import analysis

    with pytest.raises(TypeCheckError):
        analysis.effective_rank(np.ones(3))
