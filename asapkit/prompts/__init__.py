"""What is said to networks, as versioned data files: pairs of statements for zero-shot scores, instructions for labelling reports.

A file is never changed once results were published with it: a new wording is a new file with a new name.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from asapkit.types import FINDINGS, Refused

HERE = Path(__file__).parent
SETS = ("zeroshot", "labels")


@dataclass(frozen=True)
class Statements:
    """A zero-shot set. `{}` stands for a finding as `FINDINGS` spells it; several templates of one side are averaged; "" says nothing at all.

    `without`: findings that the set leaves out, as the work that it comes from did.
    """

    name: str
    source: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    without: tuple[str, ...] = ()

    def of(self, finding: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is said for a finding, and against it."""
        return tuple(t.replace("{}", finding) for t in self.positive), tuple(t.replace("{}", finding) for t in self.negative)


@dataclass(frozen=True)
class Instructions:
    """What a language model is told about labelling. `forms`: how to answer, by name; `again`: after an answer that was not of that form."""

    name: str
    source: str
    system: str
    user: str
    forms: dict[str, str]
    again: str
    digest: str = ""

    def messages(self, findings: str, impression: str, *, form: str) -> list[dict[str, str]]:
        """The two turns that begin a conversation. In one pass: what a report says in braces stays what it is."""
        texts = {"findings": findings, "impression": impression}
        system = self.system.replace("{names}", "\n".join(FINDINGS)).replace("{form}", self.forms[form])
        user = re.sub(r"\{(findings|impression)\}", lambda slot: texts[slot[1]], self.user)
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def known(kind: str = "zeroshot") -> list[str]:
    """Names of the packaged sets of a kind."""
    return sorted(p.stem for p in (HERE / kind).glob("*.json"))


def statements(name: str) -> Statements:
    """A zero-shot set by name, or from a .json file of your own.

    Raises: ValueError for an unknown name, with those that there are; Refused for a file that is no such set.
    """
    file, said, _ = _read(name, "zeroshot")
    for side in ("positive", "negative"):
        if not isinstance(said.get(side), list) or not said[side] or not all(isinstance(t, str) and t.count("{}") <= 1 for t in said[side]):
            raise Refused(f"{file}: {side!r} must be a list of statements with {{}} where the finding stands")
    if not all("{}" in t for t in said["positive"]):
        raise Refused(f"{file}: a positive statement has no {{}} where the finding stands")
    if not isinstance(said.get("without", []), list):
        raise Refused(f"{file}: 'without' must be a list of findings")
    if wrong := [f for f in said.get("without", []) if f not in FINDINGS]:
        raise Refused(f"{file}: unknown finding {wrong[0]!r} under 'without'; there are {', '.join(FINDINGS)}")
    return Statements(file.stem, said["source"], tuple(said["positive"]), tuple(said["negative"]), tuple(said.get("without", ())))


def instructions(name: str) -> Instructions:
    """Instructions for labelling by name, or from a .json file of your own.  Raises: as `statements`."""
    file, said, digest = _read(name, "labels")
    if lacking := [k for k in ("system", "user", "again") if not isinstance(said.get(k), str)]:
        raise Refused(f"{file}: {lacking[0]!r} is missing; it is a text")
    forms = said.get("forms")
    if not isinstance(forms, dict) or not all(isinstance(forms.get(k), str) for k in ("line", "object")):
        raise Refused(f"{file}: 'forms' must say how to answer as a line and as an object")
    if "{findings}" not in said["user"] or "{impression}" not in said["user"] or "{names}" not in said["system"] or "{form}" not in said["system"]:
        raise Refused(f"{file}: 'system' needs {{names}} and {{form}}, 'user' needs {{findings}} and {{impression}}")
    return Instructions(file.stem, said["source"], said["system"], said["user"], dict(forms), said["again"], digest)


def _read(name: str, kind: str) -> tuple[Path, dict, str]:
    own = name.endswith(".json")
    if not own and name not in known(kind):
        raise ValueError(f"unknown prompt set {name!r}; there are {', '.join(known(kind))}, or a .json file of your own")
    file = Path(name) if own else HERE / kind / f"{name}.json"
    try:
        written = file.read_bytes()
        said = json.loads(written)
    except FileNotFoundError as error:
        raise Refused(f"{file}: no such file") from error
    except ValueError as error:
        raise Refused(f"{file}: is no JSON ({error})") from error
    if not isinstance(said, dict) or not isinstance(said.get("source"), str):
        raise Refused(f"{file}: must be a JSON object that names its 'source'")
    return file, said, hashlib.sha256(written).hexdigest()[:12]
