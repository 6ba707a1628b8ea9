"""`refusal-bench calibrate`: worlds with known answers through the code of a real run."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: refusal-bench calibrate --world single --world study --seeds 100"


def calibrate(
    world: Annotated[list[str] | None, typer.Option(help="A world, repeatable; all by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Activation samples a world.")] = 40,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write the table as Markdown.")] = None,
) -> None:
    """Check that refusal-bench gets worlds with known answers right, at the stated rate; exit code 1 if it does not."""
    from rich.console import Console

    from refusal_bench.calibration.calibrate import ALL
    from refusal_bench.calibration.calibrate import calibrate as run_worlds
    from refusal_bench.calibration.table import markdown, print_table, to_json
    from refusal_bench.errors import InputError
    from refusal_bench.files import write_atomic

    for name in world or ():
        if name not in ALL:
            raise InputError(f"there is no world {name!r}; choose among {', '.join(ALL)}.")
    notes = Console(stderr=True)
    results = run_worlds(world, seeds, lambda name: notes.print(f"{name} ...", style="dim"))
    if report is not None:
        write_atomic(report, markdown(results))
    if json:
        print(jsonlib.dumps(to_json(results)))
    else:
        print_table(results, Console())
    if not all(result.passed for result in results.values()):
        sys.exit(1)
