"""Downstream evaluations: each module offers `fit(encoder, store, ...) -> head`, `score(encoder, head, store) -> records`, and `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asapkit.types import Refused

if TYPE_CHECKING:
    import pandas as pd


def names() -> list[str]:
    """The tasks there are: the modules of this folder."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def evaluate(encoder: Path | str, data: Path | str, *, tasks: Sequence[str] = ("classify",), out: Path | str | None = None) -> pd.DataFrame:
    """Scores one encoder (run folder, weights file, or "random") on a store, or on every store in a folder: one row per number.

    out: folder for scores.csv and the cached features. Raises: ValueError for an unknown task, Refused where there is no store.
    """
    from importlib import import_module

    import pandas as pd

    from asapkit import store as stores

    if unknown := sorted(set(tasks) - set(names())):
        raise ValueError(f"unknown task {', '.join(unknown)}; there are {', '.join(names())}")
    data = Path(data)
    roots = [data] if (data / "preprocess.json").exists() else sorted(p.parent for p in data.glob("*/preprocess.json"))
    if not roots:
        raise Refused(f"{data}: neither a store nor a folder with stores; make one with: asapkit preprocess DATASET STORE")
    rows = []
    for root in roots:
        for task in tasks:
            cache = None if out is None else Path(out) / "features"
            found = import_module(f"asapkit.tasks.{task}").evaluate(encoder, stores.open(root), cache=cache)
            rows.append(found.assign(dataset=root.name, task=task))
    scores = pd.concat(rows, ignore_index=True)
    scores = scores[["dataset", "task", *[c for c in scores.columns if c not in ("dataset", "task")]]]
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        scores.to_csv(Path(out) / "scores.csv", index=False)
    return scores
