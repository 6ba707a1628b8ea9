"""The record as a whole: what was run, and what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from refusal_bench.errors import InputError
from refusal_bench.record.base import Frozen
from refusal_bench.record.beside import OverRefusal, Parity, Published, Served
from refusal_bench.record.domain import TaskResult
from refusal_bench.record.geometry import Depth, Geometry, SiteEffect
from refusal_bench.record.judge import JudgeInfo
from refusal_bench.record.matrices import CrossDomain, Subspace
from refusal_bench.record.run import Cost, Environment, Model, TaskInfo, Tool

SCHEMA_VERSION = 1


class Results(Frozen):
    """Everything measured."""

    tasks: dict[str, TaskResult]
    """By task name."""
    geometry: Geometry | None
    """All domains at the one common site; null for fewer than two domains or a model that does not refuse."""
    geometry_own_site: Geometry | None
    """Each domain at its own selected site, as the study did; cosines of different layers are not in one space."""
    cross_domain: CrossDomain | None
    """Null for one domain or if the section was left out."""
    subspace: Subspace | None
    """Null for one domain or if the section was left out."""
    depth: Depth | None = None
    """Geometry of every layer; null for one domain or if the section `layers` was left out."""
    site_effect: SiteEffect | None = None
    """What comparing directions of different layers does to the cosines; null where geometry is."""
    over_refusal: OverRefusal | None = None
    """Null if the section was left out."""
    parity: Parity | None = None
    """For `--baseline-backend vllm`."""
    served: Served | None = None
    """For `--baseline-backend openai`."""


class Record(Frozen):
    """One run of one model."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this schema."""
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
    created: str
    """Start, UTC, ISO 8601."""
    status: Literal["complete", "incomplete"]
    """`incomplete`: too much could not be scored."""
    tool: Tool
    """Which refusal-bench."""
    environment: Environment
    """Where."""
    model: Model
    """Which model."""
    config: dict[str, object]
    """Everything that can change a number."""
    tasks: dict[str, TaskInfo]
    """Which prompts."""
    results: Results
    """What came out."""
    warnings: list[str]
    """Why a number is null, and every fallback that changed one."""
    timings: dict[str, float]
    """Seconds by stage."""
    cost: Cost
    """Passes, tokens, memory."""
    judge: JudgeInfo | None = None
    """Which judge, and its error; null in records made before judges were measured."""
    published: Published | None = None
    """Published figures beside ours, for a preset; null without one."""

    def to_json(self) -> str:
        """Return the record as indented JSON with a final newline."""
        return self.model_dump_json(indent=1) + "\n"


def read_record(path: Path) -> Record:
    """Read and validate one record; InputError names the file and the first field that is wrong."""
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the path of a record.json.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}); give the path of a record.json."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: field {where}: {first['msg']}; it is not a refusal-bench record.") from error
