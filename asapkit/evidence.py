"""The phantom experiment, resumable at every step: cohort, store, pre-training runs, probes, grounding, summary. `make demo` is a short one.

It asks two questions of ASAP: does pre-training make better features than no pre-training (probes), and does a sentence find its evidence
(grounding)? The demo reports numbers and gates nothing; `make evidence` runs the long form whose records are committed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from asapkit import store as stores
from asapkit.config import Config
from asapkit.store import Store
from asapkit.types import Refused

log = logging.getLogger(__name__)

LOCAL = {"align_over": "batch", "align_from": "stem", "organ_gate": True, "encode": "sentence"}
"""What the pilot taught (contrast over images, patch-local features, organ gate): `asap`. Without it, the paper's alignment: `asap_paper`."""

METHODS: dict[str, tuple[str, dict]] = {
    "supervised": ("supervised", {}),
    "asap": ("asap", LOCAL | {"text_memory": True}),
    "asap_paper": ("asap", {"text_memory": True}),
    "mae": ("mae", {}),
}
"""Run name -> recipe and options; `random` is the same encoder without training. In the order in which they are started, longest first."""


@dataclass(frozen=True)
class Plan:
    """Size of an experiment."""

    scale: str = "small"
    volumes: int = 320
    seed: int = 0
    steps: int = 60
    seeds: int = 5  # of the probes
    workers: int = 2
    methods: tuple[str, ...] = tuple(METHODS)

    def config(self, **changes) -> Config:
        return Config.at(self.scale, steps=self.steps, **changes)


PLANS = {
    "toy": Plan(scale="toy", volumes=24, steps=4, seeds=2),
    "small": Plan(),
    "base": Plan(scale="base", volumes=64, steps=1000),
}
EVIDENCE = Plan(volumes=1000, steps=600)


def data(out: Path | str, *, plan: Plan) -> Store:
    """Phantom cohort and store of a plan under `out`; what is there is kept."""
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    out = Path(out)
    root = cohort.make(out / "cohort", volumes=plan.volumes, seed=plan.seed, scale=plan.scale, workers=plan.workers)
    stores.write(ct_rate.scans(root), out / "store", config=plan.config(), workers=plan.workers)
    return stores.open(out / "store")


def ready(out: Path | str, *, scale: str, store: str | Path = "", workers: int = 2) -> Store:
    """The store that a notebook reads: the one given, or a small phantom store made under `out` at first use."""
    if store:
        return stores.open(Path(store))
    plan = PLANS[scale]
    return data(Path(out) / f"phantom_{scale}", plan=Plan(scale, min(plan.volumes, 48), plan.seed, plan.steps, plan.seeds, workers))


def ready_runs(
    out: Path | str, *, scale: str, store: str | Path = "", runs: str | Path = "", names: tuple[str, ...] = ("asap", "mae")
) -> dict[str, Path]:
    """Run folders by name for a notebook: those under `runs`, or short ones of `names` trained under `out` at first use."""
    if runs:
        found = {p.name: p for p in sorted(Path(runs).iterdir()) if (p / "weights.safetensors").exists()}
        if not found:
            raise Refused(f"{runs}: no run folder with weights in it; give the folder that holds the runs, or nothing to train short ones")
        return found
    from asapkit import train

    held, folder = ready(out, scale=scale, store=store), Path(out) / f"runs_{scale}"
    plan = PLANS[scale]
    for name in names:
        if not finished(folder / name, plan.steps):
            recipe, options = METHODS[name]
            train.pretrain(held, folder / name, recipe=recipe, options=options, config=plan.config(), resume=True)
    return {name: folder / name for name in names}


def runs(out: Path | str, *, plan: Plan) -> dict[str, Path]:
    """Pre-trains every method of the plan that is not finished, `workers` at a time with one thread each; run name -> folder."""
    out = Path(out)
    folders = {name: out / "runs" / name for name in plan.methods}
    waiting = [name for name in plan.methods if not finished(folders[name], plan.steps)]
    if plan.workers <= 1 or len(waiting) <= 1:
        for name in waiting:
            train_one(name, out, plan, position=0)
    else:
        with ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn"), initializer=single_thread) as pool:
            for job in [pool.submit(train_one, name, out, plan, position=n % plan.workers) for n, name in enumerate(waiting)]:
                job.result()
    return folders


def single_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_one(name: str, out: Path, plan: Plan, *, position: int) -> None:
    from asapkit import train

    recipe, options = METHODS[name]
    train.pretrain(
        stores.open(out / "store"), out / "runs" / name, recipe=recipe, config=plan.config(), options=options, resume=True, bar_position=position
    )


def finished(run: Path, steps: int) -> bool:
    history = run / "history.csv"
    return history.exists() and (run / "weights.safetensors").exists() and len(pd.read_csv(history)) >= steps


def encoders(folders: dict[str, Path]) -> dict:
    """Trained encoders by name, and `random`: the same architecture without training."""
    from asapkit import checkpoint

    trained = {name: checkpoint.load_encoder(run) for name, run in folders.items()}
    return trained | {"random": checkpoint.random_encoder(next(iter(trained.values())).config)}


def summary(probe: dict, differences: dict, grounding: dict, grounding_paper: dict) -> dict:
    """The committed form of the result."""
    return {"probe_macro_auroc": probe, "difference": differences, "grounding": grounding, "grounding_paper": grounding_paper}


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def as_lines(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)
