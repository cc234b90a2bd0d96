"""Pieces of work beside each other in processes of one thread each; a piece starts once those that it comes after are done."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from graphlib import TopologicalSorter
from multiprocessing import get_context
from typing import Any

from tqdm.auto import tqdm

from asapkit import workers as crew
from asapkit.types import Refused

GRACE_S = 5  # for pieces that are told to stop
_slot = 0


def side_by_side(
    work: Mapping[str, Callable[[], Any]], *, after: Mapping[str, Iterable[str]] | None = None, workers: int, doing: str, bars: bool = False,
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What every piece of work returns, by name; of those that may start the first named does, `workers` at a time.

    work: callables that a process can be sent, such as a `partial` of a module's function.   after: the names that each waits for.
    doing: what the bar calls it.   bars: the pieces draw bars of their own on the line of their `slot`; this one stands below.
    Raises: what the first piece to fail raised; the others under way are stopped where they are, none is begun. Refused, naming those under way,
        when a process is killed. ValueError for a name to wait for that is not there; graphlib.CycleError when they wait for each other.
    """
    if unknown := sorted({name for names in (after or {}).values() for name in names} - work.keys()):
        raise ValueError(f"nothing is called {unknown[0]!r}; there are {', '.join(work)}")
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
    context, others = get_context("spawn"), set(multiprocessing.active_children())
    ready, running = [], {}
    with ProcessPoolExecutor(workers, context, _begin, (context.Value("i", 0),)) as pool:
        try:
            while order.is_active():
                ready = sorted([*ready, *order.get_ready()], key=place.get)
                while ready and len(running) < workers:  # none in waiting: what a pool holds ready is begun even when it is shut down
                    name = ready.pop(0)
                    running[pool.submit(work[name])] = name
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    value = job.result()
                    done(running.pop(job), value)
        except BrokenProcessPool as error:
            names = ", ".join(running.values())
            raise Refused(f"{names}: {crew.DIED}; what is done is kept, run again to go on") from error
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):  # the pieces were told as well: time to say in their records that they were stopped
                wait(running, timeout=GRACE_S)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def slot() -> int:
    """Which of the processes this one is, from 0: the line of its progress bar."""
    return _slot


def _begin(taken) -> None:
    global _slot
    crew.begin_worker()
    with taken.get_lock():
        _slot = taken.value
        taken.value += 1
