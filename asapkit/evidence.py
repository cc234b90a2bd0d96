"""The phantom experiment, resumable at every step: cohort, store, pre-training runs, probes, grounding, summary. `make demo` is a short one.

It asks two questions of ASAP: does pre-training make better features than no pre-training (probes), and does a sentence find its evidence
(grounding)? The demo reports numbers and gates nothing; `make evidence` runs the long form whose records are committed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from asapkit import jobs
from asapkit import store as stores
from asapkit.config import Config
from asapkit.store import Store
from asapkit.types import Refused

log = logging.getLogger(__name__)

LOCAL = {
    "align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "align_only": "positive", "organ_gate": True, "encode": "sentence",
}  # fmt: skip
"""What learns on the phantom: `asap`. Contrast over images, patch-local features of every patch, organ gate: these ground; the last layer's visible
patches, aligned as well: these make the encoder's features tell findings. Without all this, the paper's alignment: `asap_paper`."""

METHODS: dict[str, tuple[str, dict]] = {
    "supervised": ("supervised", {}),
    "asap": ("asap", LOCAL | {"text_memory": True, "restore": 2}),
    "asap_paper": ("asap", {"text_memory": True, "restore": 2}),
    "mae": ("mae", {}),
}
"""Run name -> recipe and options; `random` is the same encoder without training. In the order in which they are started, longest first. A name
that is not among them is a recipe as it comes."""

PROBES = ("scores.csv", "probes.json")  # in the order in which they are written
ALIGNED = ("asap", "asap_paper")
"""Runs of which grounding and patient dependence are measured."""


@dataclass(frozen=True)
class Plan:
    """Size of an experiment."""

    scale: str = "small"
    volumes: int = 320
    seed: int = 0
    steps: int = 120
    seeds: int = 5  # of the probes
    workers: int = 2
    methods: tuple[str, ...] = tuple(METHODS)
    decoder_init: float = 1.0  # the evidence was measured with 1

    def config(self, **changes) -> Config:
        return Config.at(self.scale, **({"steps": self.steps, "decoder_init": self.decoder_init} | changes))

    def training(self, name: str) -> tuple[str, dict, Config]:
        """Recipe, options and configuration of a run."""
        return *METHODS.get(name, (name, {})), self.config()

    def told(self) -> dict:
        """What a folder is held to."""
        from asapkit.phantom import VERSION

        return asdict(self) | {"phantom_version": VERSION, "config": asdict(self.config()), "methods": METHODS}


PLANS = {
    "toy": Plan(scale="toy", volumes=24, steps=4, seeds=2),
    "small": Plan(decoder_init=0.1),
    "base": Plan(scale="base", volumes=64, steps=1000),
}
EVIDENCE = Plan(volumes=1000, seed=2, steps=600)


def plan_of(scale: str) -> Plan:
    """Raises: ValueError for an unknown scale."""
    if scale not in PLANS:
        raise ValueError(f"unknown scale {scale!r}; there are {', '.join(PLANS)}")
    return PLANS[scale]


def data(out: Path | str, *, plan: Plan) -> Store:
    """Phantom cohort and store of a plan under `out`; what is there is kept."""
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    out = Path(out).resolve()
    root = cohort.make(out / "cohort", volumes=plan.volumes, seed=plan.seed, scale=plan.scale, workers=plan.workers)
    stores.write(ct_rate.scans(root), out / "store", config=plan.config(), workers=plan.workers)
    return stores.open(out / "store")


def ready(out: Path | str, *, scale: str, store: str | Path = "", workers: int = 2) -> Store:
    """The store that a notebook reads: the one given, or a small phantom store made under `out` at first use."""
    if store:
        return stores.open(Path(store))
    plan = plan_of(scale)
    return data(Path(out) / f"phantom_{scale}", plan=replace(plan, volumes=min(plan.volumes, 48), workers=workers))


def ready_runs(
    out: Path | str, *, scale: str, store: str | Path = "", runs: str | Path = "", names: tuple[str, ...] = ("asap", "mae")
) -> dict[str, Path]:
    """Run folders by name for a notebook: those under `runs`, or short ones of `names` trained under `out` at first use."""
    if runs:
        found = {p.name: p for p in sorted(Path(runs).iterdir()) if (p / "weights.safetensors").exists()}
        if not found:
            raise Refused(f"{runs}: no run folder with weights in it; give the folder that holds the runs, or nothing to train short ones")
        return Named(found)
    from asapkit import train

    held, folder = ready(out, scale=scale, store=store), Path(out) / f"runs_{scale}"
    plan = plan_of(scale)
    for name in names:
        if not finished(folder / name, plan.steps):
            recipe, options = METHODS[name]
            train.pretrain(held, folder / name, recipe=recipe, options=options, config=plan.config(), resume=True)
    return Named({name: folder / name for name in names})


class Named(dict):
    """Runs or encoders by name.  Raises: Refused, listing the ones there are, for a name that is not there."""

    def __missing__(self, name: str) -> Path:
        raise Refused(f"no run {name!r}; there are {', '.join(self)}")


def runs(out: Path | str, *, plan: Plan) -> dict[str, Path]:
    """Pre-trains every method of the plan that is not finished, `workers` at a time with one thread each; run name -> folder."""
    out = Path(out)
    jobs.side_by_side(trainings(out, plan), workers=plan.workers, doing="runs", bars=True)
    return folders_of(out, plan)


def folders_of(out: Path, plan: Plan) -> dict[str, Path]:
    return {name: out / "runs" / name for name in plan.methods}


def trainings(out: Path, plan: Plan) -> dict[str, Callable[[], None]]:
    """What is not finished, by name of the run."""
    return {name: partial(train_one, name, out, plan) for name, run in folders_of(out, plan).items() if not finished(run, plan.steps)}


def train_one(name: str, out: Path, plan: Plan) -> None:
    from asapkit import train

    recipe, options, config = plan.training(name)
    held = stores.open(out / "store")
    train.pretrain(held, out / "runs" / name, recipe=recipe, config=config, options=options, resume=True, bar_position=jobs.slot())


def finished(run: Path, steps: int) -> bool:
    from asapkit import checkpoint

    return checkpoint.steps_done(run) >= steps


def encoders(folders: dict[str, Path]) -> dict:
    """Trained encoders by name, and `random`: the same architecture without training."""
    from asapkit import checkpoint

    trained = {name: checkpoint.load_encoder(run) for name, run in folders.items()}
    return Named(trained | {"random": checkpoint.random_encoder(next(iter(trained.values())).config)})


def scores(out: Path | str, *, plan: Plan, folders: dict[str, Path]) -> tuple[pd.DataFrame, dict]:
    """Linear probes of every run and of `random`: table and summary, written to out/scores.csv and out/probes.json; read back if there."""
    from asapkit.tasks import classify

    out = Path(out)
    table, held = (out / name for name in PROBES)
    if not there(out, *PROBES):
        rows, found = classify.compare(encoders(folders), stores.open(out / "store"), seeds=plan.seeds, cache=out / "features")
        rows.to_csv(table, index=False)
        write_json(held, found)
    return pd.read_csv(table), json.loads(held.read_text())


def grounding(out: Path | str, *, run: Path, prior=None) -> dict:
    """Grounding of one run on held-out patients: out/grounding_<run>.csv (per finding) and its summary, with the organ gate beside it.

    prior: of `tasks.ground.fit`, where it is at hand.
    """
    from asapkit import checkpoint
    from asapkit.tasks import ground

    out = Path(out)
    table, held = out / f"grounding_{run.name}.csv", out / f"grounding_{run.name}.json"
    if not there(out, table.name, held.name):
        method, store = checkpoint.load_method(run), stores.open(out / "store")
        prior = ground.fit(method, store, progress=False) if prior is None else prior
        free, gated = (ground.ground(method, store, prior=prior, gate=gate, progress=False) for gate in ("none", "organ"))
        free.table.to_csv(table, index=False)
        write_json(held, free.summary | {"organ_gate": gated.summary})
    return json.loads(held.read_text())


def dependence(out: Path | str, *, run: Path) -> dict:
    """Patient dependence of one run on held-out patients: out/dependence_<run>.json; read back if there."""
    from asapkit import checkpoint
    from asapkit.tasks import depend

    held = Path(out) / f"dependence_{run.name}.json"
    if not held.exists():
        write_json(held, depend.depend(checkpoint.load_method(run), stores.open(Path(out) / "store"), progress=False).summary)
    return json.loads(held.read_text())


def experiment(out: Path | str, *, plan: Plan) -> dict:
    """Everything from the cohort to the summary, resumable at every step; writes out/summary.json and returns it."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    require_plan(out, plan)
    data(out, plan=plan)
    work, after = train_and_measure(out, plan)
    jobs.side_by_side(work, after=after, workers=plan.workers, doing="train and measure", bars=True)
    folders = folders_of(out, plan)
    _, probes = scores(out, plan=plan, folders=folders)
    grounded = {name: grounding(out, run=folders[name]) for name in ALIGNED if name in folders}
    keys = ("hit", "chance", "other_patient", "organ_only", "location_prior", "auroc")
    brief = {name: {key: found[key] for key in keys} | {"focal": {k: found["focal"].get(k) for k in keys}} for name, found in grounded.items()}
    result = {
        "probe_macro_auroc": probes["probe_macro_auroc"], "difference": probes["difference"], "gap_closed": probes.get("gap_closed", {}),
        "grounding": brief.get("asap", {}), "grounding_paper": brief.get("asap_paper", {}),
    }  # fmt: skip
    write_json(out / "summary.json", result)
    return result


