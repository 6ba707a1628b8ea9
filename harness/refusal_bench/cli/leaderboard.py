"""`refusal-bench leaderboard`: list, add and check stored records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refusal_bench.errors import InputError
from refusal_bench.record import read_record

app = typer.Typer(help="Stored records and the tables derived from them.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Option("--leaderboard", envvar="REFUSAL_BENCH_LEADERBOARD", help="The leaderboard's folder.")
]
DEFAULT = Path("leaderboards")


@app.command("ls", epilog="Example: refusal-bench leaderboard ls --json")
def ls(
    leaderboard: Folder = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of rows.")] = False,
) -> None:
    """List every record's results, one row a task."""
    from rich.console import Console

    from refusal_bench.console import print_leaderboard
    from refusal_bench.leaderboard.rows import rows_of
    from refusal_bench.leaderboard.store import load_records

    records, unreadable = load_records(_existing(leaderboard))
    for fault in unreadable:
        typer.echo(fault, err=True)
    rows = [row for record in records.values() for row in rows_of(record)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        print_leaderboard(rows, Console())


@app.command("add", epilog="Example: refusal-bench leaderboard add runs/planted/RUN_ID/record.json")
def add(
    record: Annotated[Path, typer.Argument(help="A record.json.")],
    leaderboard: Folder = DEFAULT,
) -> None:
    """Check a record, store it and rebuild the tables."""
    from refusal_bench.leaderboard.store import add_record

    if leaderboard == Path("none"):  # what `run` takes for "no leaderboard", perhaps from the same variable
        raise InputError("--leaderboard none: there is nowhere to add the record; give the leaderboard's folder.")
    typer.echo(add_record(leaderboard, read_record(record)))


@app.command("validate", epilog="Example: refusal-bench leaderboard validate --leaderboard leaderboards")
def validate(leaderboard: Folder = DEFAULT) -> None:
    """Derive every aggregate again; print each contradiction and exit 1 if there is one."""
    from refusal_bench.leaderboard.store import load_records, record_path, table_faults
    from refusal_bench.leaderboard.validation import disagreements

    records, faults = load_records(_existing(leaderboard))
    for path, record in records.items():
        faults += [f"{path}: {fault}" for fault in disagreements(record)]
        if path != (place := record_path(leaderboard, record)):
            faults.append(f"{path}: belongs at {place}")
    faults += table_faults(leaderboard, records)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(1)
    typer.echo(f"{len(records)} record{'' if len(records) == 1 else 's'} and both tables are sound")


def _existing(leaderboard: Path) -> Path:
    if not leaderboard.is_dir():
        raise InputError(f"{leaderboard}: is not a folder; give the leaderboard's folder with --leaderboard.")
    return leaderboard
