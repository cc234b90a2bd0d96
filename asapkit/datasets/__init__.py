"""Readers: each module offers `scans(root) -> Iterator[Scan | Unusable]` for one on-disk layout, with licence and source in its docstring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Unusable:
    """A row or file that makes no scan. Readers yield it in place, so that one bad row never stops the rest and none is lost."""

    id: str
    path: Path | None
    reason: str  # one line: which file or field, what is wrong, what to do
