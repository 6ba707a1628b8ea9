"""Where the content that ships with refusal-bench is, and how paths are shown."""

from __future__ import annotations

import os
from pathlib import Path

from refusal_bench.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]


def content_folder(package: Path = PACKAGE) -> Path:
    """Return the folder that holds `tasks/` and `datasets/`: inside an installed wheel, else the checkout's root."""
    for folder in (package / "content", package.parents[1]):
        if (folder / "tasks").is_dir() and (folder / "datasets").is_dir():
            return folder
    raise InputError("tasks/ and datasets/ are missing from this copy of refusal-bench; reinstall it.")


def shown(path: Path) -> str:
    """Return a path as messages show it: relative to the working folder, else to the content folder."""
    resolved = path.resolve()
    for folder in (Path.cwd().resolve(), content_folder()):
        if resolved.is_relative_to(folder):
            return resolved.relative_to(folder).as_posix()
    return Path(os.path.relpath(resolved)).as_posix()
