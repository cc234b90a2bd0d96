"""Finds what is wrong with data before it ruins a training, and says what to do about it.

`check_volume` is what the store asks of every volume; `examine` tells all about one file; `dataset` looks at a table of scans;
`check` does both for a whole dataset and compares voxels between volumes; `stored` reads a store back. Messages hold ids and
numbers, never text of a report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from asapkit import chest, ct, formats
from asapkit import organs as masks
from asapkit.datasets import Unusable
from asapkit.machine import environment as environment
from asapkit.types import Refused, Scan, Volume

MIN_SHARED_SLICES = 8
SAME_PLACE_MM = 1.0
FOLD_ABOVE = 3
ENDS = {"x": "left and right", "y": "front and back", "z": "top and bottom"}
MISFIT = "give the masks that were made on this CT"
# What `ct.read` refuses, by a word of its message.
CODES = {
    "no chest CT": "spacing", "truncated": "truncated", "damaged": "damaged", "magic": "format", "no such": "missing", "spacing": "spacing",
    "NaN": "nan", "constant": "constant", "too thin": "thin", "-D": "axes", "series": "series", "slices": "slices", "empty": "empty",
    "no HU": "hu", "follow": "damaged",
}  # fmt: skip

WARNING_CODES = {
    "coarse": "spacing", "spacing": "spacing", "thick": "spacing", "distance": "spacing", "not applied": "hu", "tilt": "orientation",
    "oblique": "orientation", "orientation": "orientation",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing found. error: cannot be used as it is; warning: look before you trust it; note: good to know."""

    level: Literal["error", "warning", "note"]
    code: str  # short and stable: hu, chest, spacing, orientation, truncated, patient_split ...
    message: str
    fix: str = ""
    id: str = ""  # scan or file that it concerns

    def __str__(self) -> str:
        return f"{self.level}: {self.code}: {self.message}" + (f" -> {self.fix}" if self.fix else "")


# ---------------------------------------------------------------------------------------------------------------- one volume


def check_volume(volume: Volume, *, name: str = "volume") -> list[str]:
    """Warnings on a volume as `ct.read` returns it.

    Raises: Refused, one line, when its values are not HU or it is not a chest.
    """
    findings = list(_look(volume))
    for finding in findings:
        if finding.level == "error":
            raise Refused(f"{name}: {finding.message}; {finding.fix}")
    return [f.message for f in findings if f.level == "warning"]


def with_masks(warnings: list[str], labels: np.ndarray, affine: np.ndarray) -> list[str]:
    """Warnings of `check_volume` with what organ masks say of orientation: where they tell an axis, the CT's own evidence goes."""
    known = _told(labels, affine)
    kept = [w for w in warnings if not w.startswith(tuple(f"{word} look swapped" for word in _words(known)))]
    return kept + [f.message for f in _orientation(known)]


def _look(volume: Volume) -> Iterator[Finding]:
    """HU, chest, field and orientation of a volume. Stops at the first error: what follows would rest on it."""
    fault, fix = chest.hu_fault(volume.array)
    if fault:
        yield Finding("error", "hu", fault, fix)
        return
    seen = chest.survey(volume)
    if fault := chest.not_a_chest(seen):
        yield Finding("error", "chest", fault, "give a CT of the whole chest")
        return
    for remark in chest.remarks(seen, volume):
        yield Finding("warning", "spacing" if "spacing" in remark else "field", remark, "look at the volume")
    yield from _orientation(chest.upright(seen))


def _told(labels: np.ndarray, affine: np.ndarray) -> dict[str, tuple[str, str]]:
    """Masks tell sides for certain, where they tell them at all."""
    return {axis: state for axis, state in chest.placed(labels, affine).items() if state[0] != "unknown"}


