"""What is known of the 18 findings, as a versioned data file: of what kind each is and where it lies; and how alike two studies are by it.

    kinship of two findings    1 for one and the same, more than 0 where they share a kind or an organ (or what these are part of), else 0
    likeness of two studies    cosine of what is present, each finding with its kin, beside what is absent; what is unknown counts for neither

A file is never changed once results were published with it: another ontology is a new file with a new name.
Source: the place of an "ontology-aware" similarity of reports in SCALE-VLP (2511.02996; methods.md A); the construction and its numbers are our own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from asapkit.objectives import unit
from asapkit.types import FINDINGS, Refused

HERE = Path(__file__).parent
WEIGHTS = ("finding", "kind", "organ", "absent")


@dataclass(frozen=True)
class Ontology:
    """`traits`: a unit vector per finding, `FINDINGS` order, nothing negative in it: the finding itself, its kinds, its organs.

    absent: length of an absent finding's own direction, beside the length 1 of one that is present.
    """

    name: str
    source: str
    absent: float
    traits: Float[Tensor, "F C"]


def known() -> list[str]:
    """Names of the packaged ontologies."""
    return sorted(p.stem for p in HERE.glob("*.json"))


def kinship(traits: Float[Tensor, "F C"]) -> Float[Tensor, "F F"]:
    """How near two findings are, [0, 1]."""
    return traits @ traits.mT


def described(labels: Float[Tensor, "B L"], traits: Float[Tensor, "F C"], *, absent: float) -> Float[Tensor, "B _"]:
    """A study by its labels (1 present, 0 absent, -1 unknown), unit length; zeros where none is known.

    Raises: ValueError for another number of labels than the ontology has findings.
    """
    if labels.shape[1] != len(traits):
        raise ValueError(f"{labels.shape[1]} labels a study, where the ontology has {len(traits)} findings")
    return unit(torch.cat([(labels == 1).float() @ traits, absent * (labels == 0).float()], dim=1))


def alike(studies: Float[Tensor, "B C"]) -> Float[Tensor, "B B"]:
    """How alike studies that were `described` are: symmetric, positive semidefinite, in [0, 1], 1 with itself.

    A study of which nothing is known is like no other.
    """
    own = torch.eye(len(studies), device=studies.device)
    return torch.where(own > 0, own, (studies @ studies.mT).clamp(0, 1))


def read(name: str) -> Ontology:
    """An ontology by name, or from a .json file of your own.

    Raises: ValueError for an unknown name, with those that there are; Refused, in one line, for a file that is no whole ontology of the findings.
    """
    own = name.endswith(".json")
    if not own and name not in known():
        raise ValueError(f"unknown ontology {name!r}; there are {', '.join(known())}, or a .json file of your own")
    file = Path(name) if own else HERE / f"{name}.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Refused(f"{file}: no such file") from error
    except ValueError as error:
        raise Refused(f"{file}: is no JSON ({error})") from error
    if not isinstance(said, dict) or not isinstance(said.get("source"), str):
        raise Refused(f"{file}: must be a JSON object that names its 'source'")
    _require_tables(said, file)
    return Ontology(file.stem, said["source"], float(said["weights"]["absent"]), _traits(said, file))


def _require_tables(said: dict, file: Path) -> None:
    """Raises: Refused for a table that is missing, a weight that is none, a finding too many or too few."""
    if lacking := [table for table in ("weights", "organs", "kinds", "findings") if not isinstance(said.get(table), dict)]:
        raise Refused(f"{file}: {lacking[0]!r} is missing; it is a table by name")
    weights = said["weights"]
    for name in WEIGHTS:
        value = weights.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf") or (name == "finding" and value == 0):
            raise Refused(f"{file}: weight {name!r} is {value!r}; give a number of at least 0 (that of a finding above 0)")
    if wrong := [f for f in said["findings"] if f not in FINDINGS]:
        raise Refused(f"{file}: unknown finding {wrong[0]!r}; there are {', '.join(FINDINGS)}")
    if lacking := [f for f in FINDINGS if f not in said["findings"]]:
        raise Refused(f"{file}: finding {lacking[0]!r} is missing; all {len(FINDINGS)} must be there")


def _traits(said: dict, file: Path) -> Float[Tensor, "F C"]:
    """Square roots of how a finding's weight is spread: over itself, evenly over its kinds, evenly over its organs, and what these are part of."""
    columns = [("finding", f) for f in FINDINGS] + [("kind", k) for k in said["kinds"]] + [("organ", o) for o in said["organs"]]
    place = {column: n for n, column in enumerate(columns)}
    mass = torch.zeros(len(FINDINGS), len(columns))
    for row, finding in enumerate(FINDINGS):
        mass[row, place["finding", finding]] = said["weights"]["finding"]
        for one, table in (("kind", "kinds"), ("organ", "organs")):
            entry = said["findings"][finding]
            of = _with_wholes(entry.get(table) if isinstance(entry, dict) else None, said[table], file=file, whose=f"{finding!r} under {table!r}")
            for name in of:
                mass[row, place[one, name]] = said["weights"][one] / len(of)
    return unit(mass.sqrt())


def _with_wholes(names: object, table: dict, *, file: Path, whose: str) -> list[str]:
    """The names, what they are part of, what that is part of, and so on.  Raises: Refused for what is no list of names of the table."""
    found: list[str] = []
    waiting = [(names, whose)]
    while waiting:
        names, whose = waiting.pop()
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise Refused(f"{file}: {whose} must be a list of names")
        if wrong := [n for n in names if n not in table]:
            raise Refused(f"{file}: unknown name {wrong[0]!r} at {whose}; there are {', '.join(table)}")
        new = [n for n in dict.fromkeys(names) if n not in found]
        found += new
        waiting += [(table[n], repr(n)) for n in new]
    return found
