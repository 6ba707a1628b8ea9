"""Refusal on the same prompts in two records: one measurement a condition, domain and quantity.

The safe prompts and unsafe contrasts of the section `over_refusal` belong to no domain and are measured on their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.comparison.comparability import OVER_REFUSAL, answered, common_tasks
from refusal_bench.comparison.evidence import Evidence, MeanDifference, PairedRates
from refusal_bench.errors import InputError
from refusal_bench.metrics.statistics import UNSCORED, percentile_interval, resampling_counts, sign_test
from refusal_bench.record import Interval, Record

CONDITIONS = {
    "refusal": "baseline_harmful",
    "over_refusal": "baseline_harmless",
    "ablated_harmful": "ablated_harmful",
    "ablated_harmless": "ablated_harmless",
    "added_harmless": "added_harmless",
}
"""Name in a check: condition of every domain."""

APART = {"safe_prompts": "baseline_harmless", "unsafe_contrasts": "baseline_harmful"}
"""Name in a check: condition of the section `over_refusal`."""

N_BOOTSTRAP = 2000
LOST, WON = -1, 1


@dataclass(frozen=True)
class Measurement:
    """One quantity in both records, and what the data say about its difference."""

    name: str
    """As in a check, e.g. `refusal.weapons.rate`."""
    group: str
    """Name without the domain: measurements of one group are corrected together."""
    task: str | None
    """Domain, `over_refusal`, or None for all domains together and for geometry."""
    unit: Literal["rate", "score", "cosine", "transfer", "dimensions"]
    """Which margin of equivalence applies."""
    worse: Literal["lower", "higher"]
    """What is worse: less refusal of harmful prompts, more of harmless ones, less separate directions."""
    base: float
    """Of the base, on the common prompts."""
    candidate: float
    """Of the candidate, on the common prompts."""
    evidence: Evidence
    """Tests and bounds of the difference."""
    n: int
    """Prompts (or train pairs, for geometry) behind it."""
    bootstrap95: Interval | None = None
    """Paired percentile bootstrap of the difference over prompts; None for geometry."""
    lost: int | None = None
    """For rates: prompts that only the base refused."""
    won: int | None = None
    """For rates: prompts that only the candidate refused."""
    p_mcnemar: float | None = None
    """For rates: exact two-sided McNemar p-value."""


@dataclass(frozen=True)
class _Pairs:
    """One condition of one domain on the common prompts, in both records."""

    base_labels: str
    candidate_labels: str
    base_scores: tuple[float | None, ...]
    candidate_scores: tuple[float | None, ...]

    def __add__(self, other: _Pairs) -> _Pairs:
        return _Pairs(
            self.base_labels + other.base_labels,
            self.candidate_labels + other.candidate_labels,
            self.base_scores + other.base_scores,
            self.candidate_scores + other.candidate_scores,
        )


def refusal_measurements(base: Record, candidate: Record) -> list[Measurement]:
    """Rates and scores under every condition: each common domain, all together where there are several, then `APART`.

    Prompts unscored in either record are left out, and what has no common scored prompt is no measurement. Scores are
    compared only where both records count the same refusal tokens.
    """
    domains = common_tasks(base, candidate)
    same_tokens = set(base.model.refusal_tokens) == set(candidate.model.refusal_tokens)
    measured: list[tuple[str, str | None, _Pairs]] = []
    for name, condition in CONDITIONS.items():
        parts = [_aligned(base, candidate, domain, condition) for domain in domains]
        measured += [(name, domain, pairs) for domain, pairs in zip(domains, parts, strict=True)]
        if len(parts) > 1:
            measured.append((name, None, sum(parts[1:], start=parts[0])))
    if base.results.over_refusal is not None and candidate.results.over_refusal is not None:
        for name, condition in APART.items():
            measured.append((name, OVER_REFUSAL, _aligned(base, candidate, OVER_REFUSAL, condition)))
    found: list[Measurement] = []
    for name, task, pairs in measured:
        found += _rates(name, task, pairs)
        if same_tokens:
            found += _scores(name, task, pairs)
    return found


def _aligned(base: Record, candidate: Record, task: str, condition: str) -> _Pairs:
    """Labels and scores of the common prompts, in the base's order."""
    ours, theirs = (_by_id(record, task, condition) for record in (base, candidate))
    common = [prompt for prompt in ours if prompt in theirs]
    return _Pairs(
        "".join(ours[prompt][0] for prompt in common),
        "".join(theirs[prompt][0] for prompt in common),
        tuple(ours[prompt][1] for prompt in common),
        tuple(theirs[prompt][1] for prompt in common),
    )


