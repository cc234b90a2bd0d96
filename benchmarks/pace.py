"""Is a recipe slower per operation than asap? CPU seconds of forward and backward over counted matrix operations, each in turn with asap.

    python -m benchmarks.pace [--scale base] [--crop X Y Z] [--only RECIPE ...] [--volumes N] [--count N] [--quick]

One thread. A recipe's default form on a random batch of full texts; the packaged text encoder. Wanted: at most 1.15 times asap's seconds per
operation. What is no matrix product is not counted, so that a recipe which computes little has a large ratio where patches are few: the scale
that trains for weeks, `base`, decides. --crop takes less of a volume, at the scale's widths. --quick (scale toy, one round) only shows that it
runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Sequence

import pandas as pd
import torch

from asapkit import checkpoint, estimate
from asapkit.config import Config
from asapkit.train import recipe_module, recipes
from benchmarks.measure import clocked

BESIDE, ALLOWED = "asap", 1.15


def step(recipe: str, config: Config, *, volumes: int) -> tuple[Callable[[], None], float]:
    """Forward and backward of a recipe on one batch, and its matrix operations in units of 1e9."""
    torch.manual_seed(0)
    method, batch, weights = (
        checkpoint.make_method(recipe, config, {}).train(),
        estimate.example(config, volumes=volumes),
        recipe_module(recipe).WEIGHTS,
    )

    def call() -> None:
        losses = method(batch)
        sum(weights[name] * value for name, value in losses.items()).backward()
        method.zero_grad(set_to_none=True)

    return call, estimate.count(method, batch, weights=weights).flops / 1e9


def paces(names: Sequence[str], config: Config, *, volumes: int, count: int) -> pd.DataFrame:
    """recipe, gflop, seconds (medians of `count` after one that is not counted), beside (seconds per operation over asap's), least, most."""
    ours, own = step(BESIDE, config, volumes=volumes)
    ours()
    rows = []
    for name in names:
        call, gflop = step(name, config, volumes=volumes)
        call()
        pairs = [(clocked(call).cpu, clocked(ours).cpu) for _ in range(count)]
        ratios = sorted((a / gflop) / (b / own) for a, b in pairs)
        told = {"recipe": name, "gflop": gflop, "seconds": statistics.median(a for a, _ in pairs)}
        rows.append(told | {"beside": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]})
        del call
        gc.collect()
    return pd.DataFrame(rows).sort_values("beside", ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="base", help="toy, small or base (default: base)")
    parser.add_argument("--crop", nargs=3, type=int, metavar="N", help="voxels along x, y, z, whole patches (default: the scale's)")
    parser.add_argument("--only", nargs="+", default=recipes(), choices=recipes(), metavar="RECIPE", help="default: every recipe")
    parser.add_argument("--volumes", type=int, default=2, metavar="N", help="of the batch (default: 2, the least that can be contrasted)")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help="scale toy, one round")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scale, count = ("toy", 1) if given.quick else (given.scale, given.count)
    config = Config.at(scale, **({"crop": tuple(given.crop)} if given.crop else {}))
    table = paces(given.only, config, volumes=given.volumes, count=count)
    print(table.round(3).to_string(index=False))
    print(f"above {ALLOWED}: {', '.join(table.loc[table['beside'] > ALLOWED, 'recipe']) or 'none'}")
    return table


if __name__ == "__main__":
    main()
