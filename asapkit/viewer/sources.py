"""What can be opened: a volume of a store, a scan in a file, a run. Each knows its layers, what an encoder is given of it, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from asapkit import batch, chest, ct, examples, formats, look, reports
from asapkit import store as stores
from asapkit.config import Contract
from asapkit.examples import Field
from asapkit.store import Store
from asapkit.types import Refused, Volume
from asapkit.viewer.layers import Layer, volume_layers
from asapkit.viewer.straight import straightened

SCANS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip")


@dataclass(frozen=True)
class Stored:
    """A volume of a store."""

    store: Store
    id: str

    @property
    def name(self) -> str:
        return self.id

    @property
    def ids(self) -> list[str]:
        return self.store.ids

    @property
    def sentences(self) -> list[str]:
        row = self.store.table.loc[self.id]
        return [said for section in ("findings", "impression") for said in reports.split(row[section])]

    def layers(self) -> list[Layer]:
        """The full field at the contract's spacing: CT, organs, and what is known of findings by name.  Raises: Refused for an unknown volume."""
        store, id = self.store, self.id
        ct = store.ct(id)  # refuses an unknown one
        known, names = examples.known_findings(store, id)
        told = {"names": names, "metadata": {"store": str(store.root), "id": id}}
        truth = store.layer(id, known)[:].astype(np.uint32, copy=False) if known else None
        return straightened(volume_layers(ct, store.affine(id), organs=store.organs(id), truth=truth, **told))

    def field(self, contract: Contract, *, run: str) -> Field:
        """Raises: Refused, naming what differs, for a run of another contract than the store's."""
        if contract != self.store.contract:
            differs = batch.differing(self.store.contract, contract)
            raise Refused(f"{run} does not fit store {self.store.root.name}, {differs}; choose a run of scale {self.store.scale}, or another store")
        return Field(*self.store.cropped(self.id), self.store.layer(self.id, "ct").shape, contract)

    def origin(self) -> tuple[Path, tuple[float, float, float] | None]:
        """The scan's file and the spacing that a table gave it, if any.  Raises: Refused if the file is gone."""
        path, source = examples.origin(self.store, self.id)
        return path, tuple(source["spacing_mm"]) if source["spacing_mm"] else None


@dataclass(frozen=True)
class Scanned:
    """A scan in a file, in HU and RAS+, on its own voxels."""

    path: Path
    volume: Volume

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ids(self) -> list[str]:
        return [self.name]

    @property
    def sentences(self) -> list[str]:
        return []

    def layers(self) -> list[Layer]:
        return straightened(volume_layers(self.volume.array, self.volume.affine, metadata={"scan": str(self.path)}))

    def field(self, contract: Contract, *, run: str) -> Field:
        """The scan as the run's contract makes it.  Raises: Refused for values that are not HU."""
        fault, fix = chest.hu_fault(self.volume.array)
        if fault:
            raise Refused(f"{self.name}: {fault}; {fix}")
        seen, shape = look.field_of_view(self.volume, contract)
        return Field(seen.array, seen.affine, shape, contract)

    def origin(self) -> tuple[Path, None]:
        return self.path, None


@dataclass(frozen=True)
class Run:
    """A run folder: its method where it has one, its encoder always."""

    path: Path
    method: object

    @property
    def encoder(self):
        return self.method.encoder

    @property
    def grid(self) -> tuple[int, int, int]:
        return tuple(self.encoder.grid)

    @property
    def patch(self) -> tuple[int, int, int]:
        return tuple(c // g for c, g in zip(self.encoder.contract.crop, self.encoder.grid, strict=True))

    def aligning(self):
        """The method.  Raises: Refused if it aligns no sentences."""
        if not hasattr(self.method, "match"):
            raise Refused(f"{self.path.name}: its recipe aligns no sentences; give a run of asap or another recipe with `match`")
        return self.method


def is_store(path: Path) -> bool:
    return (path / "preprocess.json").is_file()


def is_stored(path: Path) -> bool:
    """A volume of a store: <store>/ct/<id>.b2nd."""
    return path.suffix == ".b2nd" and is_store(path.parent.parent)


def is_run(path: Path) -> bool:
    return (path / "method.json").is_file() and (path / "config.json").is_file()


def is_scan(path: Path) -> bool:
    """By its name, or for a folder by a DICOM file in it: what is inside is looked at when it is read."""
    if path.is_dir():
        return any(_is_dicom(file) for file in sorted(path.iterdir())[:8] if file.is_file())
    return formats.on_disk(path)[0].name.lower().endswith(SCANS)


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as content:
        return formats.sniff(content.read(600)) == "dicom"


def stored(store: Store | str | Path, id: str = "") -> Stored:
    """A volume of a store, by default its first.  Raises: Refused for no store, an empty one or an unknown volume."""
    store = store if isinstance(store, Store) else stores.open(store)
    if not store.ids:
        raise Refused(f"store {store.root} holds no volume; all were refused (its refused.parquet says why)")
    store.layer(id or store.ids[0], "ct")
    return Stored(store, id or store.ids[0])


def opened(path: str | Path, id: str = "") -> Stored | Scanned:
    """A store's folder, one of its volumes (<store>/ct/<id>.b2nd), a run's folder (the store that it was trained on), or a scan.

    Raises: Refused for anything else, and for a run whose store is not known or not there.
    """
    path = Path(path)
    if is_store(path):
        return stored(path, id)
    if is_stored(path):
        return stored(path.parent.parent, path.stem)
    if is_run(path):
        return stored(store_of(path), id)
    return Scanned(path, ct.read(path))


def store_of(run: Path) -> Path:
    """The store that a run was trained on: where its data.json says, or beside its folder of runs, as the demo lays them out.

    Raises: Refused if neither is there.
    """
    from asapkit import checkpoint

    known = checkpoint.trained_on(run)
    beside = run.absolute().parent.parent / "store"
    if known is not None and is_store(known):
        return known
    if known is None and is_store(beside) and stores.open(beside).contract == checkpoint.read_config(run).contract:
        return beside
    why = "does not say which store it was trained on" if known is None else f"was trained on {known}, which is not there"
    raise Refused(f"run {run.name} {why}; open a store's folder, then choose the run in the panel")


def runs_beside(run: Path) -> list[Path]:
    """Run folders in the folder that holds a run, or in the folder itself if that holds runs."""
    folder = run.parent if is_run(run) else run
    return sorted(p for p in folder.iterdir() if is_run(p)) if folder.is_dir() else []


def loaded(path: str | Path) -> Run:
    """A run folder with its weights; the last two stay in memory.  Raises: Refused for a folder that is no run, or a damaged one."""
    path = Path(path)
    weights = path / "weights.safetensors"
    return _loaded(path.absolute(), weights.stat().st_mtime_ns if weights.exists() else 0)


@lru_cache(maxsize=2)
def _loaded(path: Path, written: int) -> Run:
    from asapkit import checkpoint

    return Run(path, checkpoint.load_method(path))
