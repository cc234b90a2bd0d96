"""What SigVLP's optimiser and its chunks cost: Muon's share of a step, and how much of what is computed is padding.

    python -m benchmarks.chunks [--store STORE] [--precision bf16] [--quick] [--count N]

A step is timed for one volume at every length of chunk that may be drawn, forward and backward, and counted `batch_size` times; one thread.
--quick (scale toy) only shows that it runs. With a store, chunks of N batches of its training volumes are counted, their texts too.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from asapkit import estimate, store
from asapkit.batch import Items
from asapkit.config import Config
from asapkit.optimisers import make_optimizer
from asapkit.recipes.sigvlp import Method
from asapkit.train import training_ids
from benchmarks.measure import clocked


def shares(*, quick: bool, count: int, precision: str = "fp32") -> dict[str, float]:
    """CPU seconds of a mean step of `batch_size` volumes, and of both parts of its optimiser; medians of `count`."""

    def volume(order: torch.Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = method(replace(batch, patch_order=order))["contrast"]
        loss.backward()

    config = Config.at("toy" if quick else "base")
    torch.manual_seed(0)
    method = Method(config).train()
    optimizer, batch = make_optimizer(method, config), estimate.example(config)
    lengths = []
    for n in [0, *range(method.draws)]:  # the first is not counted
        order = torch.full_like(batch.patch_order, (n + 0.5) / method.draws)
        lengths.append(clocked(partial(volume, order)).cpu)
    taken = {"forward and backward": config.batch_size * statistics.mean(lengths[1:])}
    for name, part in optimizer.parts.items():
        part.step()
        taken[name] = statistics.median(clocked(part.step).cpu for _ in range(count))
    return taken


def padding(place: Path, *, batches: int) -> dict[str, float]:
    """Shares of slices and of text tokens, of all that the encoders compute in a chunk of training, that nobody asked for."""
    held = store.open(place)
    config = contract_of(held)
    items, ids = Items(held, config), training_ids(held)
    method = Method(config)
    slices = {"computed": 0, "asked": 0}
    words = {"computed": 0, "asked": 0}
    method.encoder.embed.register_forward_pre_hook(lambda _, x: slices.update(computed=slices["computed"] + x[0].shape[0] * x[0].shape[1]))
    for n in range(batches):
        chosen = [ids[(n * config.batch_size + k) % len(ids)] for k in range(config.batch_size)]
        batch = items.batch(chosen, epoch=n)
        start, length = method.drawn(batch)
        tokens, real = method.texts(batch, start, length)
        with torch.no_grad():
            method.encoder.stem_tokens(method.cut(batch.image, start, length))
        slices["asked"] += start.numel() * length * config.grid[0] * config.grid[1]
        words["computed"] += tokens.numel()
        words["asked"] += int(real.sum())
    return {name: 1 - counted["asked"] / counted["computed"] for name, counted in (("slices", slices), ("text tokens", words))}


def contract_of(held: store.Store) -> Config:
    """The scale whose contract a store was made under."""
    return next(c for c in map(Config.at, ("toy", "small", "base")) if c.contract == held.contract)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="count padding in chunks of its training volumes, in place of timing a step")
    parser.add_argument("--quick", action="store_true", help="scale toy")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of forward and backward; Muon is bf16 (default: fp32)")
    parser.add_argument("--count", type=int, default=3, help="optimiser steps, or batches of the store (default: 3)")
    options = parser.parse_args(arguments)
    if options.store:
        found = padding(options.store, batches=options.count)
        print("\n".join(f"padding among {name:<12} {share:.1%}" for name, share in found.items()))
        return found
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = shares(quick=options.quick, count=options.count, precision=options.precision)
    finally:
        torch.set_num_threads(threads)
    whole = sum(found.values())
    print("\n".join(f"{name:<22} {seconds:8.3f} s {seconds / whole:6.1%}" for name, seconds in found.items()))
    print(f"CPU seconds on one thread; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return found | {"share": found["muon"] / whole}


if __name__ == "__main__":
    main()
