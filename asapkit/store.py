"""What preprocessing writes and everything else reads: volumes in HU, organs, one table of volumes, what was refused, the contract.

    <store>/preprocess.json                       contract, its hash, layer codecs, library versions
    <store>/{ct,organs,lesions,truth}/<id>.b2nd   int16 HU, uint8 labels, uint8 marks, uint32 truth bits: full field at the contract's spacing
    <store>/records/<id>.json                     what was written for a volume; written last, so a volume is there whole or not at all
    <store>/{volumes,refused}.parquet             one row per volume; one row per refused scan with its reason
    <store>/{instances,sentences}.parquet         the phantom's truth in words, where the dataset has it

Only this module (and `preprocess`, its worker side) knows these files.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from einops import rearrange
from tqdm.auto import tqdm

from asapkit import ct, preprocess, tables
from asapkit import workers as crew
from asapkit.config import Config, Contract
from asapkit.preprocess import LAYERS, Job, Outcome
from asapkit.types import Refused, Scan
from asapkit.writing import LOCK, one_writer, writable

log = logging.getLogger(__name__)
FORMAT = 1
LIBRARIES = ("numpy", "scipy", "blosc2", "nibabel", "SimpleITK", "pyarrow")


@dataclass(frozen=True)
class Report:
    """What `write` did: ids written now, ids that were there already, and what was refused (id, path, reason)."""

    written: tuple[str, ...]
    skipped: tuple[str, ...]
    refused: tuple[Outcome, ...]

    def __str__(self) -> str:
        return f"{len(self.written)} volumes written, {len(self.skipped)} already there, {len(self.refused)} refused"


def write(
    scans: Iterable,
    path: Path | str,
    *,
    config: Config,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    check: bool = True,
    force: bool = False,
) -> Report:
    """Preprocesses scans into the store at `path`, made or gone on with: what is there already is skipped, so a killed run is simply run again.

    `scans` yields `Scan`s and `datasets.Unusable`s. `check=False` lets in what the doctor would refuse (not a chest, too thin ...). `force`
    preprocesses again what is there: needed after a change that the files do not show, such as another version of a reader.
    One worker runs in this process; more survive the death of any of them; `scheduler` ("tcp://host:port") uses a Dask cluster whose workers
    see the same folders. A scan that is refused keeps the volume that an earlier run made of it, if any.

    Raises: Refused when `path` is no store or was made under another contract, is being written by another process, holds other volumes of the same
        ids, or the disk is full.
    """
    root = Path(path)
    crew.require_address(scheduler)
    _require_place(root)
    with one_writer(root):
        _declare(root, config)
        preprocess.clear_partial(root)
        jobs, refused = _jobs(scans, root, config.contract, check)
        with tqdm(total=len(jobs), desc="preprocess", unit="volume", disable=not progress) as bar:
            skipped = set() if force else _there_already(jobs, bar)
            todo = [job for job in jobs if job.scan.id not in skipped]
            if not force:
                _require_own(todo)
            written = []
            options = {"workers": workers, "scheduler": scheduler, "shared": root.absolute() / "preprocess.json"}
            for job, outcome in crew.each(preprocess.process, todo, **options):
                if isinstance(outcome, crew.Lost):
                    outcome = Outcome(job.scan.id, str(job.scan.path), outcome.reason)
                _stop_if_fatal(outcome)
                (refused if outcome.reason else written).append(outcome)
                bar.update()
        with writable(root):
            tables.assemble(root, [job.scan for job in jobs], refused, progress=progress)
        preprocess.clear_partial(root)
    order = sorted(refused, key=lambda r: (r.id, r.path, r.reason))
    return Report(tuple(sorted(o.id for o in written)), tuple(sorted(skipped)), tuple(order))


def _jobs(scans: Iterable, root: Path, contract: Contract, check: bool) -> tuple[list[Job], list[Outcome]]:
    """What can be tried, sorted by id, and what is refused unseen: unusable items, bad and repeated ids (the first keeps its id)."""
    jobs, refused = {}, []
    for item in scans:
        if not isinstance(item, Scan):
            reason = item.reason
        elif item.id in jobs:
            reason = f"duplicate id: {jobs[item.id].scan.path} has it too and was taken; give every volume its own id"
        else:
            reason = _bad_id(item.id)
        if reason:
            refused.append(Outcome(str(item.id), "" if item.path is None else str(item.path), reason))
        else:
            jobs[item.id] = Job(item, root.absolute(), contract, check, Path.cwd())
    return [jobs[id] for id in sorted(jobs)], refused


def _bad_id(id: str) -> str:
    if not id or id.startswith(".") or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in id) or len(id.encode()) > 200:
        return f"id {id[:80]!r} cannot be a file name (path separators, control characters, a leading stop, over 200 bytes); rename it"
    return ""


def _there_already(jobs: list[Job], bar: tqdm) -> set[str]:
    """Ids that need no work. In threads: it is the waiting for a network file system that takes the time."""
    there = set()
    with writable(jobs[0].root if jobs else Path()), ThreadPoolExecutor(8) as threads:
        for job, done in zip(jobs, threads.map(preprocess.is_done, jobs), strict=True):
            if done:
                there.add(job.scan.id)
                bar.update()
    return there


def _require_own(jobs: list[Job]) -> None:
    """Raises: Refused where a volume would take the place of one that another file gave: two datasets may call their volumes the same."""
    others = [(job, old) for job in jobs if (old := preprocess.came_from(job)) not in ("", str(job.scan.path))]
    if others:
        job, old = others[0]
        raise Refused(
            f"{job.root.name}: holds {len(others)} volumes of these ids from other files ({job.scan.id} from {old}, now {job.scan.path}); give this "
            "dataset a store of its own (pretrain takes several), or delete this one to begin again"
        )


def _stop_if_fatal(outcome: Outcome) -> None:
    if outcome.fatal:
        raise Refused(f"{outcome.reason}; what is finished is kept: make room (or give write permission) and run again to go on")


def _require_place(root: Path) -> None:
    """Raises: Refused when `root` is a file, or holds something else than a store."""
    if root.exists() and not root.is_dir():
        raise Refused(f"{root} is a file; name a folder for the store")
    if root.is_dir() and not (root / "preprocess.json").exists() and set(os.listdir(root)) - {LOCK, preprocess.PARTIAL}:
        raise Refused(f"{root} holds other things than a store (no preprocess.json); name a new or empty folder")


# --- the contract


def _declare(root: Path, config: Config) -> None:
    """Writes `preprocess.json`, or holds the one that is there against `config`."""
    libraries = {name: version(name) for name in LIBRARIES}
    if (root / "preprocess.json").exists():
        declared = _declaration(root)
        require(root, config.contract)
        if declared["libraries"] != libraries:
            changed = [f"{k} {declared['libraries'].get(k)} -> {v}" for k, v in libraries.items() if declared["libraries"].get(k) != v]
            log.warning("%s was begun with other library versions (%s)", root, ", ".join(changed))
        return
    value = {
        "format": FORMAT,
        "scale": config.scale,
        "contract": asdict(config.contract),
        "contract_hash": config.contract.hash,
        "layers": LAYERS,
        "libraries": libraries,
    }
    value["hash"] = _hash(value)
    with writable(root):
        preprocess.write_atomic(root, root / "preprocess.json", preprocess.as_json(value))


def _hash(declared: dict) -> str:
    import hashlib

    return hashlib.sha256(json.dumps({k: v for k, v in declared.items() if k != "hash"}, sort_keys=True).encode()).hexdigest()[:16]


def _declaration(root: Path) -> dict:
    file = Path(root) / "preprocess.json"
    if not file.exists():
        raise Refused(f"{root} is no store (no preprocess.json); make one with: asapkit preprocess DATASET STORE")
    try:
        declared = json.loads(file.read_text())
    except ValueError as error:
        raise Refused(f"{file} is not readable ({error}); preprocess into a new folder") from error
    if not isinstance(declared, dict) or declared.get("format") != FORMAT:
        found = declared.get("format") if isinstance(declared, dict) else type(declared).__name__
        raise Refused(f"{file} has format {found}, this version reads {FORMAT}; preprocess again")
    if declared.get("hash") != _hash(json.loads(json.dumps(declared))):
        raise Refused(f"{file} was changed by hand (its hash does not fit); preprocess into a new folder")
    return declared


def _contract(declared: dict) -> Contract:
    return Contract(**{k: tuple(v) if isinstance(v, list) else v for k, v in declared["contract"].items()})


def require(root: Path, contract: Contract) -> None:
    """Raises: Refused, naming the fields that differ, when the store at `root` was made under another contract."""
    there, here = asdict(_contract(_declaration(root))), asdict(contract)
    if differs := [f"{k} is {there.get(k)} in the store, {here.get(k)} asked for" for k in here if there.get(k) != here.get(k)]:
        raise Refused(f"store {root} was made under another contract: {'; '.join(differs)}; use another store folder or the same scale")


# --- reading


def open(path: Path | str, *, contract: Contract | None = None) -> Store:
    """The store at `path`, nothing read but its tables.

    Raises: Refused when there is no finished store, or when it was made under another contract than the one given.
    """
    root = Path(path)
    declared = _declaration(root)
    if contract is not None:
        require(root, contract)
    if not (root / "volumes.parquet").exists():
        raise Refused(f"store {root} is unfinished: run the same preprocess command again, it goes on where it stopped")
    return Store(root, declared)


class Layer:
    """One layer of one volume, read where it is indexed.  Raises: Refused, naming the file, where its bytes are damaged."""

    def __init__(self, file: Path):
        self.file = file
        self.array = self._safely(lambda: preprocess.decode(file))
        self.shape, self.dtype = self.array.shape, self.array.dtype

    def __getitem__(self, box) -> np.ndarray:
        return self._safely(lambda: self.array[box])

    def _safely(self, read):
        try:
            return read()
        except (RuntimeError, ValueError, OSError) as error:  # blosc2 raises each, according to which byte is wrong
            raise Refused(f"{self.file}: damaged ({preprocess.one_line(error)}); delete it and run the preprocess command again") from error


class Store:
    """Read-only and safe to hand to workers: no file stays open, pickling sends the path."""

    def __init__(self, root: Path, declared: dict):
        self.root, self.scale, self.contract = root, declared["scale"], _contract(declared)
        self.table: pd.DataFrame = tables.volumes(root)
        self.refused: pd.DataFrame = tables.read(root, "refused")
        self.ids: list[str] = self.table.index.to_list()

    def __reduce__(self):
        return open, (self.root,)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: str) -> bool:
        return id in self.table.index

    def __repr__(self) -> str:
        return f"Store({self.root}, {len(self)} volumes, {len(self.refused)} refused, scale {self.scale}, contract {self.contract.hash})"

    @cached_property
    def instances(self) -> pd.DataFrame | None:
        """Phantom: one row per finding instance (id, bit, finding, side, lobe, place, severity, count, size_mm, voxels)."""
        return tables.read(self.root, "instances")

    @cached_property
    def sentences(self) -> pd.DataFrame | None:
        """Phantom: one row per report sentence (id, section, index, sentence, polarity, finding, bits, side, lobe)."""
        return tables.read(self.root, "sentences")

    def layer(self, id: str, name: str):
        """A layer on disk, full field at the contract's spacing: index it to read; None where the volume lacks it.

        Raises: Refused for an unknown volume, a missing or a damaged file.
        """
        if id not in self:
            why = self.refused.loc[self.refused["id"] == id, "reason"]
            raise Refused(f"{id}: not in store {self.root}" + (f", it was refused: {why.iloc[0]}" if len(why) else ""))
        if name != "ct" and not self.table.at[id, f"has_{name}"]:
            return None
        file = preprocess.layer_path(self.root, name, id)
        if not file.exists():
            raise Refused(f"{file}: missing; run the preprocess command again, it makes what is missing")
        return Layer(file)

    def _read(self, id: str, name: str) -> np.ndarray | None:
        lazy = self.layer(id, name)
        return None if lazy is None else lazy[:]

    def ct(self, id: str) -> np.ndarray:
        """HU, int16 (X, Y, Z), the full field at the contract's spacing."""
        return self._read(id, "ct")

    def organs(self, id: str) -> np.ndarray | None:
        """uint8 (X, Y, Z): 0 background, else index in ORGANS + 1."""
        return self._read(id, "organs")

    def lesions(self, id: str) -> np.ndarray | None:
        """uint8 (X, Y, Z): 1 where the dataset marks a lesion."""
        return self._read(id, "lesions")

    def truth(self, id: str) -> np.ndarray | None:
        """Phantom: uint32 (X, Y, Z), one bit per finding instance. For metrics and viewers, never for a Batch."""
        return self._read(id, "truth")

    def affine(self, id: str) -> np.ndarray:
        """(4, 4): voxel index of the full field -> world RAS mm."""
        return np.array(self.table.at[id, "affine"], dtype=np.float64).reshape(4, 4)

    def cropped(self, id: str, layer: str = "ct") -> tuple[np.ndarray, np.ndarray]:
        """A layer as a network sees it, fitted to the contract's crop about its centre: array (X, Y, Z) of `contract.crop`, its affine (4, 4).

        What is smaller than the crop is mirrored at its faces, labels and truth like the image they belong to.
        Raises: Refused where the volume lacks the layer.
        """
        array = self._read(id, layer)
        if array is None:
            raise Refused(f"{id}: no {layer} in store {self.root}")
        crop, fit = self.contract.crop, self.contract.fit
        return ct.fit(array, crop, fit=fit), ct.fit_affine(self.affine(id), array.shape, crop, fit=fit)

    def truth_share(self, id: str, bits: int, patch: tuple[int, int, int]) -> np.ndarray:
        """Phantom: share of each patch's voxels that lie in any instance of the bit set `bits`, float32 (N,), row-major x, y, z on the crop."""
        inside = (self.cropped(id, "truth")[0] & np.uint32(bits)) != 0
        px, py, pz = patch
        patches = rearrange(inside, "(x px) (y py) (z pz) -> (x y z) (px py pz)", px=px, py=py, pz=pz)
        return patches.mean(1, dtype=np.float32)


