"""Figures of what comes with refusal: safe prompts that are refused as well, and what the interventions break."""

from __future__ import annotations

from markupsafe import Markup

from refusal_bench.record import Condition, Proportion, Record
from refusal_bench.report.behaviour import HARMFUL, HARMLESS, share_text
from refusal_bench.report.charts import Dot, forest
from refusal_bench.report.figure import Cell, Figure, cell, words
from refusal_bench.words import DASH, shown


def over_refusal_figure(record: Record) -> Figure | None:
    """Refusal of safe prompts that look dangerous, and of unsafe contrasts, by type."""
    found = record.results.over_refusal
    if found is None:
        return None
    whole = {name: _proportion(condition) for name, condition in found.refusal}
    by_type = {"all types": whole, **{kind.replace("_", " "): rates for kind, rates in found.by_type.items()}}

    def drawn(conditions: dict[str, tuple[str, str]], what: str) -> Markup:
        """One panel: a row a type, a dot a condition."""
        rows = [
            (
                kind,
                [
                    _share_dot(rates[name], style, f"{kind}, {what}, {title}")
                    for name, (title, style) in conditions.items()
                ],
            )
            for kind, rates in by_type.items()
        ]
        keys = [(style, title) for title, style in conditions.values()]
        return forest(f"Refusal of {what} prompts by type", rows, keys, f"{what} prompts refused %", (0, 1))

    columns = [(name, title, "safe") for name, (title, _) in HARMLESS.items()]
    columns += [(name, title, "unsafe") for name, (title, _) in HARMFUL.items()]
    table = [
        [Cell(kind), *(cell(rates[name].value, rates[name].ci95, share=True) for name, _, _ in columns)]
        for kind, rates in by_type.items()
    ]
    safe, unsafe = whole["baseline_harmless"].n, whole["baseline_harmful"].n
    caption = (
        f"{safe} safe prompts that look dangerous, which should be answered, and {unsafe} unsafe contrasts. The "
        f"direction is the one that the domains share, added at layer {found.layer}. Lines are 95 % intervals."
    )
    header = ["type", *(f"{what}, {title}" for _, title, what in columns)]
    panels = [drawn(HARMLESS, "safe"), drawn(HARMFUL, "unsafe")]
    return Figure("over-refusal", "Over-refusal by type", caption, panels, header, table, wide=True)


def _proportion(condition: Condition) -> Proportion:
    n = condition.n - condition.n_unscored
    return Proportion(k=condition.labels.count("R"), n=n, value=condition.rate, ci95=condition.ci95)


def _share_dot(share: Proportion, style: str, what: str) -> Dot:
    return Dot(share.value, share.ci95, style, f"{what}: {share_text(share)}")


def damage_figure(record: Record) -> Figure | None:
    """What the interventions break beside refusal, as a table."""
    tasks = record.results.tasks
    if all(task.damage.degenerate is None for task in tasks.values()):
        return None
    rows = []
    for label, task in zip(shown(record, list(tasks)), tasks.values(), strict=True):
        damage, neutral, broken = task.damage, task.damage.neutral, task.damage.degenerate or {}
        rows.append(
            [
                Cell(label),
                cell(damage.kl_harmless, digits=3),
                cell(damage.kl_added, digits=3),
                cell(damage.loss_delta, digits=3),
                *(
                    [
                        cell(neutral.baseline),
                        cell(neutral.ablated_rise, neutral.ablated_rise_ci95),
                        cell(neutral.added_rise, neutral.added_rise_ci95),
                    ]
                    if neutral is not None
                    else words(DASH, DASH, DASH)
                ),
                *(cell(broken[name].value, broken[name].ci95, share=True) for name in {**HARMFUL, **HARMLESS}),
            ]
        )
    known = next((task.damage.neutral for task in tasks.values() if task.damage.neutral is not None), None)
    text = "" if known is None else f" Neutral text: {known.n_passages} passages, {known.n_tokens} tokens."
    caption = (
        "KL of the first answer token and the rise of the loss on the model's own answers, harmless prompts, nats; the "
        "rise of the loss on neutral text, nats a token; completions that are loops or gibberish. Adding a direction "
        f"is meant to change the first token.{text}"
    )
    header = [
        *("domain", "KL, ablated", "KL, added", "own answers, ablated"),
        *("neutral text, nothing done", "rise, ablated [95 %]", "rise, added [95 %]"),
        *(f"degenerate, harmful, {title}" for title, _ in HARMFUL.values()),
        *(f"degenerate, harmless, {title}" for title, _ in HARMLESS.values()),
    ]
    return Figure("damage", "What the interventions break", caption, [], header, rows, wide=True)
