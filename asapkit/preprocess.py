"""One scan -> its layers in a store: read, check, resample to the contract, compress, write atomically. Runs inside worker processes.

A layer is one blosc2 array `<layer>/<id>.b2nd`; a volume exists once its record `records/<id>.json` does, and that is written last. Nothing in
either depends on time, machine or order, so a run that was killed and resumed leaves the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import pandas as pd

from asapkit import ct, formats, organs
from asapkit.config import Contract
from asapkit.types import FINDINGS, Refused, Scan, Volume

LAYERS = {
    "ct": {"dtype": "int16", "codec": "LZ4HC", "level": 5, "filter": "SHUFFLE"},
    "organs": {"dtype": "uint8", "codec": "ZSTD", "level": 5, "filter": "NOFILTER"},
    "lesions": {"dtype": "uint8", "codec": "ZSTD", "level": 5, "filter": "NOFILTER"},
    "truth": {"dtype": "uint32", "codec": "ZSTD", "level": 5, "filter": "BITSHUFFLE"},
}
"""Measured on a real chest at base, 240 x 240 x 120 (CPU ms to read / MB): LZ4 9.7 / 7.7, LZ4HC 6.4 / 6.2, ZSTD-3 9.9 / 5.8."""

SURVIVAL = {"time_days": lambda days: 0 <= days <= 1e6, "event": lambda seen: seen in (0, 1)}  # extra columns that mean something here
CHUNK_X, BLOCK_X = 64, 4  # slabs of x: fixed, because blosc2's own choice follows the cache sizes of the machine
LUNG_HU = (-950, -500)
_ONE_AT_A_TIME = threading.Lock()  # a Dask worker may run several of us as threads
END = 1 << 16  # bytes read of either end of a gzip file to know it again
PARTIAL = ".partial"  # files being written; emptied when a run starts and ends


@dataclass(frozen=True)
class Job:
    """One scan to be made into layers below `root` (absolute). Relative paths of the scan start at `folder`: a Dask worker may be elsewhere."""

    scan: Scan
    root: Path
    contract: Contract
    checked: bool
    folder: Path

    def files(self) -> dict[str, Path]:
        """Where each layer is read from."""
        given = {"ct": self.scan.path, "organs": self.scan.organs, "lesions": self.scan.lesions, "truth": self.scan.truth}
        return {name: self.folder / path for name, path in given.items() if path is not None}


@dataclass(frozen=True)
class Outcome:
    """What became of a job: written (no reason), refused (reason), or the store itself could not be written (`fatal`)."""

    id: str
    path: str
    reason: str = ""
    fatal: bool = False


def process(job: Job) -> Outcome:
    """Preprocesses one scan; never raises for what is wrong with the scan, so that one bad file cannot stop the rest."""
    where = str(job.scan.path)
    try:
        layers, facts = _layers(job)
        packed = {name: encode(array, name) for name, array in layers.items()}
        facts["layers"] = {name: _remembered(array, packed[name]) for name, array in layers.items()}
        record = as_json({"scan": described(job.scan), "source": source(job), **facts})
    except MemoryError:
        return Outcome(job.scan.id, where, "out of memory; use fewer workers, and see whether the spacing of this volume is right")
    except Exception as error:
        return Outcome(job.scan.id, where, one_line(error))
    try:
        for name in LAYERS:
            target = layer_path(job.root, name, job.scan.id)
            if name in packed:
                write_atomic(job.root, target, packed[name])
            else:
                target.unlink(missing_ok=True)
        write_atomic(job.root, record_path(job.root, job.scan.id), record)
    except OSError as error:
        return Outcome(job.scan.id, where, f"cannot write {job.root}: {error.strerror or error}", fatal=True)
    return Outcome(job.scan.id, where)


def _remembered(array: np.ndarray, packed: bytes) -> dict:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": array_hash(array), "bytes": len(packed)}


def one_line(error: BaseException) -> str:
    """The message of an error in one line; errors that are not ours say their type."""
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, Refused) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _layers(job: Job) -> tuple[dict[str, np.ndarray], dict]:
    scan, files = job.scan, job.files()
    _refuse_bad_fields(scan)
    raw = ct.read(files["ct"], slope=scan.slope, intercept=scan.intercept, spacing_mm=scan.spacing_mm)
    warnings = list(raw.warnings)
    if job.checked:
        from asapkit import doctor

        warnings += doctor.check_volume(raw, name=files["ct"].name)
    volume = ct.to_contract(raw, job.contract)
    del raw  # hundreds of MB at full resolution
    layers = {"ct": volume.array}
    if "organs" in files:
        layers["organs"] = organs.read(files["organs"], volume)
        if job.checked:
            warnings = doctor.with_masks(warnings, layers["organs"], volume.affine)
    if "lesions" in files:
        layers["lesions"] = organs.marked(files["lesions"], volume)
    if "truth" in files:
        layers["truth"] = truth_on(volume, files["truth"])
    layers = {name: np.ascontiguousarray(array, dtype=LAYERS[name]["dtype"]) for name, array in layers.items()}
    if not (scan.findings.strip() or scan.impression.strip()):
        warnings.append("no report")
    facts = {
        "affine": [float(v) for v in np.asarray(volume.affine, dtype=np.float64).ravel()],
        "statistics": statistics(layers["ct"]),
        "warnings": list(dict.fromkeys([*warnings, *volume.warnings])),
    }
    return layers, facts


def _refuse_bad_fields(scan: Scan) -> None:
    """Raises: Refused for texts, labels or extra columns that the table of volumes cannot hold."""
    from asapkit import tables  # which reads and writes through this module

    said = described(scan)
    try:
        "".join([said[name] for name in tables.TEXT] + [text for pair in said["extra"].items() for text in pair if isinstance(text, str)]).encode()
    except UnicodeEncodeError as error:
        raise Refused(f"{scan.id!a}: half a character in its texts, path or extra columns ({error.reason}); save them as UTF-8") from error
    if unknown := sorted(set(scan.labels) - set(FINDINGS)):
        raise Refused(f"{scan.id}: unknown label {unknown[0]!r}; labels are the {len(FINDINGS)} of FINDINGS, other columns go to extra")
    if wrong := [f"{k} = {v!r}" for k, v in scan.labels.items() if v not in (1, 0, -1)]:
        raise Refused(f"{scan.id}: label {wrong[0]}; a label is 1 (present), 0 (absent) or -1 (unknown)")
    if not all(name.strip() for name in scan.extra):
        raise Refused(f"{scan.id}: an extra column has no name; give it one")
    if odd := [name for name, fits in SURVIVAL.items() if not tables.unknown(v := scan.extra.get(name)) and not (tables.is_number(v) and fits(v))]:
        raise Refused(f"{scan.id}: {odd[0]} is {scan.extra[odd[0]]!r}; time_days are days from the scan on, event is 1 (seen) or 0 (censored)")
    if odd := [name for name, v in scan.extra.items() if not (isinstance(v, str) or tables.unknown(v) or tables.is_number(v))]:
        kind = type(scan.extra[odd[0]]).__name__
        raise Refused(f"{scan.id}: extra column {odd[0]!r} is a {kind} that no table holds; numbers, texts and None are kept")
    if taken := sorted(tables.columns() & set(scan.extra)):
        raise Refused(f"{scan.id}: extra column {taken[0]!r} has the name of a column of the store; rename it")


def truth_on(volume: Volume, path: Path) -> np.ndarray:
    """The truth bit mask (uint32, one bit per instance) on the grid of `volume`, nearest voxel by world coordinates.

    A thin instance can slip between the voxels of a coarser grid: one that lost all its voxels keeps the grid voxel nearest to its middle (its
    own voxel that is closest to its centroid), if that lies in the field. So an instance in the field always has at least one voxel.
    """
    import nibabel

    image = nibabel.load(path)  # exact integers: the reader of CT files turns wide ones into float32, which has 24 bits
    array, affine = ct.to_ras(np.asanyarray(image.dataobj), image.affine)
    if array.ndim != 3 or array.dtype.kind not in "ui":
        raise Refused(f"{path.name}: truth is {array.ndim}-D {array.dtype}; it holds one bit per instance, uint32 (X, Y, Z)")
    fine = Volume(array.astype(np.uint32, copy=False), affine)
    placed = ct.resample_labels(fine, volume).astype(np.uint32)
    lost = int(np.bitwise_or.reduce(fine.array, axis=None)) & ~int(np.bitwise_or.reduce(placed, axis=None))
    for bit in (b for b in range(32) if lost >> b & 1):
        if at := organs.landing(np.argwhere(fine.array & np.uint32(1 << bit)), fine.affine, volume):
            placed[at] |= np.uint32(1 << bit)
    return placed


def statistics(array: np.ndarray) -> dict[str, float]:
    """HU minimum, maximum, mean, and the share of voxels with the density of aerated lung."""
    lung = np.count_nonzero((array >= LUNG_HU[0]) & (array <= LUNG_HU[1])) / array.size
    return {
        "hu_min": int(array.min()),
        "hu_max": int(array.max()),
        "hu_mean": round(float(array.mean(dtype=np.float64)), 3),
        "lung_share": round(lung, 6),
    }


# --- files


def layer_path(root: Path, layer: str, id: str) -> Path:
    return Path(root) / layer / f"{id}.b2nd"


def record_path(root: Path, id: str) -> Path:
    return Path(root) / "records" / f"{id}.json"


def remembered(path: Path) -> dict:
    """What a record holds of a volume.  Raises: OSError; ValueError, saying which part cannot be, where it is no record of this name."""
    try:
        record = json.loads(path.read_text())
        sound = _parts(record, path.stem)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(one_line(error)) from error
    if wrong := [part for part, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"{wrong[0]} cannot be")
    return record


def _parts(record: dict, id: str) -> dict[str, bool]:
    """Whether each part of a record is what preprocessing writes; raises where that cannot even be asked."""
    from asapkit import tables  # as above

    scan, layers, statistics = record["scan"], record["layers"], record["statistics"]
    shapes = [layer["shape"] for layer in layers.values()]
    return {
        "scan": scan["id"] == id and all(scan[name].encode() is not None for name in tables.TEXT),  # encode: utf-8, or it is refused
        "labels": scan["labels"].keys() <= set(FINDINGS) and set(scan["labels"].values()) <= {-1, 0, 1},
        "extra": not scan["extra"].keys() & tables.columns() and all(isinstance(v, str | int | float | None) for v in scan["extra"].values()),
        "affine": len(record["affine"]) == 16 and all(math.isfinite(v) for v in record["affine"]),
        "statistics": all(isinstance(statistics[name], int | float) for name in tables.STATISTICS),
        "warnings": isinstance(record["warnings"], list) and all(isinstance(line, str) for line in record["warnings"]),
        "layers": "ct" in layers and all(len(shape) == 3 and all(type(n) is int and n > 0 for n in shape) for shape in shapes),
        "hash": all(isinstance(layer[name], str) for layer in layers.values() for name in ("sha256", "dtype")),
    }


def encode(array: np.ndarray, layer: str) -> bytes:
    """A compressed array as the bytes of a `.b2nd` file; the same on every machine."""
    spec = LAYERS[layer]
    x, *rest = array.shape
    with _ONE_AT_A_TIME, _one_blosc_thread():
        packed = blosc2.asarray(
            array,
            chunks=(min(x, CHUNK_X), *rest),
            blocks=(min(x, BLOCK_X), *rest),
            cparams={
                "codec": blosc2.Codec[spec["codec"]],
                "clevel": spec["level"],
                "filters": [blosc2.Filter[spec["filter"]]],
                "filters_meta": [0],
                "typesize": array.itemsize,
                "nthreads": 1,
            },
        )
        return packed.to_cframe()


@contextmanager
def _one_blosc_thread():
    """Several threads order the blocks as they finish, and blosc2 lets BLOSC_NTHREADS overrule what it is told and notes it in the file."""
    before = os.environ.get("BLOSC_NTHREADS")
    os.environ["BLOSC_NTHREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("BLOSC_NTHREADS") if before is None else os.environ.update(BLOSC_NTHREADS=before)


def decode(path: Path) -> blosc2.NDArray:
    """Opens a layer lazily: only what is indexed is read. One thread, so that a forked data loader inherits no thread pool."""
    return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})


def array_hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def write_atomic(root: Path, target: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, also when the disk fills up or the process is killed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(root) / PARTIAL / f"{target.parent.name}-{target.name}-{os.getpid()}-{os.urandom(4).hex()}"
    partial.parent.mkdir(exist_ok=True)
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def as_json(value: dict) -> bytes:
    """Sorted keys, numpy numbers as plain ones: the same content gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, default=lambda v: v.item()) + "\n").encode()


