"""All runs below a folder as one table: what differs in their settings, steps, losses, scores with intervals, cost, and how each ended.

Numbers only; `explore.board` draws them. A damaged or half-written run folder is a row that says what is wrong with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from asapkit import checkpoint, status
from asapkit.types import Refused

MARKS = ("method.json", "state.pt", "history.csv", status.FILE)
LOSSES = ("reconstruct", "organs", "align", "words", "contrast", "labels")
LAST = 0.05  # share of the steps over which a last loss is the mean
SCORES = {"probe": "macro AUROC of linear probes", "hit": "share of sentences whose highest patch lies in the truth"}
COST = ("seconds", "seconds_per_step", "memory_mb", "gpu_memory_mb")
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
    except Refused:
        return False  # some other program's file


def read(folder: Path | str, *, name: str = "") -> Run:
    """One run folder; what cannot be read in it becomes state "damaged" and the reason, never an error."""
    run, name = Path(folder), name or Path(folder).name
    faults: list[str] = []
    settings = _attempt(_settings, run, faults) or {}
    history = _attempt(_history, run, faults)
    said = _attempt(status.read, run, faults)
    steps = int(settings.get("steps") or (said.steps if said else 0))
    done = len(history) if history is not None else 0
    state, reason = _state(run, said, done=done, steps=steps)
    if faults:
        state, reason = "damaged", "; ".join(faults)
    cost = {"seconds": said.seconds, "memory_mb": said.memory_mb or float("nan"), "gpu_memory_mb": said.gpu_memory_mb or float("nan")} if said else {}
    if said and said.timed:
        cost["seconds_per_step"] = said.seconds / said.timed
    elif said is None and done:
        cost["seconds_per_step"] = _logged_pace(run)
        cost["seconds"] = cost["seconds_per_step"] * done
    told = {} if history is None else {"history": history}
    return Run(name, run, state, reason, settings=settings, steps=steps, scores=scores(run), **told, **cost)


def _attempt(reader, run: Path, faults: list[str]):
    try:
        return reader(run)
    except Refused as error:
        faults.append(str(error).replace(f"{run}{os.sep}", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        faults.append(status.without_folders(f"{type(error).__name__}: {error}"))
    return None


def _settings(run: Path) -> dict[str, Any]:
    """Configuration, recipe, options and weights of the losses under one name each. Raises: Refused for what is missing or damaged."""
    for name in ("config.json", "method.json"):
        if not (run / name).is_file():
            raise Refused(f"{run / name}: not there; the folder was copied in part, or its training was killed while it began")
    config, said = checkpoint.settings(run)
    weights = {f"weight of {name}": value for name, value in said.get("weights", {}).items()}
    return {"recipe": said["recipe"], **asdict(config), **{_option(name, config): v for name, v in said["options"].items()}, **weights}


def _option(name: str, config) -> str:
    return f"option {name}" if hasattr(config, name) else name


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


def scores(run: Path) -> dict[str, tuple[float, float, float]]:
    """Scores of a run with their intervals, from the files in it, beside it, or, where its folder is called runs, beside that folder.

    `SCORES` says what they are: probes.json and grounding_<run>.json as `evidence` writes them, else a scores.csv, else a summary.json.
    """
    found: dict[str, tuple[float, float, float]] = {}
    places = [run, run.parent, *([run.parent.parent] if run.parent.name == "runs" else [])]
    for place in places:
        probes, grounded = _json(place / "probes.json"), _json(place / f"grounding_{run.name}.json")
        summary, table = _json(place / "summary.json"), _csv(place / "scores.csv")
        _add(found, "probe", _at(probes, "probe_macro_auroc", run.name))
        _add(found, "hit", _at(grounded, "intervals", "hit") or grounded.get("hit"))
        for row in _macro_rows(table, run.name, alone=place == run):
            _add(found, "probe", {"value": row.get("auroc"), "low": row.get("low"), "high": row.get("high")} if "hit" not in row else None)
            _add(found, "hit", {"value": row.get("hit"), "low": row.get("low"), "high": row.get("high")} if "hit" in row else None)
        _add(found, "probe", _at(summary, "probe_macro_auroc", run.name))
    return found


def _add(found: dict, name: str, said: Any) -> None:
    """Keeps the first that is a number; where no interval is known its ends are NaN."""
    if isinstance(said, int | float):
        said = {"value": said}
    if name in found or not isinstance(said, Mapping):
        return
    three = tuple(pd.to_numeric(said.get(key), errors="coerce") if said.get(key) is not None else float("nan") for key in ("value", "low", "high"))
    if not pd.isna(three[0]):
        found[name] = tuple(float(v) for v in three)


def _macro_rows(table: pd.DataFrame, name: str, *, alone: bool) -> list[dict]:
    """Rows of the mean over findings at the largest share of the labels; a csv inside a run folder is that run's whatever it calls it."""
    if not {"encoder", "finding"} <= set(table):
        return []
    rows = table[(table["finding"] == "macro") & ((table["encoder"] == name) | alone)]
    if "share" in rows and rows["share"].notna().any():
        rows = rows[rows["share"].isna() | (rows["share"] == rows["share"].max())]
    return [row.dropna().to_dict() for _, row in rows.iterrows()]


