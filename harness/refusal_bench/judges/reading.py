"""Rows of JSONL files with completions: what is wrong is named with its file and line, never with its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from refusal_bench.errors import InputError
from refusal_bench.files import read_text

Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: Path, model: type[Row]) -> dict[int, Row]:
    """Read rows by their line; InputError names the file and the first line that is wrong."""
    rows = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows[number] = model.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: is not JSON ({error.msg}); mend or remove the line.") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the row"
            reason = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{path}:{number}: {field}: {reason}; mend the line.") from error
    return rows