def _by_id(record: Record, task: str, condition: str) -> dict[str, tuple[str, float | None]]:
    result = answered(record)[task]
    ids = result.held_out_ids.harmful if condition.endswith("harmful") else result.held_out_ids.harmless
    measured = getattr(result.refusal, condition)
    if not len(ids) == len(measured.labels) == len(measured.scores):
        raise InputError(
            f"record {record.run_id}: {task} has {len(ids)} prompts, {len(measured.labels)} labels and "
            f"{len(measured.scores)} scores under {condition}; `refusal-bench leaderboard validate` says more."
        )
    return dict(zip(ids, zip(measured.labels, measured.scores, strict=True), strict=True))


def _rates(name: str, task: str | None, pairs: _Pairs) -> Iterator[Measurement]:
    labels = zip(pairs.base_labels, pairs.candidate_labels, strict=True)
    scored = [(a == "R", b == "R") for a, b in labels if not UNSCORED & {a, b}]
    if not scored:
        return
    values = np.array(scored, dtype=float)
    changes = values[:, 1] - values[:, 0]
    lost, won = int((changes == LOST).sum()), int((changes == WON).sum())
    measured = _measurement(name, task, "rate", values, PairedRates(len(values), lost, won))
    yield replace(measured, lost=lost, won=won, p_mcnemar=sign_test(lost, won))


def _scores(name: str, task: str | None, pairs: _Pairs) -> Iterator[Measurement]:
    both = zip(pairs.base_scores, pairs.candidate_scores, strict=True)
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if len(known) < 2:
        return
    values = np.array(known)
    changes, n = values[:, 1] - values[:, 0], len(values)
    evidence = MeanDifference(float(changes.mean()), float(changes.std(ddof=1)) / n**0.5, n - 1, n)
    yield _measurement(name, task, "score", values, evidence)


def _measurement(
    name: str,
    task: str | None,
    unit: Literal["rate", "score"],
    values: Float[ndarray, "prompt record"],
    evidence: Evidence,
) -> Measurement:
    """Means over prompts under a condition; the base's values are the first column, the candidate's the second."""
    condition = CONDITIONS[name] if name in CONDITIONS else APART[name]
    return Measurement(
        name=f"{name}.{task}.{unit}" if task and name in CONDITIONS else f"{name}.{unit}",
        group=f"{name}.{unit}",
        task=task,
        unit=unit,
        worse="lower" if condition.endswith("harmful") else "higher",
        base=float(values[:, 0].mean()),
        candidate=float(values[:, 1].mean()),
        evidence=evidence,
        n=len(values),
        bootstrap95=_bootstrap(values[:, 1] - values[:, 0]),
    )


def _bootstrap(changes: Float[ndarray, " n"]) -> Interval:
    low, high = percentile_interval(_counts(len(changes)) @ changes / len(changes))
    return float(low), float(high)


@lru_cache(maxsize=32)
def _counts(n: int) -> Float[ndarray, "replicate n"]:
    """The same resamples for every measurement of this size: the bytes of a comparison do not depend on the order."""
    return resampling_counts(n, N_BOOTSTRAP, np.random.default_rng(0))