def _json(file: Path) -> dict:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _csv(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file)
    except (OSError, ValueError):
        return pd.DataFrame()


def _at(said: Any, *keys: str) -> Any:
    for key in keys:
        said = said.get(key) if isinstance(said, Mapping) else None
    return said


# ------------------------------------------------------------------------------------------------------------------------- table


def collect(folder: Path | str) -> list[Run]:
    """Every run below a folder, named by its path from there."""
    top = Path(folder)
    return [read(place, name=top.resolve().name if place == top else place.relative_to(top).as_posix()) for place in find(top)]


def differing(runs: Iterable[Run]) -> list[str]:
    """Settings that are not the same in all runs that could be read. An option that a run does not name is its recipe's default.

    A configuration's field or a loss weight that a run lacks is none of its own, and differs from nothing.
    """
    readable = [run.settings for run in runs if run.settings]
    names = list(dict.fromkeys(name for settings in readable for name in settings))
    fixed = set(checkpoint.Config.__dataclass_fields__) | {n for n in names if n.startswith("weight of ")}
    told = {name: [s.get(name) for s in readable if name in s or name not in fixed] for name in names}
    return [name for name in names if len({json.dumps(v, sort_keys=True, default=str) for v in told[name]}) > 1]


def table(folder: Path | str | None = None, *, found: list[Run] | None = None) -> pd.DataFrame:
    """One row per run, by name: state, reason, done, steps, what differs in the settings, last losses, scores, cost.

    Last losses are means over the last `LAST` of the steps; every score has columns with `_low` and `_high` beside it; seconds, MB.
    Give a folder, or the runs that `collect` found. Raises: Refused where there is no such folder.
    """
    found = collect(folder) if found is None else found
    differ, rows = differing(found), {}
    for run in found:
        row: dict[str, Any] = {"state": run.state, "reason": run.reason, "done": len(run.history), "steps": run.steps}
        row |= {name: _plain(run.settings[name]) if name in run.settings else None for name in differ}
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


def _plain(value: Any) -> Any:
    """A setting as a cell of a table: numbers and words as they are, sequences joined."""
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else value


def tally(table: pd.DataFrame) -> str:
    """4 runs: 3 finished, 1 crashed."""
    if table.empty:
        return "no run folder there yet"
    counts = table["state"].value_counts()
    return f"{len(table)} run{'s' * (len(table) != 1)}: " + ", ".join(f"{counts[s]} {s}" for s in STATES if s in counts)


def duration(seconds: float) -> str:
    """184 -> 3 min 4 s; nothing for an unknown one."""
    if seconds != seconds:
        return ""
    whole = round(seconds)
    for unit, big, small in ((86400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if whole >= unit:
            below = {"d": 3600, "h": 60, "min": 1}[big]
            return f"{whole // unit} {big} {whole % unit // below} {small}"
    return f"{seconds:.1f} s"
