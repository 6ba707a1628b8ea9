"""Whether intervals of corrected cosines hold the planted cosine at their rate, over a grid of settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refusal_bench.calibration.activation_worlds import two_directions
from refusal_bench.calibration.result import CORRECT_SHARE, WorldResult
from refusal_bench.metrics.comparisons import MIN_RELIABILITY
from refusal_bench.metrics.moments import moments
from refusal_bench.metrics.noise import disattenuated
from refusal_bench.metrics.statistics import wilson_interval

COVERAGE = (0.93, 0.985)
"""Where the coverage of a 95 % interval must lie."""
BIAS = 0.02
"""How far the mean corrected cosine may be from the planted one."""


def intervals(seeds: int) -> WorldResult:
    """Coverage and bias of corrected cosines over sample sizes, widths, cosines, noise and reliabilities."""
    rows = [
        coverage(10 * seeds, n, 64, cosine, reliability, power_law)
        for n in (10, 48)
        for cosine in (0.0, 0.35, 0.8, 1.0)
        for reliability, power_law in ((0.8, False), (0.9, True))
    ]
    held = [_holds(row, 10 * seeds) for row in rows]
    return WorldResult(
        expected="95 % intervals hold the planted cosine at their rate, bias below 0.02",
        n_seeds=10 * seeds,
        correct_share=float(np.mean(held)),
        coverage95=float(np.mean([row["coverage95"] for row in rows])),
        figures={"cells": rows},
        passed=float(np.mean(held)) >= CORRECT_SHARE,
    )


def _holds(row: Mapping[str, float], seeds: int) -> bool:
    """Whether coverage and bias over so many seeds are compatible with what is claimed."""
    low, high = wilson_interval(round(row["coverage95"] * seeds), seeds)
    return bool(
        high >= COVERAGE[0] and low <= COVERAGE[1] and abs(row["bias"]) < BIAS + row["half_width"] / np.sqrt(seeds)
    )


def coverage(
    seeds: int,
    n_pairs: int,
    d_model: int,
    cosine: float,
    reliability: float,
    power_law: bool,
    aligned: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Coverage of the corrected cosine's 95 % interval, and its bias, over all seeds of one setting."""
    setting = [n_pairs, d_model, round(1000 * cosine), round(1000 * reliability), power_law, aligned]
    rng = np.random.default_rng([seed, *setting])
    owner = np.repeat([0, 1], n_pairs)
    held, estimates, widths, printed = [], [], [], []
    for first in range(0, seeds, 50):  # 50 Gram matrices at a time: few enough for the cache, many enough for numpy
        count = min(50, seeds - first)
        gram = two_directions(count, n_pairs, d_model, cosine, reliability, power_law, rng, aligned)
        found = moments(gram, owner)
        result = disattenuated(found, d_model)
        low, high = result.low[:, 0, 1], result.high[:, 0, 1]
        # Without signal nothing is said, and nothing is wrong.
        held.append(np.isnan(low) | ((low <= cosine + 1e-9) & (cosine - 1e-9 <= high)))
        estimates.append(result.cosine[:, 0, 1])
        widths.append((high - low) / 2)
        printed.append((found.reliability >= MIN_RELIABILITY).all(axis=-1))
    return {
        "n_pairs": n_pairs,
        "d_model": d_model,
        "cosine": cosine,
        "reliability": reliability,
        "power_law": float(power_law),
        "aligned": float(aligned),
        "coverage95": float(np.concatenate(held).mean()),
        "bias": float(np.nanmean(np.concatenate(estimates)) - cosine),
        "half_width": float(np.nanmedian(np.concatenate(widths))),
        "printed_share": float(np.concatenate(printed).mean()),
    }
