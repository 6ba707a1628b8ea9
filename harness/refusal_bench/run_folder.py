"""A run's folder: made once, locked while in use, with every finished stage kept so that a killed run goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from refusal_bench.errors import InputError
from refusal_bench.files import write_atomic


class Counting(Protocol):
    """Work counters of a backend."""

    forward_passes: int
    tokens: int


@dataclass
class RunFolder:
    """One run on disk."""

    path: Path
    created: str
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    work: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Forward passes of each stage, and tokens through the blocks."""

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def stages(self) -> Path:
        """Folder of finished stages; removed when the run is complete."""
        return self.path / "stages"

    def stage(self, name: str, compute: Callable[[], Any], counters: Counting | None = None) -> Any:
        """Return a stage's JSON value, computed now or read back; its cost is counted either way."""
        file = self.stages / f"{name}.json"
        if file.is_file():
            stored = json.loads(file.read_text(encoding="utf-8"))
            self.log(f"{name}: resumed")
        else:
            start = time.perf_counter()
            before = (counters.forward_passes, counters.tokens) if counters else (0, 0)
            value = compute()
            after = (counters.forward_passes, counters.tokens) if counters else (0, 0)
            stored = {
                "value": value,
                "seconds": time.perf_counter() - start,
                "forward_passes": after[0] - before[0],
                "tokens": after[1] - before[1],
            }
            write_atomic(file, json.dumps(stored))
            # Read back: a computed and a resumed stage must give the very same object (lists, not tuples).
            stored = json.loads(file.read_text(encoding="utf-8"))
            self.log(f"{name}: {stored['seconds']:.1f} s")
        group = name.split(".")[0]
        self.timings[group] = self.timings.get(group, 0.0) + stored["seconds"]
        passes, tokens = self.work.get(group, (0, 0))
        self.work[group] = passes + stored["forward_passes"], tokens + stored["tokens"]
        return stored["value"]

    def log(self, line: str) -> None:
        """Append one line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")

    def finish(self) -> None:
        """Remove the intermediate stages."""
        shutil.rmtree(self.stages)
        (self.path / ".run.json").unlink()


def check_writable(folder: Path) -> None:
    """Raise InputError if a folder cannot be made or written to; leaves nothing behind."""
    probe = _nearest(folder) / f".refusal-bench-{time.monotonic_ns()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder.") from error


def check_room(folder: Path, size: int) -> None:
    """Raise InputError if the residual stream, `size` bytes while a run is unfinished, has no room on the disk."""
    free = shutil.disk_usage(_nearest(folder)).free
    if size > free:
        raise InputError(
            f"{folder}: the residual stream of all train prompts takes {size / 1e9:.1f} GB until the run is finished, "
            f"and {free / 1e9:.1f} GB are free; choose another --out, or fewer prompts (fewer --tasks, or --quick)."
        )


@contextmanager
def open_run(parent: Path, key: str, *, resume: bool) -> Iterator[RunFolder]:
    """Open an unfinished run of the same key in `parent`, or a new one; no other process can use it meanwhile."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in sorted(parent.glob(f"*-{key}*"), reverse=True) if resume else ():
        if not (path / ".run.json").is_file():
            continue
        lock = FileLock(path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with _released(lock):
            # The holder may have finished between our look and our lock.
            if (path / ".run.json").is_file():
                created = json.loads((path / ".run.json").read_text(encoding="utf-8"))["created"]
                yield RunFolder(path, created)
                return
    now = datetime.now(UTC)
    path = _new_folder(parent, f"{now:%Y%m%dT%H%M%SZ}-{key}")
    lock = FileLock(path / ".lock")
    lock.acquire(timeout=0)
    with _released(lock):
        folder = RunFolder(path, f"{now:%Y-%m-%dT%H:%M:%SZ}")
        folder.stages.mkdir()
        write_atomic(path / ".run.json", json.dumps({"created": folder.created}))
        yield folder


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _new_folder(parent: Path, name: str) -> Path:
    for attempt in range(1, 1000):
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise InputError(f"{parent}: holds too many runs of this second; move some away.")


@contextmanager
def _released(lock: FileLock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
