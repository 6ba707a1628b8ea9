"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from refusal_bench.cli import calibrate, compare, judges, leaderboard, models, report, run, tasks
from refusal_bench.errors import RefusalBenchError
from refusal_bench.version import __version__

app = typer.Typer(
    name="refusal-bench",
    help="The geometry of refusal: refusal directions of chat models per harm domain, causally checked.",
    epilog="Example: refusal-bench run --model planted --tasks all",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=run.EXAMPLE)(run.run)
app.command("report", epilog="Example: refusal-bench report runs/planted/RUN_ID --out report.html")(report.report)
app.command("calibrate", epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(judges.app, name="judges")
app.add_typer(leaderboard.app, name="leaderboard")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"refusal-bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error that refusal-bench raises on purpose is one sentence and an exit code."""
    try:
        app(standalone_mode=True)
    except RefusalBenchError as error:
        print(f"refusal-bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("refusal-bench: interrupted; the same command goes on from the last finished stage.", file=sys.stderr)
        sys.exit(130)
