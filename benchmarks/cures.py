"""Does alignment look at the patient, and does K follow the lesion? Each cure of ASAP alone and combined, and each selector, resumable at every step.

    python -m benchmarks.cures [--out FOLDER] [--only cures|selectors] [--seeds N] [--steps N] [--quick]

Trains `asap` at `small` with three seeds (or `--seeds`) each on a phantom cohort of its own, on which nothing was chosen, and measures every run
on its held-out patients. Writes FOLDER (cohort, store, runs, one json per run and measure) and benchmarks/records/cures.csv and selectors.csv: a
row per variant and measure with the mean over the seeds, its interval (Student's t over the seeds: how another training would come out, on these
patients), the mean of the runs' own intervals (bootstrap over patients, of this training), what each seed gave, and the steps of a training. Runs
that are there are kept: --seeds 5 after --seeds 3 trains two more of each. --quick (scale toy, four steps, one seed) only shows that it runs, and
records nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from asapkit import checkpoint, evidence, examples, exhibits, jobs
from asapkit import store as stores
from asapkit.config import Config
from asapkit.tasks import classify, depend, ground
from benchmarks.evidence import RECORDS

COHORT = 11  # no other experiment or test of this house draws this one
COMMON = {"text_memory": True, "restore": 2}  # as the demo's two
LOCAL = evidence.LOCAL

CURES: dict[str, tuple[dict, dict]] = {
    "paper": ({}, {}),
    "over_images": ({"align_over": "batch"}, {}),
    "exchanged_image": ({"align_negatives": "exchanged"}, {}),
    "positive_only": ({"align_only": "positive"}, {}),
    "positive_weighted": ({"positive_weight": 4.0}, {}),
    "from_stem": ({"align_from": "stem"}, {}),
    "from_early": ({"align_from": "early"}, {}),
    "positions_left_out": ({"align_positions": "left_out"}, {}),
    "organ_gate": ({"organ_gate": True}, {}),
    "half_hidden": ({}, {"hide": 0.5}),
    "combined": (LOCAL, {}),
    "combined_positions_left_out": (LOCAL | {"align_positions": "left_out"}, {}),
    "combined_exchanged_image": (LOCAL | {"align_over": "report", "align_negatives": "exchanged"}, {}),
}
"""Options of the method and changes of the configuration. `paper` is its alignment; `combined` is what the demo calls `asap`."""


def selectors(scale: str) -> dict[str, tuple[dict, dict]]:
    """`combined` with each way to a K; it selects by `straight_through` itself. A fixed K is each of the candidates."""
    kinds = {kind: (LOCAL | {"selector": kind}, {}) for kind in ("soft_topk", "frozen", "random")}
    fixed = {f"fixed_{k}": (LOCAL | {"selector": "fixed", "fixed_k": k}, {}) for k in Config.at(scale).top_k}
    return {"combined": CURES["combined"]} | kinds | fixed


@dataclass(frozen=True)
class Plan(evidence.Plan):
    """A run's name is its variant and its seed: which ones are trained is `methods`, and not what a folder is held to."""

    volumes: int = 400
    seed: int = COHORT
    steps: int = 300
    seeds: int = 2
    methods: tuple[str, ...] = ()
    decoder_init: float = 0.1

    def variants(self, part: str) -> dict[str, tuple[dict, dict]]:
        return CURES if part == "cures" else selectors(self.scale)

    def training(self, name: str) -> tuple[str, dict, Config]:
        variant, _, seed = name.rpartition("_")
        options, changes = (CURES | selectors(self.scale))[variant]
        return "asap", COMMON | options, self.config(seed=int(seed), **changes)

    def told(self) -> dict:
        return super().told() | {"methods": {part: self.variants(part) for part in PARTS}, "common": COMMON}


PARTS = ("cures", "selectors")
PLAN, QUICK = Plan(), Plan(scale="toy", volumes=24, steps=4)


# --- one run


