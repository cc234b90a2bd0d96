"""What is known of one family of released weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from torch import Tensor, nn

from asapkit.peers.building import Built
from asapkit.peers.frame import Geometry
from asapkit.types import Refused

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    name: str
    source: str
    licence: str  # of the weights or, where nothing else is said, of their repository; empty where there is none
    needs: tuple[tuple[str, int | None], ...]  # names (regular expressions) that must be there, and their number of axes
    rules: Rules  # their name -> ours; "x:q", "x:k", "x:v" are joined
    dropped: Rules  # their name -> why it has no place
    build: Callable[..., Built]
    lacks: tuple[str, ...] = ()  # names that must not be there
    remarks: tuple[str, ...] = ()  # said with every report
    kind: str = "image"  # image | text
    sizes: Mapping = field(default_factory=dict)  # of the published encoder; another one is loaded too, and said

    def place(self, name: str) -> tuple[str, str] | None:
        """Our name and "", or "" and the reason why it is dropped; None for a name that the family does not have."""
        return _place(name, self.rules, self.dropped)

    def missing(self, state: Mapping[str, Tensor]) -> str:
        """The first needed name that is not there; empty where all are."""
        for pattern, axes in self.needs:
            if not any(re.fullmatch(pattern, n) and axes in (None, v.ndim) for n, v in state.items()):
                return _plain(pattern) + (f" of {axes} axes" if axes else "")
        return ""

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the fingerprint is there."""
        return not self.missing(state) and not any(re.fullmatch(pattern, n) for pattern in self.lacks for n in state)


def _plain(pattern: str) -> str:
    """A pattern as a name to be read: what may be absent left out."""
    while (shorter := re.sub(r"\(\?:[^()]*\)\?", "", pattern)) != pattern:
        pattern = shorter
    return pattern.replace("\\", "").replace(".+", "*")


@lru_cache(maxsize=100_000)
def _place(name: str, rules: Rules, dropped: Rules) -> tuple[str, str] | None:
    for pattern, ours in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(ours), ""
    return next((("", why) for pattern, why in dropped if re.fullmatch(pattern, name)), None)


def unlike(settings: Mapping, sizes: Mapping) -> list[str]:
    """Sizes of an encoder that are not the published ones: a smaller model of the family, or a file from which whole blocks were taken."""
    made = settings.get("config", settings)
    return [f"{name} {made[name]}, where the published model has {size}" for name, size in sizes.items() if made.get(name, size) != size]


def shallower(settings: Mapping, sizes: Mapping, *, name: str) -> None:
    """Raises: Refused for fewer blocks at the published width: a file that lost its end is no smaller model."""
    made = settings.get("config", settings)
    widths = [made.get(size) == sizes[size] for size in ("width", "stem") if size in sizes]
    for blocks in ("depth", "spatial", "temporal", "blocks"):
        if widths and all(widths) and blocks in sizes and np.less(made[blocks], sizes[blocks]).any():
            raise Refused(f"{name} with {made[blocks]} of its {sizes[blocks]} blocks; the file is incomplete")


def says(encoder: nn.Module) -> str:
    """How a scan becomes the input of a loaded encoder."""
    if (contract := getattr(encoder, "contract", None)) is None:
        return f"token ids, {encoder.width} features a token"
    geometry = getattr(encoder, "geometry", None) or Geometry(contract, encoder.patch)
    (low, high), (a, b), frame = contract.window_hu, geometry.values, geometry.frame
    turned = f", {' and '.join(frame.flipped)} reversed" if frame.flipped else ""
    return (
        f"{_by(contract.spacing_mm)} mm, {_by(contract.crop)} voxels by {contract.fit}, patch {_by(encoder.patch)} (x, y, z), "
        f"HU {low:g} to {high:g} as {a:.4g} to {b:.4g}, axes {' '.join(frame.axes)}{turned}"
    )


def _by(numbers) -> str:
    return " x ".join(f"{n:g}" for n in numbers)
