"""The runs board: every run below a folder with what differs, how far it came, how it ended, its scores with intervals and its cost."""

from __future__ import annotations

import textwrap
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from asapkit import figures, runs
from asapkit.drawing import EDGE, GREY, INK, Picture, caption_inches, encoder_colours, styled, words
from asapkit.types import Refused

STATES = {
    "finished": ("#009E73", "o"), "running": ("#0072B2", ">"), "stopped": ("#E69F00", "s"), "crashed": ("#D55E00", "X"),
    "damaged": ("#CC79A7", "D"), "unknown": ("#8C8C8C", "o"),
}  # fmt: skip
"""Colour and marker of every state; the word stands beside them."""
FORESTS = {  # heading, and where no skill lies if everywhere the same
    "probe": ("probe, macro AUROC", 0.5), "hit": ("sentences that hit", None), "rise": ("rise if exchanged", 0.0),
}  # fmt: skip
COLUMNS = {"run": 1.55, "state": 2.05, "steps": 0.95, "what differs": 2.9, "cost": 1.3}  # inches
FOREST = 1.5
LINE, ROW = 0.145, 0.16  # inches of a line of text, and between rows
LETTERS = 15.5  # of this size to an inch


def _known(table: pd.DataFrame, row: pd.Series) -> list[str]:
    """Settings of a run that differ between runs, as name = value; what it lacks is left out."""
    first, last = table.columns.get_loc("steps") + 1, len(table.columns)
    until = next((n for n, c in enumerate(table.columns) if n >= first and _is_result(c)), last)
    return [f"{name} = {row[name]}" for name in table.columns[first:until] if row[name] is not None and row[name] == row[name]]


def _is_result(column: str) -> bool:
    return column.startswith("last ") or column.split("_")[0] in runs.SCORES or column in runs.COST


def _cost(row: pd.Series) -> list[str]:
    told = [runs.duration(row.get("seconds", np.nan))]
    told += [f"{row['seconds_per_step']:.3g} s a step"] if row.get("seconds_per_step", np.nan) == row.get("seconds_per_step") else []
    told += [f"{row[c] / 1000:.2g} GB{word}" for c, word in (("memory_mb", ""), ("gpu_memory_mb", " on the GPU")) if row.get(c, np.nan) == row.get(c)]
    return [t for t in told if t]


@styled
def board_view(folder: Path | str | pd.DataFrame, *, title: str = "", caption: str = "") -> Picture:
    """The board as a picture: a row per run of a folder, or of a table that `runs.table` made.

    Raises: Refused where there is no run.
    """
    table = folder if isinstance(folder, pd.DataFrame) else runs.table(folder)
    if table.empty:
        raise Refused("no run folder there; give the folder that holds the runs")
    cells = [_cells(table, name, row) for name, row in table.iterrows()]
    forests = [f for f in FORESTS if f in table and table[f].notna().any()]
    heights = [ROW + LINE * max(map(len, row.values())) for row in cells]
    width = 2 * EDGE + sum(COLUMNS.values()) + FOREST * len(forests)
    above, below = (0.34 if title else 0.04) + 0.3, caption_inches(caption, width=width) + (0.34 if forests else 0.02)
    height = above + sum(heights) + below
    page = Picture(figsize=(width, height))
    ax = page.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    edges = height - above - np.concatenate([[0], np.cumsum(heights)])
    colours = encoder_colours(list(table.index))
    left = dict(zip(COLUMNS, EDGE + np.concatenate([[0], np.cumsum(list(COLUMNS.values()))])[:-1], strict=True))
    for heading, x in left.items():
        ax.text(x + 0.12 * (heading == "run"), edges[0] + 0.07, heading, fontsize=8, fontweight="bold", va="bottom")
    for row, top, bottom, name in zip(cells, edges[:-1], edges[1:], table.index, strict=True):
        ax.plot((EDGE, width - EDGE), (top, top), color="#DDDDDD", linewidth=0.7)
        _row(ax, row, left, top=top, bottom=bottom, colour=colours[name], table=table.loc[name])
    ax.plot((EDGE, width - EDGE), (edges[-1], edges[-1]), color="#DDDDDD", linewidth=0.7)
    for number, score in enumerate(forests):
        x = EDGE + sum(COLUMNS.values()) + FOREST * number
        box = ((x + 0.1) / width, edges[-1] / height, (FOREST - 0.3) / width, (edges[0] - edges[-1]) / height)
        _forest(page.add_axes(box), table, score, middles=(edges[:-1] + edges[1:]) / 2, span=(edges[-1], edges[0]), colours=list(colours.values()))
        ax.text(x + 0.1, edges[0] + 0.07, FORESTS[score][0], fontsize=8, fontweight="bold", va="bottom")
    words(page, title=title, caption=caption)
    return page


