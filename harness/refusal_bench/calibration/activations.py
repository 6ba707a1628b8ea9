"""Worlds of activations over many seeds: the geometry of every draw, and how often it says what was planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from refusal_bench.calibration.activation_worlds import ActivationWorld
from refusal_bench.calibration.result import WorldResult, at_least
from refusal_bench.metrics.comparisons import SEVERAL
from refusal_bench.metrics.cosines import spectrum
from refusal_bench.metrics.geometry import PairResiduals, geometry
from refusal_bench.record import Geometry, GeometrySite

N_PAIRS = 48
"""Pairs a domain, as many as the bundled tasks have for training."""
N_BOOTSTRAP = 100
NAIVE_COSINE = 0.9
"""The naive reading: two directions are different if their raw cosine is below this."""
SITE = GeometrySite(layer=0, position=-1, chosen_by="planted")

Seeds = Sequence[Geometry]


def activations(
    world: ActivationWorld, seeds: int, expected: str, right: Callable[[Geometry], bool], least: float
) -> WorldResult:
    """Describe so many draws of a world; it passes if `right` may hold for at least that share of them."""
    found = measure(world, seeds)
    correct = float(np.mean([right(g) for g in found]))
    fair = world.matched_topics and not world.shared_negatives
    return WorldResult(
        expected=expected,
        n_seeds=seeds,
        correct_share=correct,
        coverage95=coverage_of(found, world.gram) if fair else None,
        flagged_share=float(np.mean([bool(flags(g)) for g in found])),
        figures=summary(world, found),
        passed=at_least(correct, least, seeds),
    )


def measure(world: ActivationWorld, seeds: int) -> Seeds:
    """The geometry of one draw a seed."""
    return [_geometry(world.draw(N_PAIRS, np.random.default_rng(seed)), seed) for seed in range(seeds)]


def _geometry(domains: Mapping[str, PairResiduals], seed: int) -> Geometry:
    return geometry(domains, SITE, n_bootstrap=N_BOOTSTRAP, seed=seed)[0]


def says_several(found: Geometry) -> bool:
    """Whether the verdict in words is that there is more than one direction."""
    return found.verdict.startswith(SEVERAL)


def flags(found: Geometry) -> set[str]:
    """Why the contrast is unfair, as the topic control names it; empty for a fair one."""
    return set(found.topic_control.flags) if found.topic_control else set()


def coverage_of(found: Seeds, gram: np.ndarray) -> float | None:
    """Share of intervals that hold the planted cosine, over seeds and pairs of domains."""
    held = [
        interval[0] <= gram[i, j] + 1e-9 and gram[i, j] - 1e-9 <= interval[1]
        for g in found
        for i, j in combinations(range(len(gram)), 2)
        if g.cosine_disattenuated_ci95 and (interval := g.cosine_disattenuated_ci95[i][j])
    ]
    return float(np.mean(held)) if held else None


def _naive_share(found: Seeds) -> float:
    return float(np.mean([np.array(g.cosine, dtype=float).min() < NAIVE_COSINE for g in found]))


def _spectra(cosine: np.ndarray) -> dict[str, float]:
    """PC1 and the first three components of a table of cosines, in both conventions."""
    figures: dict[str, float] = {}
    for kind in ("centred", "uncentred"):
        values = spectrum(cosine, centred=kind == "centred")
        if values.sum() > 1e-9:
            shares = np.cumsum(values / values.sum())
            figures |= {f"{kind} PC1": float(shares[0]), f"{kind} three components": float(shares[2])}
    return figures


def summary(world: ActivationWorld, found: Seeds) -> dict[str, Any]:
    """Known and recovered figures that every activation world has."""
    complete = [np.array(g.cosine_disattenuated, dtype=float) for g in found if _complete(g)]
    corrected = np.mean(complete, axis=0) if complete else np.full_like(world.gram, np.nan)
    upper = np.triu_indices(len(world.gram), 1)
    return {
        "known": {"mean cosine": float(world.gram[upper].mean()), **_spectra(world.gram)},
        "recovered": {
            "mean cosine as measured": float(np.mean([np.array(g.cosine)[upper].mean() for g in found])),
            "mean cosine": float(corrected[upper].mean()),
            **(_spectra(corrected) if complete else {}),
        },
        "dimensions": {
            str(n): sum(g.n_components == n for g in found) for n in sorted({g.n_components or 0 for g in found})
        },
        "says more than one direction": float(np.mean([says_several(g) for g in found])),
        "naive reading says so": _naive_share(found),
        "pairs": N_PAIRS,
    }


def _complete(found: Geometry) -> bool:
    return all(value is not None for row in found.cosine_disattenuated for value in row)
