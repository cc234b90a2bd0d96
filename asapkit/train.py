"""One loop for every recipe: weights x losses, step, history, checkpoint, exact resume. Distribution, precision and accumulation live only here.

`pretrain(store, run, recipe="asap", config=...)` trains in this process (CPU, one GPU) or in each process that `torchrun` or
`accelerate.notebook_launcher` started. A run folder holds config.json, method.json, data.json (where its store lies),
weights.safetensors, state.pt, history.csv, status.json, tensorboard files.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from asapkit import checkpoint, distributed, sources
from asapkit.batch import Items, Readable, collate
from asapkit.config import Config
from asapkit.features import training_rows
from asapkit.optimisers import make_optimizer
from asapkit.sources import Sources
from asapkit.status import recorded
from asapkit.types import FINDINGS, Batch, Refused
from asapkit.writing import one_writer, writable

log = logging.getLogger(__name__)


def pretrain(
    store: Readable, run: Path, *, recipe: str = "asap", config: Config, options: dict | None = None, weights: dict[str, float] | None = None,
    ids: list[str] | None = None, resume: bool = False, loaders: int = 0, device: str = "auto", save_every: int = 100, init: Path | None = None,
    progress: bool = True, bar_position: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Trains `recipe` on the training patients of `store` (or on `ids`) and returns the history, one row per step.

    Of several stores (`sources.open`) every step is of one, which the history names.
    options: keyword arguments of the recipe's Method.   weights: loss weights, default the recipe's.   loaders: processes that read volumes.
    init: run folder, or weights file of ours or of another method, whose encoder is the start (`checkpoint.start_from`).
    resume: go on from the last checkpoint, bit for bit on CPU.
    Raises: Refused for a store of another contract or without what the recipe learns from, a run folder that holds another configuration, or a
        loss that is not finite (naming the volumes).
    """
    if save_every < 1:
        raise ValueError(f"save_every {save_every}: give a number of at least 1")
    run = Path(run)
    accelerator = distributed.make_accelerator(config, device=device)
    module = recipe_module(recipe)
    weights = module.WEIGHTS | (weights or {})
    items = Items(store, config)
    ids = training_ids(store) if ids is None else list(ids)
    torch.manual_seed(config.seed)
    method = checkpoint.make_method(recipe, config, options or {}, store=store).to(accelerator.device)
    require_volumes(store, ids, method, recipe=recipe)
    config = getattr(method, "config", config)  # a recipe may settle what its encoder is: config.json must make it again
    if init is not None and not (resume and (run / "state.pt").exists()):  # a checkpoint holds every weight
        log.log((logging.DEBUG, logging.WARNING)[accelerator.is_main_process], checkpoint.start_from(method.encoder, init))  # always said
    method.gather = partial(distributed.gather, accelerator=accelerator)
    optimizer = make_optimizer(method, config)
    several = {"shares": store.shares} if isinstance(store, Sources) else {}
    said = {"recipe": recipe, "options": options or {}, "weights": weights} | several | ({} if init is None else {"init": str(init)})
    lead = accelerator.is_main_process
    with one_writer(run) if lead else nullcontext():
        state = prepare_run(run, config, said, store=store, resume=resume, lead=lead)
        history = [] if state is None else continue_from(state, method, optimizer, source=run, rank=accelerator.process_index)
        start = len(history)
        if start >= config.steps:
            if lead and checkpoint.steps_done(run) < start:
                complete(run, method, optimizer, state)
            distributed.finish(accelerator)
            return pd.DataFrame(history)

        trainable = distributed.over_ranks(method, accelerator, weights)
        stream = batches(items, ids, config, start=start, accelerator=accelerator, loaders=loaders)
        report_effective_batch(config, accelerator, recipe)
        bar = tqdm(total=config.steps, initial=start, desc=f"pre-train {run.name}", position=bar_position, disable=not (progress and lead))
        with bar, tracking(run) if lead else nullcontext() as tracker, recorded(run, start=start, steps=config.steps, lead=lead) as record:
            for step, micro in zip(range(start, config.steps), stream, strict=False):
                set_rate(optimizer, config, step)
                row = {"step": step} | train_step(trainable, method, micro, optimizer, accelerator=accelerator, config=config, weights=weights)
                track(tracker, row, run=run)
                history.append(row | ({"source": sources.source(micro[0].ids[0])} if several else {}))
                bar.update()
                bar.set_postfix({"loss": f"{row['loss']:.3f}"}, refresh=False)
                if (step + 1) % save_every == 0 or step + 1 == config.steps:
                    save(method, run, optimizer=optimizer, history=history, accelerator=accelerator)
                record.beat(step + 1)
        distributed.finish(accelerator)
        return pd.DataFrame(history)