def clear_partial(root: Path) -> None:
    shutil.rmtree(Path(root) / PARTIAL, ignore_errors=True)


# --- what a record remembers of its scan


def described(scan: Scan) -> dict:
    """The columns that come from the scan and need no voxels; they are brought up to date without preprocessing again."""
    words = {name: getattr(scan, name) for name in ("id", "patient", "study", "split", "findings", "impression")}
    extra = {name: None if value is pd.NA else value for name, value in scan.extra.items()}
    return words | {"path": str(scan.path), "labels": dict(scan.labels), "extra": extra}


def source(job: Job) -> dict:
    """What the voxels came from; when it differs from the record's, the volume is preprocessed again."""
    scan = job.scan
    read = job.files()
    if "organs" in read and (names := organs.names_beside(read["organs"])):
        read["organ names"] = names
    files = {name: fingerprint(path) for name, path in read.items()}
    numbers = {"slope": scan.slope, "intercept": scan.intercept, "spacing_mm": None if scan.spacing_mm is None else list(scan.spacing_mm)}
    return {"files": files, "checked": job.checked, **numbers}


def fingerprint(path: Path) -> str:
    """Short hash of what a file or a folder holds.

    Of a gzip stream only size, head and tail are read: its tail holds the checksum of all of it. Anything else is read whole, as are the voxels
    that a header names in another file: about a second per gigabyte where a local disk gives it as fast, else as long as the disk takes. So is a
    gzip of several streams (bgzip, mgzip), where its head or tail shows that it is one; of streams put together by hand, each much smaller packed
    than unpacked, only the last is known by its checksum.
    """
    path, digest = Path(path), hashlib.sha256()
    if not path.exists() and "#" in path.name:  # archive.zip#SERIES: another series is another volume
        digest.update(path.name.encode())
        path = path.with_name(path.name.rsplit("#", 1)[0])
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
            _digest(digest, file)
    else:
        for file in (path, *formats.beside(path)):
            _digest(digest, file)
    return digest.hexdigest()[:16]


