"""`make bench`: ours beside the released algorithm restated (`benchmarks.reference`), measured in turn on one thread; one table.

    python -m benchmarks.bench [--only GROUP ...] [--quick] [--count N]

Prints and never fails on a number. Full size takes about a quarter of an hour on a quiet core; --quick (toy sizes) only shows that it runs: its
ratios mean nothing. Numbers of different machines are not compared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial

import torch
from threadpoolctl import threadpool_limits

from benchmarks import data_rows, model_rows
from benchmarks.measure import Row, table
from benchmarks.models import Models

MODEL_GROUPS = ("steps", "operations", "text", "embedding", "losses", "optimiser", "memory")
DATA_GROUPS = ("preprocess", "item", "report", "rank", "probe")


def groups(*, quick: bool, count: int) -> dict[str, Callable[[], list[Row]]]:
    """Every group of rows by name, in the order of the table."""
    models = Models(quick=quick)
    return {name: partial(getattr(model_rows, name), models, count) for name in MODEL_GROUPS} | {
        name: partial(getattr(data_rows, name), quick, count) for name in DATA_GROUPS
    }


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = MODEL_GROUPS + DATA_GROUPS
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="GROUP", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--count", type=int, default=3, help="pairs of each (default: 3)")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = {name: rows for name, rows in groups(quick=options.quick, count=options.count).items() if name in options.only}
        with threadpool_limits(1):
            rows = [row for name in chosen for row in announced(name, chosen[name])]
    finally:
        torch.set_num_threads(threads)
    print(f"\nCPU seconds on one thread, wall time in brackets; medians. Load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    print(table(rows))
    return rows


def announced(name: str, rows: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a group, its name printed first: some take minutes."""
    print(f"{name} ...", flush=True)
    return rows()


if __name__ == "__main__":
    main()
