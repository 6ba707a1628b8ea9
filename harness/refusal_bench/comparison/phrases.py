"""How a comparison is written for people: in the console, in Markdown and in JUnit alike."""

from __future__ import annotations

from typing import Any

from refusal_bench.comparison.compare import Comparison
from refusal_bench.comparison.gates import Check
from refusal_bench.comparison.pairing import Measurement
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.record import Interval, Record
from refusal_bench.words import number, number_interval, percent, visible

COLUMNS = ("measured", "base", "candidate", "difference [95 %]", "n (needed)", "verdict")
CHECK_COLUMNS = ("check", "on", "difference", "bound", "level", "result")


def headline(comparison: Comparison) -> str:
    """The result in a sentence."""
    if comparison.obstacles:
        return f"not comparable: {'; '.join(visible(text) for text in comparison.obstacles)}"
    checks, failures = comparison.checks, comparison.failures
    if failures:
        return f"failed: {'; '.join(failure(check) for check in failures)}"
    return f"passed: no change for the worse is shown by {len(checks)} checks" if checks else "passed: no checks"


def title(record: Record) -> str:
    """Which record."""
    return visible(f"{record.model.id} ({record.run_id})")


def failure(check: Check) -> str:
    """What a failed check shows."""
    measured = check.measurement
    estimate, bound = (difference(measured, value) for value in (measured.evidence.estimate, check.bound))
    side = "at most" if check.expression.side == "<" else "at least"
    confidence = f"{100 * (1 - check.level):.1f} % confidence"
    return f"{measured.name} {estimate}, {side} {bound} with {confidence} (“{check.expression.text}”)"


def check_cells(check: Check) -> tuple[str, ...]:
    """A row of the checks' table."""
    measured = check.measurement
    return (
        visible(check.expression.text),
        visible(measured.name),
        difference(measured, measured.evidence.estimate),
        f"{'≤' if check.expression.side == '<' else '≥'} {difference(measured, check.bound)}",
        f"{100 * check.level:.2f} %",
        "FAILED" if check.failed else "passed",
    )


def measurement_cells(verdict: Verdict) -> tuple[str, ...]:
    """A row of the measurements' table."""
    measured = verdict.measurement
    return (
        visible(measured.name),
        level(measured, measured.base),
        level(measured, measured.candidate),
        interval(measured, verdict.ci95),
        f"{measured.n}" if verdict.n_enough is None else f"{measured.n} ({verdict.n_enough:,})",
        verdict.word,
    )


def verdict_words(verdict: Verdict) -> str:
    """The verdict, with the sample size that would be enough."""
    if verdict.n_enough is None:
        return verdict.word
    return f"{verdict.word}, n = {verdict.n_enough:,} would be enough"


def level(measured: Measurement, value: float) -> str:
    """A value in its unit."""
    return percent(value) if measured.unit == "rate" else number(value, 0 if measured.unit == "dimensions" else 2)


def difference(measured: Measurement, value: float) -> str:
    """A difference in its unit, with its sign; rates in points."""
    if measured.unit == "rate":
        return f"{_signed(100 * value, 1)} points"
    return _signed(value, 0 if measured.unit == "dimensions" else 2)


def interval(measured: Measurement, ends: Interval) -> str:
    """A difference with its interval; rates in points."""
    factor, digits = (100, 1) if measured.unit == "rate" else (1, 0 if measured.unit == "dimensions" else 2)
    estimate, low, high = (_signed(factor * value, digits) for value in (measured.evidence.estimate, *ends))
    return f"{estimate} [{low}, {high}]"


def similarity(found: dict[str, Any]) -> str:
    """How alike both models represent the same prompts."""
    base, candidate = (f"layer {found[side]['layer']}" for side in ("base", "candidate"))
    value = number_interval(found["cka"], found["ci95"])
    return (
        f"CKA {value} on the same {found['n_prompts']} train prompts, {base} of the base and {candidate} of the "
        "candidate (1: the same up to rotation and scale; 0: unrelated)"
    )


def _signed(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0  # no negative zero
    return f"{'+' if rounded > 0 else ''}{number(rounded, digits)}"