SUPERVISION = {
    "organs": ("organ masks", lambda table: table["has_organs"].any(), "give organs to preprocess"),
    "lesions": ("lesion masks", lambda table: table["has_lesions"].any(), "give lesions to preprocess"),
    "labels": ("labels of findings", lambda table: (table[list(FINDINGS)] >= 0).any(axis=None), "give the labels to preprocess"),
}
"""What a method's `needs` may name: its words, whether a table of volumes has it for any of them, how to get it."""


def require_volumes(store: Readable, ids: list[str], method: nn.Module, *, recipe: str) -> None:
    """Raises: Refused where there is no volume to train on, or none has what the method `needs` (its option `without` spares that)."""
    if not ids:
        raise Refused(f"{store.root}: no training volumes (split 'train'); check the split column of its table")
    for need in getattr(method, "needs", ()):
        words, there, get = SUPERVISION[need]
        if not there(store.table.loc[ids]):
            spare = f", or train without: {method.without}" if hasattr(method, "without") else ""
            raise Refused(f"recipe {recipe} needs {words}; {store.root} has none for any training volume: {get} (README, your own data){spare}")


def continue_from(state: dict, method: nn.Module, optimizer: torch.optim.Optimizer, *, source: Path, rank: int) -> list[dict]:
    """Puts the last checkpoint back: weights, optimiser, random state of this rank; returns its history."""
    checkpoint.fill(method, state["weights"], str(source))
    optimizer.load_state_dict(state["optimizer"])
    states = torch.atleast_2d(state["rng"])  # older checkpoints hold one
    torch.set_rng_state(states[rank % len(states)].clone())  # torch 2.13 crashes on a view of a larger tensor
    return state["history"]


def save(method: nn.Module, run: Path, *, optimizer: torch.optim.Optimizer, history: list[dict], accelerator) -> None:
    """A checkpoint with the random state of every rank, which all must ask for; the first one writes."""
    rng = distributed.random_states(accelerator)
    if accelerator.is_main_process:
        checkpoint.save(method, run, optimizer=optimizer, history=history, rng=rng)


