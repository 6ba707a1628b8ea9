"""`refusal-bench models`: which models there are, and how one is asked."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Models that can be measured.", no_args_is_help=True)


@app.command("ls", epilog="Example: refusal-bench models ls --json")
def ls(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the aliases; any hub id, local folder or .gguf file works as well."""
    from rich.console import Console
    from rich.table import Table

    from refusal_bench.models.aliases import ALIASES

    if json:
        print(jsonlib.dumps({name: asdict(source) for name, source in ALIASES.items()}, indent=1))
        return
    table = Table("alias", "kind", "location", "note", box=None)
    for name, source in ALIASES.items():
        table.add_row(name, source.kind, source.location, source.note)
    Console().print(table)


@app.command("show", epilog="Example: refusal-bench models show demo")
def show(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, .gguf file or alias.")],
    system_prompt: Annotated[str, typer.Option(help="default, none, or a text.")] = "default",
    thinking: Annotated[Literal["default", "on", "off"], typer.Option(help="Of reasoning models.")] = "default",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where a model comes from, its template's positions after the instruction, and its layers."""
    from refusal_bench.models.show import describe

    described = describe(model, system_prompt, thinking)
    if json:
        print(jsonlib.dumps(described, indent=1))
        return
    for key, value in described.items():
        print(f"{key:<24} {jsonlib.dumps(value) if not isinstance(value, str) else value}")
