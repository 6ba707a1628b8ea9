"""What all parts of the record's schema are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]
Matrix = list[list[float | None]]
MatrixOfIntervals = list[list[Interval | None]]


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
