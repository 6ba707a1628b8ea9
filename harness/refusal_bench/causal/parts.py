"""Necessity and sufficiency: what ablating a direction's shared part, its specific part, and both takes away."""

from __future__ import annotations

import numpy as np

from refusal_bench.causal.bootstrap import mean_replicates
from refusal_bench.causal.column import Column, cell, values
from refusal_bench.causal.transfer import ACTS_ALIKE, NOISE_P
from refusal_bench.metrics.statistics import nullable, nullable_interval, sign_test
from refusal_bench.record import Interval, Parts


def parts(column: Column, name: str, n_bootstrap: int, seed: int) -> Parts:
    """The 2 × 2 of one domain's harmful prompts: shared part kept or ablated, specific part kept or ablated."""
    scores = np.array([values(column["baseline_harmful"])] * 4)
    for place, row in ((1, f"specific.{name}"), (2, "shared")):
        found = cell(column, row, "ablated", "harmful")
        # Without a specific part, ablating it changes nothing.
        scores[place] = scores[0] if found is None else values(found)
    scores[3] = values(column["scored"]["parts"]["both"])
    drops = scores[0] - scores
    cells = mean_replicates(drops, f"{name}.harmful", n_bootstrap, seed)
    down, up = int((drops[3] > 0).sum()), int((drops[3] < 0).sum())
    defined = down > up and sign_test(down, up) <= NOISE_P
    shares: list[float | None] = [None] * 4
    intervals: list[Interval | None] = [None] * 4
    if defined:
        total = np.nanmean(drops[3])
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = [nullable(np.nanmean(drop) / total) for drop in drops]
            intervals = [nullable_interval(cells[:, place] / cells[:, 3]) for place in range(4)]
    score = [nullable(np.nanmean(row)) if np.isfinite(row).any() else None for row in scores]
    return Parts(
        score=[score[:2], score[2:]],
        share=[shares[:2], shares[2:]],
        share_ci95=[intervals[:2], intervals[2:]],
        sentence=_sentence(name, shares, intervals),
    )


def _sentence(name: str, shares: list[float | None], intervals: list[Interval | None]) -> str:
    """Whether the shared part is enough and whether the specific one adds anything, in words."""
    _, specific, shared, _ = shares
    if specific is None or shared is None:
        return f"{name}: ablating both parts has no effect beyond noise."
    low, high = intervals[2] or (float("nan"), float("nan"))
    enough = "is enough" if shared >= ACTS_ALIKE else "is not enough"
    adds = "adds nothing measurable" if not high < 1 else f"adds {1 - shared:.2f} [{1 - high:.2f}, {1 - low:.2f}]"
    return (
        f"{name}: the shared part {enough} (ablating it takes {shared:.2f} [{low:.2f}, {high:.2f}] of what both take); "
        f"once it is gone the specific part {adds}, alone it takes {round(specific, 2) + 0.0:.2f}."
    )
