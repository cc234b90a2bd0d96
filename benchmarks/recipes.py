"""Every recipe as it comes, once: 200 steps of four volumes at `small` on one phantom cohort, then the probe; resumable at every step.

    python -m benchmarks.recipes [--out FOLDER] [--quick]

Writes FOLDER (cohort, store, runs) and benchmarks/records/recipes.csv: loss at the start and at the end of a training, and macro AUROC of the
probe with its interval. One seed and one short training: this shows that a recipe learns, not which is better. What one costs is not written
down, since two train at a time and a run may go on another day: `asapkit estimate --recipe NAME` says it.
--quick (scale toy, four steps) only shows that it runs, and records nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from asapkit import evidence, runs
from asapkit.config import Config
from asapkit.train import recipes
from benchmarks.evidence import RECORDS

ENDS = 10  # steps over which a loss is averaged at either end


@dataclass(frozen=True)
class Plan(evidence.Plan):
    """Every recipe, four volumes a step: a quarter of the demo's, so that all are through within an hour on two cores."""

    steps: int = 200
    seeds: int = 2
    methods: tuple[str, ...] = tuple(recipes())
    decoder_init: float = 0.1
    batch_size: int = 4

    def config(self, **changes) -> Config:
        return super().config(**({"batch_size": self.batch_size} | changes))


PLAN, QUICK = Plan(), Plan(scale="toy", volumes=24, steps=4)


def course(run: Path) -> dict[str, float]:
    """Loss of one run, as it recorded it."""
    loss = runs.read(run).history["loss"]
    ends = min(ENDS, len(loss) // 2)
    return {"steps": len(loss), "first": loss.iloc[:ends].mean(), "last": loss.iloc[-ends:].mean()}


def measured(out: Path, plan: Plan) -> pd.DataFrame:
    """One row per recipe, the best probe first; `random` is the untrained encoder."""
    out.mkdir(parents=True, exist_ok=True)
    evidence.require_plan(out, plan)
    evidence.data(out, plan=plan)
    folders = evidence.runs(out, plan=plan)
    _, found = evidence.scores(out, plan=plan, folders=folders)
    rows = []
    for name, score in found["probe_macro_auroc"].items():
        trained = course(folders[name]) if name in folders else {}
        rows.append({"recipe": name} | trained | {"auroc": score["value"], "low": score["low"], "high": score["high"]})
    return pd.DataFrame(rows).sort_values("auroc", ascending=False, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evidence_recipes"), help="folder of cohort, store and runs (default: evidence_recipes)")
    parser.add_argument("--quick", action="store_true", help="scale toy")
    given = parser.parse_args(arguments)
    table = measured(given.out, QUICK if given.quick else PLAN)
    print(table.round(3).to_string(index=False))
    if not given.quick:
        RECORDS.mkdir(exist_ok=True)
        table.to_csv(RECORDS / "recipes.csv", index=False, float_format="%.4g")
    return table


if __name__ == "__main__":
    main()
