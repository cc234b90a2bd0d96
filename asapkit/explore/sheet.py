"""Three linked planes of a scan on one page, drawn in milliseconds: numpy and PIL, where a matplotlib page takes a second.

Same conventions as `planes`: radiologists' sides, true millimetre proportions, side marks and a scale bar. Positions are world RAS
millimetres, as the scan's own affine places them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from asapkit.drawing import ORGANS, TRUTH
from asapkit.examples import cropped_findings
from asapkit.explore import layers
from asapkit.planes import PLANES, Cut, cuts, window_hu, window_text
from asapkit.types import ORGANS as ORGAN_NAMES
from asapkit.types import Refused

WIDTH, GAP = 1000, 6  # pixels of a page, and between its tiles
TILES = 12  # drawn planes that are kept: turning one plane does not draw the other two again


@dataclass(frozen=True, eq=False)
class Crop:
    """One volume as the widgets draw it: HU (X, Y, Z) of the contract's crop, its affine, organs, truth bits and what each bit is called."""

    id: str
    volume: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    organs: np.ndarray | None = None
    truth: np.ndarray | None = None
    names: dict[int, str] = field(default_factory=dict)

    def world(self, voxel) -> np.ndarray:
        """World RAS millimetres of a voxel's centre."""
        return self.affine[:3, :3] @ np.asarray(voxel, float) + self.affine[:3, 3]

    def voxel(self, mm) -> tuple[int, int, int]:
        """The voxel at world RAS millimetres, the nearest one where that lies outside the crop."""
        try:
            at = np.asarray(mm, float)
        except (TypeError, ValueError):
            at = np.empty(0)
        if at.shape != (3,) or not np.isfinite(at).all():
            raise Refused(f"position {mm} mm: give three numbers, x y z")
        found = np.linalg.solve(self.affine[:3, :3], at - self.affine[:3, 3])
        return tuple(int(v) for v in np.clip(np.rint(found), 0, np.array(self.volume.shape) - 1))

    def told(self, voxel) -> str:
        """What lies at a voxel: HU, and the organ where one is known."""
        organ = 0 if self.organs is None else int(self.organs[voxel])
        return f"{int(self.volume[voxel])} HU" + (f", {ORGAN_NAMES[organ - 1].replace('_', ' ')}" if organ else "")


def crop_of(store, id: str) -> Crop:
    """Raises: Refused for a volume that the store does not hold."""
    volume, affine = store.cropped(id)
    organs = store.cropped(id, "organs")[0] if store.table.at[id, "has_organs"] else None
    return Crop(id, volume, affine, tuple(store.contract.spacing_mm), organs, *cropped_findings(store, id))


class Look(NamedTuple):
    """How a page is drawn. `bits`: outline these findings only, whatever `findings` says; 0: none in particular."""

    window: str = "lung"
    organs: bool = True
    findings: bool = False
    bits: int = 0

    def shown(self, names: dict[int, str]) -> dict[int, str]:
        """Bits to outline, each with its colour, which stays the same whatever else is shown."""
        colours = {bit: TRUTH[n % len(TRUTH)] for n, bit in enumerate(sorted(names))}
        return {bit: c for bit, c in colours.items() if (self.bits >> bit & 1 if self.bits else self.findings)}


