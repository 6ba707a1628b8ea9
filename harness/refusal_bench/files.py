"""Reading and writing files: checksums, atomic writes, strict UTF-8."""

from __future__ import annotations

import codecs
import hashlib
import os
import secrets
from pathlib import Path

from refusal_bench.errors import InputError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encoding_fault(data: bytes) -> tuple[int, str] | None:
    """Return the line and the description of the first thing that is not plain UTF-8, or None."""
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return 1, "starts with a byte order mark; save the file as UTF-8 without one"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return line, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
    return None


def read_text(path: Path) -> str:
    """Read a UTF-8 file; InputError names the file and the line that is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a readable file.") from error
    if fault := encoding_fault(data):
        raise InputError(f"{path}:{fault[0]}: {fault[1]}.")
    return data.decode()
