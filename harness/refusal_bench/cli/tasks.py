"""`refusal-bench tasks`: list, show, check, count and start tasks."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Harm domains: list, show, check, count, start a new one.", no_args_is_help=True)

TasksPath = Annotated[
    list[Path],
    typer.Option(
        "--tasks-path", envvar="REFUSAL_BENCH_TASKS_PATH", help="Additional folder with manifests; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("ls", epilog="Example: refusal-bench tasks ls --json")
def ls(tasks_path: TasksPath = [], json: Json = False) -> None:  # noqa: B006
    """List all tasks; `run --tasks all` measures those of kind harm_domain."""
    from rich.console import Console
    from rich.table import Table

    from refusal_bench.console.tables import add_row
    from refusal_bench.tasks import read_tasks, task_registry

    registry = task_registry(tasks_path)
    readings = read_tasks(registry.names(), tasks_path)
    if json:
        rows = {r.name: _summary(r) | {"origin": registry.origin(r.name)} for r in readings}
        print(jsonlib.dumps(rows, indent=1))
        return
    table = Table("task", "kind", "version", "train", "held out", "title", "from", box=None)
    for reading in readings:
        found = _summary(reading)
        title = found["title"] or "cannot be read; see `tasks validate`"
        counts = (str(found["train"]), str(found["held_out"]))
        kind, version = found["kind"] or "–", found["version"] or "–"
        add_row(table, [reading.name, kind, version, *counts, title, registry.origin(reading.name)])
    Console().print(table)


@app.command("show", epilog="Example: refusal-bench tasks show fraud")
def show(name: str, tasks_path: TasksPath = [], json: Json = False) -> None:  # noqa: B006
    """Show a task's manifest, its counts and one prompt of each label."""
    from rich.console import Console

    from refusal_bench.console.tables import print_described
    from refusal_bench.tasks import KINDS, load_tasks, task_registry

    task_registry(tasks_path).origin(name)  # `all` and `tag:x` select tasks, they name none
    task = load_tasks(name, tasks_path, KINDS)[name]
    harmful, harmless = task.pairs(task.manifest.splits[0])[0]
    described = task.manifest.model_dump(mode="json") | {
        "sha256": task.sha256,
        "n_train": len(task.train),
        "n_held_out": len(task.held_out),
        "example": {"harmful": harmful.prompt, "harmless": harmless.prompt},
    }
    if json:
        print(jsonlib.dumps(described, indent=1))
        return
    print_described(described, Console())


@app.command("validate", epilog="Example: refusal-bench tasks validate my_domain --tasks-path tasks")
def validate(
    name: Annotated[str | None, typer.Argument(help="A task; default: all of them.")] = None,
    tasks_path: TasksPath = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Check tasks and print every problem with file and line; exit code 1 if one is an error.

    A named task is checked against all the others, so that what it shares with them is found.
    """
    from dataclasses import asdict

    from refusal_bench.tasks import problems_of, read_tasks, select_names, task_registry

    if name is not None:
        select_names(name, tasks_path)
    others = [other for other in task_registry(tasks_path).names() if other != name]
    # The named task comes last, so that a duplicate is reported in its files.
    readings = read_tasks(others + ([name] if name else []), tasks_path)
    problems = problems_of(readings)
    if name is not None:
        own = {place.file for place, _ in readings[-1].rows}
        problems = [p for p in problems if p.file in own or p in readings[-1].problems]
    errors = sum(problem.severity == "error" for problem in problems)
    if json:
        print(jsonlib.dumps({"errors": errors, "problems": [asdict(problem) for problem in problems]}, indent=1))
    else:
        for problem in problems:
            print(problem)
        n = 1 if name else len(readings)
        print(f"{n} task{'s' * (n != 1)}: {errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("new", epilog="Example: refusal-bench tasks new my_domain --out .")
def new(
    name: str,
    out: Annotated[Path, typer.Option("--out", help="Folder that gets tasks/ and datasets/.")] = Path(),
) -> None:
    """Start a new task: a manifest, two data files with placeholder pairs, and a data card."""
    from refusal_bench.run_folder import check_writable
    from refusal_bench.tasks.scaffold import scaffold

    check_writable(out)
    for path in scaffold(name, out):
        print(path)
    print(f"replace the placeholders, then: refusal-bench tasks validate {name} --tasks-path {out / 'tasks'}")


@app.command("stats", epilog="Example: refusal-bench tasks stats --json")
def stats(
    name: Annotated[str | None, typer.Argument(help="A task; default: all of them.")] = None,
    tasks_path: TasksPath = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Count rows, pairs and words by split and label."""
    from refusal_bench.tasks import KINDS, load_tasks
    from refusal_bench.tasks.schema import LABELS

    found: dict[str, Any] = {}
    for task_name, task in load_tasks(name or "all", tasks_path, KINDS).items():
        for split in task.manifest.splits:
            rows = task.rows(split)
            words = {label: [len(r.prompt.split()) for r in rows if r.label == label] for label in LABELS}
            found.setdefault(task_name, {})[split] = {
                "rows": len(rows),
                "pairs": len(task.pairs(split)),
                "mean_words": {label: round(sum(w) / len(w), 2) for label, w in words.items()},
            }
    if json:
        print(jsonlib.dumps(found, indent=1))
        return
    for task_name, splits in found.items():
        for split, counts in splits.items():
            mean = counts["mean_words"]
            print(
                f"{task_name:<14} {split:<9} {counts['rows']:>4} rows {counts['pairs']:>4} pairs   "
                f"mean words: harmful {mean['harmful']:.1f}, harmless {mean['harmless']:.1f}"
            )


def _summary(reading: Any) -> dict[str, Any]:
    if reading.task is None:
        return {"kind": reading.kind, "version": None, "title": None, "train": 0, "held_out": 0, "tags": []}
    manifest = reading.task.manifest
    return {
        "kind": manifest.kind,
        "version": manifest.version,
        "title": manifest.title,
        "train": len(reading.task.train),
        "held_out": len(reading.task.held_out),
        "tags": list(manifest.tags),
    }
