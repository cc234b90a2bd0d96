"""Names and types of a notebook's parameters: read from its parameters cell, checked before a run and again inside the notebook.

papermill hands lists over as strings, YAML reads `1e-3` as a string, and a name that no cell declares only warns: all three end here,
in a value of the annotated type or in one line that says what is wrong.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INJECTED = "# Parameters"  # how papermill's injected cell begins
NONE_WORDS = ("", "none", "null")
BOOLEAN_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `lr: float = 1.5e-4  # learning rate`."""

    name: str
    annotation: str
    default: Any
    meaning: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a meaning such as `toy | small | base` allows; empty where it is written otherwise."""
        words = tuple(self.meaning.split(" | "))
        return words if len(words) > 1 and self.default in words else ()

    @property
    def least(self) -> int | None:
        """The smallest number that a meaning such as `volumes to read, 1 or more` allows."""
        said = re.search(r"(?<![\w.-])(-?\d+) or more\b", self.meaning)
        return int(said[1]) if said else None

    def value(self, given: Any) -> Any:
        """`given` as the annotated type. Raises: ValueError naming the parameter, its type, choices or least value, and what was given."""
        value = as_type(given, self.annotation, name=self.name)
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}, not {given!r}")
        if self.least is not None and value < self.least:
            raise ValueError(f"{self.name} must be {self.least} or more, not {given!r}")
        return value


def read(notebook: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, in order.

    Raises: ValueError if the file is no notebook, or has no cell tagged `parameters`, or several.
    """
    import nbformat

    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{notebook} is not a readable notebook: {error}") from error
    tagged = [c.source for c in cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f"{Path(notebook).name} has {len(tagged)} code cells tagged `parameters`; it needs one")
    return declared(tagged[0], where=Path(notebook).name)


def declared(source: str, *, where: str = "the parameters cell") -> dict[str, Parameter]:
    """The parameters of a cell's source: annotated assignments of literals and nothing else.

    Raises: ValueError naming the line that is anything else.
    """
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(f"{where}: {ast.unparse(node)!r} is not of the form `name: type = value  # meaning`")
        try:
            default = ast.literal_eval(node.value)
        except ValueError as error:
            raise ValueError(f"{where}: the value of {node.target.id} is not a literal") from error
        meaning = lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2].strip()
        found[node.target.id] = Parameter(node.target.id, ast.unparse(node.annotation), default, meaning)
    return found


def checked(given: Mapping[str, Any], known: Mapping[str, Parameter], *, where: str) -> dict[str, Any]:
    """`given` with every value as its parameter's type. Raises: ValueError for a name that is not known or a value of another type."""
    refuse_unknown(given, known, where=where)
    return {name: known[name].value(value) for name, value in given.items()}


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{where} has no parameter {name!r}; {hint}there are {', '.join(known)}")


def check(namespace: MutableMapping[str, Any]) -> dict[str, Any]:
    """For the cell after a notebook's parameters: `workflow.check(globals())`.

    Refuses injected names that the parameters cell does not declare, turns injected strings into the annotated types in place, and
    returns the parameters. Works under papermill, in JupyterLab, and in a script made from the notebook.

    Raises: ValueError naming the parameter, whether the notebook was run by `asapkit run`, by papermill or by hand.
    """
    known, injected = _from_history([str(s) for s in namespace.get("In", ())])
    if not known:  # no IPython: what Python itself remembers of annotated assignments
        known = {n: Parameter(n, _written(a), namespace.get(n)) for n, a in namespace.get("__annotations__", {}).items()}
    if not known:
        raise ValueError("no parameters cell was run before this one; run the cell tagged `parameters` first")
    refuse_unknown(injected, known, where="this notebook")
    values = {name: p.value(namespace[name]) for name, p in known.items()}
    namespace.update(values)
    return values


def _from_history(sources: list[str]) -> tuple[dict[str, Parameter], list[str]]:
    """Parameters declared, and names injected, by the cells run so far (the latest parameters cell counts)."""
    known: dict[str, Parameter] = {}
    injected: list[str] = []
    for source in sources:
        try:
            body = ast.parse(source).body
        except SyntaxError:
            continue
        if source.lstrip().startswith(INJECTED):
            injected = [t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)]
        elif body and all(isinstance(node, ast.AnnAssign) for node in body):
            known = declared(source)
    return known, injected


def _written(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) else str(annotation)


def as_type(given: Any, annotation: str, *, name: str) -> Any:
    """`given` as the type that an annotation's source names: str, int, float, bool, list[...], tuple[...], dict[...], Literal[...], unions.

    Strings are read as values of the type ("1e-3" is a float, "[1, 2]" and "1,2" are lists). Raises: ValueError in one line.
    """
    try:
        return _convert(given, ast.parse(annotation.removeprefix("typing."), mode="eval").body)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"{name} must be {annotation}, not {given!r}") from error


