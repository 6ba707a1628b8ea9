"""Which tasks there are: bundled ones, other packages' entry points, and folders given with --tasks-path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from refusal_bench.errors import InputError
from refusal_bench.registry import Registry
from refusal_bench.tasks.content import content_folder, shown
from refusal_bench.tasks.reading import Reading, raise_first, read_task, reading_of
from refusal_bench.tasks.schema import Task
from refusal_bench.tasks.validation import problems_of

T = TypeVar("T")

GROUP = "refusal_bench.tasks"
"""Entry-point group: each entry is a function without arguments that returns a Task or the path of a manifest."""


def task_registry(extra: Sequence[Path] = ()) -> Registry[Callable[[], Task | Path]]:
    """Return the registry of all tasks; InputError for a folder that is none or holds no manifest."""
    registry: Registry[Callable[[], Task | Path]] = Registry("task", GROUP)
    folders = [(content_folder() / "tasks", "refusal-bench"), *((folder, shown(folder)) for folder in extra)]
    for folder, origin in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder; --tasks-path takes a folder with task manifests (*.yaml).")
        manifests = sorted(folder.glob("*.yaml"))
        if not manifests:
            raise InputError(f"{folder}: holds no task manifest (*.yaml); see `refusal-bench tasks new --help`.")
        for path in manifests:
            registry.add(path.stem, origin, _constant(_constant(path)))
    return registry


def _constant(value: T) -> Callable[[], T]:
    return lambda: value


def read_tasks(names: Sequence[str], extra: Sequence[Path] = ()) -> list[Reading]:
    """Read the named tasks, with whatever is wrong with them; InputError for an unknown name."""
    registry = task_registry(extra)
    readings = []
    for name in names:
        found = registry.get(name)()
        if isinstance(found, Task):
            readings.append(reading_of(found, registry.origin(name)))
        elif isinstance(found, Path):
            readings.append(read_task(found))
        else:
            raise InputError(f"task {name!r} of {registry.origin(name)} is neither a Task nor a path; repair it.")
    return readings


def select_names(spec: str, extra: Sequence[Path] = ()) -> list[str]:
    """Expand `all`, names and `tag:NAME`, separated by commas, without repeats; InputError if nothing is left."""
    registry = task_registry(extra)
    names: list[str] = []
    for part in (part.strip() for part in spec.split(",")):
        if part == "all":
            names += registry.names()
        elif part.startswith("tag:"):
            tagged = [
                reading.name
                for reading in read_tasks(registry.names(), extra)
                if reading.task is not None and part.removeprefix("tag:") in reading.task.manifest.tags
            ]
            if not tagged:
                raise InputError(f"no task has the tag {part.removeprefix('tag:')!r}; see `refusal-bench tasks ls`.")
            names += tagged
        elif part:
            registry.origin(part)
            names.append(part)
    if not names:
        raise InputError("no task is chosen; give --tasks all, names separated by commas, or tag:NAME.")
    return list(dict.fromkeys(names))


def load_tasks(spec: str, extra: Sequence[Path] = ()) -> dict[str, Task]:
    """Return the chosen tasks, valid and free of leaks and duplicates; InputError for the first thing that is wrong."""
    readings = read_tasks(select_names(spec, extra), extra)
    raise_first(problems_of(readings))
    return {reading.name: reading.task for reading in readings if reading.task is not None}