def _cells(table: pd.DataFrame, name: str, row: pd.Series) -> dict[str, list[str]]:
    """Lines of text of one run, wrapped to their columns."""

    def wrapped(text: str, column: str) -> list[str]:
        return textwrap.wrap(text, int((COLUMNS[column] - 0.25) * LETTERS), break_on_hyphens=False) or [""]

    # a setting is kept in one piece: its blanks break no line
    settings = "\u00a0\u00b7 ".join(setting.replace(" = ", "\u00a0").replace(" ", "\u00a0") for setting in _known(table, row))
    nothing = "nothing" if row["state"] != "damaged" else "cannot be read"
    state = [row["state"], *(wrapped(row["reason"], "state") if row["reason"] else [])]
    steps = [f"{row['done']:.0f} of {row['steps']:.0f}" if row["steps"] else f"{row['done']:.0f}", ""]
    differs = [line.removesuffix("\u00a0\u00b7") for line in wrapped(settings or nothing, "what differs")]
    return {"run": wrapped(name, "run"), "state": state, "steps": steps, "what differs": differs, "cost": _cost(row) or ["not recorded"]}


def _row(ax: Axes, row: dict[str, list[str]], left: dict[str, float], *, top: float, bottom: float, colour: str, table: pd.Series) -> None:
    """One run: coloured bar, words, the marker of its state, and a bar of its steps."""
    first = top - ROW / 2
    ax.fill_between((left["run"], left["run"] + 0.05), bottom + 0.05, top - 0.05, color=colour, linewidth=0)
    shade, marker = STATES[table["state"]]
    ax.plot(left["state"] + 0.05, first - 0.065, marker, color=shade, markersize=5)
    for column, lines in row.items():
        x = left[column] + {"run": 0.12, "state": 0.17}.get(column, 0.0)
        for number, line in enumerate(lines):
            aside = (column == "state" and number) or line in ("not recorded", "cannot be read")
            style = {"color": GREY if aside else INK, "fontsize": 7 if aside else 7.5, "fontweight": "bold" if column == "run" else "normal"}
            ax.text(x, first - number * LINE, line, va="top", parse_math=False, **style)
    y, long, share = first - 1.5 * LINE, COLUMNS["steps"] - 0.2, min(1.0, table["done"] / table["steps"]) if table["steps"] else 0.0
    ax.fill_between((left["steps"], left["steps"] + long), y - 0.03, y + 0.03, color="#E6E6E6", linewidth=0)
    ax.fill_between((left["steps"], left["steps"] + long * share), y - 0.03, y + 0.03, color=shade, linewidth=0)