def _digest(digest, path: Path) -> None:
    """Adds a file to a hash."""
    with open(path, "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(END)
        digest.update(f"{size}\n".encode() + head)
        if head.startswith(formats.GZIP):
            file.seek(max(0, size - END))
            tail = file.read()
            if formats.is_one_gzip(head, tail, size):
                digest.update(tail)
                return
            file.seek(len(head))
        while piece := file.read(1 << 20):
            digest.update(piece)


def came_from(job: Job) -> str:
    """The path of the scan that the store holds under a job's id; empty where it holds none."""
    try:
        return remembered(record_path(job.root, job.scan.id))["scan"]["path"]
    except (OSError, ValueError):
        return ""


def is_done(job: Job) -> bool:
    """Whether the store already holds this scan; a record whose texts or labels changed is rewritten, voxels untouched.

    Raises: OSError when such a record cannot be written.
    """
    path = record_path(job.root, job.scan.id)
    try:
        record = remembered(path)
        sizes = {name: layer_path(job.root, name, job.scan.id).stat().st_size for name in record["layers"]}
        if any(sizes[name] != layer["bytes"] for name, layer in record["layers"].items()) or as_json(record["source"]) != as_json(source(job)):
            return False
        _refuse_bad_fields(job.scan)
        new = as_json(record | {"scan": described(job.scan)})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    if new != as_json(record):
        write_atomic(job.root, path, new)
    return True