def complete(run: Path, method: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Writes the files that a run lacks which was killed while it wrote the last of its checkpoints."""
    done = len(state["history"])
    with recorded(run, start=done, steps=done, lead=True):
        checkpoint.save(method, run, optimizer=optimizer, history=state["history"], rng=state["rng"])


def train_step(
    trainable: nn.Module, method: nn.Module, micro: list[Batch], optimizer: torch.optim.Optimizer, *, accelerator, config: Config,
    weights: dict[str, float],
) -> dict[str, float]:  # fmt: skip
    """One optimiser step over the micro-batches of this rank: means are over the counts of all ranks and micro-batches."""
    micro = [batch.to(accelerator.device) for batch in micro]
    shares = loss_shares(method, micro, accelerator)
    totals: dict[str, Tensor] = {}
    for n, batch in enumerate(micro):
        sync = nullcontext() if n == len(micro) - 1 or accelerator.num_processes == 1 else trainable.no_sync()
        with sync, accelerator.autocast():
            losses = trainable(batch)
            if set(losses) != set(weights):
                raise ValueError(f"recipe gives losses {sorted(losses)}, WEIGHTS names {sorted(weights)}")
            share = {name: shares[n].get(name, 1.0 / len(micro)) for name in losses}
            loss = sum(weights[name] * share[name] * value for name, value in losses.items() if weights[name])
        check_finite(losses, batch)
        accelerator.backward(loss)
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.detach().float() * share[name]
    norm = nn.utils.clip_grad_norm_(method.parameters(), config.clip_grad if config.clip_grad > 0 else math.inf)
    if not torch.isfinite(norm):
        raise Refused(f"gradient is not finite; volumes of this step: {', '.join(id for batch in micro for id in batch.ids)}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    mean = {name: float(accelerator.reduce(value, "mean")) for name, value in totals.items()}
    return {"loss": sum(weights[n] * v for n, v in mean.items())} | mean | {"grad_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]}


def loss_shares(method: nn.Module, micro: list[Batch], accelerator) -> list[dict[str, float]]:
    """Factor of each micro-batch's local mean so that the sum over micro-batches, averaged over ranks, is the mean over everything."""
    if not hasattr(method, "counts") or (len(micro) == 1 and accelerator.num_processes == 1):
        return [{} for _ in micro]
    local = [{name: float(count) for name, count in method.counts(batch).items()} for batch in micro]
    shares = []
    total = {}
    for name in local[0]:
        here = torch.tensor(sum(c[name] for c in local), dtype=torch.float64, device=accelerator.device)
        total[name] = max(float(accelerator.reduce(here, "sum")), 1e-12)
    for counts in local:
        shares.append({name: count * accelerator.num_processes / total[name] for name, count in counts.items()})
    return shares


def batches(items: Items, ids: list[str], config: Config, *, start: int, accelerator, loaders: int):
    """Endless lists of this rank's micro-batches from step `start` on; the order of volumes is a pure function of (seed, step)."""
    world, rank = accelerator.num_processes, accelerator.process_index
    keys = KeyList(items.store, ids, config, start=start, rank=rank, world=world)
    loader = torch.utils.data.DataLoader(
        items, batch_sampler=keys, collate_fn=partial(collate, max_sentences=config.max_sentences), num_workers=loaders,
        persistent_workers=loaders > 0, multiprocessing_context="forkserver" if loaders else None, pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.seed),  # its own: a draw from the global one would shift dropout after a resume
    )  # fmt: skip
    stream = iter(loader)
    while True:
        yield [next(stream) for _ in range(config.accumulate)]


class KeyList(torch.utils.data.Sampler):
    """(id, epoch) keys of every micro-batch of one rank. Per epoch each study gives one reconstruction, studies in random order.

    Two reconstructions of a study share a report and so would be false negatives: one is drawn per epoch. Of several stores each step is of one,
    drawn by its share, and each store counts its own epochs.
    """

    def __init__(self, store: Readable, ids: list[str], config: Config, *, start: int, rank: int = 0, world: int = 1):
        table = store.table.loc[ids]
        self.studies = {name: grouped(rows) for name, rows in table.groupby("source" if isinstance(store, Sources) else lambda _: "")}
        self.shares = [getattr(store, "shares", {"": 1.0})[name] for name in self.studies]
        self.config, self.start, self.rank, self.share = config, start, rank, config.volumes_on_each(world)

    def __iter__(self):
        config, share = self.config, self.share
        streams, step = {name: self.keys(name) for name in self.studies}, 0
        while True:
            stream = streams[self.source(step)]
            for _ in range(config.accumulate):
                joined = [next(stream) for _ in range(config.batch_size)]
                if step >= self.start:
                    yield joined[self.rank * share : (self.rank + 1) * share]
            step += 1

    def source(self, step: int) -> str:
        names = list(self.studies)
        if len(names) == 1:
            return names[0]
        shares = np.array(self.shares)
        return str(np.random.default_rng([self.config.seed, step, 1]).choice(names, p=shares / shares.sum()))

    def keys(self, source: str):
        studies, epoch, own = self.studies[source], 0, [crc32(source.encode())] if source else []
        while True:
            rng = np.random.default_rng([self.config.seed, epoch, *own])
            for study in rng.permutation(len(studies)):
                volumes = studies[study]
                yield volumes[int(rng.integers(len(volumes)))], epoch
            epoch += 1