def probe(out: Path, *, run: Path, plan: Plan) -> dict:
    """Macro AUROC of the linear probe, all labels: out/probe_<run>.json; read back if there. Of a run that is not there, the untrained encoder's."""
    held = out / f"probe_{run.name}.json"
    if not held.exists():
        encoder = checkpoint.load_encoder(run) if run.exists() else checkpoint.random_encoder(plan.config(), seed=int(run.name.rpartition("_")[2]))
        _, found = classify.compare(
            {run.name: encoder}, stores.open(out / "store"), shares=(1.0,), seeds=plan.seeds, cache=out / "features", progress=False
        )
        evidence.write_json(held, found["probe_macro_auroc"][run.name])
    return json.loads(held.read_text())


def extent(out: Path, *, run: Path) -> dict:
    """K beside the true extent, one volume of each held-out patient: out/extent_<run>.json; read back if there."""
    held = out / f"extent_{run.name}.json"
    if not held.exists():
        store = stores.open(out / "store")
        rho, means = exhibits.k_and_extent(examples.budgets(checkpoint.load_method(run), store, depend.held_out(store)), store)
        evidence.write_json(held, {"spearman": rho.as_dict(), "k": means})
    return json.loads(held.read_text())


@cache
def prior_of(out: Path, run: Path) -> ground.Prior:
    """The same for every run of a folder: one of a process serves them all."""
    return ground.fit(checkpoint.load_method(run), stores.open(out / "store"))


def measured(name: str, out: Path, plan: Plan) -> dict[str, dict[str, float]]:
    """Every measure of one run, {"value", "low", "high"} each; nan where it has none."""
    run = out / "runs" / name
    found = {"probe": probe(out, run=run, plan=plan)}
    if not run.exists() or plan.training(name)[0] != "asap":  # what aligns nothing
        return found
    dependence = evidence.dependence(out, run=run)
    found |= {key: dependence[key] for key in ("rise", "rise_positive", "explained", "correlation", "overlap")}
    first = out / "runs" / plan.methods[0]
    prior = None if (out / f"grounding_{name}.json").exists() else prior_of(out, first if first.exists() else run)
    grounded = evidence.grounding(out, run=run, prior=prior)
    for prefix, part in (("", grounded), ("focal_", grounded["focal"])):
        within = part.get("intervals", {})
        for key in ("hit", "chance", "organ_only", "other_patient", "location_prior", "times_chance"):
            found[prefix + key] = within.get(key) or {"value": part.get(key, np.nan)}
        for key in ("hit-chance", "hit-organ_only", "hit-location_prior"):
            found[prefix + key] = within.get(key, {"value": np.nan})
    told = extent(out, run=run)
    return found | {"spearman": told["spearman"]} | {f"k_{kind}": {"value": k} for kind, k in told["k"].items()}


# --- over the seeds


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Mean with Student's interval; nan where it has none, as of one value."""
    known = np.array([v for v in values if v == v], float)
    if len(known) < 2:
        return (float(known.mean()) if len(known) else np.nan), np.nan, np.nan
    mean, half = known.mean(), stats.t.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(mean), float(mean - half), float(mean + half)


def table(found: dict[str, dict[str, dict[str, float]]], *, variants: Iterable[str], first: str) -> pd.DataFrame:
    """variant, measure, mean, low, high, patients_low, patients_high, seeds, values; of `found`, measures by run name.

    gain and its interval: over the variant `first`, paired by seed.
    """
    by_variant = {v: [m for name, m in found.items() if name.rpartition("_")[0] == v] for v in variants}
    rows = []
    for variant, runs in by_variant.items():
        for measure in dict.fromkeys(key for run in runs for key in run):
            values, lows, highs = ([float(run.get(measure, {}).get(word, np.nan)) for run in runs] for word in ("value", "low", "high"))
            theirs = [float(run.get(measure, {}).get("value", np.nan)) for run in by_variant[first]]
            gains = [a - b for a, b in zip(values, theirs, strict=True)] if variant != first else []
            row = dict(zip(("mean", "low", "high"), over_seeds(values), strict=True))
            row |= {"patients_low": over_seeds(lows)[0], "patients_high": over_seeds(highs)[0]}
            row |= dict(zip(("gain", "gain_low", "gain_high"), over_seeds(gains), strict=True))
            rows.append({"variant": variant, "measure": measure} | row | {"seeds": len(runs), "values": " ".join(f"{v:.4g}" for v in values)})
    return pd.DataFrame(rows)