def _orientation(states: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    for axis, (state, evidence) in states.items():
        if state == "reversed":
            yield Finding("warning", "orientation", f"{ENDS[axis]} look swapped ({evidence})", "compare with the scanner's images; repair the header")
        elif state == "unknown":
            yield Finding("note", "orientation", f"{ENDS[axis]}: unknown ({evidence})", "give organ masks to have it checked")


def examine(
    path: Path | str,
    *,
    organs: Path | str | None = None,
    lesions: Path | str | None = None,
    slope: float | None = None,
    intercept: float | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
) -> list[Finding]:
    """Everything found on one CT file or DICOM folder, and on its masks if they are given. Empty where nothing is to be said."""
    try:
        volume = ct.read(path, slope=slope, intercept=intercept, spacing_mm=spacing_mm)
    except Refused as refused:
        return [_refusal(refused, Path(path).name)]
    try:
        return _examined(volume, Path(path).name, organs, lesions)
    except MemoryError:
        return [_too_large(volume, Path(path).name)]


def _too_large(volume: Volume, name: str) -> Finding:
    size, spacing = (" x ".join(f"{v:.4g}" for v in values) for values in (volume.array.shape, volume.spacing_mm))
    return Finding("error", "memory", f"out of memory: {size} voxels of {spacing} mm", "is the spacing right? if it is, use fewer workers", name)


def _refusal(refused: Refused, name: str) -> Finding:
    what, _, fix = str(refused).removeprefix(f"{name}: ").rpartition("; ")
    what = what or str(refused)
    return Finding("error", next((code for word, code in CODES.items() if word in what), "unusable"), what, fix if what != fix else "", name)


def _examined(volume: Volume, name: str, organs: Path | str | None, lesions: Path | str | None) -> list[Finding]:
    findings = [Finding("warning", _warning_code(warning), warning, id=name) for warning in volume.warnings]
    looked = [replace(finding, id=name) for finding in _look(volume)]
    try:
        if lesions is not None:
            masks.marked(Path(lesions), volume)
    except Refused as refused:
        findings.append(Finding("error", "lesions", str(refused), MISFIT, name))
    if organs is None:
        return findings + looked
    try:
        labels = masks.read(Path(organs), volume)
    except Refused as refused:
        return findings + looked + [Finding("error", "organs", str(refused), MISFIT, name)]
    known = _told(labels, volume.affine)
    by_eye = [f for f in looked if f.code != "orientation" or not any(word in f.message for word in _words(known))]
    by_masks = [replace(finding, id=name) for finding in _orientation(known)]
    return findings + by_eye + by_masks + [replace(f, id=name) for f in _fits(volume, labels)]


def _words(axes: Iterable[str]) -> list[str]:
    return [ENDS[axis] for axis in axes]


def _warning_code(warning: str) -> str:
    return next((code for word, code in WARNING_CODES.items() if word in warning), "header")


def _fits(volume: Volume, labels: np.ndarray) -> Iterator[Finding]:
    """Whether lungs hold air and the heart does not: masks of another scan, or on a wrong origin, do not fit."""
    limits = {"lungs": (labels >= 1) & (labels <= 5), "heart": labels == 6}
    for organ, here in limits.items():
        if here.sum() < 500:
            continue
        mean = float(np.median(volume.array[here]))
        if (organ == "lungs" and mean > -300) or (organ == "heart" and mean < -150):
            message = f"organ masks do not lie on the organs: {organ} at {mean:.0f} HU"
            yield Finding("error", "organs", message, "masks and CT differ in origin or orientation, or belong to different scans")


# ---------------------------------------------------------------------------------------------------------------- a dataset


def dataset(scans: Iterable[Scan | Unusable]) -> list[Finding]:
    """Faults of a table of scans, without opening a volume: leakage between splits, duplicate ids, missing volumes and reports."""
    findings, good = [], []
    for scan in scans:
        if isinstance(scan, Unusable):
            findings.append(Finding("error", "unusable", scan.reason, id=scan.id))
        else:
            good.append(scan)
    for scan in good:
        if not (scan.findings.strip() or scan.impression.strip()):
            findings.append(Finding("error", "no_report", "a volume without a report", "add its report or drop it", scan.id))
        if not formats.on_disk(scan.path)[0].exists():
            findings.append(
                Finding("error", "no_volume", f"a report without a volume: {scan.path.name} is missing", "fetch it or drop the row", scan.id)
            )
    for id, same in _grouped(good, lambda s: s.id).items():
        if len(same) > 1:
            findings.append(Finding("error", "duplicate_id", f"id is there {len(same)} times", "give every volume its own id", id))
    for patient, same in _grouped(good, lambda s: s.patient).items():
        if len({s.split for s in same}) > 1:
            findings.append(Finding("error", "patient_split", f"patient in splits {_splits(same)}: {_ids(same)}", "split by patient", patient))
    for same in _grouped(good, _report_key).values():
        if len({s.split for s in same}) > 1 and len({s.patient for s in same}) > 1:
            message = f"same report in splits {_splits(same)}: {_ids(same)}"
            findings.append(Finding("warning", "report_split", message, "one patient under two names? split them alike", same[0].id))
    return findings


def _grouped(scans: list[Scan], key) -> dict[str, list[Scan]]:
    groups: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        if value := key(scan):
            groups[value].append(scan)
    return groups


def _report_key(scan: Scan) -> str:
    return " ".join(f"{scan.findings} {scan.impression}".lower().split())


def _splits(scans: list[Scan] | list[_Seen]) -> str:
    return " and ".join(sorted({s.split for s in scans}))


def _ids(scans: list[Scan] | list[_Seen]) -> str:
    ids = sorted({s.id for s in scans})
    return ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")


@dataclass(frozen=True)
class _Seen:
    """What is kept of a volume for comparing it with others: one hash per axial slice."""

    id: str
    split: str
    patient: str
    slices: tuple[int, ...]  # 0 for slices without content
    affine: np.ndarray

    def world(self, slice_index: int) -> np.ndarray:
        return (self.affine @ [0, 0, slice_index, 1])[:3]


def check(scans: Iterable[Scan | Unusable], *, workers: int = 1, progress: bool = True) -> list[Finding]:
    """Errors and warnings of a dataset: `dataset`, `examine` of every volume, and voxels that several volumes share.

    Reads every voxel once: about a second per volume and process.
    """
    from tqdm import tqdm

    scans = list(scans)
    findings = dataset(scans)
    missing = {f.id for f in findings if f.code == "no_volume"}
    ready = [s for s in scans if isinstance(s, Scan) and s.id not in missing]
    seen: list[_Seen] = []
    for found, hashes in tqdm(_visits(ready, workers), total=len(ready), desc="doctor", unit="volume", disable=not progress):
        findings += [f for f in found if f.level != "note"]
        seen += [hashes] if hashes else []
    return _folded(findings + list(_shared_voxels(seen)))


def stored(path: Path | str) -> tuple[int, list[Finding]]:
    """How many volumes a store holds, and what of it cannot be read back as it was written.  Raises: Refused for an unfinished store."""
    from asapkit import store

    faults = [Finding("error", "store", fault, "delete the file and run preprocess again", fault.split(": ")[0]) for fault in store.check(path)]
    return len(store.open(path).ids), faults


def _folded(findings: list[Finding]) -> list[Finding]:
    """Errors as they are; a warning that many volumes share said once, with their number and the first of them."""
    groups: dict[Finding, list[str]] = defaultdict(list)
    for finding in findings:
        groups[replace(finding, id="")].append(finding.id)
    folded = []
    for finding, ids in groups.items():
        if finding.level == "error" or len(ids) <= FOLD_ABOVE:
            folded += [replace(finding, id=id) for id in ids]
        else:
            folded.append(replace(finding, message=f"{finding.message} ({len(ids)} volumes: {', '.join(ids[:3])} ...)", id=f"{len(ids)} volumes"))
    return folded


def _visits(scans: list[Scan], workers: int) -> Iterator[tuple[list[Finding], _Seen | None]]:
    if workers <= 1 or len(scans) < 2:
        yield from map(_visit, scans)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield from pool.map(_visit, scans, chunksize=4)


def _visit(scan: Scan) -> tuple[list[Finding], _Seen | None]:
    try:
        volume = ct.read(scan.path, slope=scan.slope, intercept=scan.intercept, spacing_mm=scan.spacing_mm)
    except Refused as refused:
        return [replace(_refusal(refused, scan.path.name), id=scan.id)], None
    except Exception as error:  # one bad file never stops the rest
        return [Finding("error", "unusable", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", id=scan.id)], None
    try:
        found = [replace(f, id=scan.id) for f in _examined(volume, scan.id, scan.organs, scan.lesions)]
    except MemoryError:
        found = [_too_large(volume, scan.id)]
    return found, _Seen(scan.id, scan.split, scan.patient, _slice_hashes(volume.array), volume.affine)


def _slice_hashes(array: np.ndarray) -> tuple[int, ...]:
    from isal import isal_zlib

    whole = array if array.dtype == np.int16 else np.rint(array).clip(-32768, 32767).astype(np.int16)
    hashes = []
    for k in range(array.shape[2]):
        piece = np.ascontiguousarray(whole[:, :, k].T)
        hashes.append(isal_zlib.crc32(piece) ^ (hash(piece.shape) & 0xFFFFFFFF) if piece.min() < piece.max() else 0)
    return tuple(hashes)


def _shared_voxels(seen: list[_Seen]) -> Iterator[Finding]:
    """Volumes with at least eight equal axial slices: one line per group of copies, then cut-outs, either of them with a wrong origin too."""
    groups: dict[tuple[int, ...], list[_Seen]] = defaultdict(list)
    for volume in seen:
        groups[volume.slices].append(volume)
    groups_by_origin = [_by_origin(same) for same in groups.values()]
    for places in groups_by_origin:
        if sum(map(bool, places[0][0].slices)) >= MIN_SHARED_SLICES:
            yield from _copies(places)
    yield from _cut_outs([places[0][0] for places in groups_by_origin])


def _by_origin(same: list[_Seen]) -> list[list[_Seen]]:
    """Identical volumes by where they lie, the place that most of them have first."""
    places: list[list[_Seen]] = []
    for volume in same:
        here = next((p for p in places if np.linalg.norm(p[0].world(0) - volume.world(0)) <= SAME_PLACE_MM), None)
        if here is None:
            places.append([volume])
        else:
            here.append(volume)
    return sorted(places, key=len, reverse=True)


def _copies(places: list[list[_Seen]]) -> Iterator[Finding]:
    """Copies that lie alike are one line; those that lie elsewhere another, which does not say whose origin is the right one: voxels do not tell."""
    first, *others = places[0]
    count = len(first.slices)
    if others:
        leak = len({v.split for v in places[0]}) > 1
        what = f"{count} slices are voxel for voxel those of {first.id}" + (" in another split" if leak else "")
        if len(others) > 1:
            what = f"{len(places[0])} identical volumes" + (f" in splits {_splits(places[0])}" if leak else "") + f": {_ids(places[0])}"
        yield Finding("error" if leak else "warning", "copy", what, "use one of them", others[0].id)
    for moved in places[1:]:
        leak = " in another split" if len({v.split for v in [first, *moved]}) > 1 else ""
        more = f"; so do {_ids(moved[1:])}" if len(moved) > 1 else ""
        off = _off(moved[0].world(0) - first.world(0))
        what = f"{count} slices are voxel for voxel those of {first.id}{leak}, but the two differ in origin: they lie {off} mm apart (x, y, z)"
        yield Finding("error", "origin", what + more, "find out which origin is right, and use one of the volumes", moved[0].id)


def _off(apart: np.ndarray) -> str:
    return ", ".join(f"{d:+.0f}" for d in apart)


def _cut_outs(seen: list[_Seen]) -> Iterator[Finding]:
    """Pairs of different volumes that share slices, each pair once, at the shift that most of their slices have."""
    where: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, volume in enumerate(seen):
        for k, value in enumerate(volume.slices):
            if value:
                where[value].append((number, k))
    common: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for places in where.values():
        for i, (a, ka) in enumerate(places):
            for b, kb in places[i + 1 :]:
                if a != b:
                    common[a, b][kb - ka].append(ka)
    for (a, b), shifts in common.items():
        shift, slices = max(shifts.items(), key=lambda item: len(item[1]))
        if len(slices) >= MIN_SHARED_SLICES:
            yield _overlap(seen[a], seen[b], shift, len(slices), slices[0])


def _overlap(one: _Seen, other: _Seen, shift: int, shared: int, k: int) -> Finding:
    """The smaller of two volumes is named, as it is the one that was cut out; of equal ones the later."""
    apart = one.world(k) - other.world(k + shift)
    part, whole = (one, other) if len(one.slices) < len(other.slices) else (other, one)
    apart = apart if part is one else -apart
    if np.linalg.norm(apart) > SAME_PLACE_MM:
        message = f"wrong origin: {shared} slices are voxel for voxel those of {whole.id}, but lie {_off(apart)} mm away (x, y, z)"
        cut = len(part.slices) < len(whole.slices)
        fix = f"take the origin from {whole.id}, and use one of the two" if cut else "find out which origin is right, and use one of the two"
        return Finding("error", "origin", message, fix, part.id)
    leak = part.split != whole.split
    return Finding(
        "error" if leak else "warning", "copy", f"{shared} slices are voxel for voxel those of {whole.id}" + (" in another split" if leak else ""),
        "use one of the two", part.id,
    )  # fmt: skip
