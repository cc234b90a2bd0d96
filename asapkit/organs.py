"""Organ masks: imported by TotalSegmentator *name*, placed by world coordinates, turned into soft proportions per patch.

Numbers are never trusted: the aorta is 52 in TotalSegmentator 2 and 7 in version 1, so a multi-label file needs its names.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from asapkit import ct, formats
from asapkit.types import ORGANS, Refused, Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
MOST_LABELS = 1 << 16  # of a multi-label file; TotalSegmentator has 117


def read(path: Path | str, like: Volume, *, labels: dict[int, str] | None = None) -> np.ndarray:
    """Organs (X, Y, Z) uint8 on the grid of `like`: 0 background, 1..9 = index in `ORGANS` + 1.

    path: a multi-label file, or a folder with one mask file per organ (`heart.nii.gz`; missing organs stay empty). Grids may differ
        from the CT's: voxels are placed by world coordinates. Where masks of a folder overlap, the later in `ORGANS` wins.
    labels: value -> name of a multi-label file. Without it the names come from the NIfTI header, from `<file>.json`, or from
        `labels.json` beside the file; a file that is itself called after an organ holds that organ.

    Raises: Refused when no names or none of the nine organs are found, or when no labelled voxel lies in the CT.
    """
    path = Path(path)
    if path.is_dir():
        files = {name: found for name in ORGANS if (found := _mask_file(path, name))}
        if not files:
            raise Refused(f"{path.name}: no mask is called after one of the nine organs (heart.nii.gz, ...); give TotalSegmentator's folder")
        placed = np.zeros(like.array.shape, np.uint8)
        found = False
        for name, file in files.items():
            mask, _ = _load(file)
            here = _place(mask.with_array((mask.array > 0).astype(np.uint8)), like)
            found |= bool(here.any()) or not mask.array.any()
            placed[here > 0] = ORGANS.index(name) + 1
        if not found:
            raise Refused(_elsewhere(path.name, mask, like))
        return placed
    mask, names = _load(path)
    values = _values(path, mask.array, labels or names or _sidecar(path))
    table = np.zeros(int(mask.array.max(initial=0)) + 1, np.uint8)
    for value, name in values.items():
        if value < len(table):
            table[value] = ORGANS.index(name) + 1
    nine = mask.with_array(table[mask.array])
    placed = _place(nine, like)
    if nine.array.any() and not placed.any():
        raise Refused(_elsewhere(path.name, mask, like))
    return placed


def marked(path: Path | str, like: Volume) -> np.ndarray:
    """Lesions (X, Y, Z) uint8 on the grid of `like`: 1 wherever a mask is not 0, whatever its names. A file, or a folder of files; may be empty.

    Nearest voxel by world coordinates; a lesion (marked voxels that touch) too small for the grid keeps the voxel nearest to its middle.
    Raises: Refused when a folder holds no mask, or when marks of a file lie outside the CT altogether.
    """
    from scipy import ndimage

    path = Path(path)
    files = sorted(f for f in path.iterdir() if f.name.endswith(ENDINGS)) if path.is_dir() else [path]
    if not files:
        raise Refused(f"{path.name}: no mask in this folder; give a mask, or a folder of masks ({', '.join(ENDINGS)})")
    placed = np.zeros(like.array.shape, np.uint8)
    for file in files:
        mask, _ = _load(file)
        apart, count = ndimage.label(mask.array > 0, np.ones((3, 3, 3)))
        here = _place(mask.with_array(apart), like)
        boxes = ndimage.find_objects(apart)
        for lost in set(range(1, count + 1)) - set(np.unique(here).tolist()):
            box = boxes[lost - 1]
            if at := landing(np.argwhere(apart[box] == lost) + [side.start for side in box], mask.affine, like):
                here[at] = lost
        if count and not here.any():
            raise Refused(_elsewhere(file.name, mask, like))
        placed |= here > 0
    return placed


def landing(voxels: Int[np.ndarray, "n 3"], affine: np.ndarray, like: Volume) -> tuple[int, int, int] | None:
    """Where on the grid of `like` the voxel of an instance lies that is nearest to the instance's middle; None outside."""
    middle = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
    to_grid = np.linalg.inv(like.affine) @ affine
    index = np.rint(to_grid[:3, :3] @ middle + to_grid[:3, 3]).astype(int)
    return tuple(index.tolist()) if (index >= 0).all() and (index < like.array.shape).all() else None


