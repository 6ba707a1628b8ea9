"""The pieces that the report's plots are made of, as plain dictionaries in plotly's schema.

Colours of the page (text, grid, heat scales) are set in the browser, where the reader's light or dark preference is
known; `meta` names a heat map's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from refusal_bench.record import Interval, Layer, Matrix
from refusal_bench.words import visible

PALETTE = ("#3a7fc4", "#d9782d", "#2f9b6b", "#c0538c", "#8570cf", "#a88a26", "#3ba0b3", "#c8504a")
GREY = "#8b929c"

Plot = dict[str, Any]

LEGEND: Plot = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def label(text: str) -> str:
    """A name as plotly text, in which plotly would read tags."""
    return escape(visible(text))


def share_axis(title: str) -> Plot:
    """An axis from 0 to 100 %."""
    return {"title": {"text": title}, "range": [0, 1.02], "tickformat": ".0%"}


def named_shares(title: str) -> Plot:
    """The layout of bars of shares over names."""
    return {"xaxis": {"type": "category", "showgrid": False}, "yaxis": share_axis(title), "legend": LEGEND}


def heat(
    rows: Sequence[str], columns: Sequence[str], z: Matrix, text: list[list[str]], hover: list[list[str]], scale: str
) -> Plot:
    """A heat map with a value in each cell, and more of it on hovering."""
    # Positions, not names, on the axes: a domain may be called like a control row.
    down, across = list(range(len(rows))), list(range(len(columns)))
    hovers = [[f"{label(rows[i])} → {label(columns[j])}: {hover[i][j]}" for j in across] for i in down]
    look = {"texttemplate": "%{text}", "hoverinfo": "text", "xgap": 2, "ygap": 2, "showscale": False, "meta": scale}
    cells = {"type": "heatmap", "x": across, "y": down, "z": z, "text": text, "hovertext": hovers}
    span = {"zmin": -1 if scale == "cosine" else 0, "zmax": 1}
    axes: Plot = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
    layout = {
        "height": 96 + 44 * len(rows),
        "xaxis": axes | {"side": "top", "tickvals": across, "ticktext": [label(name) for name in columns]},
        "yaxis": axes | {"autorange": "reversed", "tickvals": down, "ticktext": [label(name) for name in rows]},
    }
    return {"data": [cells | look | span], "layout": layout}


def bars(
    x: Sequence[str],
    y: Sequence[float | None],
    intervals: Sequence[Interval | None] | None,
    name: str,
    colour: str,
) -> Plot:
    """Bars with intervals, if there are any."""
    drawn = {"type": "bar", "x": list(x), "y": list(y), "name": name, "marker": {"color": colour}}
    return drawn | ({"error_y": error(y, intervals)} if intervals else {})


def error(values: Sequence[float | None], intervals: Sequence[Interval | None]) -> Plot:
    """Intervals as plotly error bars."""
    pairs = list(zip(values, intervals, strict=True))
    up = [None if v is None or i is None else max(0.0, i[1] - v) for v, i in pairs]
    down = [None if v is None or i is None else max(0.0, v - i[0]) for v, i in pairs]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def curve(layers: list[Layer], field: str, selected: int, name: str, colour: str) -> Plot:
    """One line over layers, with a large marker at the selected one."""
    marker = {"size": [11 if layer.layer == selected else 3 for layer in layers], "color": colour}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [layer.layer for layer in layers],
        "y": [getattr(layer, field) for layer in layers],
        "name": name,
        "legendgroup": name,
        "line": {"color": colour, "width": 1.6},
        "marker": marker,
    }