def _forest(ax: Axes, table: pd.DataFrame, score: str, *, middles: np.ndarray, span: tuple[float, float], colours: list[str]) -> None:
    """A score of every run with its interval, beside the runs' rows."""
    value, low, high = (table[f"{score}{end}"].astype(float).to_numpy() for end in ("", "_low", "_high"))
    ax.patch.set_alpha(0)
    none = FORESTS[score][1]
    if none is not None:
        ax.axvline(none, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    for y, v, lo, hi, colour in zip(middles, value, low, high, colours, strict=True):
        if v == v:
            ax.plot((lo, hi), (y, y), color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(v, y, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)
            ax.annotate(f"{v:.3f}", (v, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    ends = np.concatenate([value, low, high, [0.0 if none is None else none]])
    bottom, top = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * max(top - bottom, 0.05)
    ax.set(ylim=span, xlim=(bottom - room, top + room), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=4)
    ax.tick_params(axis="x", labelsize=6.8)


def curves_view(found: Path | str | list[runs.Run], *, losses: tuple[str, ...] = (), title: str = "") -> Picture:
    """Losses of the runs of a folder, or of those that `runs.collect` read, a panel each. Raises: Refused where none has a step of such a loss."""
    found = runs.collect(found) if isinstance(found, Path | str) else found
    held = {run.name: run.history for run in found if len(run.history) and set(losses or runs.LOSSES) & set(run.history)}
    if not held:
        raise Refused("no run has finished a step yet: there is no curve to draw")
    return figures.history(held, losses=list(losses), title=title)


def as_html(table: pd.DataFrame) -> str:
    """The table for a notebook, in the page's own colours: scores as value (low to high), states as coloured words, everything escaped."""
    shown = pd.DataFrame(index=table.index)
    for column in table:
        if column.endswith(("_low", "_high")):
            continue
        cells = table[column]
        if column in runs.SCORES:
            cells = [_interval(v, lo, hi) for v, lo, hi in zip(cells, table[f"{column}_low"], table[f"{column}_high"], strict=True)]
        elif column == "seconds":
            cells = [runs.duration(v) for v in cells]
        shown[column.replace("_", " ") if column in runs.COST else column] = [_cell(v) for v in cells]
    pad = "padding:3px 10px 3px 0"
    head = "".join(f"<th style='text-align:left;{pad}'>{escape(str(c))}</th>" for c in ("run", *shown))
    rows = []
    for name, row in shown.iterrows():
        wide = {column: "min-width:220px" if column == "reason" and any(shown["reason"]) else "white-space:nowrap" for column in shown}
        cells = "".join(f"<td style='{pad};{wide[column]}'>{_coloured(column, value)}</td>" for column, value in row.items())
        rule = "border-top:1px solid rgba(128,128,128,.35);vertical-align:top"
        rows.append(f"<tr style='{rule}'><td style='{pad}'><b>{escape(str(name))}</b></td>{cells}</tr>")
    table_style = "border-collapse:collapse;font-size:13px"
    return f"<div style='overflow-x:auto'><table style='{table_style}'><tr>{head}</tr>{''.join(rows)}</table></div>"


def _interval(value: float, low: float, high: float) -> str:
    return "" if value != value else f"{value:.3f}" if low != low or high != high else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _cell(value) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _coloured(column: str, text: str) -> str:
    if column == "state":
        return f"<span style='display:inline-block;border-left:8px solid {STATES[text][0]};padding-left:5px'>{escape(text)}</span>"
    return escape(text)


def board(folder: Path | str):
    """A widget over all runs of a folder: the table, sorted as asked, the curves of the chosen runs and loss, and a button that reads it all again.

    Its static twins are `board_view` and `curves_view`. A folder that is not there, or holds no run yet, is said in the widget.
    """
    import ipywidgets

    said, shown = ipywidgets.HTML(), ipywidgets.HTML()
    refresh = ipywidgets.Button(description="refresh", icon="refresh", tooltip="read the folder again")
    order = ipywidgets.Dropdown(description="sort by", options=["run"])
    loss = ipywidgets.Dropdown(description="loss", options=["all"])
    chosen = ipywidgets.SelectMultiple(description="runs", options=[], rows=5)
    picture = ipywidgets.Image(format="png", layout={"width": "100%"})
    held: dict = {"runs": [], "table": pd.DataFrame()}

    def tabulate(_=None) -> None:
        table = held["table"]
        by = order.value if order.value in table else None
        shown.value = as_html(table.sort_values(by, ascending=by in ("state", "seconds"), key=_sortable) if by else table) if len(table) else ""

    def draw(_=None) -> None:
        found = [run for run in held["runs"] if run.name in chosen.value]
        try:
            picture.value = curves_view(found, losses=() if loss.value in ("all", None) else (loss.value,))._repr_png_()
            picture.layout.display = ""
        except Refused:
            picture.layout.display = "none"

    def load(_=None) -> None:
        try:
            held["runs"] = runs.collect(folder)
            held["table"] = runs.table(found=held["runs"])
            said.value = escape(runs.tally(held["table"]))
        except Refused as error:
            held["runs"], held["table"], said.value = [], pd.DataFrame(), escape(str(error))
        before, names = set(chosen.value) or None, [run.name for run in held["runs"]]
        keep = {"by": order.value, "loss": loss.value}
        order.options = ["run", *(c for c in held["table"] if not c.endswith(("_low", "_high")))]
        loss.options = ["all", *(w for w in runs.LOSSES if any(w in run.history for run in held["runs"]))]
        order.value, loss.value = (v if v in c.options else c.options[0] for v, c in ((keep["by"], order), (keep["loss"], loss)))
        chosen.options = names
        chosen.value = tuple(n for n in names if before is None or n in before) or tuple(names)
        tabulate()
        draw()

    load()
    refresh.on_click(load)
    order.observe(tabulate, "value")
    for control in (loss, chosen):
        control.observe(draw, "value")
    return ipywidgets.VBox([ipywidgets.HBox([refresh, said]), shown, order, loss, chosen, picture])


def _sortable(column: pd.Series) -> pd.Series:
    """Words and numbers of one column side by side: compared as words."""
    return column if pd.api.types.is_numeric_dtype(column) else column.map(_cell)
