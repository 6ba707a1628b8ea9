"""A comparison for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refusal_bench.comparison import phrases
from refusal_bench.comparison.compare import Comparison
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.words import number, visible

UNBROKEN = ("measured", "check", "on", "verdict")

COLOURS = {"FAILED": "bold red", "worse": "red", "better": "green", "same": "dim"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what differs beside the numbers, the measurements, the checks and, last, the result."""
    console.print(Text(f"base       {phrases.title(comparison.base)}"))
    console.print(Text(f"candidate  {phrases.title(comparison.candidate)}"))
    for reason in comparison.reasons:
        style = "bold red" if reason.grade == "hard" else "yellow"
        console.print(Text(f"{reason.grade}: {visible(reason.text)}", style=style))
    if shown := [verdict for verdict in comparison.verdicts if _shown(verdict)]:
        _print("Measured in both (scores that did not change are in --json)", phrases.COLUMNS, _rows(shown), console)
    if comparison.directions:
        _directions(comparison, console)
    if comparison.similarity:
        console.print()
        console.print(Text(phrases.similarity(comparison.similarity)))
    if comparison.checks:
        rows = map(phrases.check_cells, comparison.checks)
        title = f"Checks, all together at {100 * comparison.policy.alpha:g} %"
        _print(title, phrases.CHECK_COLUMNS, rows, console)
    console.print()
    style = "bold green" if comparison.exit_code == 0 else "bold red"
    console.print(Text(phrases.headline(comparison), style=style))


def _shown(verdict: Verdict) -> bool:
    return verdict.measurement.unit != "score" or verdict.word in ("better", "worse")


def _rows(verdicts: Iterable[Verdict]) -> Iterable[tuple[str, ...]]:
    return (phrases.measurement_cells(verdict) for verdict in verdicts)


def _directions(comparison: Comparison, console: Console) -> None:
    directions = comparison.directions or {}
    cosines = ", ".join(f"{visible(name)} {number(value)}" for name, value in directions["cosine"].items())
    angles = ", ".join(number(angle, 0) for angle in directions["principal_angles_deg"])
    console.print()
    console.print(Text(f"Directions at layer {directions['layer']}, position {directions['position']}", style="bold"))
    console.print(Text(f"cosine of each to itself: {cosines}; principal angles {angles}° ({directions['basis']})"))


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        left = i in (0, len(columns) - 1)
        table.add_column(
            column,
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=column in UNBROKEN,
        )
    for row in rows:
        *cells, last = row
        table.add_row(*map(Text, cells), Text(last, style=COLOURS.get(last, "")))
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)
