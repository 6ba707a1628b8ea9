"""A figure of the report: drawings, a sentence on how to read them, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from refusal_bench.record import Interval, Record
from refusal_bench.report.svg import said
from refusal_bench.words import DASH, number, percent, unsound

MANY = 7
"""More columns than this need the page's full width."""


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the numbers behind it: value, or value, low and high."""

    text: str
    values: tuple[float | None, ...] = ()

    @property
    def data(self) -> str | None:
        """The numbers to six digits, for the copy as CSV; None for words."""
        return " ".join("" if value is None else f"{value:.6g}" for value in self.values) if self.values else None


@dataclass(frozen=True)
class Figure:
    """Drawings with caption and table; without drawings the table is the figure."""

    key: str
    title: str
    caption: str
    panels: list[Markup]
    header: list[str]
    rows: list[list[Cell]]
    wide: bool = False
    notes: list[str] = field(default_factory=list)


def cell(value: float | None, interval: Interval | None = None, *, share: bool = False, digits: int = 2) -> Cell:
    """A number, or a number with its interval."""
    if interval is None:
        return Cell(percent(value) if share else number(value, digits), (value,))
    return Cell(said(value, *interval, share=share), (value, *interval))


def words(*texts: str) -> list[Cell]:
    """Cells without numbers."""
    return [Cell(text) for text in texts]


def band(interval: Interval | None) -> Cell:
    """An interval of shares that has no point in it."""
    if interval is None:
        return Cell(DASH, (None, None))
    return Cell(f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f} %", interval)


def labelled(names: Sequence[str], cells: Sequence[list[Cell]]) -> list[list[Cell]]:
    """Rows of a table, each with its name first."""
    return [[Cell(name), *row] for name, row in zip(names, cells, strict=True)]


def cell_style(record: Record, *domains: str) -> str:
    """Class of a cell of a matrix that one of these domains takes part in."""
    return "unsound" if set(domains) & set(unsound(record)) else ""
