"""How a world of known answers came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refusal_bench.metrics.statistics import wilson_interval

CORRECT_SHARE = 0.9
"""Share of seeds that must come out right for a world to pass; 0.95 where the right answer is one direction."""


@dataclass(frozen=True)
class WorldResult:
    """How one world came out."""

    expected: str
    """The right answer, in words."""
    n_seeds: int
    correct_share: float
    """Share of seeds with the right answer."""
    coverage95: float | None = None
    """Share of 95 % intervals of corrected cosines that hold the planted one."""
    flagged_share: float | None = None
    """Share of seeds whose contrast was flagged as unfair."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Known and recovered figures."""
    passed: bool = True


def at_least(share: float, least: float, n: int) -> bool:
    """Whether a share over n seeds is compatible with at least that rate."""
    return wilson_interval(round(share * n), n)[1] >= least
