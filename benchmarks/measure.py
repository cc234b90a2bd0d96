"""The reference and ours in turn, so that both meet the same disturbances; medians, their spread, and one table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Seconds of one call: CPU (of this process, which runs one thread) and wall."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio`: reference over ours where both are costs, else as `what` says. `holds`: None where nothing is asked."""

    what: str
    reference: str
    ours: str
    ratio: float | None
    at_least: str
    holds: bool | None
    noise: str = ""


def clocked(call: Callable[[], object]) -> Clock:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Clock(time.process_time() - cpu, time.perf_counter() - wall)


def rounds(calls: dict[str, Callable[[], object]], *, count: int) -> dict[str, list[Clock]]:
    """Every call `count` times, all of them in turn, after one round that is not counted."""
    for call in calls.values():
        call()
    taken = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            taken[name].append(clocked(call))
    return taken


def compared(what: str, reference: list[Clock], ours: list[Clock], *, at_least: float | None = None, items: int = 1, note: str = "") -> Row:
    """A row of CPU seconds: the median over pairs of the ratio, its smallest and largest. items: how many one call works through."""
    ratios = sorted(a.cpu / max(b.cpu, 1e-9) for a, b in zip(reference, ours, strict=True))
    wall = statistics.median(a.wall / max(b.wall, 1e-9) for a, b in zip(reference, ours, strict=True))
    ratio = statistics.median(ratios)
    noise = f"{ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} pairs; wall {wall:.2f}x" + (f"; {note}" if note else "")
    asked = "-" if at_least is None else f"{at_least:g}x"
    return Row(what, seconds(reference, items), seconds(ours, items), ratio, asked, None if at_least is None else ratio >= at_least, noise)


def seconds(clocks: list[Clock], items: int = 1) -> str:
    """Median CPU time, and wall time in brackets, in a fitting unit."""
    cpu, wall = (statistics.median(getattr(c, name) for c in clocks) / items for name in ("cpu", "wall"))
    factor, unit = (1, "s") if cpu >= 1 else (1e3, "ms") if cpu >= 1e-3 else (1e6, "us")
    return f"{cpu * factor:.3g} {unit} ({wall * factor:.3g})"


def table(rows: list[Row]) -> str:
    """Columns of equal width."""
    lines = [("what", "reference", "ours", "ratio", "at least", "holds", "noise")]
    for row in rows:
        holds = "-" if row.holds is None else "yes" if row.holds else "NO"
        lines.append((row.what, row.reference, row.ours, "-" if row.ratio is None else f"{row.ratio:.2f}x", row.at_least, holds, row.noise))
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
