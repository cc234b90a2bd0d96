"""Runs one task over many jobs: in this process, in worker processes here, or on an existing Dask cluster. A worker that dies loses its job only."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from asapkit.types import Refused

J = TypeVar("J")
R = TypeVar("R")
DIED = "its worker process was killed while at it, most likely for lack of memory; use fewer workers or a machine with more memory"
ANSWER_S = 15  # how long a scheduler may take to answer
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLOSC_NTHREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    ),
    "1",
)


@dataclass(frozen=True)
class Lost:
    """Stands where a result would: the job's worker died."""

    reason: str


def each(task: Callable[[J], R], jobs: Iterable[J], *, workers: int = 1, scheduler: str | None = None) -> Iterator[tuple[J, R | Lost]]:
    """Yields (job, result) as jobs finish, in no particular order. `task` is a module-level function that does not raise.

    One worker and no scheduler: everything runs in this process. More: processes with single-threaded mathematics; when one of them dies, the
    jobs then under way run again one at a time, and the one that kills its process again is given back as `Lost`.

    Raises: Refused when the cluster of `scheduler` ("tcp://host:port") does not answer or goes away.
    """
    if scheduler is not None:
        return _on_dask(task, jobs, scheduler)
    return ((job, task(job)) for job in jobs) if workers <= 1 else _in_processes(task, deque(jobs), workers)


# --- processes of this machine


def _pool(workers: int) -> ProcessPoolExecutor:
    """Forked from a clean server process that imported the library once; spawned where there is no forking."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asapkit.preprocess"])
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # the server inherits them before its numerical libraries count the cores
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return ProcessPoolExecutor(workers, context, _start_worker)


def _start_worker() -> None:
    """One thread per worker, and no orphans: a worker ends when the process that started it is gone (kill -9 included)."""
    import torch  # loaded by asapkit.types anyway

    os.environ.update(ONE_THREAD)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _in_processes(task: Callable[[J], R], queue: deque[J], workers: int) -> Iterator[tuple[J, R | Lost]]:
    while queue:
        running: dict = {}
        pool = _pool(workers)
        try:
            while queue or running:
                while queue and len(running) <= workers:  # one in waiting; more would only be more suspects when a worker dies
                    running[pool.submit(task, queue[0])] = queue[0]
                    queue.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            finished = [f for f in running if f.done() and f.exception() is None]
            yield from [(running.pop(f), f.result()) for f in finished]
            yield from _one_at_a_time(task, running.values())
        finally:
            pool.shutdown(cancel_futures=True)


def _one_at_a_time(task: Callable[[J], R], suspects: Iterable[J]) -> Iterator[tuple[J, R | Lost]]:
    """One process, one job in it at a time, so that a death can be laid at one job's door."""
    pool = _pool(1)
    try:
        for job in suspects:
            try:
                result = pool.submit(task, job).result()
            except BrokenProcessPool:
                result = Lost(DIED)
                pool.shutdown()
                pool = _pool(1)
            yield job, result
    finally:
        pool.shutdown(cancel_futures=True)


# --- a Dask cluster that already runs


def _on_dask(task: Callable[[J], R], jobs: Iterable[J], scheduler: str) -> Iterator[tuple[J, R | Lost]]:
    import distributed

    try:
        client = distributed.Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Refused(f"no Dask scheduler answers at {scheduler}: start one (dask scheduler) or leave it out ({type(error).__name__})") from error
    queue = deque(jobs)
    with client:
        running: dict = {}
        stream = distributed.as_completed(loop=client.loop)
        while queue or running:
            slots = 2 * max(1, sum(client.nthreads().values()))  # asked again each time: clusters grow and shrink
            while queue and len(running) < slots:
                future = client.submit(task, queue[0], pure=False)
                running[future.key] = queue.popleft()
                stream.add(future)
            future = next(stream)
            if future.cancelled():
                raise Refused(f"the Dask cluster at {scheduler} went away; what is done is kept: run again to go on")
            job, error = running.pop(future.key), future.exception()
            if error is None:
                yield job, future.result()
            elif isinstance(error, distributed.KilledWorker):
                yield job, Lost(DIED)
            else:  # task itself does not raise: the workers cannot run it (another version, a missing package)
                raise Refused(f"the Dask workers at {scheduler} cannot preprocess: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
