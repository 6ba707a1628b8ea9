"""`refusal-bench compare`: is the candidate better, worse or the same as the base; fails when a policy says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: refusal-bench compare runs/base runs/candidate --fail-on 'refusal.weapons.rate < -0.05'"

LOG_WIDTH = 100
"""Columns where there is no terminal to ask, such as in a CI log."""


def compare(
    base: Annotated[
        str, typer.Argument(help="A record file, a run's folder, or MODEL or MODEL/RUN_ID of the leaderboard.")
    ],
    candidate: Annotated[str, typer.Argument(help="The same; it is judged against BASE.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on", help="METRIC < or > NUMBER, repeatable: fail if the data show a difference beyond it."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(envvar="REFUSAL_BENCH_POLICY", help="TOML file; default: refusal-bench.toml if there is one."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(envvar="REFUSAL_BENCH_JUNIT", help="Also write JUnit XML, a suite a task.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(envvar="REFUSAL_BENCH_MARKDOWN", help="Also write Markdown, for a job's summary.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    leaderboard: Annotated[
        Path, typer.Option(envvar="REFUSAL_BENCH_LEADERBOARD", help="Leaderboard that names are looked up in.")
    ] = Path("leaderboards"),
) -> None:
    """Compare two records on the same prompts. Exit code 1: a check failed, 4: not comparable."""
    from rich.console import Console

    from refusal_bench.comparison import compare as compare_sources
    from refusal_bench.comparison import find, read_policy
    from refusal_bench.comparison.as_json import as_json
    from refusal_bench.comparison.junit import junit as junit_text
    from refusal_bench.comparison.markdown import markdown as markdown_text
    from refusal_bench.comparison.table import print_comparison
    from refusal_bench.errors import InputError, NotComparableError
    from refusal_bench.files import write_atomic

    rules = read_policy(policy, fail_on or [])
    comparison = compare_sources(find(base, leaderboard), find(candidate, leaderboard), rules)
    for path, text in ((junit, junit_text), (markdown, markdown_text)):
        if path is not None:
            try:
                write_atomic(path, text(comparison))
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file.") from error
    if json:
        print(as_json(comparison))
    else:
        print_comparison(comparison, Console(width=None if sys.stdout.isatty() else LOG_WIDTH))
    if comparison.obstacles:
        raise NotComparableError(f"not comparable: {'; '.join(comparison.obstacles)}.")
    if comparison.exit_code:
        raise typer.Exit(comparison.exit_code)
