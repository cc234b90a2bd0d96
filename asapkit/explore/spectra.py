"""Effective rank by layer and singular-value decay of any encoders, with values under the pointer.

A chart carries its static twin: JupyterLab and VS Code show the interactive one with plotly's script of their own, a page made of the notebook
shows the twin. That is svg: where a png lies beside a chart, plotly's script shows the png and stays still. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from asapkit import analysis, charts
from asapkit.drawing import Picture, encoder_colours, svg
from asapkit.ranks import THIRDS
from asapkit.types import Refused

PLOTLY = "application/vnd.plotly.v1+json"
CONFIG = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": "", "responsive": True}
FONT = {"family": "DejaVu Sans, Verdana, sans-serif", "size": 12}


class Chart:
    """A plotly figure (`figure`) and its `twin`, a matplotlib picture of the same numbers. The last expression of a cell shows it."""

    def __init__(self, figure, twin: Picture):
        self.figure, self.twin = figure, twin

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        drawn, told = json.loads(self.figure.to_json()), {"image/svg+xml": {"alt": self.twin.alt}}
        return {PLOTLY: drawn | {"config": CONFIG}, "image/svg+xml": svg(self.twin), "text/plain": "a chart"}, told

    def write_html(self, path: str | Path) -> Path:
        """The interactive chart as one page of its own, plotly's script inside (5 MB): opens offline anywhere."""
        self.figure.write_html(path, include_plotlyjs=True, config=CONFIG)
        return Path(path)


def ranks(table: pd.DataFrame, *, value: str = "effective_rank", title: str = "", caption: str = "") -> Chart:
    """Effective rank: its distribution over all layers with the mean, and by layer, every volume a dot that says which it is.

    Columns: encoder, id, layer, and `value` ("effective_rank" or "normalised"). Its twin, with the caption, is `charts.effective_rank`.
    """
    from plotly.subplots import make_subplots

    if table.empty:
        raise Refused("the table of ranks is empty; `exhibits.ranks_and_spectra` makes one")
    if not np.isfinite(table[value]).all():
        raise Refused(f"{(~np.isfinite(table[value])).sum()} of {len(table)} ranks are not finite; measure them again")
    twin = charts.effective_rank(table, value=value, title=title, caption=caption)
    names = list(dict.fromkeys(table["encoder"]))
    word = "normalised effective rank" if value == "normalised" else "effective rank"
    figure = make_subplots(1, 2, subplot_titles=["all layers", "per layer, mean ± sd over volumes"], horizontal_spacing=0.12)
    for n, (name, colour) in enumerate(encoder_colours(names).items()):
        one, group = table[table["encoder"] == name], {"legendgroup": name, "name": name}
        shape = {"orientation": "h", "side": "negative", "points": False, "meanline_visible": True, "width": 1.6, "line_color": colour}
        smooth = {"bandwidth": 0.3 * float(one[value].std(ddof=0)) or None, "showlegend": False, "hoveron": "violins"}
        figure.add_violin(x=one[value], y=[name] * len(one), **shape, **smooth, **group, row=1, col=1)
        _by_layer(figure, one, value=value, beside=(n - (len(names) - 1) / 2) * 0.12, colour=colour, group=group, word=word)
    figure.update_xaxes(title=word, col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False, col=1)
    figure.update_xaxes(title="layer", tickvals=sorted(set(table["layer"])), showgrid=False, col=2)
    figure.update_yaxes(title=word, col=2)
    return Chart(_styled(figure, title), twin)


def _by_layer(figure, one: pd.DataFrame, *, value: str, beside: float, colour: str, group: dict, word: str) -> None:
    """Dots of every volume and the mean with its standard deviation, of one encoder, in the second panel."""
    name = group["name"]
    told = [f"{id}, layer {layer}" for id, layer in zip(one["id"], one["layer"], strict=True)]
    hover = f"<b>{name}</b><br>%{{customdata}}<br>{word} %{{y:.3g}}<extra></extra>"
    shown = {
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.35},
        "customdata": told,
        "hovertemplate": hover,
        "showlegend": False,
    }
    figure.add_scatter(x=one["layer"] + beside, y=one[value], **shown, **group, row=1, col=2)
    mean = one.groupby("layer")[value].agg(["mean", "std"]).fillna(0)
    bars = {"type": "data", "array": mean["std"].tolist(), "thickness": 1, "width": 4}
    hover = f"<b>{name}</b>, layer %{{customdata}}<br>mean %{{y:.3g}}, sd %{{error_y.array:.2g}}<extra></extra>"
    line = {"mode": "lines+markers", "line": {"color": colour, "width": 2}, "customdata": mean.index, "hovertemplate": hover}
    figure.add_scatter(x=mean.index + beside, y=mean["mean"], error_y=bars, **line, **group, row=1, col=2)


def spectra(curves: Mapping[str, np.ndarray], *, title: str = "", caption: str = "") -> Chart:
    """Singular values over the largest, (L, q) per encoder: a panel each for the shallow, middle and deep third of the layers.

    Its twin, with the caption, is `charts.spectra`.
    """
    from plotly.subplots import make_subplots

    if not curves:
        raise Refused("no spectra to draw; `exhibits.ranks_and_spectra` makes them")
    for name, one in curves.items():
        if np.ndim(one) != 2 or not np.size(one) or not np.isfinite(one).all():
            raise Refused(f"spectra of {name} {np.shape(one)}: give finite numbers (layers, singular values)")
    twin = charts.spectra(curves, title=title, caption=caption)
    words = THIRDS[min(3, max(len(c) for c in curves.values()))]
    figure = make_subplots(1, len(words), shared_yaxes=True, subplot_titles=words, horizontal_spacing=0.03)
    colours = encoder_colours(list(curves))
    for name, curve in curves.items():
        for panel, third in enumerate(np.array_split(np.arange(len(curve)), len(words)), start=1):
            if not len(third):
                continue
            mean = np.exp(np.log(np.maximum(curve[third], analysis.SMALLEST)).mean(0))
            layers = f"layer {third[0] + 1}" if len(third) == 1 else f"layers {third[0] + 1} to {third[-1] + 1}"
            hover = f"<b>{name}</b>, {layers}<br>s<sub>%{{x}}</sub> / s<sub>1</sub> = %{{y:.3g}}<extra></extra>"
            line = {"color": colours[name], "width": 2}
            at = {"row": 1, "col": panel, "legendgroup": name, "showlegend": panel == 1}
            figure.add_scatter(x=np.arange(1, len(mean) + 1), y=mean, mode="lines", name=name, line=line, hovertemplate=hover, **at)
    figure.update_xaxes(title="singular value k", showgrid=True, gridcolor="#E4E4E4")
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title="s<sub>k</sub> / s<sub>1</sub>", col=1)
    return Chart(_styled(figure, title), twin)


def _styled(figure, title: str):
    figure.update_layout(
        template="none", title={"text": title, "font": {"size": 15}, "x": 0.01}, font=FONT, height=380, hovermode="closest", paper_bgcolor="white",
        plot_bgcolor="white", margin={"l": 70, "r": 20, "t": 60 if title else 40, "b": 50},
    )  # fmt: skip
    return figure.update_yaxes(gridcolor="#E4E4E4", zeroline=False, title_standoff=10, automargin=True)
