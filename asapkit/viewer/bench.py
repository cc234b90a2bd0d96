"""What the panel does, without Qt: a volume, a run and a viewer; each action puts its layers into the viewer in place of the ones before.

Works on a `ViewerModel` as on a window, so that everything here can be tried without a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asapkit import analysis, examples, look
from asapkit.examples import Field
from asapkit.planes import WINDOWS
from asapkit.types import Refused
from asapkit.viewer import sources
from asapkit.viewer.layers import Layer, attention_layers, colour_layers, layers, sentence_layers
from asapkit.viewer.sources import Run, Scanned, Stored
from asapkit.viewer.straight import straightened

if TYPE_CHECKING:
    import napari.components

VOLUME = ("ct", "organs", "truth")
OVERLAYS = ("sentence", "colours", "attention")


DIMMED = 1.7  # how far the CT's window is stretched upwards where colours lie on it


def dimmed(window_hu: tuple[float, float]) -> tuple[float, float]:
    """The window in which white becomes grey."""
    low, high = window_hu
    return low, low + DIMMED * (high - low)


@dataclass(frozen=True)
class Found:
    """A sentence in a volume: similarity (N,), NaN where no evidence can lie, and K, how many patches it selects."""

    sentence: str
    similarity: np.ndarray
    k: int


class Bench:
    """One viewer's volume and run. Actions raise Refused, in one line, where something does not fit."""

    def __init__(self, viewer: napari.components.ViewerModel):
        self.viewer = viewer
        self.volume: Stored | Scanned | None = None
        self.run: Run | None = None
        self.found: Found | None = None
        self._field: Field | None = None
        self.adopt()

    # --- what lies on it

    def adopt(self) -> bool:
        """Takes the volume that a reader put into the viewer, if it is another than the one at hand. True if it is."""
        told = [layer.metadata for layer in self.viewer.layers if layer.metadata.get("role") == "ct"]
        if not told:
            return False
        last, has = told[-1], self.volume
        if "scan" in last:
            if isinstance(has, Scanned) and str(has.path) == last["scan"]:
                return False
            self._take(sources.opened(last["scan"]))
        else:
            if isinstance(has, Stored) and (str(has.store.root), has.id) == (last["store"], last["id"]):
                return False
            self._take(sources.stored(last["store"], last["id"]))
        return True

    def _take(self, volume: Stored | Scanned) -> None:
        self.volume, self.found, self._field = volume, None, None

    def open(self, path: str | Path, id: str = "") -> None:
        """Shows a store's volume (the first, or `id`), a scan, or what a run was trained on, which then chooses the run too."""
        volume = sources.opened(path, id)
        if sources.is_run(Path(path)):
            self.run = sources.loaded(path)
        self.show(volume)

    def choose_volume(self, id: str) -> None:
        """Another volume of the same store; its overlays have to be asked for again."""
        if isinstance(self._volume, Stored) and id != self._volume.id:
            self.show(sources.stored(self._volume.store, id))

    def show(self, volume: Stored | Scanned) -> None:
        described = volume.layers()  # read first: what is shown stays where it cannot be read
        self._take(volume)
        self._clear(VOLUME + OVERLAYS)
        layers(described, viewer=self.viewer)
        self.viewer.dims.point = tuple((low + high) / 2 for low, high, _ in self.viewer.dims.range)

    def choose_run(self, path: str | Path) -> None:
        """A run folder, its weights read. Its layers go; what it makes of the volume has to be asked for again."""
        self.run = sources.loaded(path)
        self.found, self._field = None, None
        self._clear(OVERLAYS)

    @property
    def _volume(self) -> Stored | Scanned:
        if self.volume is None:
            raise Refused("no volume is open; drop a store's folder or a scan into the window first")
        return self.volume

    @property
    def _run(self) -> Run:
        if self.run is None:
            raise Refused("no run is chosen; choose a run folder that `asapkit pretrain` wrote")
        return self.run

    @property
    def sentences(self) -> list[str]:
        """The report's sentences, findings before impression; none without a report."""
        return [] if self.volume is None else self.volume.sentences

    @property
    def field(self) -> Field:
        """What the run's encoder is given of the volume.  Raises: Refused if they do not fit."""
        run, volume = self._run, self._volume
        if self._field is None:
            self._field = volume.field(run.encoder.contract, run=run.path.name)
        return self._field

    # --- what can be asked

    def find(self, sentence: str) -> Found:
        """Where the run sees a sentence: similarity, frames around its patches, their ranks; the planes go to the best one."""
        sentence = examples.asked(sentence)
        method, field, run = self._run.aligning(), self.field, self._run
        (similarity,), (k,) = examples.matched(method, field.hu, [sentence], contract=field.contract, shape=field.shape)
        self.found = Found(sentence, similarity, int(k))
        self._put(sentence_layers(similarity, field.affine, grid=run.grid, patch=run.patch, k=int(k), sentence=sentence), "sentence")
        return self.found

    def colours(self) -> np.ndarray:
        """The encoder's features as colours, on this volume's own basis. Returns the share of variance of red, green, blue."""
        field, run = self.field, self._run
        made, body = examples.tokens({"run": run.encoder}, field, [self._volume.name])
        (colours,), shares = analysis.pca_maps(made["run"], body, run.grid)
        told = ", ".join(f"{share:.0%}" for share in shares)
        self._put(colour_layers(colours, field.affine, patch=run.patch, name=f"PCA of features: {told}"), "colours")
        return shares

    def attend(self, *, patch: int | None = None, layer: int = -1, head: int | None = None) -> int:
        """Where a patch looks: by default the best patch of the last sentence, else the one under the crosshair. `head`: from 0, None their mean.

        Returns the patch.  Raises: Refused for an encoder without attention, or a layer, head or patch that is not there.
        """
        field, run = self.field, self._run
        patch = self.patch_asked() if patch is None else patch
        try:
            heads = examples.of_layer(examples.looked_at(run.encoder, field, self._volume.name, patches=[patch]), layer)[:, 0]
            weights = heads.mean(0) if head is None else heads[head]
        except IndexError as error:
            raise Refused(f"run {run.path.name} has no such attention: {error}") from error
        name = f"{'last layer' if layer == -1 else f'layer {layer + 1}'}, {'mean of heads' if head is None else f'head {head + 1}'}"
        self._put(attention_layers(weights, field.affine, grid=run.grid, patch=run.patch, asked=patch, name=name), "attention")
        return patch

    def patch_asked(self) -> int:
        """The best patch of the sentence at hand, else the one under the crosshair."""
        return self.patch_at_crosshair() if self.found is None else int(analysis.top_patches(self.found.similarity, 1)[0])

    def patch_at_crosshair(self) -> int:
        """Raises: Refused where the crosshair lies outside what the encoder sees."""
        field, run = self.field, self._run
        point = np.asarray(self.viewer.dims.point[::-1])
        voxel = np.linalg.solve(field.affine, [*point, 1.0])[:3]
        place = np.floor((voxel + 0.5) / run.patch).astype(int)
        if (place < 0).any() or (place >= run.grid).any():
            raise Refused("the crosshair lies outside what the encoder sees; click nearer to the middle of the scan")
        return int(np.ravel_multi_index(tuple(place), run.grid))

    def export(self, path: str | Path) -> Path:
        """Writes the similarity of the sentence at hand as NIfTI on the original scan's own voxel grid; NaN where there is none."""
        if self.found is None:
            raise Refused("no sentence has been found yet; find one, then export its map")
        path = Path(path)
        if not path.name.endswith((".nii", ".nii.gz")):
            path = path.with_name(path.name + ".nii.gz")
        if not path.parent.is_dir():
            raise Refused(f"{path.parent}: no such folder; choose where to write the map")
        scan, spacing_mm = self._volume.origin()
        field = self.found.similarity.reshape(self._run.grid)
        look.save_map(field, self.field.affine, scan, path, patch=self._run.patch, spacing_mm=spacing_mm)
        return path

    # --- layers

    def _clear(self, roles: Sequence[str]) -> None:
        for layer in [layer for layer in self.viewer.layers if layer.metadata.get("role") in roles]:
            self.viewer.layers.remove(layer)

    def _put(self, described: Sequence[Layer], role: str) -> None:
        """New overlays in place of the old ones of their role; those of other roles are hidden, the CT is darkened under them."""
        self._clear([role])
        for layer in self.viewer.layers:
            if layer.metadata.get("role") in OVERLAYS:
                layer.visible = False
            elif layer.metadata.get("role") == "ct" and tuple(layer.contrast_limits) == WINDOWS["lung"]:
                layer.contrast_limits = dimmed(WINDOWS["lung"])
        layers(straightened(described), viewer=self.viewer)
