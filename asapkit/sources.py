"""Several stores read as one, to pre-train on all of them: which store a volume came from stays known, and each store has its share of the steps.

Every step draws all its volumes from one store. A contrast then never gets a negative that the scanner, the country or the style of the reports
tells apart, and the losses of a step belong to one store: the column `source` of a history parts it into a curve for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from asapkit import store as stores
from asapkit.batch import differing
from asapkit.features import training_rows
from asapkit.store import Store
from asapkit.types import Refused

BETWEEN = "/"  # stands in no name of a folder


class Sources:
    """What training asks of a store, of several: `root`, `contract`, `table`, `layer`. Ids, studies and patients are `name/own`.

    The table has a column `source`; its split is "train" where the volume's own store would train on it, else "held out".
    shares: how often each store is drawn, any numbers above 0; default in proportion to its training studies.

    Raises: Refused for stores of different contracts (naming the fields) or without training volumes; ValueError for a share that is not above 0,
        names no store or is missing.
    """

    def __init__(self, held: Mapping[str, Store], *, shares: Mapping[str, float] | None = None):
        first, *others = held.values()
        for other in others:
            if other.contract != first.contract:
                raise Refused(f"{other.root}: {differing(other.contract, first.contract)} as {first.root} has; preprocess one of them again")
        self.stores, self.contract, self.root = dict(held), first.contract, first.root
        self.table = pd.concat([prefixed(store, name) for name, store in held.items()])
        studies = self.table[self.table["split"] == "train"].groupby("source")["study"].nunique()
        if empty := [name for name in held if name not in studies]:
            raise Refused(f"{held[empty[0]].root}: no training volumes; leave this store out")
        self.shares = parted({name: float(studies[name]) for name in held}, shares or {})

    def __repr__(self) -> str:
        return f"Sources({', '.join(f'{name} {share:.0%}' for name, share in self.shares.items())})"

    def layer(self, id: str, name: str) -> stores.Layer | None:
        """As `Store.layer`."""
        source, _, own = id.partition(BETWEEN)
        if source not in self.stores:
            raise Refused(f"{id}: not in {self}")
        return self.stores[source].layer(own, name)


def parted(studies: dict[str, float], given: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1: those given, or as the studies are."""
    if unknown := sorted(set(given) - set(studies)):
        raise ValueError(f"share of {unknown[0]!r}: the stores are {', '.join(studies)}")
    for name, share in given.items():
        if not 0 < share < np.inf:
            raise ValueError(f"share of {name} is {share}: give a number above 0, or leave the store out")
    if given and (missing := sorted(set(studies) - set(given))):
        raise ValueError(f"no share of {missing[0]}: give one to every store, or to none")
    numbers = dict(given) or studies
    return {name: numbers[name] / sum(numbers.values()) for name in studies}


def prefixed(store: Store, name: str) -> pd.DataFrame:
    """A store's table with its name before every id, study and patient: what is called the same in two stores stays two."""
    table = store.table.copy()
    train = (table["split"] == "train").to_numpy() & training_rows(table)
    table.index = pd.Index([f"{name}{BETWEEN}{id}" for id in table.index], name=table.index.name)
    for column in ("study", "patient"):
        table[column] = [f"{name}{BETWEEN}{value}" for value in table[column]]
    return table.assign(source=name, split=np.where(train, "train", "held out"))


def source(id: str) -> str:
    """The store that an id of `Sources` is of; empty for an id of a single store."""
    name, between, _ = id.partition(BETWEEN)
    return name if between else ""


def open(paths: Path | Sequence[Path], *, shares: Mapping[str, float] | None = None) -> Store | Sources:
    """The store at a path, or the stores at several as one, called by the names of their folders.

    Raises: ValueError where two folders have one name, or shares are given for one store; and as `store.open` and `Sources`.
    """
    places = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
    if len(places) == 1:
        if shares:
            raise ValueError("a share is of several stores; one is given")
        return stores.open(places[0])
    names = [place.absolute().name for place in places]
    if twice := next((n for n in names if names.count(n) > 1), ""):
        raise ValueError(f"two stores are called {twice}: rename the folder of one, its name tells their volumes apart")
    return Sources({name: stores.open(place) for name, place in zip(names, places, strict=True)}, shares=shares)
