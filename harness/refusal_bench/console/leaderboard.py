"""The leaderboard in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from refusal_bench.console.tables import add_row, print_titled, share, table_of
from refusal_bench.leaderboard.rows import Row
from refusal_bench.words import model_title, number, visible


def print_leaderboard(rows: Sequence[Row], console: Console) -> None:
    """Print the main columns of the leaderboard's rows, one table a run."""
    if not rows:
        console.print("The leaderboard is empty; a run adds its record.")
    conditions = ("baseline_harmful", "ablated_harmful", "baseline_harmless", "added_harmless")
    for title, tasks in groupby(rows, _title):
        table = table_of(["refusal in %", "status", "harmful", "ablated", "harmless", "added", "cosine", "transfer"], 2)
        for row in tasks:
            rates = [share(_float(row[f"{name}_rate"])) for name in conditions]
            means = [number(_float(row[name])) for name in ("mean_cosine", "mean_transfer")]
            add_row(table, [str(row["task"]), str(row["task_status"]), *rates, *means])
        print_titled(title, table, console)


def _title(row: Row) -> str:
    """A run's model, as it was changed, and its id."""
    adapter = f"adapter {str(row['adapter_sha256'])[:8]}" if row["adapter_sha256"] else None
    model = model_title(str(row["model"]), adapter, str(row["quantization"]))
    return visible(f"{model}  run {row['run_id']}{' (quick)' if row['quick'] else ''}")


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
