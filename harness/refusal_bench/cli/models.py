"""`refusal-bench models`: which models there are, and how one is asked."""

from __future__ import annotations

import json as jsonlib
import sys
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Models that can be measured.", no_args_is_help=True)


@app.command("ls", epilog="Example: refusal-bench models ls --json")
def ls(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the aliases and their memory needs; any hub id, local folder or .gguf file works as well."""
    from rich.console import Console

    from refusal_bench.console import print_models
    from refusal_bench.models.aliases import ALIASES
    from refusal_bench.models.show import listed

    described = {name: listed(source) for name, source in ALIASES.items()}
    if json:
        print(jsonlib.dumps(described, indent=1))
    else:
        print_models(described, Console(width=None if sys.stdout.isatty() else 120))


@app.command("show", epilog="Example: refusal-bench models show planted")
def show(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, .gguf file or alias.")],
    system_prompt: Annotated[str, typer.Option(help="default, none, or a text.")] = "default",
    thinking: Annotated[Literal["default", "on", "off"], typer.Option(help="Of reasoning models.")] = "default",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where a model comes from, its licence and memory needs, and its template's positions."""
    from rich.console import Console

    from refusal_bench.console import print_model
    from refusal_bench.models.show import describe

    described = describe(model, system_prompt, thinking)
    if json:
        print(jsonlib.dumps(described, indent=1))
    else:
        print_model(described, Console())