def _load(file: Path) -> tuple[Volume, dict[int, str]]:
    """A mask in RAS+ with non-negative integers, and the label names of its header."""
    raw = formats.load(file)
    array = raw.array[..., 0] if raw.array.ndim == 4 and raw.array.shape[-1] == 1 else raw.array
    if array.ndim != 3:
        raise Refused(f"{file.name}: {array.ndim}-D mask {array.shape}; a mask has three axes")
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.isfinite(array).all() or np.abs(array - whole).max() > 1e-3:
            raise Refused(f"{file.name}: mask values are no whole numbers; export labels, not probabilities")
        array = whole.astype(np.int32)
    if array.size and int(array.min()) < 0:
        raise Refused(f"{file.name}: mask holds negative values ({int(array.min())}); this looks like a CT, not like labels")
    if not np.isfinite(raw.affine).all() or abs(np.linalg.det(raw.affine[:3, :3])) < 1e-9:
        raise Refused(f"{file.name}: the mask's spacing is zero or not a number; repair its header")
    return Volume(*ct.to_ras(array, raw.affine)), raw.label_names


def _place(mask: Volume, like: Volume) -> np.ndarray:
    same = mask.array.shape == like.array.shape and np.allclose(mask.affine, like.affine, atol=1e-3)
    return np.ascontiguousarray(mask.array) if same else ct.resample_labels(mask, like)


def _elsewhere(name: str, mask: Volume, like: Volume) -> str:
    return f"{name}: no labelled voxel lies in the CT: masks span {_box(mask)}, the CT {_box(like)} mm (RAS); they belong to different grids"


def _box(volume: Volume) -> str:
    ends = np.array([[0, 0, 0, 1], [*(np.array(volume.array.shape) - 1), 1]]) @ volume.affine.T
    return ", ".join(f"{low:.0f}..{high:.0f}" for low, high in zip(ends[0, :3], ends[1, :3], strict=True))


def _mask_file(folder: Path, name: str) -> Path | None:
    return next((folder / (name + end) for end in ENDINGS if (folder / (name + end)).exists()), None)


def _stem(path: Path) -> str:
    return next((path.name[: -len(end)] for end in ENDINGS if path.name.endswith(end)), path.stem)


def _sidecar(path: Path) -> dict[int, str]:
    """value -> name from the json beside a mask; either way round in it."""
    file = names_beside(path)
    if file is None:
        return {}
    try:
        pairs = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=tuple)  # a name or value may be there twice
        if not isinstance(pairs, tuple):
            raise ValueError("no object")
        if not all(key.lstrip("-").isdecimal() for key, _ in pairs):
            pairs = tuple((value, name) for name, value in pairs)
        return _by_value(pairs)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file.name}: no table of label values and names ({error}); write for example {{'1': 'heart'}}") from error


def _by_value(pairs: Sequence[tuple[object, object]]) -> dict[int, str]:
    """Raises: ValueError for a value that is no whole number from 0 on, or that has two names."""
    names: dict[int, str] = {}
    for value, name in pairs:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise ValueError(f"{value!r} of {name!r} is no label value")
        if names.setdefault(int(value), str(name)) != str(name):
            raise ValueError(f"{value} is {names[int(value)]!r} and {name!r}")
    return names


def names_beside(path: Path) -> Path | None:
    """The json that names the labels of a multi-label file: `<file>.json`, else `labels.json` beside it. A folder of masks has none."""
    if path.is_dir():
        return None
    return next((file for file in (path.with_name(_stem(path) + ".json"), path.with_name("labels.json")) if file.is_file()), None)


def _values(path: Path, array: np.ndarray, names: dict[int, str]) -> dict[int, str]:
    """The values of the nine organs in a multi-label file."""
    if not names:
        if _stem(path) in ORGANS and array.max(initial=0) <= 1:
            return {1: _stem(path)}
        raise Refused(f"{path.name}: no label names in its header, in {_stem(path)}.json or in labels.json; numbers alone say nothing, give labels=")
    if (most := int(array.max(initial=0))) > MOST_LABELS:
        raise Refused(f"{path.name}: mask holds values up to {most}; this looks like a CT, not like labels")
    values = {int(value): name for value, name in names.items() if name in ORGANS}
    if not values:
        raise Refused(f"{path.name}: none of its {len(names)} labels is one of the nine organs ({', '.join(ORGANS)})")
    return values