def _convert(given: Any, kind: ast.expr) -> Any:
    if isinstance(kind, ast.BinOp):
        return _first_that_fits(given, _members(kind))
    if isinstance(kind, ast.Constant) and kind.value is None:
        if given is None or (isinstance(given, str) and given.lower() in NONE_WORDS):
            return None
        raise ValueError
    if isinstance(kind, ast.Subscript):
        return _convert_container(given, ast.unparse(kind.value).removeprefix("typing."), kind.slice)
    name = ast.unparse(kind)
    if name in ("list", "tuple", "dict"):
        return _convert_container(given, name, None)
    return {"str": _text, "Path": _text, "int": _whole, "float": _number, "bool": _boolean}[name](given)


def _members(kind: ast.expr) -> list[ast.expr]:
    """The members of a union, None first so that "none" is not taken as text."""
    members = [*_members(kind.left), *_members(kind.right)] if isinstance(kind, ast.BinOp) else [kind]
    return sorted(members, key=lambda m: not (isinstance(m, ast.Constant) and m.value is None))


def _first_that_fits(given: Any, kinds: list[ast.expr]) -> Any:
    for kind in kinds:
        try:
            return _convert(given, kind)
        except (ValueError, TypeError, SyntaxError):
            continue
    raise ValueError


def _convert_container(given: Any, name: str, inner: ast.expr | None) -> Any:
    if name == "Literal":
        options = [ast.literal_eval(e) for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
        matching = [o for o in options if o == given or (isinstance(given, str) and str(o) == given)]
        if not matching:
            raise ValueError
        return matching[0]
    value = _parsed(given) if isinstance(given, str) else given
    if name == "dict":
        if not isinstance(value, Mapping):
            raise ValueError
        key, item = inner.elts if inner is not None else (None, None)
        return {_convert(k, key): _convert(v, item) for k, v in value.items()} if inner is not None else dict(value)
    if isinstance(given, str) and not isinstance(value, list | tuple):
        value = [part.strip() for part in given.split(",")]
    if not isinstance(value, list | tuple):
        raise ValueError
    return _convert_items(value, name, inner)


def _convert_items(value: list | tuple, name: str, inner: ast.expr | None) -> list | tuple:
    build = list if name == "list" else tuple
    if inner is None:
        return build(value)
    kinds = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "list" or (len(kinds) == 2 and isinstance(kinds[1], ast.Constant) and kinds[1].value is Ellipsis):
        return build(_convert(v, kinds[0]) for v in value)
    if len(kinds) != len(value):
        raise ValueError
    return tuple(_convert(v, k) for v, k in zip(value, kinds, strict=True))


def _parsed(text: str) -> Any:
    """A string as the Python or YAML value that it writes; itself if it is neither."""
    import yaml

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


def _text(given: Any) -> str:
    if not isinstance(given, str | Path):
        raise ValueError
    return str(given)


def _boolean(given: Any) -> bool:
    if isinstance(given, str):
        return BOOLEAN_WORDS[given.lower()] if given.lower() in BOOLEAN_WORDS else _refuse()
    return given if isinstance(given, bool) else _refuse()


def _whole(given: Any) -> int:
    number = _number(given)
    return int(number) if math.isfinite(number) and number == int(number) else _refuse()


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    return float(given)


def _refuse() -> Any:
    raise ValueError


def for_recipe(recipe: str, scale: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """`given` as the Config of a scale and the options of a recipe's Method, each value as its annotated type.

    Raises: ValueError for an unknown scale or recipe, a name that neither knows, or a value of another type.
    """
    import dataclasses
    import inspect

    from asapkit.config import Config
    from asapkit.train import recipe_module

    fields = {f.name: f.type for f in dataclasses.fields(Config)}
    module = recipe_module(recipe)
    method = inspect.signature(module.Method.__init__).parameters
    options = {n: p.annotation for n, p in method.items() if p.kind is p.KEYWORD_ONLY and n != "vocabulary"}
    refuse_unknown(given, [*fields, *options, *getattr(module, "CORRECT", ())], where=f"recipe {recipe}")  # the last: switches of a fidelity
    settings = {n: as_type(v, fields[n], name=n) for n, v in given.items() if n in fields}
    chosen = {n: as_type(v, _written(options[n]), name=n) for n, v in given.items() if n in options}
    further = {n: _parsed(v) if isinstance(v, str) else v for n, v in given.items() if n not in fields and n not in options}
    return Config.at(scale, **settings), chosen | further
