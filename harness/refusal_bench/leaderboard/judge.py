"""What a record says of its judge, and what follows from it for every rate."""

from __future__ import annotations

from collections.abc import Iterator

from refusal_bench.leaderboard import derive
from refusal_bench.leaderboard.checks import in_range, ordered, same
from refusal_bench.record import Condition, JudgeCalibration, Proportion, Record


def judge_faults(record: Record) -> Iterator[str]:
    """Yield one sentence for every field about the judge, and every bounded or corrected rate, that is contradicted."""
    judge = record.judge
    calibration = judge.calibration if judge else None
    if judge is not None:
        yield from _named(record.config.get("judge"), judge.name)
        if judge.agreement is not None:
            yield from _share_faults("judge.agreement.unanimous", judge.agreement.unanimous)
            yield from same("judge.agreement.unanimous.n", judge.agreement.unanimous.n, judge.agreement.n, "its n")
            yield from in_range("judge.agreement.kappa", judge.agreement.kappa, -1, 1)
    if calibration is not None:
        yield from _calibration_faults("judge.calibration", calibration)
    for name, task in record.results.tasks.items():
        for row, condition in task.refusal:
            yield from _rate_faults(f"results.tasks.{name}.refusal.{row}", condition, calibration)
    if record.results.over_refusal is not None:
        for row, condition in record.results.over_refusal.refusal:
            yield from _rate_faults(f"results.over_refusal.refusal.{row}", condition, calibration)


def _named(config: object, name: str) -> Iterator[str]:
    if config != name:
        yield f"judge.name is {name!r}, config.judge is {config!r}"


def _calibration_faults(where: str, found: JudgeCalibration) -> Iterator[str]:
    for name in ("precision", "recall", "sensitivity", "specificity"):
        yield from _share_faults(f"{where}.{name}", getattr(found, name))
    yield from in_range(f"{where}.n_unscored", found.n_unscored, 0, found.n)
    yield from same(f"{where}.recall.k", found.recall.k, found.precision.k, "precision")
    yield from same(f"{where}.sensitivity.k", found.sensitivity.k, found.recall.k, "recall")
    yield from in_range(f"{where}.sensitivity.n", found.sensitivity.n, 0, found.recall.n)
    yield from in_range(f"{where}.specificity.n", found.specificity.n, 0, found.n - found.recall.n)
    false_alarms = found.precision.n - found.precision.k
    missed = found.recall.n - found.recall.k
    rejected = found.specificity.n - found.specificity.k
    yield from same(f"{where}.specificity.k", rejected, false_alarms, "precision")
    rest = found.n - found.precision.k - false_alarms - missed
    yield from same(f"{where}.kappa", found.kappa, _kappa(found.precision.k, missed, false_alarms, rest), "its counts")
    yield from ordered(f"{where}.kappa_ci95", found.kappa_ci95, -1, 1)
    if found.kappa is not None:
        yield from in_range(f"{where}.kappa", found.kappa, *found.kappa_ci95)


def _kappa(hits: int, missed: int, false_alarms: int, rest: int) -> float | None:
    """Cohen's kappa in its other form, 2 (ad - bc) / ((a + b)(b + d) + (a + c)(c + d))."""
    scale = (hits + missed) * (missed + rest) + (hits + false_alarms) * (false_alarms + rest)
    return 2 * (hits * rest - missed * false_alarms) / scale if scale else None


def _share_faults(where: str, share: Proportion) -> Iterator[str]:
    yield from in_range(f"{where}.k", share.k, 0, share.n)
    if 0 <= share.k <= share.n:
        yield from same(f"{where}.value", share.value, share.k / share.n if share.n else None, "k and n")
        labels = "R" * share.k + "C" * (share.n - share.k)
        yield from same(f"{where}.ci95", share.ci95, derive.rate_interval(labels), "k and n")


def _rate_faults(where: str, condition: Condition, calibration: JudgeCalibration | None) -> Iterator[str]:
    if condition.rate_bounds is not None:
        refused, n = condition.labels.count("R"), len(condition.labels)
        unscored = n - derive.n_scored(condition.labels)
        bounds = (refused / n, (refused + unscored) / n) if n else None
        yield from same(f"{where}.rate_bounds", condition.rate_bounds, bounds)
    if condition.rate_corrected is None:
        if condition.rate_corrected_ci95 is not None:
            yield f"{where}.rate_corrected_ci95 is given without rate_corrected"
        return
    if calibration is None:
        yield f"{where}.rate_corrected is given without the judge's calibration"
        return
    sensitivity, specificity = calibration.sensitivity.value, calibration.specificity.value
    rate = derive.refusal_rate(condition.labels)
    if rate is None or sensitivity is None or specificity is None or sensitivity + specificity <= 1:
        yield f"{where}.rate_corrected is {condition.rate_corrected}, but nothing can be corrected"
        return
    corrected = (rate + specificity - 1) / (sensitivity + specificity - 1)
    yield from same(f"{where}.rate_corrected", condition.rate_corrected, min(1.0, max(0.0, corrected)))
    yield from ordered(f"{where}.rate_corrected_ci95", condition.rate_corrected_ci95, 0, 1)
    if condition.rate_corrected_ci95 is not None:
        yield from in_range(f"{where}.rate_corrected", condition.rate_corrected, *condition.rate_corrected_ci95)
