"""Figures over the layers."""

from __future__ import annotations

from refusal_bench.record import Depth, Record
from refusal_bench.report import charts
from refusal_bench.report.charts import Point, Series
from refusal_bench.report.figure import Cell, Figure, cell
from refusal_bench.report.svg import colour
from refusal_bench.words import number, shown

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
                points.append(
                    Point(at.layer, value, None, f"{labels[name]}, layer {at.layer}: {field} {number(value)}")
                )
            series.append(Series(labels[name], colour(i), points, {tasks[name].direction.layer}))
        alt = f"{title} by layer, one line a domain"
        panels.append(charts.curves(alt, title, "layer (stream entering the block)", series))
    rows = [
        [
            Cell(labels[name]),
            Cell(str(at.layer), (at.layer,)),
            *map(cell, (at.induce, at.bypass, at.separation, at.norm, at.cosine_to_selected)),
        ]
        for name in names
        for at in tasks[name].layers or []
    ]
    caption = (
        "A layer's direction matters where adding it induces refusal (high) and ablating it bypasses refusal (low); "
        "separation alone does not show that; the large marker is the selected layer."
    )
    header = ["domain", "layer", "induce", "bypass", "separation", "norm", "cosine to selected"]
    return Figure("layers", "Layer by layer", caption, panels, header, rows, wide=True)


def depth_figure(record: Record, depth: Depth | None) -> Figure | None:
    """Mean corrected cosine and share of pairs apart, by layer."""
    if depth is None:
        return None
    cosines = [
        Point(at.layer, at.mean_cosine, None, f"layer {at.layer}: mean corrected cosine {number(at.mean_cosine)}")
        for at in depth.layers
    ]
    apart = [
        Point(
            at.layer,
            at.n_apart / at.n_tested if at.n_tested else None,
            None,
            f"layer {at.layer}: {at.n_apart} of {at.n_tested} pairs apart",
        )
        for at in depth.layers
    ]
    chosen = {float(v) for v in (depth.parts_at, depth.meets_at) if v is not None}
    x_title = "layer (stream entering the block)"
    panels = [
        charts.curves(
            "Mean corrected cosine by layer",
            "mean corrected cosine",
            x_title,
            [Series("", colour(0), cosines, chosen)],
            include=1,
            keys=False,
        ),
        charts.curves(
            "Share of pairs apart by layer",
            "pairs apart",
            x_title,
            [Series("", colour(1), apart, chosen)],
            span=(0, 1),
            shares=True,
            keys=False,
        ),
    ]
    names = shown(record, depth.domains)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    rows = [
        [
            Cell(str(at.layer), (at.layer,)),
            cell(at.mean_cosine),
            Cell(f"{at.n_apart} of {at.n_tested}", (at.n_apart, at.n_tested)),
            *(cell(at.cosine[i][j]) for i, j in pairs),
        ]
        for at in depth.layers
    ]
    caption = (
        f"Two domains are apart where the data exclude a cosine of {depth.apart_below:g} and above. {depth.sentence}"
    )
    header = ["layer", "mean corrected cosine", "pairs apart", *(f"{names[i]} and {names[j]}" for i, j in pairs)]
    return Figure("depth", "Where the directions part", caption, panels, header, rows, wide=True)
