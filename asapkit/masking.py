"""Which patches and words are hidden, and further draws. Pure functions of the random numbers of a batch, so that one process and many agree."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from asapkit.config import Config
from asapkit.types import Batch


def visible_of(batch: Batch, config: Config) -> Int[Tensor, "B V"]:
    """Patches that the encoder sees of each volume: as many as `config` leaves, air around the body hidden first where it says so."""
    return visible_patches(batch.patch_order, visible=config.visible, last=~batch.in_body if config.hide_air_first else None)


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


def visible_in_slices(order: Float[Tensor, "B N"], *, slices: int, visible: int, last: Bool[Tensor, "B N"] | None = None) -> Int[Tensor, "B V"]:
    """`visible` patches of every slice along z, those with the lowest `order` in it (`last` ones after others), one of each slice after another.

    Source: HLIP's patch dropout (methods.md E11), for encoders whose blocks attend within slices.
    """
    key = order if last is None else order + last.to(order.dtype)
    rank = rearrange(key, "b (n s) -> b n s", s=slices).argsort(dim=1, stable=True)[:, :visible].sort(dim=1).values
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
    continues: Bool[Tensor, "B R"] | None = None,
) -> Bool[Tensor, "B R"]:
    """True at round(share x words) real, non-special positions of each report: those with the lowest `order`.

    continues: positions that go on with the word before them; a word is then hidden with all its pieces or not at all, by its first one's `order`.

    Differs: the released code also hides padding and never the last position (methods.md F row 9).
    """
    word = first = real & ~special
    if continues is not None:
        first = word & ~(continues & F.pad(word[:, :-1], (1, 0)))  # what follows no word begins one
    rank = order.masked_fill(~first, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    chosen = first & (rank < (first.sum(1, keepdim=True) * share).round())
    if continues is None:
        return chosen
    begin = torch.where(first, torch.arange(order.shape[1], device=order.device), 0).cummax(1).values
    return word & chosen.gather(1, begin)


def streams(order: Float[Tensor, "B N"]) -> list[torch.Generator]:
    """A stream of further random numbers per volume, seeded by its own: a pure function of the batch, whoever else is in it."""
    seeds = (order[:, [0, -1]].double() * 2**24).long()  # the 24 bits of a uniform float32
    return [torch.Generator(order.device).manual_seed(first << 24 | last) for first, last in seeds.tolist()]
