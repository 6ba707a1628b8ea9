"""Layer curves as lines in an SVG: where each point lies, and nothing else; the template writes the elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refusal_bench.record import Layer, Record

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 28

MEASURES = {
    "induce": "Refusal score (nats) of harmless prompts, this layer's vector added",
    "bypass": "Refusal score (nats) of harmful prompts, this layer's direction ablated",
    "separation": "AUC of the projection, harmful against harmless prompts",
}


@dataclass(frozen=True)
class Line:
    """One domain's curve."""

    name: str
    colour: int
    """Number of the colour in the style sheet."""
    paths: list[str]
    """`points` of a polyline for each stretch without a null."""
    mark: tuple[float, float] | None
    """The selected layer."""


@dataclass(frozen=True)
class Chart:
    """A chart in user units of WIDTH by HEIGHT."""

    title: str
    caption: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]


def charts(record: Record) -> list[Chart]:
    """Return one chart a measure, with a line for every domain that has curves; empty if none has."""
    curves = {name: task.layers for name, task in record.results.tasks.items() if task.layers}
    chosen = {name: record.results.tasks[name].direction.layer for name in curves}
    drawn = [_chart(measure, curves, chosen, record.model.n_layers) for measure in MEASURES]
    return [chart for chart in drawn if chart is not None]


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers, about n, that lie between two others; low < high."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _chart(
    measure: str, curves: Mapping[str, Sequence[Layer]], chosen: Mapping[str, int], n_layers: int
) -> Chart | None:
    values = {name: {row.layer: getattr(row, measure) for row in rows} for name, rows in curves.items()}
    known = [value for by_layer in values.values() for value in by_layer.values() if value is not None]
    if not known:
        return None
    low, high = (0.0, 1.0) if measure == "separation" else (min(known), max(known))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    last = max(n_layers - 1, 1)

    def at(layer: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * layer / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return round(x, 1), round(y, 1)

    def line(colour: int, name: str) -> Line:
        stretches: list[list[str]] = [[]]
        for layer, value in sorted(values[name].items()):
            if value is None:
                stretches.append([])
            else:
                stretches[-1].append("{},{}".format(*at(layer, value)))
        selected = values[name].get(chosen[name])
        mark = None if selected is None else at(chosen[name], selected)
        return Line(name, colour, [" ".join(points) for points in stretches if points], mark)

    return Chart(
        title=measure,
        caption=MEASURES[measure],
        x_ticks=[(at(tick, low)[0], f"{tick:.0f}") for tick in ticks(0, last) if tick == int(tick)],
        y_ticks=[(at(0, tick)[1], f"{tick:g}".replace("-", "−")) for tick in ticks(low, high)],
        lines=[line(i, name) for i, name in enumerate(values)],
    )