def experiment(out: Path, *, plan: Plan, seeds: int, parts: Sequence[str] = PARTS) -> dict[str, pd.DataFrame]:
    """The table of each part; trains and measures what is not there yet."""
    found = trained_and_measured(out, plan, dict.fromkeys(v for part in parts for v in plan.variants(part)), seeds=seeds)
    first = {"cures": "paper", "selectors": "frozen"}
    return {part: table(found, variants=[*plan.variants(part), "untrained"], first=first[part]) for part in parts}


def trained_and_measured(out: Path, plan: evidence.Plan, variants: Iterable[str], *, seeds: int) -> dict[str, dict]:
    """Measures by run name, `<variant>_<seed>`, and of as many untrained encoders; what is there is kept. A variant that aligns comes first."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    evidence.require_plan(out, plan)
    evidence.data(out, plan=plan)
    variants = tuple(variants)
    names = [f"{variant}_{seed}" for seed in range(seeds) for variant in variants]
    plan = replace(plan, methods=tuple(names))
    evidence.runs(out, plan=plan)
    names += [f"untrained_{seed}" for seed in range(seeds)]
    return jobs.side_by_side({name: partial(measured, name, out, plan) for name in names}, workers=plan.workers, doing="measures")


SHOWN = ("rise", "probe", "focal_hit", "focal_hit-organ_only", "focal_hit-location_prior", "spearman")


def shown(table: pd.DataFrame) -> str:
    """The measures that decide: (low to high) over the seeds; of one seed, [low to high] over the patients."""
    some = table[table["measure"].isin(SHOWN)]
    text = []
    for row in some.itertuples(index=False):
        low, high, (begin, end) = (row.low, row.high, "()") if row.low == row.low else (row.patients_low, row.patients_high, "[]")
        text.append(f"{row.mean:.3f}" + f" {begin}{low:.3f} to {high:.3f}{end}" * (low == low))
    wide = some.assign(text=text).pivot(index="variant", columns="measure", values="text").reindex(index=table["variant"].unique())
    return wide.reindex(columns=[m for m in SHOWN if m in wide]).fillna("").to_string()


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evidence_cures"), help="folder of cohort, store and runs (default: evidence_cures)")
    parser.add_argument("--only", choices=PARTS, help="one of the two tables")
    parser.add_argument("--seeds", type=int, help="trainings of each variant (default: 3; quick: 1)")
    parser.add_argument("--steps", type=int, help=f"optimiser steps of each training (default: {PLAN.steps})")
    parser.add_argument("--quick", action="store_true", help="scale toy, recorded nowhere")
    given = parser.parse_args(arguments)
    plan, seeds = (QUICK, 1) if given.quick else (PLAN, 3)
    seeds, steps = (wanted if wanted is not None else usual for wanted, usual in ((given.seeds, seeds), (given.steps, plan.steps)))
    if seeds < 1 or steps < 1:
        parser.error(f"--seeds {seeds}, --steps {steps}: give at least 1 of each")
    tables = experiment(given.out, plan=replace(plan, steps=steps), seeds=seeds, parts=(given.only,) if given.only else PARTS)
    for part, rows in tables.items():
        print(f"\n{part}, {steps} steps: (intervals over seeds), [over patients where there is one seed]\n{shown(rows)}")
        if not given.quick:
            RECORDS.mkdir(exist_ok=True)
            rows.assign(steps=steps).to_csv(RECORDS / f"{part}.csv", index=False, float_format="%.4g")
    return tables


if __name__ == "__main__":
    main()
