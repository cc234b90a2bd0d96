"""Pieces of work beside each other: order, what they come after, failures, one process or several."""

import os
import time
from functools import partial
from graphlib import CycleError
from pathlib import Path

import pytest

from asapkit import jobs


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


def test_pieces_that_wait_for_each_other_are_refused(tmp_path):
    work = {name: partial(note, name, tmp_path / "log") for name in "ab"}
    with pytest.raises(CycleError):
        jobs.side_by_side(work, after={"a": "b", "b": "a"}, workers=1, doing="test")
    assert jobs.side_by_side({}, workers=2, doing="test") == {}


def test_each_process_has_one_thread_and_says_so_to_what_it_starts():
    found = jobs.side_by_side({"a": one_thread, "b": one_thread}, workers=2, doing="test", progress=False)
    assert set(found.values()) == {(1, "1")}
