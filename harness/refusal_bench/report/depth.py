"""Figures over the layers."""

from __future__ import annotations

from refusal_bench.record import Record
from refusal_bench.report import charts
from refusal_bench.report.charts import Point, Series
from refusal_bench.report.figure import Cell, Figure, cell, shown
from refusal_bench.report.svg import colour
from refusal_bench.words import number

PANELS = (("induce", "induce (nats)"), ("bypass", "bypass (nats)"), ("separation", "separation (AUC)"))


def layers_figure(record: Record) -> Figure | None:
    """Induce, bypass and separation by layer, one line a domain; the selected layer is marked."""
    names = [name for name, task in record.results.tasks.items() if task.layers]
    if not names:
        return None
    tasks = record.results.tasks
    labels = dict(zip(names, shown(record, names), strict=True))
    panels = []
    for field, title in PANELS:
        series = []
        for i, name in enumerate(names):
            points = []
            for at in tasks[name].layers or []:
                value = getattr(at, field)
                points.append(Point(at.layer, value, None, f"{labels[name]}, layer {at.layer}: {field} {number(value)}"))
            series.append(Series(labels[name], colour(i), points, {tasks[name].direction.layer}))
        alt = f"{title} by layer, one line a domain"
        panels.append(charts.curves(alt, title, "layer (stream entering the block)", series))
    rows = [
        [Cell(labels[name]), Cell(str(at.layer), (at.layer,)), *map(cell, (at.induce, at.bypass, at.separation, at.norm, at.cosine_to_selected))]
        for name in names
        for at in tasks[name].layers or []
    ]
    caption = (
        "A layer's direction matters where adding it induces refusal (high) and ablating it bypasses refusal (low); "
        "separation alone does not show that; the large marker is the selected layer."
    )
    header = ["domain", "layer", "induce", "bypass", "separation", "norm", "cosine to selected"]
    return Figure("layers", "Layer by layer", caption, panels, header, rows, wide=True)
