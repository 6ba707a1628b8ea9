"""Charts of the report as SVG: heat maps, dots with intervals, curves, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from refusal_bench.record import Interval
from refusal_bench.report.figure import MANY
from refusal_bench.report.svg import (
    BOLD,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    axis_over,
    dot,
    drawing,
    frame,
    legend,
    mark,
    path,
    said,
    shorten,
    tag,
    text,
    whisker,
    wide_as,
)
from refusal_bench.words import number, percent

ROOM = 64
"""A narrower cell of a heat map shows no interval."""
SMALL = 5.9
"""Width of a character of an interval in a cell, at most."""


@dataclass(frozen=True)
class HeatCell:
    """One cell: its number, what stands in it (a value, then an interval), what it says on hovering."""

    value: float | None
    lines: tuple[str, ...]
    tip: str
    style: str = ""


def cell_lines(value: float | None, interval: Interval | None, *, share: bool = False) -> tuple[str, ...]:
    """What stands in a cell of a heat map: a number, or a share in percent, and its interval below it."""
    shown = percent(value) if share else number(value)
    ends = [f"{100 * end:.0f}" if share else number(end) for end in interval or ()]
    return (shown, "–".join(ends)) if ends else (shown,)


@dataclass(frozen=True)
class Dot:
    """A value with an interval; `style` is a colour's class and a kind, as in `c0 dot`."""

    value: float | None
    interval: Interval | None
    style: str
    tip: str


@dataclass(frozen=True)
class Point:
    """A point of a curve."""

    x: float
    y: float | None
    interval: Interval | None
    tip: str


@dataclass(frozen=True)
class Series:
    """A curve with its colour's class; the points in `chosen` are drawn large."""

    name: str
    style: str
    points: list[Point]
    chosen: set[float] = field(default_factory=set)


def heat(alt: str, rows: Sequence[str], columns: Sequence[str], cells: list[list[HeatCell]], most: float = 1) -> Markup:
    """A heat map; opacity is the value's share of `most`, negative values have the other colour."""
    left = min(170.0, max(map(wide_as, rows)) + 14)
    each = max(46.0, (WIDTH - left) / len(columns))
    intervals = [len(cell.lines[1]) for row in cells for cell in row if len(cell.lines) > 1]
    needed = max(ROOM, SMALL * max(intervals, default=0) + 6)
    if intervals and len(columns) <= MANY:  # else they are left out where cells are too narrow
        each = max(each, needed)
    shows_intervals = bool(intervals) and each >= needed
    slanted = 0.9 * max(map(wide_as, columns)) > each - 4
    top, high = (14 + min(120.0, max(map(wide_as, columns))) * 0.6 if slanted else 24), 38 if shows_intervals else 28
    drawn = []
    for j, name in enumerate(columns):
        x, y = left + (j + 0.5) * each, top - 8
        turned = {"transform": f"rotate(-35 {x:.1f} {y:.1f})", "text_anchor": "start"} if slanted else {}
        drawn.append(text(x, y, shorten(name, 120), **({"text_anchor": "middle"} | turned)))
    for i, row in enumerate(cells):
        y = top + i * high
        drawn.append(text(left - 10, y + high / 2 + 4, shorten(rows[i], left - 10), text_anchor="end"))
        for j, cell in enumerate(row):
            lines = cell.lines if shows_intervals else cell.lines[:1]
            drawn.append(mark(cell.tip, *_heat_cell(cell, lines, left + j * each, y, each, high, most)))
    spill = 70 if slanted else 0
    return drawing(top + len(rows) * high + 2, alt, *drawn, width=max(WIDTH, left + each * len(columns)) + spill)


def _heat_cell(
    cell: HeatCell, lines: tuple[str, ...], x: float, y: float, wide: float, high: float, most: float
) -> list[Markup]:
    # A cell of 0 still shows where it is.
    strength = 0.05 + 0.95 * (0.0 if cell.value is None else min(1.0, abs(cell.value) / most))
    sign = "none" if cell.value is None else "negative" if cell.value < 0 else "positive"
    box = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": high - 2, "rx": 3}
    shapes = [tag("rect", **box, class_=sign, fill_opacity=f"{strength:.3f}")]
    if cell.style:
        inner = {"x": x + 2.5, "y": y + 2.5, "width": wide - 5, "height": high - 5, "rx": 2}
        shapes.append(tag("rect", **inner, class_=cell.style))
    middle = x + wide / 2
    shapes.append(text(middle, y + high / 2 + (4 if len(lines) == 1 else -2), lines[0], class_="value"))
    if len(lines) > 1:
        shapes.append(text(middle, y + high / 2 + 12, lines[1], class_="small"))
    return shapes


