"""A table of reports through a labeller: answers kept on disk, a text asked for once, abstentions counted."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
from tqdm.auto import tqdm

from asapkit.labels.answers import VALUES, Abstained
from asapkit.types import FINDINGS, Refused

log = logging.getLogger(__name__)
NOT_ASKED = "not asked: the labeller failed for the reports before"


@runtime_checkable
class Labeller(Protocol):
    """Anything that reads labels out of a report. `identity`: all that its answers depend on, for the cache; None where keeping them is no use."""

    name: str
    identity: str | None

    def label(self, id: str, findings: str, impression: str = "") -> dict[str, int]:
        """1 present, 0 absent, -1 open for each of `FINDINGS`.  Raises: Abstained."""
        ...


@dataclass(frozen=True)
class Labelled:
    """Labels by id (all -1 where the labeller abstained), why it abstained, and how many reports were answered from the cache."""

    table: pd.DataFrame  # index id, columns FINDINGS
    abstained: dict[str, str]
    labeller: str
    identity: str
    cached: int

    def __str__(self) -> str:
        said = f"{len(self.table) - len(self.abstained)} of {len(self.table)} reports labelled by {self.labeller}, {self.cached} from the cache"
        reasons = Counter(self.abstained.values())
        return said + (f"; abstained: {', '.join(f'{n} {why}' for why, n in reasons.most_common())}" if reasons else "")


def label(
    reports: Iterable[tuple[str, str, str]], labeller: Labeller, *, cache: Path | str | None = None, workers: int = 1, patience: int = 5,
    progress: bool = True,
) -> Labelled:  # fmt: skip
    """Labels (id, findings, impression) rows; reports of the same text are asked for once, `workers` at a time.

    cache: folder that keeps answers by a hash of the text (labels only, no text), so that a stopped run goes on; abstentions are not kept.
    patience: after so many reports in a row for which the labeller itself failed (unreachable, late, key refused) the rest is not asked.
    Raises: ValueError for an id that is there twice.
    """
    rows = {}
    for id, findings, impression in reports:
        if id in rows:
            raise ValueError(f"id {id!r} is there twice; every report needs its own")
        rows[id] = (findings, impression)
    keys = {id: text_key(*texts) for id, texts in rows.items()}
    kept = Kept(cache, labeller.identity)
    known = {key: kept.labels[key] for key in keys.values() if key in kept.labels}
    cached = sum(key in known for key in keys.values())
    todo: dict[str, str] = {}
    for id, key in keys.items():
        if key not in known:
            todo.setdefault(key, id)  # each text under the first id that has it
    asking = _Asking(labeller, kept, patience)
    with tqdm(total=len(todo), desc=f"label ({labeller.name})", unit="report", disable=not progress) as bar, ThreadPoolExecutor(workers) as threads:
        try:
            for key, said in zip(todo, threads.map(lambda item: asking(item[1], item[0], rows[item[1]]), todo.items()), strict=True):
                known[key] = said
                bar.update()
        finally:
            threads.shutdown(cancel_futures=True)
    abstained = {id: known[key] for id, key in keys.items() if isinstance(known[key], str)}
    values = [[-1] * len(FINDINGS) if id in abstained else [known[key][f] for f in FINDINGS] for id, key in keys.items()]
    table = pd.DataFrame(values, index=pd.Index(list(keys), name="id"), columns=list(FINDINGS), dtype="int8")
    return Labelled(table, abstained, labeller.name, labeller.identity or labeller.name, cached)


class _Asking:
    """One labeller asked from several threads: the labels of a report, or why it abstained."""

    def __init__(self, labeller: Labeller, kept: Kept, patience: int):
        self.labeller, self.kept, self.patience, self.failed = labeller, kept, patience, 0
        self.lock = threading.Lock()

    def __call__(self, id: str, key: str, texts: tuple[str, str]) -> dict[str, int] | str:
        if self.failed >= self.patience:
            return NOT_ASKED
        try:
            said = checked(self.labeller.label(id, *texts))
        except Abstained as why:
            log.info("%s: %s abstained: %s", id, self.labeller.name, why)
            with self.lock:
                self.failed = self.failed + 1 if why.down else 0
            return str(why)
        with self.lock:
            self.failed = 0
            self.kept.add(key, said)
        return said


def checked(said: dict[str, int]) -> dict[str, int]:
    """Raises: Abstained for labels that are not 1, 0 or -1 for each of the 18 findings: no labeller can put others into a table."""
    if set(said) != set(FINDINGS) or not all(value in VALUES for value in said.values()):
        raise Abstained(f"labels that are not 1, 0 or -1 for each of the {len(FINDINGS)} findings")
    return said


def text_key(findings: str, impression: str) -> str:
    return hashlib.sha256(json.dumps([findings, impression]).encode()).hexdigest()


class Kept:
    """Answers of one labeller in one file of a folder: a line per text, its hash and 18 labels. Lines that a kill tore are passed over."""

    def __init__(self, folder: Path | str | None, identity: str | None):
        self.labels: dict[str, dict[str, int]] = {}
        self.file = None
        if folder is None or identity is None:
            return
        self.file = Path(folder) / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            self._write({"labeller": identity, "order": list(FINDINGS)})
            return
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                said = json.loads(line)
                values = said["labels"]
                if len(values) == len(FINDINGS) and all(type(v) is int and v in VALUES for v in values):
                    self.labels[said["text"]] = dict(zip(FINDINGS, values, strict=True))
            except (ValueError, LookupError, TypeError):
                continue

    def add(self, key: str, labels: dict[str, int]) -> None:
        if self.file is not None:
            self._write({"text": key, "labels": [labels[f] for f in FINDINGS]})

    def _write(self, said: dict) -> None:
        try:
            with self.file.open("a", encoding="utf-8") as file:
                if file.tell() and not self._ends_whole():
                    file.write("\n")
                file.write(json.dumps(said) + "\n")
        except OSError as error:
            raise Refused(f"{self.file}: cannot be written ({error.strerror or error}); make room and run again, what is answered is kept") from error

    def _ends_whole(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"
