"""`refusal-bench report`: render a run's record again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[Path, typer.Argument(help="A run's folder, which holds record.json.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", envvar="REFUSAL_BENCH_REPORT_OUT", help="File to write; default: RUN_DIR/report.html."),
    ] = None,
) -> None:
    """Render a run's record as one self-contained HTML file."""
    from refusal_bench.record import read_record
    from refusal_bench.report import write_report

    path = out or run_dir / "report.html"
    write_report(read_record(run_dir / "record.json"), path)
    typer.echo(path)
