"""Attention over a scan, what the encoder sees, spectra and the runs board: what a control does, and that the static twin is the same picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from asapkit import figures
from asapkit.overlays import QUERY

GRID, PATCH, SPACING = (4, 3, 5), (6, 6, 4), (2.0, 2.0, 3.0)
VOLUME = np.random.default_rng(0).normal(-400, 300, tuple(g * p for g, p in zip(GRID, PATCH, strict=True))).astype(np.float32)


def even(**more) -> np.ndarray:
    shares = np.full(np.prod(GRID), 1 / np.prod(GRID))
    for patch, share in more.items():
        shares[int(patch.removeprefix("p"))] = share
    return shares


def test_attention_is_drawn_on_the_planes_of_the_patch_that_looks():
    query = int(np.ravel_multi_index((3, 1, 2), GRID))
    page = figures.attention(VOLUME, {"a": even(), "b": even(p0=0.5)}, query=query, spacing_mm=SPACING, patch=PATCH)
    planes = [text.get_text().replace("\xa0", " ") for ax in page.axes for text in ax.texts]
    assert [t for t in planes if "mm" in t and "=" in t] == ["axial, z = 32 mm", "coronal, y = 19 mm"] * 2
    frames = [box for ax in page.axes for box in ax.patches if box.get_edgecolor() == to_rgba(QUERY)]
    assert [(f.get_x(), f.get_y(), f.get_width(), f.get_height()) for f in frames] == [(36, 12, 12, 12), (36, 24, 12, 12)] * 2, "in millimetres"
    assert any("30 times an even share" in t for t in planes)


def test_attention_that_does_not_fit_the_scan_is_refused():
    with pytest.raises(ValueError, match="60 shares"):
        figures.attention(VOLUME, {"a": np.ones(59)}, query=0, spacing_mm=SPACING, patch=PATCH)
    with pytest.raises(ValueError, match="one or more"):
        figures.attention(VOLUME, {}, query=0, spacing_mm=SPACING, patch=PATCH)
    with pytest.raises(IndexError, match="patch 60: there are 0 to 59"):
        figures.attention(VOLUME, {"a": even()}, query=60, spacing_mm=SPACING, patch=PATCH)
