"""All runs below a folder as one table: what differs in their settings, steps, losses, scores with intervals, cost, and how each ended.

Numbers only; `explore.board` draws them. A damaged or half-written run folder is a row that says what is wrong with it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from asapkit import checkpoint, status
from asapkit.types import LOSSES, Refused

MARKS = ("method.json", "state.pt", "history.csv", status.FILE)
LAST = 0.05  # share of the steps over which a last loss is the mean
SCORES = {
    "probe": "macro AUROC of linear probes", "hit": "share of sentences whose highest patch lies in the truth",
    "rise": "rise of the alignment loss when images are exchanged across reports",
}  # fmt: skip
ABSENT = object()
COST = ("seconds", "seconds_per_step", "memory_mb", "gpu_memory_mb")
PATHS = ("init", "store")  # settings that are paths: told by their ends
STATES = (*status.STATES, "unknown", "damaged")


@dataclass(frozen=True)
class Run:
    """One run folder as it is found. `settings`: flat, options and loss weights by name. `scores`: name -> value, low, high."""

    name: str
    folder: Path
    state: str
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"step": []}))
    done: int = 0  # by the status, else by the history, which ends with the last checkpoint
    steps: int = 0  # asked for
    seconds: float = float("nan")
    seconds_per_step: float = float("nan")
    memory_mb: float = float("nan")
    gpu_memory_mb: float = float("nan")
    scores: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def find(folder: Path | str) -> list[Path]:
    """Every run folder at or below `folder`, in order of their names; nothing inside a run is looked at.

    Raises: Refused where there is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise Refused(f"{top}: no such folder; give the folder that holds the runs")
    found, seen = [], set()
    for place, below, files in os.walk(top, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link back up the tree would never end
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(b for b in below if not b.startswith("."))
        if _is_run(Path(place), files):
            found.append(Path(place))
            below.clear()
    return sorted(found)


def _is_run(folder: Path, files: Iterable[str]) -> bool:
    if set(MARKS) & set(files):
        return True
    try:
        return "config.json" in files and "scale" in checkpoint.described(folder)
    except (Refused, OSError):
        return False  # some other program's file


def read(folder: Path | str, *, name: str = "") -> Run:
    """One run folder; what cannot be read in it becomes state "damaged" and the reason, never an error."""
    run, name = Path(folder), name or Path(folder).name
    faults, notes = list[str](), list[str]()
    settings = (_attempt(_settings, run, faults) or {}) | (_attempt(_store, run, faults) or {})
    history = _attempt(_history, run, faults)
    said = _attempt(status.read, run, faults)
    kept = len(history) if history is not None else 0
    done, steps = max(kept, said.step if said else 0), settings.get("steps") or (said.steps if said else 0)
    state, reason = _attempt(lambda place: _state(place, said, done=kept, steps=steps), run, faults) or ("unknown", "")
    if done > kept and not faults:
        notes.append(f"kept up to step {kept}" if kept else "no checkpoint yet" if state == "running" else "no checkpoint was kept")
    found = _attempt(lambda place: scores(place, notes), run, notes) or {}
    cost = _attempt(lambda place: _cost(place, said, kept), run, notes) or {}
    if faults:
        state, reason = "damaged", "; ".join(faults)
    reason = _one_line("; ".join(filter(None, [reason, *dict.fromkeys(notes)])))
    return Run(
        name, run, state, reason, settings=settings, done=done, steps=steps, scores=found, **cost, **({} if history is None else {"history": history})
    )


def _attempt(reader, run: Path, faults: list[str]):
    """What a reader finds, or None and a fault more: whatever lies in one folder, the others are still shown."""
    try:
        return reader(run)
    except Refused as error:
        faults.append(str(error).replace(f"{run}{os.sep}", ""))
    except Exception as error:
        faults.append(status.without_folders(f"{type(error).__name__}: {error}"))
    return None


def _one_line(text: str) -> str:
    """Words of a file as a cell can show them: one line, not endless, no half letters."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:400]


def _cost(run: Path, said: status.Status | None, done: int) -> dict[str, float]:
    if said is None:
        pace = _logged_pace(run) if done else float("nan")
        return {"seconds_per_step": pace, "seconds": pace * done}
    pace = {"seconds_per_step": said.seconds / said.timed} if said.timed else {}
    return {name: float(getattr(said, name)) or float("nan") for name in ("memory_mb", "gpu_memory_mb")} | {"seconds": float(said.seconds)} | pace


def _settings(run: Path) -> dict[str, Any]:
    """Configuration, recipe, start, options and weights of the losses under one name each. Raises: Refused for what is missing or damaged."""
    for name in ("config.json", "method.json"):
        if not (run / name).is_file():
            raise Refused(f"{run / name}: not there; the folder was copied in part, or its training was killed while it began")
    config = checkpoint.read_config(run)
    said = _named(run / "method.json", recipe="str", options="dict", weights="dict?", init="str?")
    try:
        status.require("steps", config.steps, "int")
    except ValueError as error:
        raise Refused(f"config.json: damaged ({error})") from error
    weights = {f"weight of {name}": value for name, value in (said.get("weights") or {}).items()}
    start = {"init": os.path.normpath(said["init"])} if said.get("init") else {}
    return {"recipe": said["recipe"], **asdict(config), **start, **{_option(name, config): v for name, v in said["options"].items()}, **weights}


def _named(file: Path, **kinds: str) -> dict[str, Any]:
    """A file of fields by name, of these kinds; one with a ? may be missing. Raises: Refused naming file and field."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        status.require("", said, "dict")
        for name, kind in kinds.items():
            if name not in said and not kind.endswith("?"):
                raise ValueError(f"`{name}` is missing")
            if said.get(name) is not None or not kind.endswith("?"):
                status.require(name, said[name], kind.rstrip("?"))
        for name, value in (said.get("weights") or {}).items():
            status.require(f"weights.{name}", value, "float", low=-status.MOST)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file}: damaged ({error}); take it from a copy, or train again") from error
    return said


