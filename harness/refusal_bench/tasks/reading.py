"""Reading a task from disk: everything that is wrong is collected, with file and line, rather than the first only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jsonlines
import yaml
from pydantic import ValidationError

from refusal_bench.errors import InputError
from refusal_bench.files import encoding_fault
from refusal_bench.tasks.content import shown
from refusal_bench.tasks.schema import SPLITS, DataFile, Kind, Manifest, Row, Split, Task, task_sha256

NO_ROWS = hashlib.sha256(b"").hexdigest()
"""Checksum of a split that a task has not."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a task, with its remedy."""

    severity: Literal["error", "warning"]
    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {'warning: ' if self.severity == 'warning' else ''}{self.message}"


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    task: str
    split: Split
    file: str
    line: int | None


@dataclass(frozen=True)
class Reading:
    """What could be read of one task."""

    name: str
    task: Task | None
    rows: tuple[tuple[Place, Row], ...]
    problems: tuple[Problem, ...]
    kind: Kind | None
    """None if the manifest could not be read."""


def reading_of(task: Task, origin: str) -> Reading:
    """Wrap a task that was built in Python; its rows have no lines."""
    name = task.manifest.name
    problems = [
        Problem("error", f"{origin} {split}", None, "has no rows; add prompts.")
        for split in task.manifest.splits
        if not task.rows(split)
    ]
    if task.train and "train" not in task.manifest.splits:
        message = f"a task of kind {task.manifest.kind} has no train rows; remove them."
        problems.append(Problem("error", f"{origin} train", None, message))
    if task.sha256 != Task.from_rows(task.manifest, task.train, task.held_out).sha256:
        message = f"the SHA-256 of task {name!r} is not that of its rows; build it with Task.from_rows."
        problems.append(Problem("error", origin, None, message))
    rows = tuple((Place(name, split, f"{origin} {split}", None), row) for split in SPLITS for row in task.rows(split))
    return Reading(name, None if problems else task, rows, tuple(problems), task.manifest.kind)


def read_task(path: Path) -> Reading:
    """Read a manifest and its data files."""
    manifest, problems = _manifest(path)
    if manifest is None:
        return Reading(path.stem, None, (), tuple(problems), None)
    assert manifest.files is not None
    rows: dict[Split, list[Row]] = {}
    placed: list[tuple[Place, Row]] = []
    checksums = []
    for split in manifest.splits:
        declared: DataFile = getattr(manifest.files, split)
        file = (path.parent / declared.path).resolve()
        try:
            data = file.read_bytes()
        except OSError as error:
            message = f"cannot be read ({error.strerror}); add it or mend its path."
            problems.append(Problem("error", shown(file), None, message))
            continue
        found, faults = _rows(shown(file), data)
        problems += faults
        rows[split] = [row for _, row in found]
        placed += [(Place(manifest.name, split, shown(file), line), row) for line, row in found]
        checksums.append(hashlib.sha256(data).hexdigest())
        if checksums[-1] != declared.sha256:
            message = (
                f"is not the file that {shown(path)} names: its SHA-256 is {checksums[-1]}; "
                "if the change is meant, write that into the manifest and raise the version."
            )
            problems.append(Problem("error", shown(file), None, message))
    broken = any(problem.severity == "error" for problem in problems)
    task = None
    if not broken:
        task = Task(
            manifest=manifest,
            train=tuple(rows.get("train", ())),
            held_out=tuple(rows["held_out"]),
            sha256=task_sha256(manifest.name, manifest.version, *[NO_ROWS] * ("train" not in rows), *checksums),
        )
    return Reading(manifest.name, task, tuple(placed), tuple(problems), manifest.kind)


def _manifest(path: Path) -> tuple[Manifest | None, list[Problem]]:
    file = shown(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, [Problem("error", file, None, f"cannot be read ({error.strerror}); give a task manifest.")]
    if fault := encoding_fault(data):
        return None, [Problem("error", file, fault[0], f"{fault[1]}.")]
    try:
        content: Any = yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return None, [Problem("error", file, line, f"is not YAML ({error.problem}); mend the line.")]
    except yaml.reader.ReaderError as error:
        line = data.decode().count("\n", 0, error.position) + 1
        return None, [Problem("error", file, line, f"is not YAML ({error.reason}); mend the line.")]
    except Exception as error:  # a value that its tag cannot convert, such as the date 2024-13-45, raises anything
        message = f"is not YAML ({type(error).__name__}: {error}); mend it."
        return None, [Problem("error", file, None, message)]
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        lines = data.decode().split("\n")
        return None, [Problem("error", file, _key_line(lines, e["loc"]), _explain(e)) for e in error.errors()]
    problems = []
    if manifest.files is None:
        problems.append(Problem("error", file, None, "names no data files; add files: {train: ..., held_out: ...}."))
    if manifest.name != path.stem:
        message = f"calls itself {manifest.name!r}; file name and task name must agree, rename one."
        problems.append(Problem("error", file, 1, message))
    return (None if problems else manifest), problems


def _key_line(lines: list[str], location: tuple[int | str, ...]) -> int | None:
    """The line on which a manifest's top-level key stands."""
    key = str(location[0]) if location else ""
    return next((i for i, line in enumerate(lines, 1) if key and line.startswith(f"{key}:")), None)


def _rows(name: str, data: bytes) -> tuple[list[tuple[int, Row]], list[Problem]]:
    if fault := encoding_fault(data):
        return [], [Problem("error", name, fault[0], f"{fault[1]}.")]
    lines = data.decode().split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        return [], [Problem("error", name, None, "has no rows; add prompts, one JSON object a line.")]
    rows, problems = [], []
    reader = jsonlines.Reader(lines)
    for line in range(1, len(lines) + 1):
        try:
            rows.append((line, Row.model_validate(reader.read(type=dict))))
        except (jsonlines.InvalidLineError, RecursionError) as error:
            # The parser sees one line at a time, so its own "line 1" would mislead.
            reason = str(error).split("(")[0].strip().replace("line 1 column", "column")
            problems.append(
                Problem("error", name, line, f"is not one JSON object ({reason}); mend or remove the line.")
            )
        except ValidationError as error:
            problems += [Problem("error", name, line, _explain(e)) for e in error.errors()]
    return rows, problems


def _explain(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "the content"
    kind = {"missing": "is missing; add it.", "extra_forbidden": "is unknown; remove it or mend its name."}
    return f"{field}: " + kind.get(error["type"], f"{error['msg'].removeprefix('Value error, ')}; mend it.")


def raise_first(problems: list[Problem]) -> None:
    """Raise InputError for the first error, with the number of others; return if there is none."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more; see `refusal-bench tasks validate`)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