class Sheet:
    """The planes of one crop, and of what a sentence finds in it: `image` draws them through a voxel, `voxel_at` says what lies under a click.

    `found`, where given, holds `similarity` (N,), NaN where nothing can be seen, `top` patches, best first, `grid`, `patch` (voxels) and
    `truth` (Boolean volume or None).
    """

    def __init__(self, crop: Crop, *, width: int = WIDTH):
        self.crop, self.width = crop, width
        self.cuts = {cut.plane: cut for cut in cuts(crop.volume, crop.spacing_mm, tuple(PLANES))}
        sizes = [cut.size_mm for cut in self.cuts.values()]
        self.scale = (width - GAP * (len(sizes) - 1)) / sum(wide for wide, _ in sizes)  # pixels per mm
        self.tall = round(max(tall for _, tall in sizes) * self.scale)
        self.boxes, left = {}, 0.0  # of each plane: left, top (below the line of its name), width, height
        for name, (wide, tall) in zip(self.cuts, sizes, strict=True):
            size = round(wide * self.scale), round(tall * self.scale)
            self.boxes[name] = (round(left), layers.LINE + (self.tall - size[1]) // 2, *size)
            left += wide * self.scale + GAP
        self.present = () if crop.organs is None else tuple(n for n in np.unique(crop.organs) if n)
        self._tiles: dict = {}

    def image(self, voxel, look: Look, *, found=None) -> Image.Image:
        """The page: the planes through `voxel` with a crosshair, a legend below."""
        entries, where = self.legend(voxel, look, found), self.crop.world(voxel)
        page = Image.new("RGB", (self.width, self.height(voxel, look, found)), "white")
        pen = ImageDraw.Draw(page)
        for name, (left, top, wide, tall) in self.boxes.items():
            axis, across, up = (int(voxel[a]) for a in PLANES[name][:3])
            pen.text((left + 2, 0), _level(name, where), fill=layers.INK, font=layers.font(14))
            pen.rectangle((left, layers.LINE, left + wide - 1, layers.LINE + self.tall - 1), fill="black")
            tile, (_, columns, rows) = self._tile(name, axis, look, found).copy(), (self.crop.volume.shape[a] for a in PLANES[name][:3])
            layers.crosshair(tile, (1 - (across + 0.5) / columns) * wide, (1 - (up + 0.5) / rows) * tall)
            page.paste(Image.fromarray(tile), (left, top))
        layers.legend(page, entries, top=layers.LINE + self.tall + 6)
        return page

    def height(self, voxel, look: Look, found=None) -> int:
        """Pixels of the page from top to bottom."""
        return layers.LINE + self.tall + 6 + layers.placed(self.legend(voxel, look, found), self.width)[1]

    def voxel_at(self, point: tuple[float, float], voxel) -> tuple[int, int, int] | None:
        """The voxel under a point of the page, in its pixels; None where no plane is. What a plane does not say, its depth, stays that of `voxel`."""
        x, y = point
        for name, (left, top, wide, tall) in self.boxes.items():
            if left <= x < left + wide and top <= y < top + tall:
                moved = [int(v) for v in voxel]
                for axis, share in zip(PLANES[name][1:3], (1 - (x - left) / wide, 1 - (y - top) / tall), strict=True):
                    n = self.crop.volume.shape[axis]
                    moved[axis] = min(int(share * n), n - 1)
                return tuple(moved)
        return None

    def legend(self, voxel, look: Look, found=None) -> list[tuple[str, str]]:
        """Colour and meaning of everything that may be on the page; "ramp" stands for the colours of similarity."""
        entries = [("", window_text(look.window))]
        if found is not None:
            entries.append(("ramp", f"cosine {np.nanmedian(found.similarity):.2f} to {np.nanmax(found.similarity):.2f}"))
            entries.append(("#FFFFFF", "selected patches with rank, the best one bold"))
            if found.truth is not None:
                x, y, z = voxel
                cut = any(plane.any() for plane in (found.truth[x], found.truth[:, y], found.truth[:, :, z]))
                entries.append((TRUTH[0], "truth of the sentence" + ("" if cut else ", not on these planes")))
        entries += [(colour, self.crop.names[bit]) for bit, colour in look.shown(self.crop.names).items()]
        return entries + [(ORGANS[n - 1], ORGAN_NAMES[n - 1].replace("_", " ")) for n in (self.present if look.organs else ())]

    def _tile(self, name: str, index: int, look: Look, found) -> np.ndarray:
        """One plane as RGB (rows, columns, 3), without the crosshair."""
        key = name, index, look, id(found)
        if key not in self._tiles:
            while len(self._tiles) >= TILES:
                self._tiles.pop(next(iter(self._tiles)))
            drawn = self._drawn(Cut(name, index, self.crop.spacing_mm, self.crop.volume.shape), look, found)
            self._tiles[key] = drawn, found  # `found` is kept, so that no other object gets its identity
        return self._tiles[key][0]

    def _drawn(self, cut: Cut, look: Look, found) -> np.ndarray:
        size, crop = self.boxes[cut.plane][2:], self.crop
        low, high = window_hu(look.window)
        stretch = 255 / ((high - low) * (1.5 if found is not None else 1.0))  # darker under colours, so that they stand out
        flat = np.clip((on_page(cut, crop.volume).astype(np.float32) - low) * stretch, 0, 255).astype(np.uint8)
        tile = np.repeat(np.asarray(Image.fromarray(flat).resize(size, Image.Resampling.BICUBIC))[..., None], 3, axis=2)
        if found is not None:
            layers.glow(tile, cut, found)
        if look.organs and crop.organs is not None:
            labels = on_page(cut, crop.organs)
            for label in np.unique(labels[labels > 0]):
                layers.outline(tile, labels == label, ORGANS[label - 1])
        if crop.truth is not None:
            bits = on_page(cut, crop.truth)
            for bit, colour in look.shown(crop.names).items():
                layers.outline(tile, (bits >> np.uint32(bit)) & 1 > 0, colour, thick=True)
        if found is not None and found.truth is not None:
            layers.outline(tile, on_page(cut, found.truth), TRUTH[0], thick=True)
        image = Image.fromarray(tile)
        if found is not None:
            layers.frames(image, cut, found)
        layers.marks(image, cut.plane, self.scale)
        return np.array(image)


def _level(name: str, where: np.ndarray) -> str:
    """The name of a plane and where it lies, with a typographic minus."""
    axis = PLANES[name][0]
    return f"{name}, {'xyz'[axis]} = {round(where[axis]) + 0} mm".replace("-", "\u2212")


def on_page(cut: Cut, array: np.ndarray) -> np.ndarray:
    """The plane as rows from the top of the page, columns from its left."""
    return np.ascontiguousarray(cut.take(array)[::-1, ::-1])


def png(page: Image.Image) -> bytes:
    """Fast rather than small: a page goes to a browser once."""
    raw = io.BytesIO()
    page.save(raw, format="png", compress_level=1)
    return raw.getvalue()