def _store(run: Path) -> dict[str, str]:
    """Where the store of the training lies; nothing where the run does not say."""
    if not (run / "data.json").exists():
        return {}
    _named(run / "data.json", store="str")
    return {"store": str(checkpoint.trained_on(run))}


def _option(name: str, config) -> str:
    return f"option {name}" if hasattr(config, name) or name in PATHS else name


def _history(run: Path) -> pd.DataFrame | None:
    file = run / "history.csv"
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise Refused(f"{file}: damaged ({' '.join(str(error).split())[:120]})") from error
    if "step" not in table or not all(pd.api.types.is_numeric_dtype(t) for _, t in table.items()):
        raise Refused(f"{file}: damaged (no column `step`, or words where numbers belong)")
    return table


def _state(run: Path, said: status.Status | None, *, done: int, steps: int) -> tuple[str, str]:
    whole = (run / "weights.safetensors").is_file()
    if steps and done >= steps:
        return ("finished", "") if whole else ("damaged", "weights.safetensors: not there")
    if said is not None:
        return status.verdict(said)
    if done and not whole:
        return "damaged", "weights.safetensors: not there"
    return "unknown", f"{done} of {steps} steps, and no {status.FILE} that says how it ended"


def _logged_pace(run: Path) -> float:
    """Seconds per step by the clock of the TensorBoard files, for a run without a status; NaN where they say nothing."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    paces = []
    for file in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        try:
            clock = {event.step: event.wall_time for event in EventFileLoader(str(file)).Load() if event.summary.value}
        except Exception:  # cut in the middle of a record: the other files may say
            continue
        if len(clock) > 1:
            paces.append(((max(clock.values()) - min(clock.values())) / (max(clock) - min(clock)), len(clock)))
    return sum(p * n for p, n in paces) / sum(n for _, n in paces) if paces else float("nan")


# ------------------------------------------------------------------------------------------------------------------------ scores


def scores(run: Path, notes: list[str] | None = None) -> dict[str, tuple[float, float, float]]:
    """Scores of a run with their intervals, from the files in it, beside it, or, where its folder is called runs, beside that folder.

    `SCORES` says what they are: probes.json, grounding_<run>.json, dependence_<run>.json as `evidence` writes them, or scores.csv, or summary.json.
    """
    found: dict[str, tuple[float, float, float]] = {}
    notes = [] if notes is None else notes

    def add(score: str, said: Any, file: str) -> None:
        """Keeps the first that is a number; where no interval is known its ends are NaN."""
        if said is ABSENT or score in found:
            return
        value, low, high = (
            (_number(said.get(key)) for key in ("value", "low", "high")) if isinstance(said, Mapping) else (_number(said), *2 * [math.nan])
        )
        if value is not None and value == value:
            found[score] = (value, *(math.nan if end is None else end for end in (low, high)))
        elif value is None:
            notes.append(f"{file}: no number stands for `{score}`")

    for place in [run, run.parent, *([run.parent.parent] if run.parent.name == "runs" else [])]:
        told = ("probes.json", f"grounding_{run.name}.json", f"dependence_{run.name}.json", "summary.json")
        probes, grounded, depends, summary = (_json(place / f, notes) for f in told)
        add("probe", _at(probes, "probe_macro_auroc", run.name), "probes.json")
        add("hit", _at(grounded, "intervals", "hit"), f"grounding_{run.name}.json")
        add("hit", _at(grounded, "hit"), f"grounding_{run.name}.json")
        add("rise", _at(depends, "rise"), f"dependence_{run.name}.json")
        for row in _rise_rows(_csv(place / "scores.csv"), run.name, alone=place == run):
            add("rise", row, "scores.csv")
        for row in _macro_rows(_csv(place / "scores.csv"), run.name, alone=place == run):
            score, column = ("hit", "hit") if "hit" in row else ("probe", "auroc")
            add(score, {"value": row[column], "low": row.get("low"), "high": row.get("high")} if column in row else ABSENT, "scores.csv")
        add("probe", _at(summary, "probe_macro_auroc", run.name), "summary.json")
    return found


def _number(value: Any) -> float | None:
    """A finite number, or NaN where it says so; None for anything else."""
    try:
        told = None if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return None if told is None or math.isinf(told) else told


def _macro_rows(table: pd.DataFrame, name: str, *, alone: bool) -> list[dict]:
    """Rows of the mean over findings at the largest share of the labels; a csv inside a run folder is that run's whatever it calls it."""
    if not {"encoder", "finding"} <= set(table):
        return []
    rows = table[(table["finding"] == "macro") & ((table["encoder"] == name) | alone)]
    if "task" in rows:  # zero-shot scores are no probe's
        rows = rows[rows["task"].isin(("classify", "ground"))]
    if "share" in rows:
        share = pd.to_numeric(rows["share"], errors="coerce")
        rows = rows[rows["share"].isna() | (share == share.max())]
    return [row.dropna().to_dict() for _, row in rows.iterrows()]


