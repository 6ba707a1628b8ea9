"""What drawings are made of: escaped SVG elements, axes, legends. Colours are classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from refusal_bench.leaderboard.site.curves import ticks
from refusal_bench.words import number_interval, percent, percent_interval, visible

WIDTH = 480
"""User units of a drawing; about as many pixels on screen."""
LEFT, RIGHT = 52, 14
"""Room beside a drawing's axes, user units."""
CHARACTER = 7.2
"""Mean width of a character of a label, user units."""
BOLD = 1.1
"""Width of a bold label in that of a plain one."""
COLOURS = 8


def tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """An element; text and attributes are escaped, `class_` is written class, `_` in a name becomes `-`."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = Markup().join(Markup(' {}="{}"').format(key, _plain(value)) for key, value in given.items())
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup().join(escape(child) for child in children))


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    """A label."""
    return tag("text", visible(words), x=x, y=y, **attributes)


def mark(tip: str, *shapes: Markup) -> Markup:
    """Something that says what it is on hovering, and to a reader of the screen."""
    return tag("g", tag("title", visible(tip)), *shapes, class_="mark")


def drawing(height: float, alt: str, *children: Markup, width: float = WIDTH) -> Markup:
    """The whole picture, with a sentence for those who do not see it."""
    return tag(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        role="group",
        aria_label=visible(alt),
        tabindex=0,
    )


def path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """A line through points."""
    return tag("polyline", points=" ".join(f"{_plain(x)},{_plain(y)}" for x, y in points), **attributes)


def shorten(words: str, room: float) -> str:
    """A label that fits; the table has the full name."""
    most = max(4, int(room / CHARACTER))
    return words if len(words) <= most else words[: most - 1] + "…"


def wide_as(words: str) -> float:
    """About how wide a label is."""
    return CHARACTER * len(words)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    shares: bool = False

    def __call__(self, value: float) -> float:
        """Where a value is drawn; what lies outside is drawn at the end."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (self.end - self.start) * min(1.0, (value - low) / (high - low))

    def ticks(self, n: int = 5) -> list[tuple[float, str]]:
        """Places and labels of round values."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [(self(10.0**power), f"{10.0**power:g}") for power in powers]
        found = ticks(self.low, self.high, n)
        return [(self(v), percent(v) if self.shares else f"{v:g}".replace("-", "−")) for v in found]


def axis_over(values: Sequence[float], start: float, end: float, *, include: float | None = None) -> Axis:
    """An axis that holds all values with some air, and `include` if given."""
    known = [*values, *([] if include is None else [include])] or [0.0, 1.0]
    low, high = min(known), max(known)
    air = 0.06 * (high - low) or 0.5
    if low == high:
        include = None  # a single value needs air on both sides
    return Axis(low if low == include else low - air, high if high == include else high + air, start, end)


def frame(across: Axis, up: Axis, x_title: str, y_title: str, categories: Sequence[str] | None = None) -> Markup:
    """Grid, tick labels, and titles; `categories` stand at 0, 1, 2, ... of the x axis."""
    drawn = [tag("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="grid") for y, _ in up.ticks()]
    drawn += [text(across.start - 8, y + 4, words, text_anchor="end") for y, words in up.ticks()]
    places = across.ticks(8) if categories is None else [(across(i), name) for i, name in enumerate(categories)]
    drawn += [text(x, up.start + 18, words, text_anchor="middle") for x, words in places]
    drawn.append(text((across.start + across.end) / 2, up.start + 38, x_title, text_anchor="middle"))
    drawn.append(text(0, 11, y_title, class_="strong"))
    return Markup().join(drawn)


def legend(entries: Sequence[tuple[str, str]], y: float, *, left: float = 0) -> tuple[Markup, float]:
    """Keys (class, name) in as many lines as it takes, and where the space below begins."""
    drawn, x = [], left
    for style, name in entries:
        name = shorten(name, WIDTH - left - 40)
        room = 24 + wide_as(name) + 14
        if x > left and x + room > WIDTH:
            x, y = left, y + 18
        drawn.append(tag("g", swatch(style, x + 9, y), text(x + 24, y + 4, name), class_=style.split()[0]))
        x += room
    return Markup().join(drawn), y + 18


def swatch(style: str, x: float, y: float) -> Markup:
    """What an entry of the legend looks like: `band`, `tick`, `dot`, `ring`, or a line."""
    kind = style.split()[-1]
    if kind == "band":
        return tag("rect", x=x - 8, y=y - 5, width=16, height=10, class_="band")
    if kind == "tick":
        return tag("line", x1=x, x2=x, y1=y - 6, y2=y + 6, class_="tick")
    if kind in ("dot", "ring"):
        return dot(x, y, kind)
    return tag("line", x1=x - 9, x2=x + 9, y1=y, y2=y, class_="curve")


def dot(x: float, y: float, kind: str = "dot", radius: float = 5) -> Markup:
    """A filled or an open point."""
    return tag("circle", cx=x, cy=y, r=radius, class_=kind)


def whisker(x1: float, y1: float, x2: float, y2: float) -> Markup:
    """An interval."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="whisker")


def colour(i: int) -> str:
    """Class of the i-th colour; they repeat."""
    return f"c{i % COLOURS}"


def _plain(value: object) -> object:
    """Coordinates to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def said(value: float | None, low: float | None = None, high: float | None = None, *, share: bool = False) -> str:
    """A value with its interval in words."""
    interval = None if low is None or high is None else (low, high)
    return percent_interval(value, interval) if share else number_interval(value, interval)
