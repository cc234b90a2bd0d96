"""Patch statistics against numpy, patch by patch; their constants against the phantom that they were measured on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asapkit.batch import AIR, scale_hu
from asapkit.config import Config
from asapkit.stem import EDGES_HU, MEAN, NAMES, SD, StatisticsStem, statistics
from asapkit.vit3d import patchify

PATCH = (4, 3, 2)
WINDOW = (-1000.0, 1000.0)


def network_units(hu):
    return torch.from_numpy(scale_hu(np.asarray(hu), WINDOW))


def test_every_statistic_by_hand():
    rng = np.random.default_rng(0)
    hu = rng.uniform(-1000, 1000, (2, 5, *PATCH)).astype(np.float32)
    found = statistics(network_units(hu).flatten(2), network_units(EDGES_HU), patch=PATCH).numpy()
    assert found.shape == (2, 5, len(NAMES)) and len(MEAN) == len(SD) == len(NAMES)
    for b in range(2):
        for n in range(5):
            voxels = hu[b, n]
            counts = [((voxels >= low) & (voxels < high)).sum() for low, high in zip((-2000, *EDGES_HU), (*EDGES_HU, 2000), strict=True)]
            steps = [f(abs(np.diff(voxels, axis=axis))) / 1000 for axis in range(3) for f in (np.mean, np.max)]
            expected = [*np.sqrt(np.array(counts) / voxels.size), *steps, voxels.mean() / 1000, voxels.std(ddof=1) / 1000]
            np.testing.assert_allclose(found[b, n], expected, atol=1e-5)


def test_the_window_moves_the_bins_with_it():
    hu = np.full((1, 1, 24), 60.0)
    for window in (WINDOW, (-1000.0, 400.0)):
        stem = StatisticsStem(patch=PATCH, width=8, window_hu=window)
        share = statistics(torch.from_numpy(scale_hu(hu, window)), stem.edges, patch=PATCH)[0, 0, : len(EDGES_HU) + 1]
        assert share.argmax() == np.searchsorted(EDGES_HU, 60.0) and share.sum() == 1


def test_mirrored_patches_are_the_same():
    patches = torch.rand(1, 3, 24) * 2 - 1
    mirrored = patches.unflatten(-1, PATCH).flip(2, 3, 4).flatten(2)
    stem = StatisticsStem(patch=PATCH, width=8, window_hu=WINDOW)
    assert torch.allclose(stem(patches), stem(mirrored), atol=1e-5)


def test_extreme_patches_stay_finite():
    stem = StatisticsStem(patch=PATCH, width=8, window_hu=WINDOW)
    metal = torch.where(torch.arange(24) % 2 == 0, -1.0, 1.0).expand(1, 24)
    patches = torch.stack([*(torch.full((1, 24), v) for v in (-1.0, 0.0, 1.0)), metal], dim=1)
    found = statistics(patches, stem.edges, patch=PATCH)
    air = found[0, 0]
    assert air[0] == 1 and air[1:-2].abs().max() == 0 and air[-2] == -1 and air[-1] == 0
    out = stem(patches)
    assert torch.isfinite(out).all() and len(out[0].unique(dim=0)) == 4
    standardised = (found - stem.mean) / stem.sd
    assert standardised.abs().max() > 20, "the clamp is never reached; the next line tells nothing"
    assert out.abs().max() < 1e3


@pytest.mark.slow
def test_the_constants_are_those_of_the_phantom(tmp_path):
    from asapkit import evidence

    held = evidence.data(tmp_path, plan=evidence.Plan(volumes=16, seed=5, workers=1))
    config = Config.at("small")
    stem = StatisticsStem(patch=config.patch, width=8, window_hu=config.window_hu)
    images = np.stack([scale_hu(held.cropped(id)[0], config.window_hu) for id in held.ids])
    patches = patchify(torch.from_numpy(images)[:, None], config.patch)
    found = statistics(patches, stem.edges, patch=config.patch)[patches.mean(-1) > AIR]
    assert ((found.mean(0) - stem.mean).abs() / stem.sd).max() < 0.4
    assert (found.std(0) / stem.sd).max() < 2
