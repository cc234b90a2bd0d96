"""Runs one task over many jobs: in this process, in worker processes here, or on an existing Dask cluster. A worker that dies loses its job only."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
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


def each(
    task: Callable[[J], R], jobs: Iterable[J], *, workers: int = 1, scheduler: str | None = None, shared: Path | None = None
) -> Iterator[tuple[J, R | Lost]]:
    """Yields (job, result) as jobs finish, in no particular order. `task` is a module-level function that does not raise.

    One worker and no scheduler: everything runs in this process. More: processes with single-threaded mathematics; when one of them dies, the
    jobs then under way run again one at a time, and the one that kills its process again is given back as `Lost`.

    Raises: Refused when the cluster of `scheduler` ("tcp://host:port") does not answer, goes away, or has a worker that does not see `shared`.
    """
    if scheduler is not None:
        return _on_dask(task, deque(jobs), scheduler, shared)
    return ((job, task(job)) for job in jobs) if workers <= 1 else _in_processes(task, deque(jobs), workers)


# --- processes of this machine


def _pool(workers: int) -> ProcessPoolExecutor:
    """Forked from a clean server process that imported the library once; spawned where there is no forking."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin_worker)
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asapkit.preprocess", "asapkit.doctor", "scipy.ndimage"])
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # the server inherits them before its numerical libraries count the cores
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return ProcessPoolExecutor(workers, context, begin_worker)


def begin_worker() -> None:
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


def require_address(scheduler: str | None) -> None:
    """Raises: Refused for what is no address of a scheduler; Dask's client of one complains once more when it is deleted."""
    if scheduler is not None and not re.fullmatch(r"([a-z]+://)?[^/\s]+:\d+", scheduler):
        raise Refused(f"--scheduler {scheduler}: is no address; give tcp://host:port, or leave it out")


def _on_dask(task: Callable[[J], R], queue: deque[J], scheduler: str, shared: Path | None) -> Iterator[tuple[J, R | Lost]]:
    import distributed

    try:
        client = distributed.Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Refused(f"no Dask scheduler answers at {scheduler}: start one (dask scheduler) or leave it out ({type(error).__name__})") from error
    with client:
        if shared is not None and (blind := [worker for worker, sees in client.run(os.path.exists, str(shared)).items() if not sees]):
            raise Refused(f"Dask worker {blind[0]} does not see {shared}: data and store must lie in folders that all workers share")
        suspects = []  # Dask also blames the jobs that happened to share a dying worker: try again, one at a time
        for job, result in _submitted(client, task, queue, scheduler):
            if isinstance(result, Lost):
                suspects.append(job)
            else:
                yield job, result
        for job in suspects:
            yield from _submitted(client, task, deque([job]), scheduler)


def _submitted(client, task: Callable[[J], R], queue: deque[J], scheduler: str) -> Iterator[tuple[J, R | Lost]]:
    """At most one job per thread of the cluster under way; a cluster without workers is waited for `ANSWER_S` seconds."""
    import distributed

    running: dict = {}
    alone_since = None
    while queue or running:
        threads = sum(client.nthreads().values())  # asked again each time: clusters grow and shrink
        while queue and len(running) < max(1, threads):
            future = client.submit(task, queue[0], pure=False)
            running[future] = queue.popleft()
        done = [future for future in running if future.done()]  # known locally: no round trip
        time.sleep(0 if done else 0.02)
        for future in done:
            if future.cancelled() or client.status != "running":
                raise Refused(f"the Dask cluster at {scheduler} went away; what is done is kept: run again to go on")
            try:
                result = _outcome(future, scheduler)
            except (TimeoutError, distributed.TimeoutError):
                continue  # its worker died before handing it over: Dask runs it again
            yield running.pop(future), result
        alone_since = None if threads else (alone_since or time.monotonic())
        if alone_since is not None and time.monotonic() - alone_since > ANSWER_S:
            raise Refused(f"the Dask cluster at {scheduler} has no workers (left); start some and run again to go on")


def _outcome(future, scheduler: str):
    import distributed

    try:
        return future.result(timeout=ANSWER_S)
    except distributed.KilledWorker:
        return Lost(DIED)
    except (TimeoutError, distributed.TimeoutError):
        raise
    except Exception as error:  # the task itself does not raise: the workers cannot run it (another version, a missing package)
        line = " ".join(str(error).split())[:300]
        raise Refused(f"the Dask workers at {scheduler} cannot preprocess: {type(error).__name__}: {line}") from error