def _rise_rows(table: pd.DataFrame, name: str, *, alone: bool) -> list[dict]:
    """The rise that the task `depend` wrote."""
    if not {"encoder", "measure"} <= set(table):
        return []
    return table[(table["measure"] == "rise") & ((table["encoder"] == name) | alone)].to_dict("records")


def _json(file: Path, notes: list[str]) -> dict:
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError, RecursionError):
        said = notes.append(f"{file.name}: damaged")
    return said if isinstance(said, dict) else {}


def _csv(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file)
    except (OSError, ValueError):
        return pd.DataFrame()


def _at(said: Any, *keys: str) -> Any:
    for key in keys:
        said = said.get(key, ABSENT) if isinstance(said, Mapping) else ABSENT
    return said


# ------------------------------------------------------------------------------------------------------------------------- table


def collect(folder: Path | str) -> list[Run]:
    """Every run below a folder, named by its path from there."""
    top = Path(folder)
    return [read(place, name=top.resolve().name if place == top else place.relative_to(top).as_posix()) for place in find(top)]


def differing(runs: Iterable[Run]) -> list[str]:
    """Settings that are not the same in all runs that could be read. An option that a run does not name is its recipe's default.

    A configuration's field, store or loss weight that a run lacks is none of its own, and differs from nothing.
    """
    readable = [run.settings for run in runs if run.settings]
    names = list(dict.fromkeys(n for settings in readable for n in settings))
    fixed = {"store", *checkpoint.Config.__dataclass_fields__} | {n for n in names if n.startswith("weight of ")}
    told = {name: [s.get(name) for s in readable if name in s or name not in fixed] for name in names}
    return [name for name in names if len({json.dumps(v, sort_keys=True, default=str) for v in told[name]}) > 1]


