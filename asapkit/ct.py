"""CT volumes: read, turn to RAS+, resample in millimetres, clip in HU, crop or pad. One way for training, inference and viewing.

Affines are half-voxel exact: what a voxel averages over is centred where the affine says it lies.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from asapkit import formats
from asapkit.config import Contract
from asapkit.types import Refused, Volume

MIN_SLICES = 16
MIN_HEIGHT_MM = 80.0
SPACING_MM = (0.05, 20.0)  # of a voxel, any axis
MAX_LENGTH_MM, MAX_WIDTH_MM = 2500.0, 1200.0  # the longest axis, and the other two: no scanner's bore is a metre wide
COARSE_SLICE_MM = 5.5
COARSE_PIXEL_MM = 2.0
AIR_HU = (-1100.0, -700.0)
SOFT_HU = (-150.0, 150.0)

Resampler = Literal["clean", "official"]
Fit = Literal["crop_pad", "resize"]


def read(
    path: Path | str,
    *,
    slope: float | None = None,
    intercept: float | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    series: str | None = None,
) -> Volume:
    """A CT volume in RAS+ and HU, int16 or float32. The array may be a view with negative strides.

    slope, intercept: from a metadata table, for files that hold stored values. The file's voxels decide: values that are HU already
        are left alone (CT-RATE's two releases carry the same table), and a warning says so.
    spacing_mm: from a metadata table, in the file's axis order; used when the header has none.
    series: word, number or id of a DICOM series where a folder holds several.

    Raises: Refused, one line, for a damaged file, a wrong format, 2-D or 4-D, zero, NaN or absurd spacing, NaN voxels, too thin,
        constant.
    """
    path = Path(path)
    raw = formats.load(path, series=series)
    array, affine, warnings = _three_axes(raw, path.name), raw.affine, list(raw.warnings)
    affine, notes = spaced(raw, affine, spacing_mm, path.name)
    _check_extent(array.shape, affine, path.name, raw.warnings)
    array, affine = to_ras(array, affine)
    _check_voxels(array, affine, path.name)
    array, more = _to_hu(array, slope, intercept)
    volume = Volume(array, affine, tuple(warnings + notes + more))
    return volume.with_array(array, warnings=_coarse(volume))


def _three_axes(raw: formats.Raw, name: str) -> np.ndarray:
    array = raw.array
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise Refused(f"{name}: {array.ndim}-D array {array.shape}; a CT volume has three axes")
    if min(array.shape) < 2:
        raise Refused(f"{name}: 2-D, one voxel thick ({' x '.join(map(str, array.shape))}); a CT volume has three axes")
    return array


def spaced(raw: formats.Raw, affine: np.ndarray, spacing_mm, name: str) -> tuple[np.ndarray, list[str]]:
    """The affine with the table's spacing where the header has none. Raises: Refused for a spacing that is no length."""
    own = np.sqrt((affine[:3, :3] ** 2).sum(0))
    usable = bool(np.isfinite(affine).all() and (own > 1e-3).all())
    if spacing_mm is not None:
        table = np.asarray(spacing_mm, float)
        if not (np.isfinite(table).all() and (table > 1e-3).all()):
            raise Refused(f"{name}: table spacing {tuple(spacing_mm)} mm is no spacing; correct the metadata table")
        if not (raw.has_spacing and usable):
            directions = affine[:3, :3] / own if usable else np.diag([-1.0, -1.0, 1.0])
            return np.block([[directions * table, affine[:3, 3:] if usable else np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]), [
                f"spacing {_mm(table)} taken from the table, the header has none"
            ]
        if np.abs(np.sort(own) / np.sort(table) - 1).max() > 0.02:
            return affine, [f"header spacing {_mm(own)} differs from the table's {_mm(table)}; the header is used"]
    if not usable:
        raise Refused(f"{name}: voxel spacing {_mm(own)} is zero or not a number; repair the header or give spacing_mm")
    if not raw.has_spacing:
        return affine, ["blank header: spacing 1 x 1 x 1 mm and orientation are guesses"]
    return affine, [] if raw.has_orientation else ["the header gives no orientation; LAS is assumed"]


def _mm(spacing) -> str:
    return " x ".join(f"{s:.3g}" for s in spacing) + " mm"


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes permuted and flipped to the nearest RAS+ order: a view of `array`, and the affine that belongs to it."""
    import nibabel.orientations as orientations

    turn = orientations.io_orientation(affine)
    return orientations.apply_orientation(array, turn), affine @ orientations.inv_ornt_aff(turn, array.shape)


def _check_extent(shape: tuple[int, ...], affine: np.ndarray, name: str, said: tuple[str, ...]) -> None:
    """Refuses what would be resampled to gigabytes, before anything is allocated."""
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    field = spacing * shape
    fits = np.sort(field) <= (MAX_WIDTH_MM, MAX_WIDTH_MM, MAX_LENGTH_MM)
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1] or not fits.all():
        units = "".join(f" ({warning})" for warning in said if "lengths are in" in warning)
        size = " x ".join(f"{v:.4g}" for v in field)
        raise Refused(f"{name}: voxel spacing {_mm(spacing)}, a field of {size} mm{units}: no chest CT; repair the spacing or units of its header")


def _check_voxels(array: np.ndarray, affine: np.ndarray, name: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{name}: {int((~np.isfinite(array)).sum())} voxels are NaN or infinite; repair or drop the volume")
    sample = array[::9, ::9, ::9]  # spares two passes over nearly every volume
    if sample.min() == sample.max() and array.min() == array.max():
        raise Refused(f"{name}: constant or empty: every voxel is {array.flat[0]}; fetch it again")
    slices, height = array.shape[2], array.shape[2] * float(np.linalg.norm(affine[:3, 2]))
    if slices < MIN_SLICES or height < MIN_HEIGHT_MM:
        raise Refused(
            f"{name}: too thin: {slices} slices over {height:.0f} mm; a chest needs at least {MIN_SLICES} slices and {MIN_HEIGHT_MM:.0f} mm"
        )


def hu_score(array: np.ndarray, offset: float = 0.0) -> float:
    """How far values look like HU + offset: the smaller of the shares of voxels that would be air or lung and soft tissue, [0, 1]."""
    step = max(1, round((array.size / 200_000) ** (1 / 3)))
    values = array[::step, ::step, ::step].astype(np.float32).ravel() - offset
    air = ((values >= AIR_HU[0]) & (values <= AIR_HU[1])).mean()
    soft = ((values >= SOFT_HU[0]) & (values <= SOFT_HU[1])).mean()
    return float(min(air, soft))


def _to_hu(array: np.ndarray, slope: float | None, intercept: float | None) -> tuple[np.ndarray, list[str]]:
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if (slope, intercept) == (1.0, 0.0) or not np.isfinite([slope, intercept]).all():
        return array, []
    scaled = formats.rescale(array, slope, intercept)
    if hu_score(array) > max(0.02, hu_score(scaled)):
        return array, [f"the table's slope {slope:g} and intercept {intercept:g} were not applied: the file holds HU already"]
    return scaled, []


def _coarse(volume: Volume) -> tuple[str, ...]:
    x, y, z = volume.spacing_mm
    found = []
    if z > COARSE_SLICE_MM:
        found.append(f"coarse slices: {z:.1f} mm apart")
    if max(x, y) > COARSE_PIXEL_MM:
        found.append(f"coarse pixels: {max(x, y):.1f} mm")
    directions = volume.affine[:3, :3] / np.asarray(volume.spacing_mm)
    if np.abs(np.diag(directions)).min() < 0.95:
        found.append("oblique volume: axes are turned by more than 18 degrees against the patient; the affine keeps it")
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------------- resampling


def _taps(n: int, m: int, *, ratio: float, shift: float, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Input indices (m, K) and weights (m, K) of one axis: output voxel i is centred at input coordinate (i + 0.5) * ratio - 0.5 + shift.

    smooth: a triangle as wide as two output voxels when shrinking (it averages what it covers, keeps centroids, does not alias);
    otherwise plain linear interpolation. Beyond the ends the outermost voxel is repeated.
    """
    centre = (np.arange(m) + 0.5) * ratio - 0.5 + shift
    reach = max(ratio, 1.0) if smooth else 1.0
    first = np.floor(centre - reach).astype(int) + 1
    index = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
    weight = np.clip(1 - np.abs(index - centre[:, None]) / reach, 0, None)
    weight /= weight.sum(1, keepdims=True)
    return index.clip(0, n - 1), weight.astype(np.float32)


def _matrix(n: int, taps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    index, weight = taps
    matrix = np.zeros((len(index), n), np.float32)
    np.add.at(matrix, (np.arange(len(index))[:, None], index), weight)
    return matrix


def _separable(array: np.ndarray, taps: list, window_hu: tuple[float, float] | None) -> np.ndarray:
    """Weighted sums along three axes in one pass over memory: float32, axes as in `array`.

    Slices along the axis that is slowest in memory are clipped and summed first, so only one of them is float at a time.
    """
    from scipy.sparse import csr_array

    order = np.argsort([-abs(s) for s in array.strides], kind="stable")
    array, taps = array.transpose(order), [taps[a] for a in order]
    for axis in range(3):
        if array.strides[axis] < 0:  # walk memory forwards: flip the voxels back and the weights with them
            array = np.flip(array, axis)
            taps[axis] = (array.shape[axis] - 1 - taps[axis][0], taps[axis][1])
    (index, weight), n = taps[0], array.shape
    rows, columns = csr_array(_matrix(n[1], taps[1])), np.ascontiguousarray(_matrix(n[2], taps[2]).T)
    result = np.empty(tuple(len(t[0]) for t in taps), np.float32)
    kept: dict[int, np.ndarray] = {}

    def plane(k: int) -> np.ndarray:
        if k not in kept:
            values = array[k] if window_hu is None else np.clip(array[k], *_limits(array.dtype, window_hu))
            kept[k] = values.astype(np.float32)
        return kept[k]

    total, scaled = np.empty(n[1:], np.float32), np.empty(n[1:], np.float32)
    for i in range(len(index)):
        needed = {int(k) for k, w in zip(index[i], weight[i], strict=True) if w}
        for old in [k for k in kept if k not in needed]:
            del kept[old]
        total[:] = 0
        for k, w in zip(index[i], weight[i], strict=True):
            if w:
                np.multiply(plane(int(k)), w, out=scaled)
                np.add(total, scaled, out=total)
        result[i] = (rows @ total) @ columns
    return result.transpose(np.argsort(order))


def _limits(dtype: np.dtype, window_hu: tuple[float, float]) -> tuple:
    """Clip limits in the array's own type, so that clipping integers stays a pass over integers."""
    if dtype.kind == "f":
        return np.float32(window_hu[0]), np.float32(window_hu[1])
    info = np.iinfo(dtype)
    return tuple(dtype.type(min(max(round(v), info.min), info.max)) for v in window_hu)


def resample(
    volume: Volume, spacing_mm: tuple[float, float, float], *, resampler: Resampler = "clean", window_hu: tuple[float, float] | None = None
) -> Volume:
    """The volume at another spacing, float32, with its exact affine; clipped to `window_hu` before averaging if that is given.

    clean: exactly `spacing_mm`, as many voxels as come nearest to the field, centred on it; averages when it shrinks.
    official: the released code's grid and values: floor(field / spacing) voxels over the whole field, trilinear without smoothing.
        The true spacing is therefore slightly above `spacing_mm`, and the affine says so.

    Source: official preprocess.py. Differs: the affine there is diag(spacing) with origin 0, which displaces anatomy.
    """
    if resampler not in ("clean", "official"):
        raise ValueError(f"unknown resampler {resampler!r}; there are clean, official")
    n, own, target = np.array(volume.array.shape), np.array(volume.spacing_mm), np.array(spacing_mm, float)
    field = n * own / target
    if resampler == "official":
        m = np.maximum(1, np.floor(n * (own / target) + 1e-9)).astype(int)  # the released code's own arithmetic
        ratio, shift = n / m, np.zeros(3)
    else:
        m = np.maximum(1, np.round(field)).astype(int)
        ratio = target / own
        shift = (n - m * ratio) / 2
    taps = [_taps(int(n[a]), int(m[a]), ratio=ratio[a], shift=shift[a], smooth=resampler == "clean") for a in range(3)]
    return volume.with_array(_separable(volume.array, taps, window_hu), _scaled(volume.affine, ratio, shift))


def _scaled(affine: np.ndarray, ratio: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Affine of a grid whose voxel i is centred at (i + 0.5) * ratio - 0.5 + shift of the old one."""
    step = np.eye(4)
    step[:3, :3] = np.diag(ratio)
    step[:3, 3] = 0.5 * ratio - 0.5 + shift
    return affine @ step


def to_contract(volume: Volume, contract: Contract) -> Volume:
    """The full field at the contract's spacing, clipped to its window, rounded to int16 (X, Y, Z), C order. Not cropped.

    Source: official preprocess.py (clip, then resample). Differs: rounds where the official code truncates.
    """
    if contract.orientation != "RAS":
        raise ValueError(f"orientation {contract.orientation!r} is not known; contracts are RAS")
    resampled = resample(volume, contract.spacing_mm, resampler=contract.resampler, window_hu=contract.window_hu)
    rounded = np.rint(resampled.array, out=resampled.array).astype(np.int16, order="C")
    return resampled.with_array(rounded)


def resample_labels(volume: Volume, like: Volume) -> np.ndarray:
    """Labels on the grid of `like`, placed by world coordinates, nearest voxel, 0 outside the labels' field. Keeps the dtype."""
    there = np.linalg.inv(volume.affine) @ like.affine  # voxel of `like` -> voxel of the labels
    turn, offset = there[:3, :3], there[:3, 3]
    source = np.abs(turn).argmax(0)  # axis of the labels that each axis of `like` runs along
    rest = turn.copy()
    rest[source, range(3)] = 0
    aligned = sorted(source) == [0, 1, 2] and (np.abs(rest) @ np.array(like.array.shape)).max() < 0.05
    if not aligned:
        from scipy.ndimage import affine_transform

        return affine_transform(volume.array, turn, offset, output_shape=like.array.shape, order=0, mode="constant", cval=0)
    result = volume.array.transpose(source)
    for axis, a in enumerate(source):
        index = np.floor(turn[a, axis] * np.arange(like.array.shape[axis]) + offset[a] + 0.5 + 1e-6).astype(int)
        inside = (index >= 0) & (index < volume.array.shape[a])
        result = np.take(result, index.clip(0, volume.array.shape[a] - 1), axis)
        if not inside.all():
            result[tuple(~inside if i == axis else slice(None) for i in range(3))] = 0
    return np.ascontiguousarray(result)


# ---------------------------------------------------------------------------------------------------------------- crop and pad


def _places(shape: tuple[int, ...], crop: tuple[int, int, int], start: tuple[int, int, int] | None) -> list[tuple[int, int]]:
    """Per axis: first voxel that is kept, and how many are padded before it. The centre when `start` is None."""
    places = []
    for axis, (n, c) in enumerate(zip(shape, crop, strict=True)):
        first = n // 2 - c // 2 if start is None else int(start[axis])
        if n <= c:
            places.append((0, (c - n) // 2))
        elif 0 <= first <= n - c:
            places.append((first, 0))
        else:
            raise ValueError(f"start {first} on axis {'xyz'[axis]}: a crop of {c} from {n} voxels starts between 0 and {n - c}")
    return places


def fit(
    array: np.ndarray,
    crop: tuple[int, int, int],
    *,
    fit: Fit = "crop_pad",
    start: tuple[int, int, int] | None = None,
    pad: Literal["reflect", "edge"] | float = "reflect",
) -> np.ndarray:
    """An array (X, Y, Z) of exactly `crop` voxels; unsigned integers are labels and are never averaged.

    crop_pad: cut where it is larger, from `start` (ignored on shorter axes) or the centre; pad evenly where it is smaller, by
        reflection, the edge, or a constant number.
    resize: the whole field squeezed to `crop`.

    Source: official loader (centre crop, symmetric reflect pad); resize is what the paper's text says.
    """
    if fit == "resize":
        return _resize(array, crop)
    if fit != "crop_pad":
        raise ValueError(f"unknown fit {fit!r}; there are crop_pad, resize")
    places = _places(array.shape, crop, start)
    cut = array[tuple(slice(first, first + c) for (first, _), c in zip(places, crop, strict=True))]
    widths = [(before, c - n - before) for (_, before), c, n in zip(places, crop, cut.shape, strict=True)]
    if not np.any(widths):
        return np.ascontiguousarray(cut)
    if isinstance(pad, str):
        return np.pad(cut, widths, mode=pad)
    return np.pad(cut, widths, mode="constant", constant_values=pad)


def _resize(array: np.ndarray, crop: tuple[int, int, int]) -> np.ndarray:
    ratio = np.array(array.shape) / np.array(crop)
    if array.dtype.kind in "ub":
        index = [np.floor((np.arange(c) + 0.5) * r).astype(int) for c, r in zip(crop, ratio, strict=True)]
        return array[np.ix_(*index)]
    taps = [_taps(n, c, ratio=r, shift=0.0, smooth=True) for n, c, r in zip(array.shape, crop, ratio, strict=True)]
    result = np.ascontiguousarray(_separable(array, taps, None))
    return result if array.dtype.kind == "f" else np.rint(result).astype(array.dtype)


def fit_affine(
    affine: np.ndarray,
    shape: tuple[int, int, int],
    crop: tuple[int, int, int],
    *,
    fit: Fit = "crop_pad",
    start: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """The affine of what `fit` returns for an array of `shape` with `affine`."""
    if fit == "resize":
        return _scaled(affine, np.array(shape) / np.array(crop), np.zeros(3))
    moved = np.array(affine, float)
    moved[:3, 3] += affine[:3, :3] @ np.array([first - before for first, before in _places(shape, crop, start)], float)
    return moved


def save(volume: Volume, path: Path | str) -> None:
    """Write NIfTI (`.nii` or `.nii.gz`) whole or not at all: the same volume gives the same bytes.

    Raises: Refused, naming the file, when it cannot be written.
    """
    import nibabel
    from isal import igzip

    path = Path(path)
    image = nibabel.Nifti1Image(np.asarray(volume.array), volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(igzip.compress(data, 2, mtime=0) if path.suffix == ".gz" else data)
        os.replace(part, path)
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error.strerror or error}); free some disk space and run again") from error
    finally:
        part.unlink(missing_ok=True)
