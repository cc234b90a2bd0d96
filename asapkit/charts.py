"""Charts of numbers: tables in, a matplotlib figure out. The tables are those saved beside the pictures. Offered through `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from asapkit.drawing import CYCLE, GREY, INK, Picture, encoder_colours, styled, words

LOSSES = ("reconstruct", "organs", "align", "words", "contrast", "labels")
THIRDS = {1: ("all",), 2: ("shallow", "deep"), 3: ("shallow", "middle", "deep")}
BASELINES = {  # column -> what it is called, marker, colour
    "chance": ("a random body patch", "|", "#222222"),
    "organ_only": ("a random patch of the named organ", "s", "#E69F00"),
    "other_patient": ("same sentence, another patient's scan", "D", "#CC79A7"),
    "location_prior": ("where the finding lies in training", "^", "#009E73"),
}


def _page(width: float, height: float, title: str, caption: str) -> Picture:
    """A picture with constrained layout that leaves room for title and caption."""
    page = Picture(figsize=(width, height), layout="constrained")
    below = 0.02 + 0.14 * (1 + len(caption) // int(width * 17)) * bool(caption)
    above = 0.26 if title else 0.04
    page.get_layout_engine().set(rect=(0.005, below / height, 0.99, 1 - (above + below) / height), w_pad=0.06, h_pad=0.05)
    words(page, title=title, caption=caption, left=0.06)
    return page


def _missing(table: pd.DataFrame, *columns: str) -> None:
    if absent := [c for c in columns if c not in table]:
        raise ValueError(f"the table lacks {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")


def _label_ends(ax: Axes, x: float, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Names beside the ends of lines, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    room, last = 0.055 * (high - low), -np.inf
    for name, y in sorted(ends.items(), key=lambda item: item[1]):
        last = max(y, last + room)
        ax.annotate(name, (x, last), xytext=(8, 0), textcoords="offset points", color=colours[name], fontsize=7.5, va="center", annotation_clip=False)


@styled
def history(
    runs: pd.DataFrame | Mapping[str, pd.DataFrame], *, losses: Sequence[str] = (), smooth: float = 0.05, title: str = "", caption: str = ""
) -> Picture:
    """One panel per loss: every step faint, a running mean over `smooth` of the steps bold; one colour per run.

    A table has `step` and a column per loss (by default every loss word that some run has). Raises: ValueError if there is none.
    """
    runs = {"": runs} if isinstance(runs, pd.DataFrame) else dict(runs)
    for table in runs.values():
        _missing(table, "step")
    losses = losses or [name for name in LOSSES if any(name in t for t in runs.values())]
    if not losses:
        raise ValueError(f"no column is a loss; losses are called {', '.join(LOSSES)}")
    rows = -(-len(losses) // 4)
    page = _page(min(10, 0.8 + 2.6 * len(losses)), 0.5 + 2.2 * rows, title, caption)
    panels = page.subplots(rows, -(-len(losses) // rows), squeeze=False)
    colours = encoder_colours(list(runs))
    for ax, loss in zip(panels.ravel(), losses, strict=False):
        for name, table in runs.items():
            if loss in table and table[loss].notna().any():
                one = table[["step", loss]].dropna()
                ax.plot(one.step, one[loss], color=colours[name], linewidth=0.6, alpha=0.3)
                ax.plot(one.step, one[loss].rolling(max(1, round(smooth * len(one))), min_periods=1).mean(), color=colours[name], label=name)
        ax.set(title=loss, xlabel="step", xlim=(0, None))
        ax.grid(axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.margins(x=0.02)
    for ax in panels.ravel()[len(losses) :]:
        ax.remove()
    panels[0, 0].set_ylabel("loss")
    if any(runs):
        drawn = {name: line for ax in page.axes for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}  # of whichever panels have it
        panels[0, 0].legend(handles=[drawn[name] for name in runs if name in drawn])
    return page


@styled
def effective_rank(table: pd.DataFrame, *, value: str = "effective_rank", title: str = "", caption: str = "") -> Picture:
    """Left: histogram over volumes and layers with every encoder's mean dashed. Right: mean and standard deviation per layer.

    Columns: encoder, layer, and `value` ("effective_rank" or "normalised").
    """
    _missing(table, "encoder", "layer", value)
    names = list(dict.fromkeys(table.encoder))
    colours = encoder_colours(names)
    page = _page(8.6, 3.1, title, caption)
    left, right = page.subplots(1, 2)
    low, high = table[value].min(), table[value].max()
    bins = np.linspace(low, high if high > low else low + 1, 41)
    ends: dict[str, float] = {}
    for n, name in enumerate(names):
        one = table[table.encoder == name]
        left.hist(one[value], bins=bins, color=colours[name], alpha=0.3)
        left.hist(one[value], bins=bins, color=colours[name], histtype="step", linewidth=1.0)
        layers = one.groupby("layer")[value].agg(["mean", "std"]).fillna(0)
        shift = (n + 1 - len(names)) * 0.06  # none to the right of the layer, where the names stand
        right.errorbar(
            layers.index + shift, layers["mean"], layers["std"], color=colours[name], marker="o", markersize=3.5, capsize=2, elinewidth=0.8
        )
        ends[name] = layers["mean"].iloc[-1]
    tallest = left.get_ylim()[1]
    for name in names:
        mean = table[value][table.encoder == name].mean()
        left.vlines(mean, 0, tallest, color=colours[name], linestyle=(0, (4, 2)), linewidth=1.3, label=f"{name}, mean {mean:.3g}")
    word = "normalised effective rank" if value == "normalised" else "effective rank"
    left.set(xlabel=word, ylabel="volumes × layers", title=f"all layers, {table.groupby('encoder').size().max()} per encoder")
    right.set(xlabel="layer", ylabel=word, title="per layer, mean ± sd over volumes")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.grid(axis="y")
    _label_ends(right, table.layer.max(), ends, colours)
    left.set_ylim(0, tallest * (1.06 + 0.1 * len(names)))
    left.legend(loc="upper right", borderaxespad=0)
    return page


@styled
def spectra(curves: Mapping[str, np.ndarray], *, title: str = "", caption: str = "") -> Picture:
    """Singular values over the largest, geometric mean over volumes, (L, q) per encoder: one panel each for the shallow, middle and deep third."""
    words = THIRDS[min(3, max(len(c) for c in curves.values()))]
    page = _page(1.6 + 2.5 * len(words), 3.0, title, caption)
    panels = page.subplots(1, len(words), sharey=True, squeeze=False)[0]
    colours = encoder_colours(list(curves))
    for name, curve in curves.items():
        for ax, third, word in zip(panels, np.array_split(np.arange(len(curve)), len(words)), words, strict=True):
            if len(third):
                mean = np.exp(np.log(np.maximum(curve[third], 1e-12)).mean(0))
                ax.plot(np.arange(1, len(mean) + 1), mean, color=colours[name], label=name)
                ax.set_title(f"{word}: layer {third[0] + 1}" if len(third) == 1 else f"{word}: layers {third[0] + 1} to {third[-1] + 1}")
    for ax in panels:
        ax.set(yscale="log", xlabel="singular value k", xlim=(1, None))
        ax.grid()
    floor = min(float(np.maximum(c, 1e-12)[:, : max(2, int(0.98 * c.shape[1]))].min()) for c in curves.values())
    panels[0].set(ylabel="$s_k / s_1$", ylim=(max(floor * 0.5, 1e-7), 1.3))
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def grounding_bars(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """Share of sentences whose highest patch lies in the truth, one bar per finding, and what each baseline would have hit.

    Columns: finding, hit, and any of chance, organ_only, other_patient, location_prior; n (sentences), low, high if known. The mean over
    findings is set apart at the top: the row called "macro", or where there is none the plain mean of the rows.
    """
    _missing(table, "finding", "hit")
    if len(table) and not (table.finding == "macro").any():
        mean = {c: table[c].mean() for c in ("hit", *BASELINES) if c in table} | ({"n": table["n"].sum()} if "n" in table else {})
        table = pd.concat([pd.DataFrame([{"finding": "macro", **mean}]), table], ignore_index=True)
    rest = table[table.finding != "macro"].sort_values("hit", ascending=False)
    rows = pd.concat([table[table.finding == "macro"], rest])
    y = np.arange(len(rows))[::-1] + np.where(rows.finding == "macro", 0.5, 0.0)
    page = _page(7.6, 1.0 + 0.27 * len(rows), title, caption)
    ax = page.subplots()
    ax.barh(y, rows.hit, height=0.62, color=np.where(rows.finding == "macro", "#0072B2", "#8FC1E3"), label="the sentence's highest patch")
    if {"low", "high"} <= set(rows):
        ax.errorbar(rows.hit, y, xerr=[rows.hit - rows.low, rows.high - rows.hit], fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    for column, (name, marker, colour) in BASELINES.items():
        if column in rows:
            size, edge, rim = (10, 1.6, colour) if marker == "|" else (5.5, 0.6, "white")
            how = {"markersize": size, "markeredgewidth": edge, "markeredgecolor": rim, "clip_on": False}
            ax.plot(rows[column], y, marker, color=colour, label=name, **how)
    names = [f"{f} ({n:.0f})" if n == n else f for f, n in zip(rows.finding, rows.get("n", pd.Series([np.nan] * len(rows))), strict=True)]
    ax.set_yticks(y, [n.replace("macro", "mean over findings") for n in names])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1), xlabel="share of positive sentences that hit")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="x")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.5 / (0.27 * len(rows) + 0.3)), ncols=3, handletextpad=0.5)
    return page


@styled
def probe_bars(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """Macro AUROC with its interval, per encoder and share of the labels. Columns: encoder, share (0 to 1), value, low, high. 0.5 is chance."""
    _missing(table, "encoder", "share", "value", "low", "high")
    names, shares = list(dict.fromkeys(table.encoder)), sorted(set(table.share))
    colours = encoder_colours(names)
    page = _page(max(4.6, 1.2 + 0.42 * len(names) * len(shares)), 3.1, title, caption)
    ax = page.subplots()
    wide = 0.8 / len(names)
    for n, name in enumerate(names):
        value, low, high = table[table.encoder == name].set_index("share").reindex(shares)[["value", "low", "high"]].to_numpy(float).T
        x = np.arange(len(shares)) + (n - (len(names) - 1) / 2) * wide
        ax.bar(x, value - 0.5, wide * 0.9, bottom=0.5, color=colours[name], label=name)
        ax.errorbar(x, value, [value - low, high - value], fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        for place, number, top in zip(x, value, high, strict=True):
            if number == number:
                ax.annotate(f"{number:.3f}".lstrip("0"), (place, top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=6.8)
    ax.axhline(0.5, color=GREY, linewidth=0.8)
    ax.set_xticks(range(len(shares)), [f"{s:.0%} of the labels" for s in shares])
    ax.set(ylabel="macro AUROC", ylim=(min(0.48, table.low.min() - 0.01), min(1.0, table.high.max() + 0.05)))
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def probe_dots(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """AUROC per finding, one dot per encoder, with intervals where low and high are given. Columns: finding, encoder, value."""
    _missing(table, "finding", "encoder", "value")
    names = list(dict.fromkeys(table.encoder))
    order = table.groupby("finding").value.mean().sort_values().index
    colours = encoder_colours(names)
    page = _page(6.8, 0.9 + 0.26 * len(order), title, caption)
    ax = page.subplots()
    spread = table.groupby("finding").value.agg(["min", "max"]).reindex(order)
    ax.hlines(range(len(order)), spread["min"], spread["max"], color="#D8D8D8", linewidth=2.5, zorder=1)
    for n, name in enumerate(names):
        one = table[table.encoder == name].set_index("finding").reindex(order)
        y = np.arange(len(order)) + (n - (len(names) - 1) / 2) * (0.5 / max(1, len(names)))
        if {"low", "high"} <= set(one):
            ax.hlines(y, one.low, one.high, color=colours[name], linewidth=0.8, alpha=0.6)
        ax.plot(one.value, y, "o", color=colours[name], markersize=4.5, label=name, zorder=3)
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_yticks(range(len(order)), order)
    ax.set(xlabel="AUROC", ylim=(-0.7, len(order) - 0.3))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def selected_k(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """How often each K was selected. Columns: k, n (sentences), and perhaps group (polarity, epoch, finding): one bar colour per group."""
    _missing(table, "k", "n")
    groups = list(dict.fromkeys(table.group)) if "group" in table else [""]
    ks = sorted(set(table.k))
    page = _page(max(3.8, 1.2 + 0.5 * len(ks) * len(groups)), 2.6, title, caption)
    ax = page.subplots()
    wide = 0.8 / len(groups)
    for g, group in enumerate(groups):
        one = table[table.group == group] if group != "" else table
        counts = one.groupby("k").n.sum().reindex(ks, fill_value=0)
        share = counts / max(1, counts.sum())
        label = f"{group} ({counts.sum():.0f})" if group != "" else ""
        bars = ax.bar(np.arange(len(ks)) + (g - (len(groups) - 1) / 2) * wide, share, wide * 0.92, color=CYCLE[g % len(CYCLE)], label=label)
        ax.bar_label(bars, [f"{s:.0%}" for s in share], fontsize=6.8, padding=1)
    ax.set_xticks(range(len(ks)), [f"K = {k:g}" for k in ks])
    ax.set(ylabel="share of sentences")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.tick_params(axis="x", length=0)
    ax.margins(y=0.12)
    ax.grid(axis="y")
    if any(groups):
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def k_extent(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """Patches that a sentence selects beside those that its evidence fills, on a log axis: one row per finding, the most extended on top.

    Columns: finding, k, patches (of the truth). A faint dot per sentence (its evidence), a bar from the first to the third quartile of them, and a
    diamond at the geometric mean of K.
    """
    _missing(table, "k", "patches", "finding")
    by = table.groupby("finding")
    order = by["patches"].median().sort_values(kind="stable").index
    page = _page(5.6, 1.0 + 0.2 * len(order), title, caption)
    ax = page.subplots()
    rng = np.random.default_rng(0)
    for row, finding in enumerate(order):
        one = by.get_group(finding)
        quartiles = one.patches.quantile((0.25, 0.75))
        ax.plot(quartiles, (row, row), color=CYCLE[0], linewidth=4, alpha=0.35, solid_capstyle="round")
        ax.scatter(
            one.patches * 2 ** rng.uniform(-0.1, 0.1, len(one)), row + rng.uniform(-0.25, 0.25, len(one)), s=5, color=CYCLE[0], alpha=0.3, lw=0
        )
    ax.plot([], [], "o", color=CYCLE[0], markersize=3, label="patches of the evidence, per sentence")
    k = np.exp(np.log(table.k).groupby(table.finding).mean())[order]
    ax.scatter(k, range(len(order)), marker="D", s=20, color=CYCLE[1], zorder=3, label="K, mean over its sentences")
    ax.set_xscale("log", base=2)
    ticks = 2 ** np.arange(0, int(np.log2(max(table.patches.max(), table.k.max()))) + 1)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(order)), [f"{f} ({len(by.get_group(f))})" for f in order])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="patches", ylim=(-0.6, len(order) - 0.4))
    ax.grid(axis="x")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.35, -0.08), ncols=2)
    return page