def check(path: Path | str, *, progress: bool = True) -> list[str]:
    """Reads every array back and holds it against the shape, type and hash of its record. One line per fault; none means the store is whole.

    To repair, delete the files named and run `write` again.
    Raises: Refused when there is no finished store.
    """
    store, faults = open(path), []
    files = sorted((store.root / "records").glob("*.json"))
    if missing := sorted(set(store.ids) - {f.stem for f in files}):
        faults += [f"{id}: in the table, but its record is missing" for id in missing]
    for file in tqdm(files, desc="check", unit="volume", disable=not progress):
        try:
            record = preprocess.remembered(file)
        except ValueError as error:
            faults.append(f"{file.stem}: its record is none ({preprocess.one_line(error)})")
            continue
        if file.stem not in store:
            faults.append(f"{file.stem}: has a record, but is not in the table; run preprocess again")
        for name, expected in record["layers"].items():
            if fault := _fault(preprocess.layer_path(store.root, name, file.stem), expected):
                faults.append(f"{file.stem}: {name} {fault}")
    return faults


def _fault(file: Path, expected: dict) -> str:
    try:
        array = preprocess.decode(file)[:]
    except Exception as error:  # blosc2 raises RuntimeError, ValueError or OSError according to which byte is wrong
        return f"cannot be read ({preprocess.one_line(error)})"
    if list(array.shape) != expected["shape"] or str(array.dtype) != expected["dtype"]:
        return f"is {array.dtype} {array.shape}, recorded were {expected['dtype']} {tuple(expected['shape'])}"
    return "" if preprocess.array_hash(array) == expected["sha256"] else "differs from what was written (hash)"