def train_and_measure(out: Path, plan: Plan) -> tuple[dict[str, Callable[[], object]], dict[str, set[str]]]:
    """Trainings, then what is measured of one run by itself, as far as it is not there: work by name, and what each piece comes after."""
    folders, work, after = folders_of(out, plan), trainings(out, plan), {}
    waiting, probed = work.keys() & folders.keys(), there(out, *PROBES)

    def then(name: str, title: str, job: Callable) -> None:
        work[title], after[title] = job, {name} & waiting

    for name, run in folders.items():
        if not probed:
            then(name, f"features of {name}", partial(keep_features, out, name, run=run))
        for part in (grounding, dependence) if name in ALIGNED else ():
            if not there(out, f"{part.__name__}_{name}.json", *[f"grounding_{name}.csv"] * (part is grounding)):
                then(name, f"{part.__name__} of {name}", partial(part, out, run=run))
    if not probed:
        name, run = next(iter(folders.items()))
        then(name, "features of random", partial(keep_features, out, "random", run=run))
    return work, after


def there(out: Path, *names: str) -> bool:
    return all((out / name).exists() for name in names)


def keep_features(out: Path, name: str, *, run: Path) -> None:
    """Leaves features that `scores` probes in its cache: those of a run, or those of `random` with the architecture of this run."""
    from asapkit.features import extract

    extract(encoders({run.name: run})[name], stores.open(out / "store"), out=out / "features", progress=False)


