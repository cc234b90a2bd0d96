"""Pieces of work beside each other: order, what they come after, failures, one process or several."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from graphlib import CycleError
from pathlib import Path

import pytest

from asapkit import jobs
from asapkit.types import Refused


def note(name: str, log: Path, *, seconds: float = 0.0) -> tuple[str, int]:
    with log.open("a") as file:
        file.write(f"begin {name}\n")
    time.sleep(seconds)
    with log.open("a") as file:
        file.write(f"end {name}\n")
    return name.upper(), jobs.slot()


def fail(log: Path) -> None:
    note("fail", log)
    raise KeyError("no such thing")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def one_thread() -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_piece_waits_for_what_it_comes_after_and_the_first_named_goes_first(tmp_path, workers):
    log = tmp_path / "log"
    work = {name: partial(note, name, log, seconds=0.05) for name in ("last", "long", "short", "middle")}
    found = jobs.side_by_side(work, after={"last": {"middle", "long"}, "middle": ["short"]}, workers=workers, doing="test", progress=False)
    assert list(found) == list(work) and [v[0] for v in found.values()] == ["LAST", "LONG", "SHORT", "MIDDLE"]
    assert {v[1] for v in found.values()} <= set(range(workers)), "each process has a line of its own"
    lines = log.read_text().splitlines()
    at = {line: n for n, line in enumerate(lines)}
    assert at["end short"] < at["begin middle"] and at["end middle"] < at["begin last"] and at["end long"] < at["begin last"]
    assert at["begin long"] < at["begin middle"]
    if workers == 1:
        assert [line for line in lines if "begin" in line] == [f"begin {name}" for name in ("long", "short", "middle", "last")]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_raised_and_what_came_after_it_is_never_begun(tmp_path, workers):
    log = tmp_path / "log"
    work = {"fail": partial(fail, log), "next": partial(note, "next", log)}
    with pytest.raises(KeyError, match="no such thing"):
        jobs.side_by_side(work, after={"next": ["fail"]}, workers=workers, doing="test", progress=False)
    assert "begin next" not in log.read_text()


def test_a_failure_stops_what_is_under_way_and_begins_nothing_more(tmp_path):
    log = tmp_path / "log"
    work = {"fail": partial(fail, log)} | {name: partial(note, name, log, seconds=20) for name in "abcd"}
    began = time.monotonic()
    with pytest.raises(KeyError, match="no such thing"):
        jobs.side_by_side(work, workers=2, doing="test", progress=False)
    assert time.monotonic() - began < 20
    assert sum("begin" in line for line in log.read_text().splitlines()) <= 2, "the one that failed, and the one beside it"


def test_a_process_that_is_killed_is_one_line_that_names_what_was_under_way():
    with pytest.raises(Refused, match="^lost: its worker process was killed .* run again to go on"):
        jobs.side_by_side({"first": one_thread, "lost": kill_itself}, after={"lost": ["first"]}, workers=2, doing="test", progress=False)


PARENT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in a shell's background inherit that it is ignored
sys.path.insert(0, sys.argv[1])
from functools import partial
from pathlib import Path
import test_jobs
from asapkit import jobs

if __name__ == "__main__":
    jobs.side_by_side({n: partial(test_jobs.note, n, Path(sys.argv[2]), seconds=60) for n in "abc"}, workers=2, doing="test", progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_goes_on_when_the_process_that_asked_is_gone(tmp_path, how):
    script, log = tmp_path / "parent.py", tmp_path / "log"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(Path(__file__).parent), str(log)], start_new_session=True, stderr=subprocess.DEVNULL)
    until(lambda: log.exists() and log.read_text().count("begin") == 2)
    os.kill(parent.pid, how)
    assert parent.wait(timeout=30) != 0
    until(lambda: not members(parent.pid))
    assert log.read_text().count("begin") == 2 and "end" not in log.read_text()


def until(what, *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def members(group: int) -> list[int]:
    """Processes of a group that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        found += [int(stat.parent.name)] * (int(its_group) == group and state != "Z")
    return found


def test_pieces_that_wait_for_each_other_are_refused(tmp_path):
    work = {name: partial(note, name, tmp_path / "log") for name in "ab"}
    with pytest.raises(ValueError, match="nothing is called 'c'; there are a, b"):
        jobs.side_by_side(work, after={"a": "c"}, workers=1, doing="test")
    with pytest.raises(CycleError):
        jobs.side_by_side(work, after={"a": "b", "b": "a"}, workers=1, doing="test")
    assert jobs.side_by_side({}, workers=2, doing="test") == {}


def test_each_process_has_one_thread_and_says_so_to_what_it_starts():
    found = jobs.side_by_side({"a": one_thread, "b": one_thread}, workers=2, doing="test", progress=False)
    assert set(found.values()) == {(1, "1")}
