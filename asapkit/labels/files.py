"""Reports to be labelled, and tables of labels: where they are read from and written to."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from asapkit.datasets import TOO_MANY, table
from asapkit.labels.table import Labelled
from asapkit.types import FINDINGS, Refused, Scan

log = logging.getLogger(__name__)
IDS = ("id", "VolumeName")
TEXTS = {"findings": ("findings", "Findings_EN"), "impression": ("impression", "Impressions_EN")}
ENDINGS = (".nii.gz", ".nii")


def reports_of(source: Path | str) -> Iterator[tuple[str, str, str]]:
    """(id, findings, impression) of a store, or of a csv with id or VolumeName, findings or Findings_EN, impression or Impressions_EN.

    Raises: Refused when there is none, a column is missing, or the file is no UTF-8.
    """
    if Path(source).is_dir():
        from asapkit import store

        table = store.open(Path(source)).table
        yield from zip(table.index, table["findings"], table["impression"], strict=True)
        return
    names, rows = _table(Path(source))
    id = next((c for c in IDS if c in names), None)
    columns = {kind: next((c for c in spelled if c in names), None) for kind, spelled in TEXTS.items()}
    if id is None or not any(columns.values()):
        raise Refused(f"{source}: needs the columns id (or VolumeName) and findings or impression; it has {', '.join(names) or 'none'}")
    for row in rows:
        yield _stem(row[id] or ""), *((row[c] or "") if c else "" for c in columns.values())


def write(found: Labelled, file: Path | str) -> None:
    """The labels as csv (id and 18 columns), and beside it in json who labelled, and how many abstained and why."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    found.table.to_csv(file)
    from asapkit import version

    counts = {"reports": len(found.table), "abstained": len(found.abstained), "why": dict(Counter(found.abstained.values()))}
    about = {"labeller": found.labeller, "identity": found.identity, "unit": "report", "asapkit": version()} | counts
    file.with_name(f"{file.name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read(file: Path | str) -> dict[str, dict[str, int]]:
    """Labels by id of a csv that `write` or CT-RATE wrote. Empty is -1.  Raises: Refused, naming line and column."""
    names, rows = _table(Path(file))
    id = next((c for c in IDS if c in names), None)
    if id is None or not set(names) & set(FINDINGS):
        raise Refused(f"{file}: needs the columns id and findings such as {FINDINGS[0]!r}; it has {', '.join(names) or 'none'}")
    if unknown := [name for name in names if name not in (*IDS, *FINDINGS)]:
        raise Refused(f"{file}: unknown column {unknown[0]!r}; labels are spelled as {', '.join(FINDINGS)}")
    found: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows, start=2):
        name, labels = _stem(row[id] or ""), {}
        for finding in (f for f in FINDINGS if f in names):
            value = (row[finding] or "-1").strip().removesuffix(".0")
            if value not in ("1", "0", "-1"):
                raise Refused(f"{file}: line {number}: {finding} is {row[finding]!r}; labels are 1, 0, or -1 / empty for unknown")
            labels[finding] = int(value)
        if found.get(name, labels) != labels:
            raise Refused(f"{file}: line {number}: {name} is there twice with different labels; keep one")
        found[name] = labels
    return found


def relabelled(scans: Iterable, file: Path | str) -> list:
    """Scans with the labels of a csv in place of their own; those that it lacks have none. What is no `Scan` is passed on.

    Raises: Refused when the csv cannot be read, or knows no scan.
    """
    labels, scans = read(file), list(scans)
    ids = [scan.id for scan in scans if isinstance(scan, Scan)]
    lacking = [id for id in ids if id not in labels]
    if ids and len(lacking) == len(ids):
        raise Refused(f"{file}: labels none of the {len(ids)} volumes; its ids must be theirs, such as {ids[0]}")
    if lacking:
        log.warning("%s: labels %d of %d volumes; %s and the others it lacks have none", file, len(ids) - len(lacking), len(ids), lacking[0])
    return [replace(scan, labels=labels.get(scan.id, {})) if isinstance(scan, Scan) else scan for scan in scans]


def _table(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not file.is_file():
        raise Refused(f"{file}: no such file")
    names, rows = table(file)
    if long := [number for number, row in enumerate(rows, start=2) if TOO_MANY in row]:
        raise Refused(f"{file}: line {long[0]}: {TOO_MANY}; put texts with commas between quotes")
    return names, rows


def _stem(id: str) -> str:
    id = id.strip()
    return next((id[: -len(end)] for end in ENDINGS if id.endswith(end)), id)
