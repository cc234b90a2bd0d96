"""Encoders that work in stages of maps: how their maps are read as tokens of the patches, and what they say where patches are to be left out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from asapkit.types import Refused


def on_grid(maps: Iterable[Float[Tensor, "B _ _ _ _"]], grid: tuple[int, int, int]) -> list[Float[Tensor, "B N _"]]:
    """The maps on the grid of the patches: finer ones averaged, coarser ones repeated. Their numbers of features are their own."""
    return [F.adaptive_avg_pool3d(found, grid).flatten(2).transpose(1, 2) for found in maps]


def with_mean(tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B M D"]:
    """Patch tokens behind their mean, which stands where a class token would."""
    return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


def require_all(visible: Int[Tensor, "B V"] | None, patches: int, *, encoder: str) -> None:
    """Raises: Refused where some patches are to be left out."""
    if visible is not None and visible.shape[1] < patches:
        raise Refused(f"encoder {encoder!r} computes every patch: let the recipe see all of them, or set encoder=vit")
