"""Records on disk and the two tables derived from them.

    <leaderboard>/records/<model-slug>/<run-id>.json   the records
    <leaderboard>/leaderboard.csv, leaderboard.jsonl   one row a record and task, see `rows.COLUMNS`

The records are the truth; the tables can be rebuilt from them at any time.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

from filelock import FileLock

from refusal_bench.errors import InputError, RefusalBenchError
from refusal_bench.files import write_atomic
from refusal_bench.leaderboard.rows import COLUMNS, Row, rows_of
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.record import Record, read_record
from refusal_bench.slug import model_slug

log = logging.getLogger(__name__)

MAX_REASONS = 10
LOCK_NAME = ".leaderboard.lock"


def record_path(leaderboard: Path, record: Record) -> Path:
    """Where a record belongs."""
    return leaderboard / "records" / model_slug(record.model.id) / f"{record.run_id}.json"


def add_record(leaderboard: Path, record: Record) -> Path:
    """Store a record, replacing an earlier state of the same run, and rebuild both tables; safe with other writers.

    Raises RefusalBenchError with the reasons if the record disagrees with itself.
    """
    if faults := disagreements(record):
        more = f"; and {len(faults) - MAX_REASONS} more" if len(faults) > MAX_REASONS else ""
        raise RefusalBenchError(
            f"record {record.run_id} disagrees with itself and was not added: {'; '.join(faults[:MAX_REASONS])}{more}."
        )
    path = record_path(leaderboard, record)
    leaderboard.mkdir(parents=True, exist_ok=True)
    with FileLock(leaderboard / LOCK_NAME):
        write_atomic(path, record.to_json())
        records, unreadable = load_records(leaderboard)
        for fault in unreadable:
            log.warning("left out of the leaderboard's tables: %s", fault)
        for name, content in tables(records).items():
            write_atomic(leaderboard / name, content)
    return path


def load_records(leaderboard: Path) -> tuple[dict[Path, Record], list[str]]:
    """Read every record in path order; returns them and a sentence for each file that cannot be read."""
    records: dict[Path, Record] = {}
    unreadable: list[str] = []
    for path in sorted((leaderboard / "records").rglob("*.json")):
        try:
            records[path] = read_record(path)
        except InputError as error:
            unreadable.append(str(error))
    return records, unreadable


def tables(records: dict[Path, Record]) -> dict[str, str]:
    """Return the content of both derived tables by file name; rows in record and task order."""
    rows = [row for record in records.values() for row in rows_of(record)]
    return {"leaderboard.csv": _csv(rows), "leaderboard.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}


def table_faults(leaderboard: Path, records: dict[Path, Record]) -> list[str]:
    """Return a sentence for each derived table that is missing or not what the records give."""
    faults = []
    for name, content in tables(records).items():
        path = leaderboard / name
        if not path.is_file():
            faults.append(f"{path}: is missing; add a record to rebuild it.")
        elif path.read_bytes() != content.encode():
            faults.append(f"{path}: is not what the records give; add a record to rebuild it.")
    return faults


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: str(cell).lower() if isinstance(cell, bool) else cell for name, cell in row.items()} for row in rows
    )
    return text.getvalue()
