"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from refusal_bench.cli import calibrate, compare, judges, leaderboard, models, report, run, tasks
from refusal_bench.errors import RefusalBenchError
from refusal_bench.version import __version__

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

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
    """Run the command line; whatever the user can do something about is one sentence and an exit code."""
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        _fail(_one_line(error), error.exit_code)
    except RefusalBenchError as error:
        _fail(str(error), error.exit_code)
    if code == INTERRUPTED:
        _fail("interrupted; the same command goes on from the last finished stage.", code)
    sys.exit(code)


def _one_line(error: TyperException) -> str:
    """What typer finds wrong with the arguments; nothing where it has printed the help for want of any."""
    # What the type of an option finds wrong begins with the class of the exception.
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return message and f"{message}; see --help."


def _fail(sentence: str, code: int) -> NoReturn:
    if sentence:
        print(f"refusal-bench: {sentence}", file=sys.stderr)
    sys.exit(code)
