"""The data side of ASAP as it was released, restated plainly: preprocessing through nibabel and F.interpolate, MONAI transforms in the data item,
reports tokenised, divided and masked token by token. See `benchmarks.reference`.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from asapkit.config import Config, Contract


def preprocess(path: Path, contract: Contract) -> np.ndarray:
    """A NIfTI file as int16 HU (X, Y, Z) at the contract's spacing: clipped, trilinear over the whole field, truncated.

    A file that is not RAS is read a second time by `as_closest_canonical`.
    """
    import nibabel

    image = nibabel.load(path)
    array = image.get_fdata()
    if nibabel.aff2axcodes(image.affine) != ("R", "A", "S"):
        image = nibabel.as_closest_canonical(image)
        array = image.get_fdata()
    array = np.clip(array, *contract.window_hu)
    own = np.array(image.header.get_zooms()[:3], float)
    size = [int(n * (o / t) + 1e-9) for n, o, t in zip(array.shape, own, contract.spacing_mm, strict=True)]
    volume = torch.from_numpy(array).float()[None, None]
    return F.interpolate(volume, size=size, mode="trilinear", align_corners=False)[0, 0].numpy().astype(np.int16)


def transforms(config: Config, *, augment: bool = True):
    """MONAI's dictionary transforms of the data item: read, scale, random scale crop, random crop, pad by reflection, flips and shift."""
    from monai import transforms as t

    keys, low, high = ["image", "organs"], *config.window_hu
    drawn = [
        t.RandScaleCropd(keys, roi_scale=0.8, max_roi_scale=1.0, random_center=True, random_size=True),
        t.RandSpatialCropd(keys, roi_size=config.crop, random_center=True, random_size=False),
    ]
    changed = [*(t.RandFlipd(keys, prob=0.2, spatial_axis=axis) for axis in range(3)), t.RandShiftIntensityd(["image"], offsets=0.1, prob=0.1)]
    return t.Compose([
        t.LoadImaged(keys),
        t.EnsureChannelFirstd(keys),
        t.ScaleIntensityRanged(["image"], a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True),
        *(drawn if augment else [t.CenterSpatialCropd(keys, roi_size=config.crop)]),
        t.SpatialPadd(keys, spatial_size=config.crop, mode="reflect"),
        *(changed if augment else []),
        t.ToTensord(keys),
    ])  # fmt: skip


def encode(findings: str, impression: str, words, *, max_tokens: int = 512) -> dict[str, torch.Tensor]:
    """Token ids of the findings with the sentence of each (1-based, 0 none), and of the whole report with hidden words. Padded to `max_tokens`.

    A sentence ends at a token "." unless a neighbour is one single digit; what follows the last stop belongs to none.
    """
    own = words(findings, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt")
    whole = words(findings + impression, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt")
    ids = own["input_ids"][0]
    digits = [words.convert_tokens_to_ids(str(n)) for n in range(10)]
    stop = words.convert_tokens_to_ids(".")
    sentence, number = torch.zeros_like(ids), 1
    start = 0
    for n in range(len(ids)):
        if ids[n] == stop and ids[n - 1] not in digits and (n + 1 == len(ids) or ids[n + 1] not in digits):
            sentence[start : n + 1] = number
            start, number = n + 1, number + 1
    masked, sign = whole["input_ids"][0].clone(), words.mask_token_id
    for n in range(1, len(masked) - 1):
        if random.random() < 0.75:
            masked[n] = sign
    return {
        "ids_f": ids, "attention_mask_f": own["attention_mask"][0], "sentence_mask_f": sentence, "ids": whole["input_ids"][0],
        "attention_mask": whole["attention_mask"][0], "masked_ids": masked,
    }  # fmt: skip
