"""What `calibrate` found: a table for the terminal and for a Markdown file, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from refusal_bench.calibration.result import WorldResult
from refusal_bench.words import DASH, number, percent

HEADER = (
    "world",
    "right answer",
    "right in",
    "of seeds",
    "coverage of 95 %",
    "flagged",
    "recovered (known)",
    "verdict",
)


def print_table(results: Mapping[str, WorldResult], console: Console) -> None:
    """Print one row a world."""
    table = Table(*HEADER[:6], "right answer, and recovered (known)", box=None, padding=(0, 2, 0, 0))
    for *short, expected, recovered in _rows(results):
        table.add_row(*short, expected)
        table.add_row(*[""] * len(short), f"[dim]{recovered}[/dim]")
    console.print(table)


def markdown(results: Mapping[str, WorldResult]) -> str:
    """Return the same table in Markdown."""
    lines = [HEADER, tuple("---" for _ in HEADER), *_rows(results)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(results: Mapping[str, WorldResult]) -> dict[str, Any]:
    """Plain JSON values, as `calibrate --json` prints them."""
    return {"worlds": {name: asdict(result) for name, result in results.items()}}


def _rows(results: Mapping[str, WorldResult]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            "pass" if result.passed else "FAIL",
            percent(result.correct_share),
            str(result.n_seeds) if result.n_seeds else "one model",
            percent(result.coverage95),
            percent(result.flagged_share),
            result.expected,
            _recovered(result.figures),
        )
        for name, result in results.items()
    ]


def _recovered(figures: Mapping[str, Any]) -> str:
    """The figures that have a known value, each with it."""
    known, recovered = figures.get("known", {}), figures.get("recovered", {})
    parts = [
        f"{name} {number(recovered[name])} ({number(value)})" for name, value in known.items() if name in recovered
    ]
    if components := figures.get("model", {}).get("components for 90 %"):
        parts.append(f"model: {components} component{'s' if components > 1 else ''} for 90 % of the effect")
    return "; ".join(parts) or DASH
