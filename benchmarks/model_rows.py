"""Rows of the table about networks: steps, counted operations, text passes, embedding, losses, optimiser, memory."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from functools import partial

import torch

from asapkit import estimate, objectives, train
from asapkit.masking import hidden_indices, hidden_patches, visible_patches
from asapkit.vit3d import patches_at, take
from benchmarks.measure import Clock, Row, compared, rounds
from benchmarks.models import Models, largest_difference, step

GIB = 2**30


def steps(models: Models, count: int) -> list[Row]:
    """Whole steps, in turn: the reference and ours in fp32 and in bf16, a second of matrix products; then the reference and ours in official mode.

    A model that waits longer for its turn than its partner finds less of itself in memory, so the official mode has pairs of its own.
    """
    reference, ours, official = models.reference, models.correct, models.official

    def uncached(precision: str) -> None:
        ours.text.memory.clear()
        step(ours, models.batch, precision=precision)

    rates = {torch.float32: [], torch.bfloat16: []}
    calls = {f"{precision} reference": partial(step, reference, models.batch, precision=precision) for precision in ("fp32", "bf16")}
    calls |= {f"{precision} ours": partial(uncached, precision) for precision in ("fp32", "bf16")}
    for dtype, found in rates.items():
        calls[f"rate {dtype}"] = partial(_rate, dtype, found, seconds=0.01 if models.quick else 1.0)
    t = rounds(calls, count=count)
    pair = rounds({"reference": partial(step, reference, models.batch), "official": partial(step, official, models.padded)}, count=count)
    difference = largest_difference(models)
    note = f"losses differ by {difference:.1e} of themselves, 1e-5 allowed"
    rows = [
        compared("step, forward + backward, fp32", t["fp32 reference"], t["fp32 ours"], at_least=1.25),
        compared("the same in official mode", pair["reference"], pair["official"], at_least=1.15, note=note),
        compared("step in bf16, the reference in fp32", t["fp32 reference"], t["bf16 ours"], at_least=1.9),
        compared("step in bf16, both", t["bf16 reference"], t["bf16 ours"], at_least=1.25),
    ]
    for precision, rate, asked in (("fp32", rates[torch.float32], 0.75), ("bf16", rates[torch.bfloat16], 0.47)):
        rows.append(_reached(models, precision, t, statistics.median(rate), asked))
    return rows


def _rate(dtype: torch.dtype, found: list[float], *, seconds: float) -> None:
    found.append(estimate.matmul_rate(seconds=seconds, dtype=dtype, clock=time.process_time))


def _reached(models: Models, precision: str, taken: dict[str, list[Clock]], rate: float, asked: float) -> Row:
    """Operations of a step over its CPU seconds, over the matrix-product rate of the same minutes."""
    shares = {}
    for name, model in (("reference", models.reference), ("ours", models.correct)):
        model.text.memory.clear() if name == "ours" else None
        flops = estimate.count(model, models.batch).flops
        shares[name] = flops / statistics.median(c.cpu for c in taken[f"{precision} {name}"]) / rate
    return Row(
        f"step FLOP/s over the matmul rate, {precision}", f"{shares['reference']:.0%}", f"{shares['ours']:.0%}", shares["ours"] / shares["reference"],
        f"{asked:.0%}", shares["ours"] >= asked, f"rate {rate / 1e9:.0f} GFLOP/s",
    )  # fmt: skip


def operations(models: Models, count: int) -> list[Row]:
    """Counted matrix-product operations of a step; no clock, no noise."""
    ours = models.correct
    ours.text.memory.clear()
    reference, first, again = (estimate.count(model, models.batch).flops / 1e9 for model in (models.reference, ours, ours))
    return [
        Row("counted GFLOP per step", f"{reference:,.0f}", f"{first:,.0f}", reference / first, "1,380", first <= 1380),
        Row("the same, findings cached", f"{reference:,.0f}", f"{again:,.0f}", reference / again, "1,330", again <= 1330),
    ]  # fmt: skip


def text(models: Models, count: int) -> list[Row]:
    """Both passes of the frozen text encoder, and the report's alone where the findings are remembered."""
    batch, ours, reference = models.batch, models.correct, models.reference.model

    def released() -> None:
        reference.text(batch.findings_tokens, batch.findings_real)
        reference.text(models.masked, batch.report_real)

    def still() -> None:
        reference.bert_encoder.eval()
        released()
        reference.bert_encoder.train()

    def both(*, cached: bool) -> None:
        if not cached:
            ours.text.memory.clear()
        ours.text(batch.findings_tokens, batch.findings_real)
        ours.text(models.masked, batch.report_real, once=True)

    def half() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            both(cached=True)

    t = rounds(
        {"released": released, "still": still, "both": partial(both, cached=False), "cached": partial(both, cached=True), "half": half}, count=count
    )
    note = "exact only because ours has no dropout there; the released code leaves it on"
    return [
        compared("both frozen text passes", t["released"], t["both"], at_least=2.5, note="the released code's dropout is on, ours is off"),
        compared("the same, the reference's dropout off", t["still"], t["both"]),
        compared("the same, findings cached", t["released"], t["cached"], at_least=4, note=note),
        compared("the same, cached and in bf16", t["released"], t["half"]),
    ]