def require_plan(out: Path, plan: Plan) -> None:
    """A folder holds one experiment. Raises: Refused if it holds another."""
    wanted = json.loads(json.dumps(plan.told()))
    file = out / "plan.json"
    held = json.loads(file.read_text()) if file.exists() else wanted
    if differs := sorted(name for name in wanted.keys() | held.keys() if name != "workers" and wanted.get(name) != held.get(name)):
        raise Refused(f"{out}: holds an experiment with other settings ({', '.join(differs)}); choose another folder or delete it")
    write_json(file, wanted)


def demo(out: Path | str = "demo", *, plan: Plan | None = None, notebooks: Path | None = None) -> str:
    """The short experiment, then every notebook as HTML on its store and runs, `workers` at a time; returns the closing table.

    Goes on where it was stopped.
    """
    out = Path(out).resolve()
    plan = PLANS["small"] if plan is None else plan
    result = experiment(out, plan=plan)
    folder = Path(__file__).resolve().parents[1] / "notebooks" if notebooks is None else Path(notebooks)
    known = {"scale": plan.scale, "store": str(out / "store"), "runs": str(out / "runs"), "run": str(out / "runs" / "asap"), "steps": plan.steps,
             "options": METHODS["asap"][1], "out": str(out / "figures")}  # fmt: skip
    waiting = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    work = {notebook.stem: partial(run_notebook, notebook, out=out / "notebooks", known=known) for notebook in reversed(waiting)}  # long ones first
    failures = [line for lines in jobs.side_by_side(work, workers=plan.workers, doing="notebooks").values() for line in lines]
    return closing_table(result, sorted(failures), out)


def run_notebook(notebook: Path, *, out: Path, known: dict) -> list[str]:
    """Runs a notebook with those of the `known` settings that it has; what failed."""
    from asapkit import parameters, workflow

    settings = {k: v for k, v in known.items() if k in parameters.read(notebook)}
    done = workflow.run([notebook], out=out, settings=settings, skip_finished=True, progress=False)
    return [f"{r.notebook}: {r.status}" for r in done if r.status == "failed"]


def closing_table(result: dict, failures: list[str], out: Path) -> str:
    rows = [("linear probe, macro AUROC", "value (95 % interval)")]
    for name, v in sorted(result["probe_macro_auroc"].items(), key=lambda pair: -pair[1]["value"]):
        rows.append((f"  {name}", f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"))
    for name, v in result["difference"].items():
        rows.append((f"  {name}", f"{v['value']:+.3f} ({v['low']:+.3f} to {v['high']:+.3f})"))
    rows.append(("grounding, highest patch in the truth", "hit / chance / other patient / organ only / location prior"))
    for name, key in (("asap", "grounding"), ("asap_paper", "grounding_paper")):
        if g := result[key]:
            rows.append((f"  {name}", " / ".join(f"{g[k]:.3f}" for k in ("hit", "chance", "other_patient", "organ_only", "location_prior"))))
    lines = [(file.stem.removeprefix("dependence_"), json.loads(file.read_text())["line"]) for file in sorted(out.glob("dependence_*.json"))]
    rows += [("does alignment look at the patient?", ""), *((f"  {name}", line) for name, line in lines)] if lines else []
    rows += [("written to", out.name + "/"), *(("failed", f) for f in failures)]
    return as_lines(rows)


def write_json(path: Path, value: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    part.replace(path)


def as_lines(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)
