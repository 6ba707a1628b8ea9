"""Where a record to compare comes from: a file, a run's folder, or a name on the leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refusal_bench import gram
from refusal_bench.errors import InputError
from refusal_bench.record import Record, read_record
from refusal_bench.slug import model_slug

SHOWN = 10


@dataclass(frozen=True)
class Source:
    """A record and, where it was read from a run's folder, that run's directions and Gram matrix."""

    record: Record
    """The record."""
    directions: Path | None = None
    """`directions.safetensors` beside it."""
    gram: Path | None = None
    """`gram.safetensors` beside it."""


def find(name: str, leaderboard: Path) -> Source:
    """Read a record by path (file or run folder) or leaderboard name: model slug or id, with or without `/RUN_ID`.

    A model's name alone means its newest run. InputError if nothing is found.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "record.json"
    if path.is_file():
        beside = [path.with_name(name) for name in ("directions.safetensors", gram.FILE)]
        return Source(read_record(path), *(file if file.is_file() else None for file in beside))
    return Source(_on_leaderboard(name, leaderboard / "records"))


def _on_leaderboard(name: str, records: Path) -> Record:
    runs = sorted((records / model_slug(name)).glob("*.json"))
    if runs:
        return max((read_record(path) for path in runs), key=lambda record: (record.created, record.run_id))
    model, _, run = name.rpartition("/")
    file = records / model_slug(model) / f"{run}.json"
    if model and file.is_file():
        return read_record(file)
    known = sorted(path.name for path in records.glob("*")) if records.is_dir() else []
    more = ", ..." if len(known) > SHOWN else ""
    there = f"the leaderboard has {', '.join(known[:SHOWN])}{more}" if known else "the leaderboard has no records"
    raise InputError(
        f"{name}: is no record file, no run folder and no name on the leaderboard {records.parent} ({there}); "
        "give a path, MODEL or MODEL/RUN_ID."
    )
