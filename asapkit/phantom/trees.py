"""Branching vessels and bronchi: a tree that reaches scattered points by short ways from one root."""

from __future__ import annotations

import numpy as np

from .shapes import Segments


def grow(root: np.ndarray, ends: np.ndarray, *, tip_mm: float, power: float, most_mm: float = 7.5, detour: float = 0.42) -> Segments:
    """Joins each point to the node that gives it the shortest way: its own segment plus `detour` times the way from there to the root.

    A small detour gives long shared stems, 1 a star. Radii obey Murray's law with exponent `power` from tips of `tip_mm` on, at most `most_mm`.
    """
    ends = np.asarray(ends, np.float64)
    ends = ends[np.argsort(((ends - root) ** 2).sum(1), kind="stable")]
    # every way gets a joint at its middle, slightly off, so that vessels bend and side branches start along them
    n = len(ends)
    nodes = np.empty((2 * n + 1, 3))
    nodes[0] = root
    way = np.zeros(2 * n + 1)
    parent = np.zeros(2 * n + 1, np.int64)
    bend = np.sin(np.arange(n)[:, None] * np.array([1.7, 2.9, 4.3]))
    for k in range(n):
        last = 2 * k + 1
        gap = np.sqrt(((nodes[:last] - ends[k]) ** 2).sum(1))
        near = int((gap + detour * way[:last]).argmin())
        nodes[last] = 0.5 * (nodes[near] + ends[k]) + bend[k] * (0.07 * gap[near])
        nodes[last + 1] = ends[k]
        parent[last], parent[last + 1] = near, last
        way[last], way[last + 1] = way[near] + 0.5 * gap[near], way[near] + gap[near]
    flow = np.zeros(len(nodes))
    flow[2::2] += tip_mm**power  # every point feeds some tissue, also where the way goes on
    for k in range(len(nodes) - 1, 0, -1):
        flow[parent[k]] += flow[k]
    radius = np.minimum(flow ** (1 / power), most_mm)
    child = np.arange(1, len(nodes))
    return Segments(nodes[parent[child]], nodes[child], radius[child], np.maximum(0.88 * radius[child], tip_mm))
