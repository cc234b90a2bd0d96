"""One scan, one sentence: where a trained method sees it. Any readable CT in; a picture, a map on the scan's own grid and a list out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from asapkit import analysis, chest, ct, examples, formats
from asapkit.config import Contract
from asapkit.types import Refused, Volume


@dataclass(frozen=True)
class Look:
    """What was written, and the top patches: rank, x_mm, y_mm, z_mm (world RAS, the patch's centre), similarity."""

    picture: Path
    similarity_map: Path
    patches: pd.DataFrame
    warnings: tuple[str, ...]


def look(scan: str | Path, *, run: str | Path, sentence: str, out: str | Path, slope: float | None = None, intercept: float | None = None) -> Look:
    """Similarity of a sentence with every patch of a scan, nothing hidden. slope, intercept: of a file that holds stored values in place of HU.

    Writes out/look.png, out/look.csv (the top K patches) and out/similarity.nii.gz: float32 on the scan's own voxel grid, axes as in its
    file, NaN where the network's field of view does not reach and in the air around the body.

    Raises: Refused for a scan or run that cannot be read, and for values that are not HU; ValueError for an empty sentence or a method that does
    not align sentences.
    """
    from asapkit import checkpoint

    sentence = examples.asked(sentence)
    method = checkpoint.load_method(Path(run))
    if not hasattr(method, "match"):
        raise ValueError(f"{run}: its recipe aligns no sentences; look needs a run of asap or another recipe with `match`")
    contract, grid = method.encoder.contract, method.encoder.grid
    volume = ct.read(Path(scan), slope=slope, intercept=intercept)
    fault, fix = chest.hu_fault(volume.array)
    if fault:
        raise Refused(f"{Path(scan).name}: {fault}; {fix} (look takes slope and intercept as options)")
    strange = chest.not_a_chest(chest.survey(volume))
    patch = tuple(c // g for c, g in zip(contract.crop, grid, strict=True))
    seen, shape = field_of_view(volume, contract)
    similarities, budgets = examples.matched(method, seen.array, [sentence], contract=contract, shape=shape)
    similarity, k = similarities[0], int(budgets[0])
    top = top_table(similarity, k, grid=grid, patch=patch, affine=seen.affine)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    picture = _draw(seen, similarity, k, top, sentence=sentence, patch=patch, run=Path(run), out=folder)
    target = folder / "similarity.nii.gz"
    save_map(similarity.reshape(grid), seen.affine, Path(scan), target, patch=patch)
    return Look(picture, target, top, volume.warnings + ((strange,) if strange else ()))


def field_of_view(volume: Volume, contract: Contract) -> tuple[Volume, tuple[int, int, int]]:
    """The voxels (X, Y, Z) = contract.crop that the network is given, int16 HU, with their affine: the centre of the scan.

    Also the shape of the whole scan at the contract's spacing.
    """
    whole = ct.to_contract(volume, contract)
    shape = whole.array.shape
    affine = ct.fit_affine(whole.affine, shape, contract.crop, fit=contract.fit)
    return whole.with_array(ct.fit(whole.array, contract.crop, fit=contract.fit), affine), shape


def top_table(similarity: np.ndarray, k: int, *, grid: tuple[int, int, int], patch: tuple[int, int, int], affine: np.ndarray) -> pd.DataFrame:
    """The k most similar patches, highest first, with their centres in world RAS millimetres."""
    chosen = analysis.top_patches(similarity, k)
    centres = analysis.patch_centres_mm(grid, patch, affine)[chosen].round(1)
    table = pd.DataFrame(centres, columns=["x_mm", "y_mm", "z_mm"])
    table.insert(0, "rank", np.arange(1, len(chosen) + 1))
    return table.assign(similarity=similarity[chosen].astype(float).round(4))


def save_map(
    field: np.ndarray, affine: np.ndarray, scan: Path, target: Path, *, patch: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] | None = None,
) -> None:  # fmt: skip
    """Writes a patch map (gx, gy, gz) as NIfTI on the scan's own voxel grid, NaN where the crop does not reach; see `on_scan_grid`."""
    ct.save(on_scan_grid(field, affine, scan, patch=patch, spacing_mm=spacing_mm), target)


def on_scan_grid(
    field: np.ndarray, affine: np.ndarray, scan: Path, *, patch: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None = None
) -> Volume:
    """A patch map (gx, gy, gz) as a volume with the shape, axis order and affine that the scan has in its file.

    `affine` is that of the crop that the encoder saw; `spacing_mm` what a table said of a scan whose header has no spacing.
    """
    raw = formats.load(scan)
    shape = tuple(raw.array.shape[:3])
    where, _ = ct.spaced(raw, raw.affine, spacing_mm, Path(scan).name)
    return Volume(analysis.to_scan_grid(field, affine, where, shape=shape, patch=patch), where)


def _draw(seen: Volume, similarity, k: int, top: pd.DataFrame, *, sentence: str, patch, run: Path, out: Path) -> Path:
    from asapkit import figures

    said = f"{k} of {len(similarity)} patches are selected (framed where the planes cut them). Run {run.name}, nothing hidden."
    figure = figures.sentence_map(seen.array, similarity, sentence=sentence, k=k, spacing_mm=seen.spacing_mm, patch=patch, caption=said)
    return figures.save(figure, "look", top, out=out)