def forest(
    alt: str, rows: list[tuple[str, list[Dot]]], keys: list[tuple[str, str]], axis_title: str, span: tuple[float, float]
) -> Markup:
    """Dots with intervals, one group a row, all on one axis."""
    left = min(220.0, BOLD * max(wide_as(name) for name, _ in rows) + 16)
    shares = "%" in axis_title
    drawn, top = legend(keys, 10)
    each = max(22, 13 * max(len(dots) for _, dots in rows) + 8)
    bottom = top + each * len(rows)
    across = Axis(*span, left, WIDTH - RIGHT - 8, shares=shares)
    parts = [drawn]
    for x, words in across.ticks(5):
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        parts.append(text(x, bottom + 18, words, text_anchor="middle"))
    parts.append(text((left + WIDTH) / 2, bottom + 38, axis_title.removesuffix(" %"), text_anchor="middle"))
    for i, (name, dots) in enumerate(rows):
        middle = top + each * (i + 0.5)
        if i % 2:
            parts.append(tag("rect", x=0, y=middle - each / 2, width=WIDTH, height=each, class_="stripe"))
        parts.append(text(left - 12, middle + 4, shorten(name, (left - 12) / BOLD), text_anchor="end", class_="strong"))
        for j, one in enumerate(dots):
            y = middle + (0 if one.style.endswith("tick") else 13 * (j - (len(dots) - 1) / 2))
            parts.append(_forest_dot(one, across, y, each))
    return drawing(bottom + 46, alt, *parts)


def _forest_dot(one: Dot, across: Axis, y: float, high: float) -> Markup:
    if one.value is None:
        return Markup()
    style, kind = one.style.split()
    x = across(one.value)
    if kind == "tick":
        line = tag("line", x1=x, x2=x, y1=y - high / 2 + 3, y2=y + high / 2 - 3, class_="tick")
        return mark(one.tip, tag("g", line, class_=style))
    interval = [] if one.interval is None else [whisker(across(one.interval[0]), y, across(one.interval[1]), y)]
    return mark(one.tip, tag("g", *interval, dot(x, y, kind, 4.5), class_=style))


def curves(
    alt: str,
    y_title: str,
    x_title: str,
    series: list[Series],
    *,
    span: tuple[float, float] | None = None,
    include: float | None = None,
    categories: Sequence[str] | None = None,
    shares: bool = False,
    keys: bool = True,
    height: float = 210,
) -> Markup:
    """Lines over one axis; a null breaks a line, intervals are whiskers."""
    listed, top = legend([(one.style, one.name) for one in series], 28) if keys else (Markup(), 22)
    points = [point for one in series for point in one.points]
    ys = [v for p in points if p.y is not None for v in (p.y, *(p.interval or ()))]
    up = Axis(*span, top + height, top, shares=shares) if span else axis_over(ys, top + height, top, include=include)
    low, high = (min(p.x for p in points), max(p.x for p in points)) if points else (0.0, 1.0)
    across = Axis(low, high if high > low else low + 1, LEFT + (16 if categories else 0), WIDTH - RIGHT - 4)
    lines = [_curve(one, across, up) for one in series]
    return drawing(top + height + 46, alt, listed, frame(across, up, x_title, y_title, categories), *lines)


def _curve(one: Series, across: Axis, up: Axis) -> Markup:
    stretches: list[list[tuple[float, float]]] = [[]]
    marks = []
    for point in one.points:
        if point.y is None:
            stretches.append([])
            continue
        x, y = across(point.x), up(point.y)
        stretches[-1].append((x, y))
        parts = []
        if point.interval is not None:
            parts.append(whisker(x, up(point.interval[0]), x, up(point.interval[1])))
        parts.append(dot(x, y) if point.x in one.chosen else dot(x, y, "point", 2))
        marks.append(mark(point.tip, *parts))
    lines = [path(points, class_="curve") for points in stretches if len(points) > 1]
    return tag("g", *lines, *marks, class_=one.style)


def spectrum(
    alt: str,
    shares: list[float],
    intervals: list[Interval] | None,
    bands: list[tuple[str, str, list[Interval]]],
) -> Markup:
    """Shares by component as bars with whiskers, beside the bands (class, name, intervals) that nulls give."""
    listed, top = legend([("c0 band", "measured"), *((style, name) for style, name, _ in bands)], 28)
    up = Axis(0, 1, top + 190, top, shares=True)
    across = Axis(-0.5, len(shares) - 0.5, LEFT, WIDTH - RIGHT)
    step = (across.end - across.start) / len(shares)
    names = [f"PC{i + 1}" for i in range(len(shares))]
    drawn = [listed, frame(across, up, "component", "explained variance", names)]
    for i, share in enumerate(shares):
        x, wide = across(i) - step * 0.3, step * 0.26
        interval = intervals[i] if intervals else None
        bar = tag("rect", x=x, y=up(share), width=wide, height=up(0) - up(share), class_="band")
        lines = [] if interval is None else [whisker(x + wide / 2, up(interval[0]), x + wide / 2, up(interval[1]))]
        tip = f"{names[i]}: {said(share, *(interval or ()), share=True)}"
        drawn.append(mark(tip, tag("g", bar, *lines, class_="c0")))
        for place, (style, name, null) in enumerate(bands):
            low, high = null[i]
            box = {"x": x + wide + 4 + place * step * 0.17, "y": up(high), "width": step * 0.14}
            shape = tag("rect", **box, height=max(2.5, up(low) - up(high)), rx=2, class_="band")
            said_band = f"{names[i]}, {name}: {said(low, share=True)} to {said(high, share=True)}"
            drawn.append(mark(said_band, tag("g", shape, class_=style.split()[0])))
    return drawing(top + 190 + 46, alt, *drawn)