def embedding(models: Models, count: int) -> list[Row]:
    """Patches to visible tokens, forward and backward."""
    batch, ours, reference = models.batch, models.correct, models.reference.model

    def released() -> None:
        reference.embed(batch.image, batch.patch_order)[0].sum().backward()

    def visible_only() -> None:
        ours.encoder.stem_tokens(batch.image, visible_patches(batch.patch_order, visible=models.config.visible)).sum().backward()

    rows = []
    for precision, note in ((None, "four times fewer operations are the most that can be saved"), (torch.bfloat16, "Conv3d has no fast form")):
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            t = rounds({"released": released, "ours": visible_only}, count=count)
        name = f"patch embedding of visible patches only, {'bf16' if precision else 'fp32'}"
        rows.append(compared(name, t["released"], t["ours"], at_least=10, note=note))
    reference.zero_grad(set_to_none=True), ours.zero_grad(set_to_none=True)
    return rows


def losses(models: Models, count: int) -> list[Row]:
    """Reconstruction and organ loss behind the networks, forward and backward."""
    config, batch, reference = models.config, models.batch, models.reference
    g = torch.Generator().manual_seed(2)
    predicted = torch.randn(models.volumes, config.patches, math.prod(config.patch), generator=g)
    logits = torch.randn(models.volumes, config.patches, 9, generator=g)
    visible = visible_patches(batch.patch_order, visible=config.visible)
    marked, hidden = hidden_patches(visible, config.patches).float(), hidden_indices(visible, config.patches)
    some = take(predicted, hidden)

    def released() -> None:
        x, y = predicted.requires_grad_(), logits.requires_grad_()
        (reference.model.reconstruction(x, batch.image, marked) + reference.model.organ_entropy(y, reference.labels)).backward()

    def in_patches() -> None:
        x, y = some.requires_grad_(), logits.requires_grad_()
        target = patches_at(batch.image, config.patch, hidden)
        loss = objectives.restored(x, target, patches=config.patches)
        (loss + objectives.organ_proportions(y, batch.organs, batch.has_organs[:, None])).backward()

    t = rounds({"released": released, "ours": in_patches}, count=count)
    return [compared("MIM + organ losses in patch space", t["released"], t["ours"], at_least=4)]


def optimiser(models: Models, count: int) -> list[Row]:
    """One AdamW step over the trained parameters: a loop over tensors, and ours."""
    ours = models.correct
    made = train.make_optimizer(ours, models.config)
    groups = [{name: group[name] for name in ("params", "lr", "betas", "weight_decay")} for group in made.param_groups]
    plain = torch.optim.AdamW(groups, foreach=False, fused=False)
    for parameter in ours.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
    t = rounds({"plain": plain.step, "ours": made.step}, count=max(count, 15))
    ours.zero_grad(set_to_none=True)
    return [compared("optimiser step (AdamW)", t["plain"], t["ours"], at_least=4)]


def memory(models: Models, count: int) -> list[Row]:
    """Peak resident memory of a step with two volumes less that with one, each in a process of its own; products left out, their results not."""
    added = {}
    for name in ("reference", "correct"):
        peaks = [_peak(name, volumes, quick=models.quick) for volumes in (1, 2)]
        added[name] = (peaks[1] - peaks[0]) / GIB
    share = added["correct"] / added["reference"] if added["reference"] else None
    shown = (f"{added[name]:.2f} GiB" for name in ("reference", "correct"))
    noise = "too small to be seen" if share is None else f"{share:.2f} of the reference's"
    return [Row("memory per added volume", *shown, 1 / share if share else None, "0.8x of it", share is not None and share <= 0.8, noise)]


def _peak(name: str, volumes: int, *, quick: bool) -> int:
    """Bytes.  Raises: CalledProcessError where the step does not fit."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(volumes), *["--quick"] * quick]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
