"""`refusal-bench leaderboard`: list, add and check stored records; build and serve the site."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from refusal_bench.errors import InputError

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
    from refusal_bench.record import read_record

    if leaderboard == Path("none"):  # what `run` takes for "no leaderboard", perhaps from the same variable
        raise InputError("--leaderboard none: there is nowhere to add the record; give the leaderboard's folder.")
    typer.echo(add_record(leaderboard, read_record(record)))


@app.command("validate", epilog="Example: refusal-bench leaderboard validate --leaderboard leaderboards")
def validate(leaderboard: Folder = DEFAULT) -> None:
    """Derive every aggregate again; print each contradiction and exit 1 if there is one."""
    from refusal_bench.leaderboard.store import sound_records, table_faults

    records, faults = sound_records(_existing(leaderboard))
    faults += table_faults(leaderboard, records)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(1)
    typer.echo(f"{len(records)} record{'' if len(records) == 1 else 's'} and both tables are sound")


@app.command("build", epilog="Example: refusal-bench leaderboard build --leaderboard leaderboards --out site")
def build(
    leaderboard: Folder = DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option("--out", envvar="REFUSAL_BENCH_SITE_OUT", help="Folder of the site; default: LEADERBOARD/site."),
    ] = None,
) -> None:
    """Build the static site, which opens from a file or any static host; exit 1 if a record does not hold up."""
    from refusal_bench.leaderboard.site import build_site

    folder = out or _existing(leaderboard) / "site"
    build_site(_existing(leaderboard), folder)
    typer.echo(folder / "index.html")


@app.command("serve", epilog="Example: refusal-bench leaderboard serve --port 8000")
def serve(
    leaderboard: Folder = DEFAULT,
    port: Annotated[
        int, typer.Option("--port", envvar="REFUSAL_BENCH_PORT", min=0, max=65535, help="0: any free port.")
    ] = 8000,
) -> None:
    """Build the site in a temporary folder and serve it to this computer alone, until interrupted."""
    from tempfile import TemporaryDirectory

    from refusal_bench.leaderboard.site import build_site
    from refusal_bench.leaderboard.site.serve import site_server

    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "site"
        build_site(_existing(leaderboard), folder)
        with site_server(folder, port) as server:
            typer.echo(f"http://127.0.0.1:{server.server_port}/")
            try:
                server.serve_forever()
            except KeyboardInterrupt:  # the usual end of a server; nothing is left that could be gone on with
                sys.exit(130)


def _existing(leaderboard: Path) -> Path:
    if not leaderboard.is_dir():
        raise InputError(f"{leaderboard}: is not a folder; give the leaderboard's folder with --leaderboard.")
    return leaderboard
