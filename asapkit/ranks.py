"""Charts of how features spread: effective ranks, singular values, how far attention reaches. Offered through `figures`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from asapkit.drawing import GREY, Picture, chart_page, encoder_colours, label_ends, require, styled

THIRDS = {1: ("all",), 2: ("shallow", "deep"), 3: ("shallow", "middle", "deep")}


@styled
def effective_rank(table: pd.DataFrame, *, value: str = "effective_rank", title: str = "", caption: str = "") -> Picture:
    """Left: how the ranks of all volumes and layers are distributed, a line per encoder, its mean dashed. Right: mean and deviation per layer.

    Columns: encoder, layer, and `value` ("effective_rank" or "normalised"). Encoders stand one above the other, every one to its own height, so that
    any number of them can be read; steps are a histogram's, the curve its Gaussian smoothing.
    """
    require(table, "encoder", "layer", value)
    names = list(dict.fromkeys(table.encoder))
    colours = encoder_colours(names)
    page = chart_page(8.6, max(3.1, 0.9 + 0.45 * len(names)), title, caption)
    left, right = page.subplots(1, 2)
    _ridges(left, {name: table[value][table.encoder == name].to_numpy(float) for name in names}, colours)
    ends: dict[str, float] = {}
    for n, name in enumerate(names):
        layers = table[table.encoder == name].groupby("layer")[value].agg(["mean", "std"]).fillna(0)
        shift = (n + 1 - len(names)) * 0.04  # none to the right of the layer, where the names stand
        right.errorbar(
            layers.index + shift, layers["mean"], layers["std"], color=colours[name], marker="o", markersize=3.5, capsize=2, elinewidth=0.8
        )
        ends[name] = layers["mean"].iloc[-1]
    word = "normalised effective rank" if value == "normalised" else "effective rank"
    left.set(xlabel=word, title=f"all layers, {table.groupby('encoder').size().max()} values per encoder")
    right.set(xlabel="layer", ylabel=word, title="per layer, mean ± sd over volumes")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.grid(axis="y")
    label_ends(right, table.layer.max(), ends, colours)
    return page


def _ridges(ax: Axes, values: Mapping[str, np.ndarray], colours: Mapping[str, str], *, bins: int = 60) -> None:
    """Distributions one above the other, the first on top: histogram steps, their smoothing, the mean dashed and written."""
    joined = np.concatenate(list(values.values()))
    wide = max(np.ptp(joined), 1e-9)
    edges = np.linspace(joined.min() - 0.06 * wide, joined.max() + 0.06 * wide, bins + 1)
    middles, step = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for row, (name, one) in enumerate(reversed(values.items())):
        counts = np.histogram(one, edges)[0].astype(float)
        smooth = np.exp(-0.5 * ((middles[:, None] - middles[None]) / (1.2 * step)) ** 2)
        curve = (smooth / smooth.sum(0)) @ counts
        scale = 0.86 / max(curve.max(), 1e-9)
        ax.fill_between(middles, row, row + curve * scale, color=colours[name], alpha=0.28, linewidth=0)
        ax.stairs(row + np.minimum(counts * scale, 0.97), edges, baseline=row, color=colours[name], linewidth=0.5, alpha=0.55)
        ax.plot(middles, row + curve * scale, color=colours[name], linewidth=1.3)
        ax.axhline(row, color="#BBBBBB", linewidth=0.5, zorder=0)
        mean = float(one.mean())
        ax.vlines(mean, row, row + 0.98, color=colours[name], linestyle=(0, (3, 2)), linewidth=1.4)
    ax.set_yticks(np.arange(len(values)) + 0.32, [f"{name}\nmean {one.mean():.3g}" for name, one in reversed(values.items())])
    for tick, name in zip(ax.get_yticklabels(), reversed(values), strict=True):
        tick.set(color=colours[name], fontsize=7.5, linespacing=1.15)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, len(values) + 0.05))


@styled
def spectra(curves: Mapping[str, np.ndarray], *, title: str = "", caption: str = "") -> Picture:
    """Singular values over the largest, geometric mean over volumes, (L, q) per encoder: one panel each for the shallow, middle and deep third."""
    words = THIRDS[min(3, max(len(c) for c in curves.values()))]
    page = chart_page(1.6 + 2.5 * len(words), 3.0, title, caption)
    panels = page.subplots(1, len(words), sharey=True, squeeze=False)[0]
    colours, ends = encoder_colours(list(curves)), {}
    floor = max(min(float(np.maximum(c, 1e-12)[:, : max(2, int(0.98 * c.shape[1]))].min()) for c in curves.values()) * 0.5, 1e-7)
    for name, curve in curves.items():
        for ax, third, word in zip(panels, np.array_split(np.arange(len(curve)), len(words)), words, strict=True):
            if len(third):
                mean = np.exp(np.log(np.maximum(curve[third], 1e-12)).mean(0))
                ax.plot(np.arange(1, len(mean) + 1), mean, color=colours[name], label=name, linewidth=1.3)
                ax.set_title(f"{word}: layer {third[0] + 1}" if len(third) == 1 else f"{word}: layers {third[0] + 1} to {third[-1] + 1}")
                ends[name] = np.log10(max(mean[int(0.82 * (len(mean) - 1))], floor))
    for ax in panels:
        ax.set(yscale="log", xlabel="singular value k", xlim=(0.2, None))
        ax.grid()
    panels[0].set(ylabel="$s_k / s_1$", ylim=(floor, 1.5))
    handles = sorted(panels[0].lines, key=lambda line: -ends[line.get_label()])
    panels[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def attention_reach(table: pd.DataFrame, *, even_mm: float = np.nan, title: str = "", caption: str = "") -> Picture:
    """How far (left) and at how many patches (right) heads look, by layer: a dot per head, a line through their mean, a colour per encoder.

    Columns: encoder, layer, head, distance_mm, spread. `even_mm` is the distance of an even look at all patches: dashed.
    """
    require(table, "encoder", "layer", "head", "distance_mm", "spread")
    names = list(dict.fromkeys(table.encoder))
    colours = encoder_colours(names)
    page = chart_page(8.0, 3.0, title, caption)
    for ax, column, label in zip(page.subplots(1, 2), ("distance_mm", "spread"), ("mean distance, mm", "patches looked at"), strict=True):
        ends = {}
        for n, name in enumerate(names):
            one = table[table.encoder == name].groupby(["layer", "head"])[column].mean().reset_index()
            mean = one.groupby("layer")[column].mean()
            shift = (n - (len(names) - 1) / 2) * 0.1
            ax.plot(one.layer + shift, one[column], "o", color=colours[name], markersize=3.5, alpha=0.45, markeredgewidth=0)
            ax.plot(mean.index + shift, mean, color=colours[name], marker="_", markersize=9, markeredgewidth=2)
            ends[name] = mean.iloc[-1]
        if column == "distance_mm" and even_mm == even_mm:
            ax.axhline(even_mm, color=GREY, linewidth=1, linestyle=(0, (4, 2)))
            ax.annotate(
                "an even look", (0.0, even_mm), xytext=(4, 2), textcoords="offset points", fontsize=7, color=GREY, xycoords=("axes fraction", "data")
            )
        top = np.nanmax([*table[column], even_mm if column == "distance_mm" else np.nan])
        ax.set(xlabel="layer", ylabel=label, ylim=(0, 1.12 * top))
        ax.margins(x=0.08)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y")
        label_ends(ax, table.layer.max() + 0.05 * len(names), ends, colours)
    return page
