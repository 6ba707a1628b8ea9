"""Models in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from refusal_bench.console.tables import add_row, print_described, table_of
from refusal_bench.models.memory import gigabytes
from refusal_bench.words import DASH


def print_models(described: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the aliases, what their weights take in three forms, and whether the hub asks for a login."""
    table = table_of(["alias", "hub id, or what it is", "parameters", "16 bit", "8 bit", "4 bit", ""], 2)
    for name, model in described.items():
        sizes = [_weights(model["memory_bytes"], form) for form in ("bfloat16", "8bit", "4bit")]
        what = model["location"] if model["kind"] == "hub" else model["note"]
        add_row(table, [name, what, _millions(model["parameters"]), *sizes, "gated" if model["gated"] else ""])
    console.print(table)


def print_model(described: Mapping[str, Any], console: Console) -> None:
    """Print what is known of one model, a fact a line."""
    memory = described["memory_bytes"] and "; ".join(
        f"{form} {gigabytes(sizes['weights'])} of weights, at least {gigabytes(sizes['least'])} in a run"
        for form, sizes in described["memory_bytes"].items()
    )
    print_described({**described, "memory_bytes": memory}, console)


def _weights(memory: Mapping[str, Mapping[str, int]] | None, form: str) -> str:
    return DASH if memory is None else gigabytes(memory[form]["weights"])


def _millions(parameters: int | None) -> str:
    return DASH if parameters is None else f"{parameters / 1e6:,.0f} M"
