"""Pieces of work beside each other in processes of one thread each; a piece starts once those that it comes after are done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from graphlib import TopologicalSorter
from multiprocessing import get_context
from typing import Any

from tqdm.auto import tqdm

_slot = 0


def side_by_side(
    work: Mapping[str, Callable[[], Any]], *, after: Mapping[str, Iterable[str]] | None = None, workers: int, doing: str, bars: bool = False,
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What every piece of work returns, by name; of those that may start the first named does, `workers` at a time.

    work: callables that a process can be sent, such as a `partial` of a module's function.   after: the names that each waits for.
    doing: what the bar calls it.   bars: the pieces draw bars of their own on the line of their `slot`; this one stands below.
    Raises: what the first piece to fail raised; those that were not begun are dropped. graphlib.CycleError when they wait for each other.
    """
    order = TopologicalSorter({name: (after or {}).get(name, ()) for name in work})
    order.prepare()
    place = {name: n for n, name in enumerate(work)}
    found = {}
    with tqdm(total=len(work), desc=doing, position=max(1, workers) if bars else 0, disable=not progress or len(work) <= 1) as bar:

        def done(name: str, value: Any) -> None:
            found[name] = value
            order.done(name)
            bar.update()
            bar.set_postfix_str(name)

        if workers <= 1 or len(work) <= 1:
            while order.is_active():
                for name in sorted(order.get_ready(), key=place.get):
                    done(name, work[name]())
        else:
            _in_pool(work, order, place, done, workers)
    return {name: found[name] for name in work}


def _in_pool(work: Mapping[str, Callable], order: TopologicalSorter, place: dict[str, int], done: Callable, workers: int) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0),)) as pool:
        running = {}
        try:
            while order.is_active():
                running |= {pool.submit(work[name]): name for name in sorted(order.get_ready(), key=place.get)}
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    done(running.pop(job), job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def slot() -> int:
    """Which of the processes this one is, from 0: the line of its progress bar."""
    return _slot


def _begin(taken) -> None:
    global _slot
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for what it starts, such as a notebook's kernel
    with taken.get_lock():
        _slot = taken.value
        taken.value += 1