def table(folder: Path | str | None = None, *, found: list[Run] | None = None) -> pd.DataFrame:
    """One row per run, by name: state, reason, done, steps, what differs in the settings, last losses, scores, cost.

    Last losses are means over the last `LAST` of the steps; every score has columns with `_low` and `_high` beside it; seconds, MB.
    Give a folder, or the runs that `collect` found. Raises: Refused where there is no such folder.
    """
    found = collect(folder) if found is None else found
    differ, rows = differing(found), {}
    ends = {name: _ends(run.settings[name] for run in found if name in run.settings) for name in PATHS}
    for run in found:
        row: dict[str, Any] = {"state": run.state, "reason": run.reason, "done": run.done, "steps": run.steps}
        row |= {name: _plain(run.settings.get(name), ends.get(name, {})) for name in differ}
        last = run.history.tail(max(1, round(LAST * len(run.history)))).mean()
        row |= {f"last {loss}": float(last[loss]) for loss in LOSSES if loss in run.history and len(run.history)}
        for name, three in run.scores.items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), three, strict=True))
        row |= {name: getattr(run, name) for name in COST}
        rows[run.name] = row
    fixed = ["state", "reason", "done", "steps", *(d for d in differ if d != "steps")]
    fixed += [f"last {loss}" for loss in LOSSES] + [f"{s}{end}" for s in SCORES for end in ("", "_low", "_high")]
    present = {name for row in rows.values() for name in row}
    columns = [c for c in (*fixed, *COST) if c in present]
    made = pd.DataFrame({c: pd.Series({run: row.get(c) for run, row in rows.items()}, dtype=object if c in differ else None) for c in columns})
    unknown = [c for c in columns if c in COST and made[c].isna().all()]
    return made.drop(columns=unknown).rename_axis("run")


def _plain(value: Any, ends: Mapping[str, str]) -> Any:
    """A setting as a cell of a table: numbers and words as they are, sequences joined, of a path its end."""
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else ends.get(value, value) if isinstance(value, str) else value


def _ends(paths: Iterable[str]) -> dict[str, str]:
    """The shortest end of every path that no other of them has."""
    parts = {path: re.split(r"[/\\]", path) for path in paths}

    def end(path: str) -> str:
        names = parts[path]
        taken = (n for n in range(1, len(names)) if not any(names[-n:] == other[-n:] for p, other in parts.items() if p != path))
        return "/".join(names[-next(taken, len(names)) :])

    return {path: end(path) for path in parts}


def tally(table: pd.DataFrame) -> str:
    """4 runs: 3 finished, 1 crashed."""
    if table.empty:
        return "no run folder there yet"
    said = ", ".join(f"{n} {s}" for s in STATES if (n := (table["state"] == s).sum()))
    return f"{len(table)} run{'s' * (len(table) != 1)}: {said}"


def duration(seconds: float) -> str:
    """184 -> 3 min 4 s; nothing for one that is unknown or makes no sense."""
    if not 0 <= seconds < math.inf:
        return ""
    whole = round(seconds)
    for unit, big, small in ((86400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if whole >= unit:
            below = {"d": 3600, "h": 60, "min": 1}[big]
            return f"{whole // unit} {big} {whole % unit // below} {small}"
    return f"{seconds:.1f} s"
