"""What AKI predicts of every patch: a list of classes, each one or several organs together, or lesions where a dataset brings their masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from asapkit.types import ORGANS, Batch

LESION = "lesion"
SETS = {
    "nine": ",".join(ORGANS),
    "grouped": "lung_upper_lobe_left+lung_lower_lobe_left,lung_upper_lobe_right+lung_middle_lobe_right+lung_lower_lobe_right,"
    "heart+atrial_appendage_left,esophagus,aorta",
}
"""Lists with a name of their own: the paper's, and that of its Table IX, grouped organs."""

Classes = tuple[tuple[str, ...], ...]


def classes(said: str) -> Classes:
    """Names between commas: of a list ("nine", "grouped"), an organ, several as one class ("heart+aorta"), "lesion".

    Raises: ValueError for a name that is none, naming those there are, or one that is there twice.
    """
    listed = ",".join(SETS.get(one.strip(), one) for one in said.split(","))
    found = tuple(tuple(part.strip() for part in one.split("+")) for one in listed.split(","))
    names = [name for one in found for name in one]
    if unknown := [name for name in names if name not in (*ORGANS, LESION)]:
        raise ValueError(f"organ_classes {unknown[0]!r}: there are {', '.join(SETS)}, or names between commas of {', '.join((*ORGANS, LESION))}")
    if mixed := [one for one in found if LESION in one and len(one) > 1]:
        raise ValueError(f"organ_classes {'+'.join(mixed[0])!r}: {LESION} is a class of its own, it lies within organs")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"organ_classes {twice[0]!r} is there twice; a class may hold several organs, an organ lies in one class")
    return found


def needed(found: Classes) -> tuple[str, ...]:
    """What a store must hold for these classes, in the words of `train.SUPERVISION`."""
    return ("organs",) * any(one != (LESION,) for one in found) + ("lesions",) * ((LESION,) in found)


def head(width: int, count: int) -> nn.Sequential:
    """The lightweight head on decoder features: nine wide inside, more where there are more classes (a normalised layer of one would say nothing)."""
    inside = max(count, len(ORGANS))
    return nn.Sequential(nn.Linear(width, inside), nn.LayerNorm(inside, eps=1e-6), nn.ReLU(), nn.Linear(inside, count))


def one_hot(share: Float[Tensor, "B N C"], found: Classes) -> Float[Tensor, "B N C"]:
    """Of the organs that touch a patch the largest alone, as 1. A lesion lies within organs and competes with none: 1 where it fills half of it."""
    lesion = torch.tensor([one == (LESION,) for one in found], device=share.device)
    organs = share.masked_fill(lesion, 0.0)
    largest = (organs == organs.amax(-1, keepdim=True)) & (organs > 0)
    return torch.where(lesion, share >= 0.5, largest).to(share.dtype)


def shares(batch: Batch, found: Classes) -> tuple[Float[Tensor, "B N C"], Bool[Tensor, "B C"]]:
    """Share of each patch's voxels that every class fills (eq. 2), and for which volumes it is known."""
    share, known = [], []
    for one in found:
        if one == (LESION,):
            share.append(batch.lesions)
            known.append(batch.has_lesions)
        else:
            share.append(batch.organs[..., [ORGANS.index(name) for name in one]].sum(-1))
            known.append(batch.has_organs)
    return torch.stack(share, dim=-1), torch.stack(known, dim=-1)
