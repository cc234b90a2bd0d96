"""What a run says of itself while it trains: status.json, written whole or not at all; and what it must mean where the process is gone.

It holds numbers, the name of this host, and of an error its type and where it was raised; its message only where this house wrote it, without
folders. Text of a report never stands in it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from asapkit.types import Refused

FILE = "status.json"
BEAT = 10.0  # seconds between two signs of life, at least
SILENT = 900.0  # seconds without one after which a run on another host counts as gone; more where its steps are slow
STATES = ("running", "finished", "stopped", "crashed")
MOST = 1e15  # above any second, step, process or MB that a record holds
KINDS = {"str": (str, "words"), "int": (int, "a whole number"), "float": ((int, float), "a number"), "dict": (dict, "fields by name")}


@dataclass(frozen=True)
class Status:
    """`step` of `steps` done; `seconds` of training so far, those before a resume included; memory in MB, the highest that this process took."""

    state: str  # one of STATES
    pid: int
    born: int  # when the process started, as the system counts it: another process may get the same pid; 0 unknown
    host: str
    updated: float  # seconds since 1970
    step: int
    steps: int
    seconds: float
    timed: int  # steps that `seconds` covers
    memory_mb: float = 0.0
    gpu_memory_mb: float = 0.0
    error: str = ""
    message: str = ""


class Record:
    """The status of one running training: `beat(step)` after every step; it writes at most every `BEAT` seconds."""

    def __init__(self, run: Path, *, start: int, steps: int, lead: bool):
        self.run, self.lead, self.start, self.began = run, lead, start, time.monotonic()
        self.before = _spent(run) if start else (0.0, 0)
        process = {"pid": os.getpid(), "born": born(os.getpid()), "host": socket.gethostname()}
        self.status = Status("running", **process, updated=time.time(), step=start, steps=steps, seconds=self.before[0], timed=self.before[1])
        self.written = 0.0
        self.write("running")

    def beat(self, step: int) -> None:
        self.status = replace(self.status, step=step)
        if time.monotonic() - self.written >= BEAT:
            self.write("running")

    def write(self, state: str, **more) -> None:
        if not self.lead:
            return
        seconds = self.before[0] + time.monotonic() - self.began
        timed = self.before[1] + self.status.step - self.start
        now = replace(self.status, state=state, updated=time.time(), seconds=round(seconds, 2), timed=timed, **memory(), **more)
        part = self.run / f".{FILE}.part"
        try:
            part.write_text(json.dumps(asdict(now), indent=1) + "\n", encoding="utf-8")
            os.replace(part, self.run / FILE)
        except OSError:  # a full disk stops a training where it saves its weights, not here
            part.unlink(missing_ok=True)
        self.written = time.monotonic()


def _spent(run: Path) -> tuple[float, int]:
    """Seconds and timed steps of a training that goes on; a damaged record stops no training."""
    try:
        before = read(run)
    except Refused:
        return 0.0, 0
    return (before.seconds, before.timed) if before else (0.0, 0)


@contextmanager
def recorded(run: Path, *, start: int, steps: int, lead: bool) -> Iterator[Record]:
    """Keeps status.json of a run while the block trains it, from step `start` to `steps`; only the process that leads writes."""
    record = Record(run, start=start, steps=steps, lead=lead)
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        record.write("stopped" if stopped else "crashed", **({} if stopped else told(error)))
        raise
    record.write("finished" if record.status.step >= steps else "stopped")


def told(error: BaseException) -> dict[str, str]:
    """Type and place of an error. Its words only where they are ours or the system's: other messages may quote what was read."""
    if isinstance(error, Refused):
        message = without_folders(str(error))
    elif isinstance(error, OSError) and error.strerror:
        message = error.strerror
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}asapkit{os.sep}" in f.filename]
        message = f"in {Path(frames[-1].filename).stem}.{frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "message": message}


def without_folders(text: str) -> str:
    """One line of at most 300 letters; a path keeps its last name only."""
    words = [re.split(r"[/\\]", w.rstrip("/\\"))[-1] if re.search(r"[/\\]", w) else w for w in text.split()]
    return " ".join(filter(None, words))[:300]


def memory() -> dict[str, float]:
    """Highest memory of this process so far, and of its tensors on a GPU, in MB; 0 where it cannot be known."""
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kB, macOS bytes
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    except ImportError:
        taken = 0.0
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch is not None and torch.cuda.is_initialized() else 0.0
    return {"memory_mb": round(taken, 1), "gpu_memory_mb": round(gpu, 1)}


def read(run: Path) -> Status | None:
    """What status.json says; None where there is none. Raises: Refused where it cannot be read."""
    file = Path(run) / FILE
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Status(**_checked(said))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{FILE}: damaged ({' '.join(str(error).split())[:160]})") from error


def _checked(said: Any) -> dict[str, Any]:
    """Fields of a status. Raises: ValueError naming the first that is missing or of another kind."""
    require("", said, "dict")
    for field in fields(Status):
        if field.name in said:
            require(field.name, said[field.name], str(field.type), low=1 if field.name == "pid" else 0)
        elif field.default is MISSING:
            raise ValueError(f"`{field.name}` is missing")
    if said["state"] not in STATES:
        raise ValueError(f"`state` is {said['state'][:20]}, where one of {', '.join(STATES)} belongs")
    return {f.name: said[f.name] for f in fields(Status) if f.name in said}


def require(name: str, value: Any, kind: str, *, low: float = 0) -> None:
    """Raises: ValueError for a value that is not of its kind (of `KINDS`), or a number below `low` or without end. Words are never quoted."""
    of, wanted = KINDS[kind]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, of) and (kind in ("str", "dict") or (number and low <= value < MOST)):
        return
    words = {str: "words", list: "a list", dict: "fields by name", bool: "a yes or no"}
    is_ = f"{value!r:.20}" if number else words.get(type(value), "nothing")
    plural = "belong" if kind in ("str", "dict") else f"{'from ' + str(low) + ' on ' if number else ''}belongs"
    raise ValueError(f"{f'`{name}` is ' if name else ''}{is_}, where {wanted} {plural}")


def verdict(status: Status, *, now: float | None = None) -> tuple[str, str]:
    """State and reason as they are now: a "running" whose process is gone has crashed, and nobody was there to say why."""
    if status.state == "crashed":
        return "crashed", ": ".join(filter(None, (status.error, status.message)))
    if status.state != "running":
        return status.state, "" if status.state == "finished" else "interrupted by hand"
    silent = (time.time() if now is None else now) - status.updated
    if status.host == socket.gethostname():
        here = alive(status.pid) and (not status.born or born(status.pid) in (0, status.born))
        return ("running", "") if here else ("crashed", "killed: its process is gone and left no error (out of memory, a time limit, or a reboot)")
    patience = max(SILENT, 20 * status.seconds / max(1, status.timed))
    said = f"on another host, last sign of life {_ago(silent)} ago"
    return ("running", said) if silent <= patience else ("crashed", f"silent: {said}")


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0, seconds):.0f} s"


def alive(pid: int) -> bool:
    """Whether a process of this host has this number and is no zombie; 0 and below are no numbers of one."""
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # somebody else's process, but a process
    except (OSError, OverflowError):
        return False
    stat = _stat(pid)
    return not stat or stat[0] != "Z"


def born(pid: int) -> int:
    """When a process started, in ticks since the system did; 0 where the system does not say."""
    stat = _stat(pid)
    return int(stat[19]) if len(stat) > 19 else 0


def _stat(pid: int) -> list[str]:
    """Fields of Linux's /proc/<pid>/stat after the name, which may itself hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []
