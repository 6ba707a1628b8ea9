"""Records on disk and the two tables derived from them.

    <leaderboard>/records/<model-slug>/<run-id>.json   the records
    <leaderboard>/leaderboard.csv, leaderboard.jsonl   one row a record and task, see `rows.COLUMNS`

The records are the truth; the tables can be rebuilt from them at any time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from refusal_bench.errors import InputError, RefusalBenchError
from refusal_bench.files import write_atomic
from refusal_bench.leaderboard.provenance import provenance_faults
from refusal_bench.leaderboard.rows import COLUMNS, DTYPES, rows_of
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.record import Record, read_record
from refusal_bench.slug import model_slug
from refusal_bench.tasks import Task, read_tasks, select_names
from refusal_bench.tasks.schema import KINDS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MAX_REASONS = 10
LOCK_NAME = ".leaderboard.lock"


def record_path(leaderboard: Path, record: Record) -> Path:
    """Where a record belongs."""
    return leaderboard / "records" / model_slug(record.model.id) / f"{record.run_id}.json"


def add_record(leaderboard: Path, record: Record) -> Path:
    """Store a record, replacing an earlier state of the same run, and rebuild both tables; safe with other writers.

    Raises RefusalBenchError with the reasons if the record disagrees with itself or cannot be what it says.
    """
    if faults := [*disagreements(record), *provenance_faults(record, _installed())]:
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


def sound_records(leaderboard: Path) -> tuple[dict[Path, Record], list[str]]:
    """Read every record and check it and its place; returns the readable ones and a sentence for each fault."""
    records, faults = load_records(leaderboard)
    installed = _installed()
    for path, record in records.items():
        contradictions = [*disagreements(record), *provenance_faults(record, installed)]
        faults += [f"{path}: {fault}" for fault in contradictions]
        if path != (place := record_path(leaderboard, record)):
            faults.append(f"{path}: belongs at {place}")
    return records, faults


def _installed() -> dict[str, Task]:
    """The tasks that a record's prompts can be checked against."""
    readings = read_tasks(select_names("all", kinds=KINDS))
    return {reading.name: reading.task for reading in readings if reading.task is not None}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row a record and task, in the columns of `rows.COLUMNS` and with their types."""
    import pandas as pd  # here, because it is slow and `ls` does without it

    rows = [row for record in records for row in rows_of(record)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(DTYPES)


def tables(records: dict[Path, Record]) -> dict[str, str]:
    """Return the content of both derived tables by file name; rows in record and task order."""
    table = frame(records.values())
    table["quick"] = table["quick"].map({True: "true", False: "false"})  # as in the JSON lines
    rows = [row for record in records.values() for row in rows_of(record)]
    return {
        "leaderboard.csv": table.to_csv(index=False, lineterminator="\n"),
        # Not by pandas, which rounds to 15 digits: here a number is exactly that of the record.
        "leaderboard.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }


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
