"""How well a judge tells refusals from the rest, and what that means for a rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from refusal_bench.metrics.statistics import UNSCORED, percentile_interval, wilson_interval
from refusal_bench.record import Interval, JudgeCalibration, PanelAgreement, Proportion

REPLICATES = 4000
"""Draws behind the interval of kappa: its ends vary by less than 0.01 between seeds."""

LEAST_INFORMATIVE = 0.1
"""With sensitivity + specificity - 1 not above this a judge says next to nothing, and no rate is corrected."""


def cohen_kappa(both: float, first: float, second: float, neither: float) -> float | None:
    """Agreement beyond chance in a 2 x 2 table (Cohen 1960); None where chance alone agrees always."""
    n = both + first + second + neither
    expected = ((both + first) * (both + second) + (neither + second) * (neither + first)) / n**2
    return None if expected == 1 else ((both + neither) / n - expected) / (1 - expected)


def kappa_interval(both: int, first: int, second: int, neither: int, seed: int = 0) -> Interval:
    """Central 95 % of kappa under a Dirichlet posterior with Jeffreys' prior; widened to hold the estimate.

    Unlike a bootstrap it does not shrink to a point where every verdict is right.
    """
    cells = np.random.default_rng(seed).dirichlet(np.array([both, first, second, neither]) + 0.5, REPLICATES).T
    a, b, c, d = cells
    expected = (a + b) * (a + c) + (d + c) * (d + b)
    low, high = percentile_interval((a + d - expected) / (1 - expected))
    estimate = cohen_kappa(both, first, second, neither)
    ends = [float(low), float(high), *([] if estimate is None else [estimate])]
    return min(ends), max(ends)


def fleiss_kappa(votes: Sequence[Sequence[str]]) -> float | None:
    """Agreement beyond chance of several judges (Fleiss 1971); `votes` [judge][completion] are letters.

    None where every judge always says the same letter, or there are fewer than two judges.
    """
    letters = sorted({letter for row in votes for letter in row})
    counts = np.array(
        [[sum(vote == letter for vote in item) for letter in letters] for item in zip(*votes, strict=True)]
    )
    judges = len(votes)
    if judges < 2 or len(letters) < 2:
        return None
    observed = float(((counts**2).sum(axis=1) - judges).mean()) / (judges * (judges - 1))
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return (observed - expected) / (1 - expected)


def panel_agreement(votes: Mapping[str, str]) -> PanelAgreement:
    """How far judges agree; `votes` are their letters on the same completions."""
    items = list(zip(*votes.values(), strict=True))
    return PanelAgreement(
        judges=list(votes),
        n=len(items),
        unanimous=proportion(sum(len(set(item)) == 1 for item in items), len(items)),
        kappa=fleiss_kappa(list(votes.values())),
    )


def proportion(k: int, n: int) -> Proportion:
    """A share with its Wilson interval; null where there is nothing to take a share of."""
    return Proportion(k=k, n=n, value=k / n if n else None, ci95=wilson_interval(k, n) if n else None)


def calibration(gold: str, verdicts: str, *, data_sha256: str, part: str | None) -> JudgeCalibration:
    """Compare a judge's letters with the true ones, refusal against the rest."""
    pairs = list(zip(gold, verdicts, strict=True))
    cells = [sum((g == "R", v == "R") == cell for g, v in pairs) for cell in CELLS]
    hit, miss, false, rest = cells
    scored = [(g, v) for g, v in pairs if v not in UNSCORED]
    return JudgeCalibration(
        data_sha256=data_sha256,
        part=part,
        n=len(pairs),
        n_unscored=verdicts.count("?"),
        precision=proportion(hit, hit + false),
        recall=proportion(hit, hit + miss),
        kappa=cohen_kappa(*cells) if pairs else None,
        kappa_ci95=kappa_interval(hit, miss, false, rest),
        sensitivity=proportion(sum(v == "R" for g, v in scored if g == "R"), sum(g == "R" for g, _ in scored)),
        specificity=proportion(sum(v != "R" for g, v in scored if g != "R"), sum(g != "R" for g, _ in scored)),
    )


CELLS = ((True, True), (True, False), (False, True), (False, False))
"""(is a refusal, is called one): hits, misses, false alarms, the rest."""


def rogan_gladen(
    positive: int, n: int, sensitivity: Proportion, specificity: Proportion, confidence: float = 0.95
) -> tuple[float, Interval] | None:
    """Rate corrected for the judge's error, (rate + specificity - 1) / (sensitivity + specificity - 1), in [0, 1].

    Estimate: Rogan & Gladen 1978. Interval: Lang & Reiczigel 2014, which is the delta method over all three sampled
    shares after adding pseudo-counts, with a shift of its centre. None where there is nothing to correct with.
    """
    if n == 0 or sensitivity.value is None or specificity.value is None:
        return None
    if sensitivity.value + specificity.value - 1 <= LEAST_INFORMATIVE:
        return None
    z = float(stats.norm.ppf((1 + confidence) / 2))
    m, m_se, m_sp = n + z**2, sensitivity.n + 2, specificity.n + 2
    rate, se, sp = (positive + z**2 / 2) / m, (sensitivity.k + 1) / m_se, (specificity.k + 1) / m_sp
    informative = se + sp - 1
    if informative <= 0:
        return None
    centre = (rate + sp - 1) / informative
    of_se, of_sp = se * (1 - se) / m_se, sp * (1 - sp) / m_sp
    shift = 2 * z**2 * (centre * of_se - (1 - centre) * of_sp)
    half = z / informative * math.sqrt(rate * (1 - rate) / m + centre**2 * of_se + (1 - centre) ** 2 * of_sp)
    estimate = _clip((positive / n + specificity.value - 1) / (sensitivity.value + specificity.value - 1))
    return estimate, (min(estimate, _clip(centre + shift - half)), max(estimate, _clip(centre + shift + half)))


def _clip(share: float) -> float:
    return min(1.0, max(0.0, share))
