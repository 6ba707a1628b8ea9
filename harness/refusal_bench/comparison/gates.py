"""Which checks fail: each expression against the measurements it names, all together at one level.

Weighted Holm procedure (Holm 1979): every check has a weight, an expression's is shared by the domains it stands for.
The smallest p / weight is tested first, at its share of alpha among the checks that are left; what fails leaves its
share to the others. A check's bound is taken at the level it was tested at, so that it fails exactly when its bound
lies beyond its threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from refusal_bench.comparison.pairing import CONDITIONS, Measurement
from refusal_bench.comparison.policy import Expression, Policy
from refusal_bench.errors import InputError


@dataclass(frozen=True)
class Check:
    """One expression on one measurement, decided."""

    expression: Expression
    """What must not happen."""
    measurement: Measurement
    """What it was looked up in."""
    weight: float
    """Its part of alpha, relative to the others'."""
    p: float
    """One-sided p-value that the difference lies beyond the threshold."""
    p_adjusted: float
    """The same, corrected for all checks: it fails where this is at most alpha."""
    level: float
    """Level it was tested at."""
    bound: float
    """Confidence bound of the difference at that level: upper for `<`, lower for `>`."""
    failed: bool
    """The data show that it happened."""


def unanswerable(
    policy: Policy, measurements: Mapping[str, Measurement], common: Sequence[str], known: Collection[str]
) -> list[str]:
    """Return a sentence for each check that these records cannot answer; InputError for a domain in neither of them."""
    sentences = []
    for expression in policy.expressions:
        if expression.domain not in (None, "*", *known):
            raise InputError(
                f"'{expression.text}': neither record has a domain {expression.domain!r}; there are {', '.join(known)}."
            )
        sentences += [
            f"“{expression.text}” cannot be checked: {name} is not measured in both records"
            for name in _names(expression, common)
            if name not in measurements
        ]
    return sentences


def applicable(policy: Policy, measurements: Mapping[str, Measurement]) -> Policy:
    """Return the policy without those of its expressions that wait for a measurement which is not there."""
    kept = (each for each in policy.expressions if not each.if_measured or each.pattern in measurements)
    return replace(policy, expressions=tuple(kept))


def decide(policy: Policy, measurements: Mapping[str, Measurement], common: Sequence[str]) -> list[Check]:
    """Decide every check of a policy, in its order; all of them must be answerable."""
    pending: dict[tuple[str, str, float], Check] = {}
    for expression in policy.expressions:
        names = _names(expression, common)
        for name in names:
            check = _open(expression, measurements[name], expression.weight / len(names))
            same = pending.get(key := (name, expression.side, expression.threshold))
            pending[key] = replace(same, weight=same.weight + check.weight) if same else check
    return _holm(list(pending.values()), policy.alpha)


def _names(expression: Expression, common: Sequence[str]) -> list[str]:
    """Measurements that an expression stands for; where there is one domain, all together is that domain."""
    pattern = expression.pattern
    if expression.domain == "*":
        return [pattern.replace("*", name) for name in common]
    if expression.domain is None and expression.group in CONDITIONS and len(common) == 1:
        return [f"{expression.group}.{common[0]}.{expression.quantity}"]
    return [pattern]


def _open(expression: Expression, measurement: Measurement, weight: float) -> Check:
    evidence = measurement.evidence
    p = evidence.p_below(expression.threshold) if expression.side == "<" else evidence.p_above(expression.threshold)
    return Check(expression, measurement, weight, p, p_adjusted=1.0, level=0.0, bound=0.0, failed=False)


def _holm(checks: list[Check], alpha: float) -> list[Check]:
    decided: dict[int, Check] = {}
    left = tested = sum(check.weight for check in checks)
    adjusted = 0.0
    for i in sorted(range(len(checks)), key=lambda i: (checks[i].p / checks[i].weight, i)):
        check = checks[i]
        adjusted = min(1.0, max(adjusted, check.p * left / check.weight))
        failed = adjusted <= alpha
        level = alpha * check.weight / tested
        evidence = check.measurement.evidence
        bound = evidence.upper(level) if check.expression.side == "<" else evidence.lower(level)
        decided[i] = replace(check, p_adjusted=adjusted, level=level, bound=bound, failed=failed)
        left -= check.weight
        if failed:  # only what failed leaves its share of the level to the others
            tested = left
    return [decided[i] for i in range(len(checks))]
