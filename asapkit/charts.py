"""Charts of numbers: tables in, a matplotlib figure out. The tables are those saved beside the pictures. Offered through `figures`.

Those of ranks and spectra live in `ranks`, and are offered here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from asapkit.drawing import CYCLE, GREY, INK, Picture, chart_page, empty_page, encoder_colours, require, styled
from asapkit.ranks import effective_rank, spectra
from asapkit.types import LOSSES

__all__ = ["effective_rank", "grounding_bars", "history", "k_extent", "patient_dependence", "probe_bars", "probe_dots", "selected_k", "spectra"]

KINDS = dict(zip(("normal", "focal", "diffuse", "uncertain", "elsewhere"), CYCLE, strict=False))  # a kind of sentence keeps its colour
BASELINES = {  # column -> what it is called, marker, colour
    "chance": ("a random body patch", "|", "#222222"),
    "organ_only": ("a random patch of the named organ", "s", "#E69F00"),
    "other_patient": ("same sentence, another patient's scan", "D", "#CC79A7"),
    "location_prior": ("where the finding lies in training", "^", "#009E73"),
}
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}  # behind a number on a line
UNSCORED = "No labels that a probe could be trained and scored on."
LOSS_BARS = {
    "own": ("the patient's own image", CYCLE[0]),
    "exchanged": ("another patient's image", CYCLE[1]),
    "positions": ("positions alone", CYCLE[2]),
}


@styled
def history(
    runs: pd.DataFrame | Mapping[str, pd.DataFrame], *, losses: Sequence[str] = (), smooth: float = 0.05, title: str = "", caption: str = ""
) -> Picture:
    """One panel per loss: every step faint, a running mean over `smooth` of the steps bold; one colour per run.

    A table has `step` and a column per loss (by default every loss word that some run has); a `source` parts it, a colour for each store.
    Raises: ValueError if there is no loss.
    """
    runs = _by_source({"": runs} if isinstance(runs, pd.DataFrame) else dict(runs))
    for table in runs.values():
        require(table, "step")
    losses = losses or [name for name in LOSSES if any(name in t for t in runs.values())]
    if not losses:
        raise ValueError(f"no column is a loss; losses are called {', '.join(LOSSES)}")
    rows = -(-len(losses) // 4)
    page = chart_page(min(10, 0.8 + 2.6 * len(losses)), 0.5 + 2.2 * rows, title, caption)
    panels = page.subplots(rows, -(-len(losses) // rows), squeeze=False)
    colours = encoder_colours(list(runs))
    for ax, loss in zip(panels.ravel(), losses, strict=False):
        for name, table in runs.items():
            if loss in table and table[loss].notna().any():
                one = table[["step", loss]].dropna()
                ax.plot(one.step, one[loss], color=colours[name], linewidth=0.6, alpha=0.3)
                ax.plot(
                    one.step, one[loss].rolling(max(1, round(smooth * len(one))), min_periods=1, center=True).mean(), color=colours[name], label=name
                )
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


def _by_source(runs: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    parted = {}
    for run, table in runs.items():
        parts = table.groupby("source") if "source" in table else [("", table)]
        parted |= {f"{run} {source}".strip(): part for source, part in parts}
    return parted


@styled
def grounding_bars(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """Share of sentences whose highest patch lies in the truth, one bar per finding, and what each baseline would have hit.

    Columns: finding, hit, and any of chance, organ_only, other_patient, location_prior; n (sentences), low, high if known. The mean over
    findings is set apart at the top: the row called "macro", or where there is none the plain mean of the rows.
    """
    require(table, "finding", "hit")
    if table.empty:
        return empty_page("No sentence with truth: nothing to ground.", title=title, caption=caption)
    if not (table.finding == "macro").any():
        mean = {c: table[c].mean() for c in ("hit", *BASELINES) if c in table} | ({"n": table["n"].sum()} if "n" in table else {})
        table = pd.concat([pd.DataFrame([{"finding": "macro", **mean}]), table], ignore_index=True)
    rest = table[table.finding != "macro"].sort_values("hit", ascending=False)
    rows = pd.concat([table[table.finding == "macro"], rest])
    y = np.arange(len(rows))[::-1] + np.where(rows.finding == "macro", 0.5, 0.0)
    page = chart_page(7.6, 1.0 + 0.27 * len(rows), title, caption)
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
    require(table, "encoder", "share", "value", "low", "high")
    if table.empty:
        return empty_page(UNSCORED, title=title, caption=caption)
    names, shares = list(dict.fromkeys(table.encoder)), sorted(set(table.share))
    colours = encoder_colours(names)
    page = chart_page(max(4.6, 1.2 + 0.42 * len(names) * len(shares)), 3.1, title, caption)
    ax = page.subplots()
    wide = 0.8 / len(names)
    for n, name in enumerate(names):
        value, low, high = table[table.encoder == name].set_index("share").reindex(shares)[["value", "low", "high"]].to_numpy(float).T
        x = np.arange(len(shares)) + (n - (len(names) - 1) / 2) * wide
        ax.bar(x, value - 0.5, wide * 0.9, bottom=0.5, color=colours[name], label=name)
        ax.vlines(x, low, high, color="white", linewidth=1.9)  # so that an interval is seen on a dark bar
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
    require(table, "finding", "encoder", "value")
    if table.empty:
        return empty_page(UNSCORED, title=title, caption=caption)
    names = list(dict.fromkeys(table.encoder))
    order = table.groupby("finding").value.mean().sort_values().index
    colours = encoder_colours(names)
    page = chart_page(6.8, 0.9 + max(0.26, 0.075 * len(names)) * len(order), title, caption)
    ax = page.subplots()
    for row in range(0, len(order), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
    for n, name in enumerate(names):
        one = table[table.encoder == name].set_index("finding").reindex(order)
        y = np.arange(len(order)) - (n - (len(names) - 1) / 2) * (0.76 / max(1, len(names)))
        if {"low", "high"} <= set(one):
            ax.hlines(y, one.low, one.high, color=colours[name], linewidth=0.9, alpha=0.55)
        ax.plot(one.value, y, "o", color=colours[name], markersize=4, label=name, zorder=3)
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_yticks(range(len(order)), order)
    ax.set(xlabel="AUROC", ylim=(-0.5, len(order) - 0.5))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return page


@styled
def selected_k(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """How often each K was selected, a panel per group in the table's order. Columns: k, n (sentences), and perhaps group (kind, epoch, finding).

    Bars are shares of the group's sentences, with how many that is above; the mean K stands in the panel's title.
    """
    require(table, "k", "n")
    if table.empty:
        return empty_page("No sentence: no K was chosen.", title=title, caption=caption)
    groups = list(dict.fromkeys(table.group)) if "group" in table else [""]
    ks = sorted(set(table.k))
    page = chart_page(min(10.0, max(3.8, 0.7 + (0.42 * len(ks) + 0.45) * len(groups))), 2.6, title, caption)
    panels = page.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for ax, group, colour in zip(panels, groups, [KINDS.get(group, CYCLE[g % len(CYCLE)]) for g, group in enumerate(groups)], strict=True):
        one = table[table.group == group] if "group" in table else table
        counts = one.groupby("k").n.sum().reindex(ks, fill_value=0)
        share = counts / max(1, counts.sum())
        bars = ax.bar(range(len(ks)), share, 0.72, color=colour)
        ax.bar_label(bars, [f"{s:.0%}\n{n:.0f}" for s, n in zip(share, counts, strict=True)], fontsize=6.5, padding=1, linespacing=1.1)
        mean = float((counts * ks).sum() / max(1, counts.sum()))
        ax.set_title(f"{group}\n{counts.sum():.0f} sentences, mean K {mean:.1f}".strip(), fontsize=7.5)
        ax.set_xticks(range(len(ks)), [f"{k:g}" for k in ks])
        ax.set_xlabel("K")
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y")
    panels[0].set_ylabel("share of sentences")
    panels[0].set_ylim(0, 1.3 * panels[0].dataLim.y1 if len(groups) == 1 else 1.3 * max(ax.dataLim.y1 for ax in panels))
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return page


@styled
def k_extent(table: pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """Patches that a sentence selects beside those that its evidence fills, on a log axis: one row per finding, the most extended on top.

    Columns: finding, k, patches (of the truth). A faint dot per sentence (its evidence), a bar from the first to the third quartile of them, and a
    diamond at the geometric mean of K.
    """
    require(table, "k", "patches", "finding")
    if table.empty:
        return empty_page("No sentence with truth: the extent of its evidence is not known.", title=title, caption=caption)
    by = table.groupby("finding")
    order = by["patches"].median().sort_values(kind="stable").index
    tall = 0.2 * max(5, len(order))
    page = chart_page(5.6, 1.1 + tall, title, caption)
    ax = page.subplots()
    rng = np.random.default_rng(0)
    for row, finding in enumerate(order):
        one = by.get_group(finding)
        quartiles = one.patches.quantile((0.25, 0.75))
        ax.plot(quartiles, (row, row), color=CYCLE[0], linewidth=4, alpha=0.35, solid_capstyle="round")
        ax.scatter(
            one.patches * 2 ** rng.uniform(-0.1, 0.1, len(one)), row + rng.uniform(-0.25, 0.25, len(one)), s=5, color=CYCLE[0], alpha=0.3, lw=0
        )
    ax.plot([], [], "o", color=CYCLE[0], markersize=3, label="a sentence's evidence")
    ax.plot([], [], color=CYCLE[0], linewidth=4, alpha=0.35, solid_capstyle="round", label="their middle half")
    k = np.exp(np.log(table.k).groupby(table.finding).mean())[order]
    ax.scatter(k, range(len(order)), marker="D", s=20, color=CYCLE[1], zorder=3, label="K, geometric mean")
    ax.set_xscale("log", base=2)
    ticks = 2 ** np.arange(0, int(np.log2(max(table.patches.max(), table.k.max()))) + 1)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(order)), [f"{f} ({len(by.get_group(f))})" for f in order])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="patches", ylim=(-0.6, len(order) - 0.4))
    ax.grid(axis="x")
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, -0.4 / tall), ncols=3)  # inches below
    return page


@styled
def patient_dependence(
    table: pd.DataFrame, places: pd.DataFrame, *, body: np.ndarray, patch_mm: Sequence[float], title: str = "", caption: str = ""
) -> Picture:
    """Above: the alignment loss of each run with its own images, exchanged ones, and positions alone; how alike one sentence is between patients.
    Below, per run, the patch that a sentence finds most similar: a dot per patient, a colour per sentence, from the front and from below.

    `table`: run, measure, value, low, high (measures as `tasks.depend` names them). `places`: run, sentence, x, y, z (patches). `body` (gx, gy, gz):
    share of the patients whose body fills a patch. A dot is set at random within its patch, so that those of one patch can be counted.
    """
    require(table, "run", "measure", "value", "low", "high")
    require(places, "run", "sentence", "x", "y", "z")
    if table.empty:
        return empty_page("No run was measured.", title=title, caption=caption)
    names = list(dict.fromkeys(table.run))
    said = list(dict.fromkeys(places.sentence))
    key = 0.12 + 0.16 * len(said)
    page = chart_page(10, 5.6 + key, title, caption)
    above, below, foot = page.subfigures(3, 1, height_ratios=(2.6, 2.6, key))
    losses, alike = above.subplots(1, 2)
    _dependence_losses(losses, table, names)
    _alike(alike, table, names)
    colours = dict(zip(said, CYCLE, strict=False))
    for name, part in zip(names, np.atleast_1d(below.subfigures(1, len(names), wspace=0.02)), strict=True):
        one = places[places.run == name]
        common = one.groupby("sentence")[["x", "y", "z"]].apply(lambda rows: rows.value_counts(normalize=True).max()).mean()
        part.suptitle(f"{name}: a sentence's commonest patch is that of {common:.0%} of the patients", fontsize=8, x=0.01, ha="left")
        for ax, (view, axes) in zip(part.subplots(1, 2), {"from the front": "xz", "from below": "xy"}.items(), strict=True):
            _places(ax, one, axes=axes, body=body, patch_mm=patch_mm, colours=colours)
            ax.set_title(view, fontsize=7.5)
    handles = [Line2D([], [], marker="o", linestyle="", color=colours.get(s, GREY), markersize=4, label=shorten(s, 90)) for s in said]
    foot.legend(handles=handles, loc="upper left", borderaxespad=0.2, handletextpad=0.4, fontsize=7)
    return page


def _dependence_losses(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Bars of the loss, a group per run, with the level of chance."""
    wide = 0.8 / len(LOSS_BARS)
    for n, (measure, (label, colour)) in enumerate(LOSS_BARS.items()):
        value, low, high = table[table.measure == measure].set_index("run").loc[names, ["value", "low", "high"]].to_numpy(float).T
        x = np.arange(len(names)) + (n - 1) * wide
        ax.bar(x, value, wide * 0.9, color=colour, label=label)
        ax.errorbar(x, value, [value - low, high - value], fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        for place, number, top in zip(x, value, high, strict=True):
            ax.annotate(f"{number:.2f}", (place, top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=6.8, bbox=PLAIN)
    chance = table[table.measure == "chance"].set_index("run").loc[names, "value"].to_numpy(float)
    ax.hlines(chance, np.arange(len(names)) - 0.46, np.arange(len(names)) + 0.46, color=GREY, linestyle=(0, (4, 2)), linewidth=1, label="chance")
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="alignment loss, nats", ylim=(0, 1.35 * max(*chance, *table[table.measure.isin(LOSS_BARS)].high)))
    ax.grid(axis="y")
    ax.legend(loc="upper left", ncols=2, handlelength=1.4, columnspacing=1.2)


def _alike(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Correlation of maps, shared patches, and what positions explain, one dot per run with its interval."""
    rows = {"correlation": "maps correlate", "overlap": "selected patches shared", "explained": "explained by positions"}
    colours, low, high = encoder_colours(names), [0.0], [1.0]
    for n, name in enumerate(names):
        one = table[table.run == name].set_index("measure").loc[list(rows)]
        y = np.arange(len(rows))[::-1] + ((len(names) - 1) / 2 - n) * 0.24
        ax.hlines(y, one.low, one.high, color=colours[name], linewidth=1.2)
        ax.plot(one.value, y, "o", color=colours[name], markersize=5, label=name)
        chance = table[(table.run == name) & (table.measure == "overlap_chance")].value
        ax.plot(chance, y[1:2], "|", color=INK, markersize=9)
        low, high = [*low, *one.low.dropna()], [*high, *one.high.dropna()]
    ax.plot([], [], "|", color=INK, markersize=9, label="patches drawn at random")
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_yticks(np.arange(len(rows))[::-1], list(rows.values()))
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(max(-1.1, min(low) - 0.05), min(1.6, max(high) + 0.05)), ylim=(-0.5, len(rows) - 0.1))
    ax.set_xlabel("between patients (1: the same in all of them)")
    ax.grid(axis="x")
    ax.legend(loc="upper center", ncols=3, handletextpad=0.4, columnspacing=1.2)


def _places(ax: Axes, places: pd.DataFrame, *, axes: str, body: np.ndarray, patch_mm: Sequence[float], colours: Mapping[str, str]) -> None:
    """Patches as dots over the mean body, in millimetres, the patient's right at the left."""
    across, up = ("xyz".index(a) for a in axes)
    wide, tall = (body.shape[a] * patch_mm[a] for a in (across, up))
    ax.imshow(body.mean(3 - across - up).T, origin="lower", extent=(0, wide, 0, tall), cmap="Greys", vmin=0, vmax=5, interpolation="bilinear")
    rng = np.random.default_rng(0)
    for sentence, one in places.groupby("sentence", sort=False):
        at = [(one[a].to_numpy() + 0.5 + rng.uniform(-0.38, 0.38, len(one))) * patch_mm["xyz".index(a)] for a in axes]
        ax.plot(*at, "o", color=colours.get(sentence, GREY), markersize=2.8, markeredgewidth=0, alpha=0.75)
    ax.set(xlim=(wide, 0), ylim=(0, tall), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for x, side in ((0.02, "R"), (0.98, "L")):
        ax.text(x, 0.98, side, transform=ax.transAxes, ha="left" if side == "R" else "right", va="top", fontsize=7, color=GREY)
    ax.plot((wide * 0.96, wide * 0.96 - 100), (tall * 0.03, tall * 0.03), color=INK, linewidth=1.6, solid_capstyle="butt")
    ax.text(wide * 0.96 - 50, tall * 0.045, "100 mm", ha="center", va="bottom", fontsize=6)
