"""Whether harmless prompts are a fair contrast: of the harmful prompts' topics, and each domain's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.statistics import Z95, jackknife_error
from refusal_bench.record import TopicControl

MIN_AGREEMENT = 0.5
"""Topic agreement that a matched contrast exceeds: half of what the harmful prompts' topics have in common."""


@dataclass(frozen=True)
class TopicAgreement:
    """How far the domains' harmless prompts differ from each other in the way their harmful prompts do."""

    value: float
    """Cosine between the domains' deviations from their mean, harmful against harmless, free of sampling noise."""
    ci95: tuple[float, float]
    has_topics: bool
    """Whether the harmful prompts of the domains differ at all beyond noise; without that the value says nothing."""

    @property
    def unmatched(self) -> bool:
        """Whether the harmless prompts are measurably not of the harmful prompts' topics."""
        return self.has_topics and self.ci95[1] < MIN_AGREEMENT


def topic_control(harmful: Sequence[ndarray], harmless: Sequence[ndarray]) -> TopicControl:
    """Flag harmless prompts that make cosines mean something else than refusal; rows are prompts, items are domains."""
    flags = {}
    agreement = topic_agreement(harmful, harmless)
    if shared_prompts(harmless):
        flags["shared_negatives"] = (
            "domains share harmless prompts, so their directions share the prompts' noise and topic; "
            "their cosines are too high (use a contrast with harmless prompts of each domain's own)"
        )
    if agreement.unmatched:
        flags["topic_confound"] = (
            "the harmless prompts are of other topics than the harmful ones, so the directions hold topic as well as "
            "refusal; low cosines here are no evidence of several refusal directions (use topic-matched pairs)"
        )
    return TopicControl(agreement=agreement.value, ci95=agreement.ci95, has_topics=agreement.has_topics, flags=flags)


def topic_agreement(
    harmful: Sequence[Float[ndarray, "pair d_model"]], harmless: Sequence[Float[ndarray, "pair d_model"]]
) -> TopicAgreement:
    """Compare topics on both sides: 1 for matched twins, 0 for harmless prompts of other topics or of one pool.

    A domain's topic is its mean less the mean of all domains. Inner products leave out pairs' products with themselves
    and their twins, so that neither prompt noise nor sub-topics enter; the interval is the jackknife's over pairs
    (Tukey 1958), one pair of every domain at a time. Where refusal itself differs between domains it counts as topic of
    the harmful side only, so the value is below 1 even for matched twins.
    """
    n = min(len(rows) for rows in harmful)
    sides = [np.stack([rows[:n].astype(float) for rows in side]) for side in (harmful, harmless)]
    k = len(sides[0])
    sums = [side.sum(axis=1) for side in sides]

    def form(left: int, right: int) -> ndarray:
        """Σ over domains of the inner products of deviations: for all pairs, then without each pair."""
        own = np.einsum("kpd,kpd->p", sides[left], sides[right])
        # Totals over domains enter through the mean of all domains; within a domain only distinct pairs count.
        across = sums[left].sum(0) @ sums[right].sum(0) - np.einsum("kd,kd->", sums[left], sums[right])
        within = np.einsum("kd,kd->", sums[left], sums[right]) - own.sum()
        touching = np.einsum("kpd,kd->p", sides[left], sums[right]) + np.einsum("kd,kpd->p", sums[left], sides[right])
        all_left = np.einsum("kpd,d->p", sides[left], sums[right].sum(0))
        all_right = np.einsum("kpd,d->p", sides[right], sums[left].sum(0))
        together = np.einsum("pd,pd->p", sides[left].sum(0), sides[right].sum(0)) - own
        less_within = within - touching + 2 * own
        less_across = across - (all_left + all_right - touching) + together
        within_all, across_all = np.append(within, less_within), np.append(across, less_across)
        m = np.append(n, np.full(n, n - 1))
        value: ndarray = (1 - 1 / k) * within_all / (m * (m - 1)) - across_all / (k * m**2)
        return value

    both, plus, minus = form(0, 1), form(0, 0), form(1, 1)
    # Harmless prompts of one pool have no topics of their own: the scale is then the harmful side's.
    scale = np.sqrt(np.maximum(plus, 0) * np.maximum(minus, 0.01 * np.maximum(plus, 0)))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(scale > 0, both / scale, 0.0)
    half = Z95 * jackknife_error(values[1:])
    return TopicAgreement(
        value=float(np.clip(values[0], -1, 1)),
        ci95=(float(np.clip(values[0] - half, -1, 1)), float(np.clip(values[0] + half, -1, 1))),
        has_topics=bool(plus[0] > Z95 * jackknife_error(plus[1:])),
    )


def shared_prompts(harmless: Sequence[Float[ndarray, "pair d_model"]]) -> bool:
    """Whether two domains are measured against the same harmless prompts: equal residuals are equal prompts."""
    seen: set[bytes] = set()
    for rows in harmless:
        mine = {row.tobytes() for row in rows}
        if seen & mine:
            return True
        seen |= mine
    return False
