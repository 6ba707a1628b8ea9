"""Which tasks there are: bundled ones, other packages' entry points, and folders given with --tasks-path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from refusal_bench.errors import InputError
from refusal_bench.registry import Registry
from refusal_bench.tasks.content import content_folder, shown
from refusal_bench.tasks.reading import Reading, raise_first, read_task, reading_of
from refusal_bench.tasks.schema import Kind, Task
from refusal_bench.tasks.validation import problems_of

T = TypeVar("T")

GROUP = "refusal_bench.tasks"
"""Entry-point group: each entry is a function without arguments that returns a Task or the path of a manifest."""


def task_registry(extra: Sequence[Path] = ()) -> Registry[Callable[[], Task | Path]]:
    """Return the registry of all tasks; InputError for a folder that is none or holds no manifest."""
    registry: Registry[Callable[[], Task | Path]] = Registry("task", GROUP)
    # A folder given twice, or the bundled one given again from inside a checkout, holds the same tasks, not rivals.
    folders = {(content_folder() / "tasks").resolve(): "refusal-bench"}
    for folder in extra:
        folders.setdefault(folder.resolve(), shown(folder))
    for folder, origin in folders.items():
        name = shown(folder)
        if not folder.is_dir():
            raise InputError(f"{name}: is not a folder; --tasks-path takes a folder with task manifests (*.yaml).")
        manifests = sorted(folder.glob("*.yaml"))
        if not manifests:
            raise InputError(f"{name}: holds no task manifest (*.yaml); see `refusal-bench tasks new --help`.")
        for path in manifests:
            registry.add(path.stem, origin, _constant(_constant(path)))
    return registry


def _constant(value: T) -> Callable[[], T]:
    return lambda: value


def read_tasks(names: Sequence[str], extra: Sequence[Path] = ()) -> list[Reading]:
    """Read the named tasks, with whatever is wrong with them; InputError for an unknown name."""
    registry = task_registry(extra)
    return [_read(registry, name) for name in names]


def _read(registry: Registry[Callable[[], Task | Path]], name: str) -> Reading:
    make, origin = registry.get(name), registry.origin(name)
    try:
        found = make()
    except Exception as error:  # other people's code, which may raise anything
        message = f"task {name!r} of {origin} cannot be built ({type(error).__name__}: {error}); repair or remove it."
        raise InputError(message) from error
    if isinstance(found, Task):
        reading = reading_of(found, origin)
    elif isinstance(found, Path):
        reading = read_task(found)
    else:
        raise InputError(f"task {name!r} of {origin} is neither a Task nor a path; repair it.")
    if reading.name != name:
        raise InputError(f"task {name!r} of {origin} calls itself {reading.name!r}; make the two names agree.")
    return reading


DOMAINS: tuple[Kind, ...] = ("harm_domain",)
"""The kind of task that a run takes directions from."""


def select_names(spec: str, extra: Sequence[Path] = (), kinds: Collection[Kind] = DOMAINS) -> list[str]:
    """Expand `all` (of these kinds), names and `tag:NAME`, without repeats; InputError if nothing is left."""
    registry = task_registry(extra)
    names: list[str] = []
    for part in (part.strip() for part in spec.split(",")):
        if part == "all":
            readings = read_tasks(registry.names(), extra)
            # A task of unknown kind stays in, so that whoever loads it hears what is wrong with it.
            names += [reading.name for reading in readings if reading.kind is None or reading.kind in kinds]
        elif part.startswith("tag:"):
            readings = read_tasks(registry.names(), extra)
            # What cannot be read may carry the tag: leaving it out would silently measure fewer tasks.
            raise_first([problem for reading in readings for problem in reading.problems])
            tagged = [r.name for r in readings if r.task and part.removeprefix("tag:") in r.task.manifest.tags]
            if not tagged:
                raise InputError(f"no task has the tag {part.removeprefix('tag:')!r}; see `refusal-bench tasks ls`.")
            names += tagged
        elif part:
            registry.origin(part)
            names.append(part)
    if not names:
        raise InputError("no task is chosen; give --tasks all, names separated by commas, or tag:NAME.")
    return list(dict.fromkeys(names))


def load_tasks(spec: str, extra: Sequence[Path] = (), kinds: Collection[Kind] = DOMAINS) -> dict[str, Task]:
    """Return the chosen tasks, valid and free of leaks and duplicates; InputError for the first thing that is wrong.

    A chosen task of another kind than `kinds` is wrong too: a run cannot take a direction from it.
    """
    readings = read_tasks(select_names(spec, extra, kinds), extra)
    raise_first(problems_of(readings))
    tasks = {reading.name: reading.task for reading in readings if reading.task is not None}
    for name, task in tasks.items():
        if task.manifest.kind not in kinds:
            raise InputError(
                f"task {name!r} is of kind {task.manifest.kind}, which cannot be chosen here; leave it out: a run "
                "measures it beside the domains."
            )
    return tasks