def grouped(table: pd.DataFrame) -> list[list[str]]:
    """Ids of every study, in the order of the studies' names."""
    return [sorted(group.index) for _, group in sorted(table.groupby("study"), key=lambda pair: pair[0])]


def launch(store: Path | Sequence[Path], run: Path, *, processes: int = 1, shares: dict[str, float] | None = None, **how) -> None:
    """`pretrain` from a notebook: in this process, or in several (CPU with gloo, or one per GPU) that it starts and waits for.

    store, shares: as of `sources.open`.
    """
    if processes <= 1:
        _in_process(store, run, shares, how)
        return
    from accelerate import notebook_launcher

    notebook_launcher(_in_process, (store, run, shares, how), num_processes=processes)


def _in_process(store: Path | Sequence[Path], run: Path, shares: dict[str, float] | None, how: dict) -> None:
    pretrain(sources.open(store, shares=shares), run, **how)


def set_rate(optimizer: torch.optim.Optimizer, config: Config, step: int) -> None:
    """Linear warm-up, then half a cosine to zero."""
    warm = max(1, round(config.warmup * config.steps))
    rate = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * rate


def check_finite(losses: dict[str, Tensor], batch: Batch) -> None:
    bad = [name for name, value in losses.items() if not torch.isfinite(value)]
    if bad:
        raise Refused(f"loss {', '.join(bad)} is not finite; volumes of this step: {', '.join(batch.ids)}")


def training_ids(store: Readable) -> list[str]:
    """Volumes of the split "train"; where a store has no other split, without the patients that `features.training_rows` holds out.

    Raises: Refused when a patient is on both sides.
    """
    table = store.table
    return table.index[(table["split"] == "train") & training_rows(table)].tolist()


def recipe_module(name: str):
    """The module recipes/<name>.py.  Raises: ValueError listing the recipes."""
    known = recipes()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(known)}")
    return import_module(f"asapkit.recipes.{name}")


def recipes() -> list[str]:
    return sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("[a-z]*.py"))


def prepare_run(run: Path, config: Config, said: dict, *, store: Readable, resume: bool, lead: bool) -> dict | None:
    """Writes config.json and method.json, or checks that they say the same, and data.json; the resumable state, if asked for and there."""
    if (run / "state.pt").exists():  # without it nothing was trained, and nothing can be lost
        held_config, held = checkpoint.settings(run)
        held, asked = ({k: v for k, v in values.items() if k != "init"} for values in (held, json.loads(json.dumps(said))))  # where it began is past
        fields = [f for f in asdict(config) if getattr(held_config, f) != getattr(config, f)]
        fields += sorted(k for k in {*asked, *held} if held.get(k) != asked.get(k))
        if fields:
            raise Refused(f"{run}: holds a run with other settings ({', '.join(fields)}); give these as they were, or choose another folder")
        if not resume:
            raise Refused(f"{run}: holds a run already; resume it or choose another folder")
    elif lead:
        with writable(run):
            config.save(run / "config.json")
            (run / "method.json").write_text(json.dumps(said, indent=1) + "\n")
    if lead:
        with writable(run):
            checkpoint.record_store(run, store.root, {name: held.root for name, held in getattr(store, "stores", {}).items()})
    return checkpoint.load_state(run) if resume and (run / "state.pt").exists() else None


def report_effective_batch(config: Config, accelerator, recipe: str) -> None:
    world = accelerator.num_processes
    log.info(
        "recipe %s: effective batch %d = %d per process x %d processes x %d accumulated; %s, %s", recipe, config.batch_size * config.accumulate,
        config.volumes_on_each(world), world, config.accumulate, accelerator.device, config.precision,
    )  # fmt: skip


def track(tracker, row: dict[str, float], *, run: Path) -> None:
    """Writes a step's numbers, where this rank keeps a tracker."""
    with writable(run):
        for name, value in row.items() if tracker else ():
            tracker.add_scalar(name, value, row["step"])


def tracking(run: Path):
    """TensorBoard event files inside the run folder: read offline, sent nowhere."""
    from torch.utils.tensorboard import SummaryWriter

    with writable(run):
        return SummaryWriter(run / "tensorboard")
