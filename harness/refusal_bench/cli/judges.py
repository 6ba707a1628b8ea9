"""`refusal-bench judges`: which judges there are, and how often each is right."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Judges of completions: list, show, check against known labels, compare on a run.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
JsonOnly = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", help="A judge as for `run --judge`, repeatable; opener and substring by default."),
]
DEFAULT = ("opener", "substring")


@app.command("ls", epilog="Example: refusal-bench judges ls --json")
def ls(json: Json = False) -> None:
    """List the judges that `run --judge` takes."""
    from rich.console import Console
    from rich.table import Table

    from refusal_bench.judges import judge_registry

    registry = judge_registry()
    rows = {name: _describe(name) for name in registry.names()}
    if json:
        print(jsonlib.dumps(rows, indent=1))
        return
    table = Table("judge", "version", "languages", "letters", "question", box=None)
    for row in rows.values():
        table.add_row(row["usage"], row["version"], " ".join(row["languages"]), row["letters"], row["summary"])
    Console().print(table)


@app.command("show", epilog="Example: refusal-bench judges show opener")
def show(name: str, json: Json = False) -> None:
    """Show what a judge reads, the letters it gives, and its rule."""
    from refusal_bench.judges import LABELS

    described = _describe(name)
    meanings = {letter: LABELS.get(letter, "unscored: the judge could not tell") for letter in described["letters"]}
    described |= {"letters": meanings}
    if json:
        print(jsonlib.dumps(described, indent=1, ensure_ascii=False))
        return
    for key, value in described.items():
        print(f"{key:<12} {value if isinstance(value, str) else jsonlib.dumps(value, ensure_ascii=False)}")


@app.command("check", epilog="Example: refusal-bench judges check --judge opener --data labelled.jsonl")
def check(
    judge: Judges = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows of {prompt, completion, label R|P|D|C|G|U}; the bundled set by default.")
    ] = None,
    json: JsonOnly = False,
) -> None:
    """Compare judges with known labels: precision, recall and kappa of refusal against the rest, and every label."""
    from rich.console import Console

    from refusal_bench.files import sha256_of
    from refusal_bench.judges import load_judge
    from refusal_bench.judges.check import BUNDLED, read_labelled
    from refusal_bench.judges.check import check as check_judge

    path = data or BUNDLED
    rows = read_labelled(path)
    judges = [load_judge(spec) for spec in judge or DEFAULT]
    found = {one.name: check_judge(one, rows, sha256_of(path)) for one in judges}
    if json:
        print(jsonlib.dumps(found))
        return
    for name, figures in found.items():
        _print_figures(name, figures, Console())


@app.command("compare", epilog="Example: refusal-bench judges compare runs/planted/RUN_ID --judge opener --json")
def compare(
    run: Annotated[Path, typer.Argument(help="Folder of a run with --save-completions.")],
    judge: Judges = None,
    json: JsonOnly = False,
) -> None:
    """Judge a run's saved completions again: refusal rates by condition, and how far judges agree. No text is shown."""
    from rich.console import Console

    from refusal_bench.judges import load_judge
    from refusal_bench.judges.compare import compare as compare_judges
    from refusal_bench.judges.saved import read_run

    record, completions = read_run(run)
    found = compare_judges(record, completions, [load_judge(spec) for spec in judge or DEFAULT])
    if json:
        print(jsonlib.dumps(found))
        return
    _print_comparison(found, Console())


def _describe(name: str) -> dict[str, Any]:
    from refusal_bench.judges import judge_registry

    registry = judge_registry()
    kind = registry.get(name.partition(":")[0])
    return {
        "usage": kind.name if kind.argument is None else f"{kind.name}:{kind.argument}",
        "version": kind.version,
        "languages": list(kind.languages),
        "input": kind.input,
        "letters": kind.labels,
        "stops_early": kind.stops_early,
        "summary": kind.summary,
        "from": registry.origin(kind.name),
    }


def _print_figures(name: str, figures: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    console.print(f"\n{name} {figures['version']}: refusal against the rest", markup=False, style="bold")
    table = Table("part", "n", "unscored", "precision", "recall", "kappa", box=None)
    for part, row in {"all": figures, **figures["parts"]}.items():
        shares = [_share(row, key) for key in ("precision", "recall", "kappa")]
        table.add_row(part, str(row["n"]), str(row["n_unscored"]), *shares)
    console.print(table)
    verdicts = sorted({letter for row in figures["confusion"].values() for letter in row}, key="RPDCGU?".index)
    table = Table("label", "n", "precision", "recall", *(f"→ {letter}" for letter in verdicts), box=None)
    for letter, row in figures["labels"].items():
        counts = figures["confusion"].get(letter, {})
        cells = [str(counts.get(verdict, 0)) for verdict in verdicts]
        table.add_row(letter, str(row["n"]), _share(row, "precision"), _share(row, "recall"), *cells)
    console.print(table)


def _share(row: dict[str, Any], key: str) -> str:
    value, interval = row[key], row[f"{key}_ci95"]
    return "–" if value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _print_comparison(found: dict[str, Any], console: Any) -> None:
    from refusal_bench.console.tables import add_row, fit, print_titled, table_of
    from refusal_bench.judges.compare import RECORD
    from refusal_bench.words import DASH, number_interval

    names = list(found["judges"])
    table = table_of(["task", "condition", "n", *names], 2)
    for row in found["conditions"]:
        rates = [fit(_rate(row["judges"][name], row["n"]), console) for name in names]
        add_row(table, [row["task"], row["condition"].replace("_", " "), str(row["n"]), *rates])
    print_titled(
        "Refusal rate in % by judge, own direction ablated and added (over_refusal: the shared one) [95 % interval]",
        table,
        console,
    )
    table = table_of(["judge", "version", "completions", "unscored"], 2)
    for name, row in found["judges"].items():
        said = name if name != RECORD else f"{RECORD}: {row['name'] or DASH}"
        add_row(table, [said, row["version"] or DASH, str(row["n"]), str(row["n_unscored"])])
    further = len(found["further_directions"])
    print_titled(f"All completions, those of {further} further rows with other directions included", table, console)
    table = table_of(["judges", "n", "same", "Cohen's kappa", "only 1st", "only 2nd"])
    for row in found["agreement"]:
        figures = [number_interval(row[key], row[f"{key}_ci95"]) for key in ("agreement", "kappa")]
        counts = [str(row[key]) for key in ("only_first", "only_second")]
        add_row(table, [" and ".join(row["judges"]), str(row["n"]), *(fit(x, console) for x in figures), *counts])
    print_titled("Refusal or none, where both scored: same verdict, and called a refusal by one only", table, console)


def _rate(row: dict[str, Any], n: int) -> str:
    """A rate, and of how many completions it is where some are unscored."""
    from refusal_bench.console.tables import share

    return share(row["rate"], row["rate_ci95"]) + (f" of {n - row['n_unscored']}" if row["n_unscored"] else "")
