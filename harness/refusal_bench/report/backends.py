"""Figures of what other backends gave: whether vLLM runs the same model, and what an endpoint answered."""

from __future__ import annotations

from refusal_bench.record import Condition, Parity, Record, Served
from refusal_bench.report.figure import Cell, Figure, cell
from refusal_bench.words import number, shown

CONDITIONS = {"baseline": "nothing done", "ablated": "subspace ablated", "added": "vector added"}


def parity_figure(parity: Parity | None) -> Figure | None:
    """Largest difference of next-token log-probabilities by intervention, a table."""
    if parity is None:
        return None
    rows = [
        [Cell(CONDITIONS.get(name, name)), Cell("infinite") if value is None else cell(value, digits=4)]
        for name, value in parity.max_abs_diff.items()
    ]
    if parity.passed:
        outcome = f"Passed: {parity.backend} wrote the text of all conditions."
    else:
        outcome = f"Not passed, so the hook backend wrote all text: {parity.reason}."
    caption = (
        f"Next-token log-probabilities of {parity.backend} against those of the hook backend on {parity.n_prompts} "
        f"prompts of different lengths; up to {number(parity.tolerance, 3)} nats may differ."
    )
    header = ["intervention", "largest difference (nats)"]
    return Figure("parity", "Is it the same model?", caption, [], header, rows, notes=[outcome])


def served_figure(record: Record, served: Served | None) -> Figure | None:
    """Refusal rates of an endpoint's answers by domain, a table."""
    if served is None:
        return None
    rows = [
        [Cell(label), *_answers(task.harmful), *_answers(task.harmless)]
        for label, task in zip(shown(record, list(served.tasks)), served.tasks.values(), strict=True)
    ]
    caption = (
        f"Unmodified answers of {served.model} at the endpoint. It may serve other weights or another chat template, "
        "so they are contrasted with no other number here."
    )
    cost = (
        f"{served.requests:,} requests, {served.prompt_tokens:,} prompt tokens, {served.completion_tokens:,} completion"
        " tokens, as the endpoint counts them."
    )
    header = ["domain", "harmful refused [95 %]", "scored", "harmless refused [95 %]", "scored"]
    return Figure("served", "Answers of the endpoint", caption, [], header, rows, notes=[cost])


def _answers(condition: Condition) -> list[Cell]:
    n = condition.n - condition.n_unscored
    return [cell(condition.rate, condition.ci95, share=True), Cell(f"{n} of {condition.n}", (n,))]
