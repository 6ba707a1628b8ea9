"""Tables and facts as every command prints them: text from outside is written out and steers no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from refusal_bench.record import Interval
from refusal_bench.words import DASH, visible

WIDE = 100
"""Columns from which numbers and their intervals stand side by side."""


def table_of(columns: Iterable[str], n_left: int = 1) -> Table:
    """An empty table, its first `n_left` columns to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if i < n_left else "right"
        table.add_column(Text(visible(column)), justify=justify, overflow="fold", no_wrap=i == 0)
    return table


def print_titled(title: str, table: Table, console: Console) -> None:
    """Print a table under its title."""
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)


def add_row(table: Table, cells: Iterable[str]) -> None:
    """Add a row of plain text, not of rich's markup, for which a token such as "[/INST]" would be taken."""
    table.add_row(*(Text("\n".join(visible(line) for line in cell.split("\n"))) for cell in cells))


def shaded(text: str, value: float | None) -> Text:
    """Text on blue for positive and orange for negative values, stronger towards 1."""
    if value is None:
        return Text(text)
    strength = min(abs(value), 1.0)
    red, green, blue = (round(255 - strength * (255 - end)) for end in ((38, 84, 150) if value >= 0 else (176, 80, 30)))
    return Text(text, Style.parse(f"{'white' if strength > 0.6 else 'black'} on rgb({red},{green},{blue})"))


def share(value: float | None, interval: Interval | None = None) -> str:
    """A share in percent without the sign, and its interval; a dash if there is neither."""
    band = f"[{100 * interval[0]:.0f}–{100 * interval[1]:.0f}]" if interval is not None else ""
    return f"{'' if value is None else f'{100 * value:.0f}'} {band}".strip() or DASH


def fit(text: str, console: Console) -> str:
    """The interval goes below its number where the console is narrow."""
    return text if console.width >= WIDE else text.replace(" [", "\n[")


def print_fact(console: Console, name: str, value: str) -> None:
    """Print a named sentence."""
    console.print(Text.assemble((f"  {name:<15}", "dim"), visible(value)))


def print_described(described: Mapping[str, Any], console: Console) -> None:
    """Print plain values by their names, one a line, however long it is."""
    for key, value in described.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        line = Text.assemble((f"{key.replace('_', ' '):<24}", "dim"), visible(shown))
        console.print(line, soft_wrap=True)
