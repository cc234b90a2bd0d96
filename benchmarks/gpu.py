"""One CUDA card: `base` in bf16, the reference and ours side by side. `python -m benchmarks.gpu [--batch 8 16 32] [--steps 10] [--compile]`.

Prints, for each batch size: volumes per second, achieved TFLOP/s over the card's own measured matrix-product peak, peak memory; then the share of
time that ours waits for data when it reads a store through loaders. Gates: 1.5x the reference and 35 % of peak. Exits 1 without a card.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from asapkit import estimate, train
from asapkit.batch import Items, collate
from asapkit.config import Config
from asapkit.types import Batch
from benchmarks.data_rows import Folder
from benchmarks.models import Models, WithLabels
from benchmarks.reference import released_labels

GIB = 2**30
WARM = 3
"""Steps before the clock starts."""
AHEAD = 2
"""Batches that each loader holds ready before the first is asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32], metavar="N", help="volumes per step (default: 8 16 32)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps of each (default: 10)")
    parser.add_argument("--loaders", type=int, default=8, metavar="N", help="processes that read the store (default: 8)")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile as well")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: only to try the script")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA card here", file=sys.stderr)
        return 1
    peak = estimate.matmul_rate(seconds=1.0, dtype=torch.bfloat16, device=options.device)
    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, bf16 matrix products {peak / 1e12:.0f} TFLOP/s, {options.steps} steps of each")
    print(f"{'what':<12} {'batch':>5} {'volumes/s':>10} {'TFLOP/s':>8} {'of peak':>8} {'peak GiB':>9} {'over reference':>15}")
    models = Models(quick=options.quick)
    models.correct.text.remember = False
    flops = {name: estimate.count(getattr(models, name), models.batch).flops for name in ("reference", "correct")}
    for volumes in options.batch:
        print(*lines(models, flops, volumes, options=options, peak=peak), sep="\n", flush=True)
    largest = max(options.batch)
    print(f"waiting for data: {waiting(models, largest, options):.1%} of the time at batch {largest}, {options.loaders} loaders")
    return 0


def lines(models: Models, flops: dict[str, float], volumes: int, *, options: argparse.Namespace, peak: float) -> Iterator[str]:
    """The reference's line and ours at one batch size; what does not fit says so."""
    data = Models(quick=options.quick, volumes=volumes)
    reference = WithLabels(models.reference.model, released_labels(data.labels), data.masked)
    base = None
    for name in ("reference", "correct", *["compiled"] * options.compile):
        model = reference if name == "reference" else models.correct
        work = flops["reference" if name == "reference" else "correct"]
        try:
            speed, memory = measured(model, data.batch, models.config, options=options, compiled=name == "compiled")
        except torch.cuda.OutOfMemoryError:
            yield f"{name:<12} {volumes:>5}  does not fit"
            continue
        finally:
            model.to("cpu")
            torch.cuda.empty_cache()  # nothing to do where there is no card
        base = speed if name == "reference" else base
        over = f"{speed / base:.2f}x" if base else "-"
        yield f"{name:<12} {volumes:>5} {speed:>10.2f} {speed * work / 1e12:>8.1f} {speed * work / peak:>8.1%} {memory / GIB:>9.1f} {over:>15}"


def measured(model: nn.Module, batch: Batch, config: Config, *, options: argparse.Namespace, compiled: bool) -> tuple[float, int]:
    """Volumes per second of whole training steps (forward, backward, AdamW), and peak bytes on the card."""
    model, batch = model.to(options.device), batch.to(options.device)
    optimizer = train.make_optimizer(model, config)
    run = torch.compile(model) if compiled else model
    for number in range(options.steps + WARM):
        if number == WARM:
            start = now(options.device)
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
        one_step(run, batch, optimizer)
    speed = options.steps * len(batch) / (now(options.device) - start)
    return speed, torch.cuda.max_memory_allocated() if options.device == "cuda" else 0


def now(device: str) -> float:
    """Wall seconds, after the card has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def one_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    with torch.autocast(batch.image.device.type, dtype=torch.bfloat16):
        loss = sum(model(batch).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def waiting(models: Models, volumes: int, options: argparse.Namespace) -> float:
    """Share of wall time that ours stands still for the next batch: every item is read from a store of one phantom patient, cropped anew."""
    model = models.correct.to(options.device)
    optimizer = train.make_optimizer(model, models.config)
    with tempfile.TemporaryDirectory() as place:
        held = Folder(Path(place), options.quick).store
        items, ready = Items(held, models.config), AHEAD * options.loaders + WARM  # what was made before the first step says nothing of the pace
        steps = ready + max(options.steps, 4 * options.loaders)
        keys = [[(held.ids[0], step * volumes + n) for n in range(volumes)] for step in range(steps)]
        loader = torch.utils.data.DataLoader(
            items, batch_sampler=keys, collate_fn=collate, num_workers=options.loaders, prefetch_factor=AHEAD if options.loaders else None,
            multiprocessing_context="forkserver" if options.loaders else None, pin_memory=options.device == "cuda",
        )  # fmt: skip
        stream, waited = iter(loader), 0.0
        for number in range(len(keys)):
            if number == ready:
                begin, waited = now(options.device), 0.0
            asked = now(options.device)
            batch = next(stream)
            waited += time.perf_counter() - asked
            one_step(model, batch.to(options.device), optimizer)
        return waited / (now(options.device) - begin)


if __name__ == "__main__":
    sys.exit(main())
