"""Which patches and words are hidden. Pure functions of the random numbers that a batch carries, so that one process and many agree."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible_patches(
    order: Float[Tensor, "B N"],
    *,
    visible: int,
    last: Bool[Tensor, "B N"] | None = None,
) -> Int[Tensor, "B V"]:
    """Indices of exactly `visible` patches per volume, ascending: those with the lowest `order`; patches marked `last` only when others run out.

    Source: ASAP section 3.1 (75 % hidden, an exact share as N_u implies). `Differs:` ascending order, so that ties go to the lowest index.
    """
    key = order if last is None else order + last.to(order.dtype)
    return key.argsort(dim=1, stable=True)[:, :visible].sort(dim=1).values


def visible_in_slices(order: Float[Tensor, "B N"], *, slices: int, visible: int) -> Int[Tensor, "B V"]:
    """`visible` patches of every slice along z, those with the lowest `order` in it, one of each slice after the other.

    Source: HLIP's patch dropout (methods.md E11), for encoders whose blocks attend within slices.
    """
    rank = rearrange(order, "b (n s) -> b n s", s=slices).argsort(dim=1, stable=True)[:, :visible].sort(dim=1).values
    return rearrange(rank * slices + torch.arange(slices, device=order.device), "b n s -> b (n s)")


def hidden_patches(visible: Int[Tensor, "B V"], patches: int) -> Bool[Tensor, "B N"]:
    """True where the encoder does not see the patch."""
    return torch.ones(len(visible), patches, dtype=torch.bool, device=visible.device).scatter(1, visible, False)


def hidden_indices(visible: Int[Tensor, "B V"], patches: int) -> Int[Tensor, "B H"]:
    """Indices of the patches that the encoder does not see, ascending."""
    hidden = hidden_patches(visible, patches).to(torch.uint8)
    return hidden.argsort(dim=1, descending=True, stable=True)[:, : patches - visible.shape[1]]


def hidden_words(
    order: Float[Tensor, "B R"],
    real: Bool[Tensor, "B R"],
    special: Bool[Tensor, "B R"],
    *,
    share: float,
) -> Bool[Tensor, "B R"]:
    """True at round(share x words) real, non-special positions of each report: those with the lowest `order`.

    Differs: the released code also hides padding and never the last position (methods.md F row 9).
    """
    word = real & ~special
    rank = order.masked_fill(~word, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return word & (rank < (word.sum(1, keepdim=True) * share).round())
