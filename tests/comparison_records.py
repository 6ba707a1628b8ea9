"""Pairs of records with chosen labels: they differ in what a test says, and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from record_factory import Draw, by_type, condition, over_refusal, record_dict
from refusal_bench.comparison import Comparison, Policy, Source, compare
from refusal_bench.comparison.policy import parse
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.record import Condition, OverRefusal, Record
from scipy import stats

Labels = Mapping[str, Mapping[str, str]]
"""Labels by domain (or `over_refusal`) and condition."""

SECTIONS = ("layers", "cross_domain", "subspace")
"""All but `over_refusal`."""


def edited(record: Record, change: Callable[[dict[str, Any]], object]) -> Record:
    """A copy whose JSON `change` has worked on."""
    data = record.model_dump(mode="json")
    change(data)
    return Record.model_validate(data)


def with_labels(record: Record, labels: Labels) -> Record:
    """A copy with other labels, and the rates that follow from them."""
    results = record.results
    tasks = {**results.tasks, "over_refusal": results.over_refusal}
    for name, conditions in labels.items():
        refusal = tasks[name].refusal
        update = {key: relabelled(getattr(refusal, key), text) for key, text in conditions.items()}
        tasks[name] = tasks[name].model_copy(update={"refusal": refusal.model_copy(update=update)})
    apart = tasks.pop("over_refusal")
    return record.model_copy(update={"results": results.model_copy(update={"tasks": tasks, "over_refusal": apart})})


def relabelled(measured: Condition, labels: str) -> Condition:
    fields = ("rate", "ci95", "n_unscored", "labels")
    known = condition(labels, measured.scores)
    return measured.model_copy(update={name: known[name] for name in fields})


def refusing(domains: tuple[str, ...], n: int) -> Record:
    """A record that refuses every harmful and no harmless prompt, so that one edit is one change."""
    record = Record.model_validate(record_dict(domains, n=n, sections=SECTIONS))
    every = {"baseline_harmful": "R" * n, "baseline_harmless": "C" * n, "ablated_harmful": "C" * n}
    return with_labels(record, dict.fromkeys(domains, every))


def with_contrasts(record: Record, safe: str, unsafe: str = "RRRRR", **about: Any) -> Record:
    """A copy with a section `over_refusal` whose prompts are answered like this without intervention."""
    section = over_refusal(Draw(0, len(safe)), Draw(1, len(unsafe)))
    for name, labels in (("baseline_harmless", safe), ("baseline_harmful", unsafe)):
        section["refusal"][name] = condition(labels, [0.0] * len(labels))
    section["by_type"] = by_type(section["refusal"], section["types"])
    apart = OverRefusal.model_validate(section | about)
    return record.model_copy(update={"results": record.results.model_copy(update={"over_refusal": apart})})


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