@lru_cache(maxsize=4)
def _run_index(shape: tuple[int, int, int], patch: tuple[int, int, int], run: int) -> np.ndarray:
    """Ten times the row-major patch number of every run of `run` voxels along z, (X, Y, Z / run) int64."""
    x, y, z = (np.arange(0, n, step) // p for n, p, step in zip(shape, patch, (1, 1, run), strict=True))
    index = 10 * ((x[:, None, None] * (shape[1] // patch[1]) + y[:, None]) * (shape[2] // patch[2]) + z)
    index.setflags(write=False)
    return index


def proportions(labels: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Share of each patch's voxels in each organ: (N, 9) float32 in [0, 1], patches row-major in x, y, z. No background column.

    Raises: ValueError when the patches do not fill `labels` (X, Y, Z) exactly, or a label is above 9.

    Source: ASAP eq. 2. Differs: the official code has eight organs and a background column.
    """
    patch = tuple(int(p) for p in patch)
    if any(n % p for n, p in zip(labels.shape, patch, strict=True)):
        raise ValueError(f"labels {labels.shape} are not filled by patches of {patch}")
    if labels.size and int(labels.max()) > len(ORGANS):
        raise ValueError(f"label {int(labels.max())}: organs are numbered 1 to {len(ORGANS)}, 0 is background")
    patches = labels.size // int(np.prod(patch))
    if not labels.any():
        return np.zeros((patches, len(ORGANS)), np.float32)
    return (_counts(np.ascontiguousarray(labels, np.uint8), patch, patches)[:, 1:] / np.prod(patch)).astype(np.float32)


def _counts(labels: np.ndarray, patch: tuple[int, int, int], patches: int) -> np.ndarray:
    """Voxels of each of the labels 1 to 9 in each patch, (N, 10); column 0 is left at what shares a run with them.

    Organs are large: runs of eight voxels without any are passed over, most others hold one label alone and count at once.
    """
    run = math.gcd(patch[2], 8)
    word = labels.reshape(-1).view(f"u{run}")
    some = np.flatnonzero(word != 0)
    word, index = word[some], _run_index(labels.shape, patch, run).ravel()[some]
    first = word.view(np.uint8)[::run]
    mixed = word != first * word.dtype.type(int("01" * run, 16))
    counts = run * np.bincount(index[~mixed] + first[~mixed], minlength=10 * patches)
    each = word[mixed].view(np.uint8).reshape(-1, run)
    counts += np.bincount((index[mixed, None] + each).ravel(), minlength=10 * patches)
    return counts.reshape(patches, 10)


def segment(scan_path: Path | str, out_folder: Path | str, *, program: str = "TotalSegmentator", device: str = "gpu", fast: bool = False) -> Path:
    """Nine organs of a CT file through the TotalSegmentator of another environment; returns the multi-label file that `read` takes.

    program: its path, or a name on the search path. It runs as a process of its own: its packages would replace ours. Usage
        statistics are switched off in its configuration before it starts.

    Raises: Refused when the program is missing or fails.
    """
    found = shutil.which(program)
    if found is None:
        raise Refused(f"{program}: not found; install TotalSegmentator in an environment of its own and give the path of its program")
    scan_path, out_folder = Path(scan_path), Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    _no_statistics()
    target = out_folder / f"{_stem(scan_path)}.nii.gz"
    command = [found, "-i", str(scan_path), "-o", str(target), "--ml", "--device", device, "--roi_subset", *ORGANS] + ["--fast"] * fast
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not target.exists():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Refused(f"{scan_path.name}: TotalSegmentator failed (exit {done.returncode}): {lines[-1].strip() if lines else 'no message'}")
    return target


def _no_statistics() -> None:
    """Write TotalSegmentator's configuration with usage statistics off, keeping whatever else it holds."""
    home = Path(os.environ.get("TOTALSEG_HOME_DIR") or Path.home() / ".totalsegmentator")
    home.mkdir(parents=True, exist_ok=True)
    file = home / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        settings = {"totalseg_id": "none", "prediction_counter": 0}
    if settings.get("send_usage_stats") is not False:
        file.write_text(json.dumps(settings | {"send_usage_stats": False}, indent=4), encoding="utf-8")
