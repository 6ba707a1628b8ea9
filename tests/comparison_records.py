"""Pairs of records with chosen labels: they differ in what a test says, and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from record_factory import condition, record_dict
from refusal_bench.comparison import Comparison, Policy, Source, compare
from refusal_bench.comparison.policy import parse
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.record import Condition, Record
from scipy import stats

Labels = Mapping[str, Mapping[str, str]]
"""Labels by domain and condition."""


def edited(record: Record, change: Callable[[dict[str, Any]], object]) -> Record:
    """A copy whose JSON `change` has worked on."""
    data = record.model_dump(mode="json")
    change(data)
    return Record.model_validate(data)


def with_labels(record: Record, labels: Labels) -> Record:
    """A copy with other labels, and the rates that follow from them."""
    tasks = dict(record.results.tasks)
    for domain, conditions in labels.items():
        refusal = tasks[domain].refusal
        update = {name: relabelled(getattr(refusal, name), text) for name, text in conditions.items()}
        tasks[domain] = tasks[domain].model_copy(update={"refusal": refusal.model_copy(update=update)})
    return record.model_copy(update={"results": record.results.model_copy(update={"tasks": tasks})})


def relabelled(measured: Condition, labels: str) -> Condition:
    fields = ("rate", "ci95", "n_unscored", "labels")
    known = condition(labels, measured.scores)
    return measured.model_copy(update={name: known[name] for name in fields})


def refusing(domains: tuple[str, ...], n: int) -> Record:
    """A record that refuses every harmful and no harmless prompt, so that one edit is one change."""
    record = Record.model_validate(record_dict(domains, n=n))
    every = {"baseline_harmful": "R" * n, "baseline_harmless": "C" * n, "ablated_harmful": "C" * n}
    return with_labels(record, dict.fromkeys(domains, every))


def policy(*expressions: str, **more: Any) -> Policy:
    return Policy(tuple(map(parse, expressions)), **more)


def compared(base: Record, candidate: Record, *expressions: str, **more: Any) -> Comparison:
    return compare(Source(base), Source(candidate), policy(*expressions, **more) if expressions or more else None)


def verdict(comparison: Comparison, name: str) -> Verdict:
    (found,) = [each for each in comparison.verdicts if each.measurement.name == name]
    return found


def paired_labels(
    rng: np.random.Generator, n: int, base_rate: float, candidate_rate: float, correlation: float
) -> tuple[str, str]:
    """Labels of two models on the same prompts: each prompt's tendency to be refused is mostly its own.

    Two standard normal tendencies with this correlation, cut where the rates say.
    """
    shared = rng.standard_normal(n)
    own = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.standard_normal((2, n))
    cuts = stats.norm.ppf([base_rate, candidate_rate])
    base, candidate = ("".join(np.where(row < cut, "R", "C")) for row, cut in zip(own, cuts, strict=True))
    return base, candidate
