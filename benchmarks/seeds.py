"""How far do the demo's numbers move from one training to the next? Its cohort, its methods and its settings, with several seeds each, resumable.

    python -m benchmarks.seeds [--out FOLDER] [--seeds N] [--quick]

Writes FOLDER (cohort, store, runs, one json per run and measure) and benchmarks/records/seeds.csv, in the columns of `benchmarks.cures`: a row per
method and measure with the mean over the trainings and its interval (Student's t: how another training would come out, on these patients), and the
gain over `mae` of the same seed. Seed 0 is the demo's own training. --quick (scale toy, four steps) only shows that it runs, and records nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from asapkit import evidence
from asapkit.config import Config
from benchmarks import cures
from benchmarks.evidence import RECORDS

METHODS = sorted(evidence.METHODS, key=lambda name: name not in evidence.ALIGNED)


@dataclass(frozen=True)
class Plan(evidence.Plan):
    """The demo's, where a run's name is its method and its seed: which ones are trained is `methods`, and not what a folder is held to."""

    methods: tuple[str, ...] = ()
    decoder_init: float = evidence.PLANS["small"].decoder_init

    def training(self, name: str) -> tuple[str, dict, Config]:
        method, _, seed = name.rpartition("_")
        return *evidence.METHODS[method], self.config(seed=int(seed))


PLAN, QUICK = Plan(), Plan(scale="toy", volumes=24, steps=4, seeds=2)


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evidence_seeds"), help="folder of cohort, store and runs (default: evidence_seeds)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method (default: 5)")
    parser.add_argument("--quick", action="store_true", help="scale toy, recorded nowhere")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: give at least 1")
    found = cures.trained_and_measured(given.out, QUICK if given.quick else PLAN, METHODS, seeds=given.seeds)
    rows = cures.table(found, variants=[*METHODS, "untrained"], first="mae")
    print(f"\n{given.seeds} trainings of each: (intervals over seeds), [over patients where there is one seed]\n{cures.shown(rows)}")
    if not given.quick:
        rows.to_csv(RECORDS / "seeds.csv", index=False, float_format="%.4g")
    return rows


if __name__ == "__main__":
    main()
