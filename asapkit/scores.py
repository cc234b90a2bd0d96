"""An encoder scored on downstream tasks, on one store or on several: every task is `fit`, then `score`, whatever the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pandas as pd

from asapkit import store as stores
from asapkit.config import Config
from asapkit.store import Store
from asapkit.types import Refused

UNTRAINED = "random"


def evaluate(
    encoder: str | Path, data: str | Path, *, tasks: Iterable[str] = ("classify",), settings: Mapping[str, Mapping] | None = None,
    out: str | Path | None = None, device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """Scores of `encoder` (a run folder, a weights file, or "random") on `data` (a store, or a folder with one store per dataset).

    Returns the tasks' own records with the columns task, dataset and encoder before them; written to out/scores.csv too where `out` is given,
    and features are then kept in out/features. settings: task -> further arguments of its `fit`.

    Raises: ValueError for an unknown task; Refused for an encoder or data that cannot be read, or that were made under different contracts.
    """
    modules = {name: _task(name) for name in tasks}
    found = list(_stores(Path(data)))
    cache = None if out is None else Path(out) / "features"
    rows = []
    for store in found:
        networks = {needs: _network(encoder, store, needs=needs) for needs in dict.fromkeys(module.NEEDS for module in modules.values())}
        for name, module in modules.items():
            network = networks[module.NEEDS]
            head = module.fit(network, store, device=device, cache=cache, **(settings or {}).get(name, {}))
            records = module.score(network, head, store, device=device, cache=cache)
            for place, (column, value) in enumerate({"task": name, "dataset": store.root.name, "encoder": Path(encoder).name}.items()):
                records.insert(place, column, value)
            rows.append(records)
    scores = pd.concat(rows, ignore_index=True)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        scores.to_csv(Path(out) / "scores.csv", index=False, float_format="%.6g")
    return scores


def known_tasks() -> list[str]:
    return sorted(p.stem for p in (Path(__file__).parent / "tasks").glob("[a-z]*.py"))


def _task(name: str):
    if name not in known_tasks():
        raise ValueError(f"unknown task {name!r}; there are {', '.join(known_tasks())}")
    return import_module(f"asapkit.tasks.{name}")


def _stores(data: Path) -> Iterator[Store]:
    """The store at `data`, or those in the folders directly below it."""
    if not data.is_dir():
        raise Refused(f"{data}: no such folder; give a store, or a folder with one store per dataset")
    below = []
    for folder in sorted(p for p in data.iterdir() if p.is_dir()):
        try:
            below.append(stores.open(folder))
        except Refused:  # a layer of the store at `data`, or something else
            continue
    yield from below or [stores.open(data)]


def _network(encoder: str | Path, store: Store, *, needs: str):
    """What a task's `NEEDS` names: the "encoder", or the whole "method" that a run trained, or that was released."""
    from asapkit import checkpoint

    if str(encoder) != UNTRAINED and not Path(encoder).exists():
        raise Refused(f"{encoder}: no such run folder or weights file, and no known name ({UNTRAINED})")
    if needs == "method":
        if str(encoder) == UNTRAINED:
            raise Refused(f"{encoder}: this task needs the whole trained method; give a run folder, or the released ASAP's file of weights")
        return checkpoint.load_method(Path(encoder))
    if str(encoder) == UNTRAINED:
        contract = store.contract
        changes = {name: getattr(contract, name) for name in ("spacing_mm", "crop", "window_hu", "resampler", "fit")}
        return checkpoint.random_encoder(Config.at(store.scale, **changes))
    return checkpoint.load_encoder(encoder)
