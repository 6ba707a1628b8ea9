"""Figures of what the model does: refusal before and after, which candidates were chosen, how far the judge errs."""

from __future__ import annotations

from refusal_bench.record import Condition, Proportion, Record
from refusal_bench.report.charts import Dot, forest
from refusal_bench.report.figure import Cell, Figure, cell, words
from refusal_bench.report.shapes import candidates
from refusal_bench.report.svg import said
from refusal_bench.words import DASH, number, percent, shown, token_at

HARMFUL = {"baseline_harmful": ("nothing done", "c7 dot"), "ablated_harmful": ("direction ablated", "c0 dot")}
HARMLESS = {
    "baseline_harmless": ("nothing done", "c7 dot"),
    "ablated_harmless": ("direction ablated", "c0 dot"),
    "added_harmless": ("direction added", "c1 dot"),
}


def refusal_figure(record: Record) -> Figure:
    """Refusal with and without each domain's own direction, on harmful and on harmless prompts."""
    tasks = record.results.tasks
    names = shown(record, list(tasks))

    def rows(conditions: dict[str, tuple[str, str]], what: str) -> list[tuple[str, list[Dot]]]:
        return [
            (
                label,
                [
                    _dot(getattr(task.refusal, name), style, f"{label}, {what}, {title}")
                    for name, (title, style) in conditions.items()
                ],
            )
            for label, task in zip(names, tasks.values(), strict=True)
        ]

    panels = [
        forest(
            "Refusal of harmful held-out prompts by domain, before and after ablation",
            rows(HARMFUL, "harmful"),
            [(style, title) for title, style in HARMFUL.values()],
            "harmful prompts refused %",
            (0, 1),
        ),
        forest(
            "Refusal of harmless held-out prompts by domain: over-refusal, then ablation and addition",
            rows(HARMLESS, "harmless"),
            [(style, title) for title, style in HARMLESS.values()],
            "harmless prompts refused %",
            (0, 1),
        ),
    ]
    conditions = {
        **{name: f"harmful, {title}" for name, (title, _) in HARMFUL.items()},
        **{name: f"harmless, {title}" for name, (title, _) in HARMLESS.items()},
    }
    table = [
        [
            Cell(label),
            *(_rate(getattr(task.refusal, name)) for name in conditions),
            _scored(task.refusal.baseline_harmful),
        ]
        for label, task in zip(names, tasks.values(), strict=True)
    ]
    caption = (
        "Left: ablating a domain's direction should move harmful prompts from refused to answered. Right: grey is "
        "over-refusal, harmless prompts refused with nothing done; adding the direction should make the model refuse "
        "them, ablating it should not. Lines are 95 % intervals."
    )
    header = ["domain", *conditions.values(), "harmful prompts scored"]
    return Figure("refusal", "Refusal on held-out prompts", caption, panels, header, table, wide=True)


def _dot(condition: Condition, style: str, what: str) -> Dot:
    tip = f"{what}: {said(condition.rate, *(condition.ci95 or ()), share=True)} of {condition.n - condition.n_unscored}"
    return Dot(condition.rate, condition.ci95, style, tip)


def _rate(condition: Condition) -> Cell:
    return cell(condition.rate, condition.ci95, share=True)


def _scored(condition: Condition) -> Cell:
    n = condition.n - condition.n_unscored
    return Cell(f"{n} of {condition.n}", (n,))


def directions_figure(record: Record) -> Figure:
    """The selected direction of every domain, as a table."""
    header = [
        *("domain", "status", "layer", "position", "norm", "bypass", "induce", "KL", "eligible"),
        *("reliability [95 % of splits]", "KL, held-out", "loss rise"),
    ]
    tasks = record.results.tasks
    rows = [
        [
            *words(name, task.status.replace("_", " ")),
            Cell(f"{task.direction.layer} of {record.model.n_layers}", (task.direction.layer,)),
            *words(token_at(task.direction, record.model)),
            *(cell(v) for v in (task.direction.norm, task.selection.bypass, task.selection.induce)),
            cell(task.selection.kl, digits=3),
            Cell(f"{task.selection.n_eligible} of {task.selection.n_candidates}", (task.selection.n_eligible,)),
            cell(task.reliability.split_half, task.reliability.split_half_ci95),
            cell(task.damage.kl_harmless, digits=3),
            cell(task.damage.loss_delta, digits=3),
        ]
        for name, task in zip(shown(record, list(tasks)), tasks.values(), strict=True)
    ]
    caption = (
        "Scores in nats on the selection split: bypass with the direction ablated, induce with it added, KL on "
        "harmless prompts."
    )
    notes = [f"{name}: {task.reason}" for name, task in tasks.items() if task.reason]
    return Figure("directions", "The selected directions", caption, [], header, rows, wide=True, notes=notes)


def selection_figure(record: Record) -> Figure | None:
    """Every candidate of every domain, bypass against KL, with the chosen one."""
    tasks = {name: task for name, task in record.results.tasks.items() if task.selection.table}
    if not tasks:
        return None
    labels = dict(zip(tasks, shown(record, list(tasks)), strict=True))
    panels = [
        candidates(
            f"Candidates of {name}: bypass against KL",
            labels[name],
            task.selection.table,
            task.direction,
            task.selection.baseline_harmful,
        )
        for name, task in tasks.items()
    ]
    rows = [
        [
            Cell(labels[name]),
            Cell(str(row.layer), (row.layer,)),
            Cell(number(row.position, 0), (row.position,)),
            Cell(("≥ " if row.kl_is_bound else "") + number(row.kl, 3), (row.kl,)),
            cell(row.bypass),
            cell(row.induce),
            Cell(
                "chosen"
                if (row.layer, row.position) == (task.direction.layer, task.direction.position)
                else row.rejected or DASH
            ),
        ]
        for name, task in tasks.items()
        for row in task.selection.table
    ]
    caption = (
        "A good candidate lies low (ablating it ends refusal) and to the left (harmless answers stay). The lowest "
        "eligible one is chosen; ticks at the bottom are candidates whose KL alone ruled them out, at its lower bound."
    )
    header = ["domain", "layer", "position", "KL", "bypass", "induce", "outcome"]
    return Figure("selection", "Which candidate was chosen", caption, panels, header, rows, wide=True)


def judge_figure(record: Record) -> Figure | None:
    """The judge's measured error, and rates corrected for it."""
    judge = record.judge
    if judge is None:
        return None
    notes = [f"Judge {judge.name}, version {judge.version}; languages: {', '.join(judge.languages)}."]
    measured = judge.calibration
    if measured is None:
        notes.append("Its error was not measured, so no rate is corrected.")
    else:
        part = f", part {measured.part}" if measured.part else ""
        notes.append(
            f"On {measured.n} labelled completions{part}: precision {_share(measured.precision)}, recall "
            f"{_share(measured.recall)}, Cohen's kappa {said(measured.kappa, *measured.kappa_ci95)}, "
            f"{measured.n_unscored} unscored; of those scored, sensitivity {_share(measured.sensitivity)}, specificity "
            f"{_share(measured.specificity)}."
        )
    if judge.agreement is not None:
        panel = judge.agreement
        notes.append(
            f"Panel of {', '.join(panel.judges)}: one letter on {_share(panel.unanimous)}, Fleiss' kappa "
            f"{number(panel.kappa)} (n = {panel.n})."
        )
    conditions = {**HARMFUL, **HARMLESS}
    rows = []
    for label, task in zip(shown(record, list(record.results.tasks)), record.results.tasks.values(), strict=True):
        for name, (title, _) in conditions.items():
            given: Condition = getattr(task.refusal, name)
            corrected = cell(given.rate_corrected, given.rate_corrected_ci95, share=True)
            bounds = given.rate_bounds
            within = DASH if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"
            what = f"{name.rpartition('_')[2]}, {title}"
            rows.append([*words(label, what), _rate(given), corrected, Cell(within, bounds or (None, None))])
    caption = (
        "Rates corrected for the judge's sensitivity and specificity, with intervals that include their uncertainty. "
        "Bounds: if none or all of the unscored answers had been refusals."
    )
    header = ["domain", "condition", "as judged [95 %]", "corrected [95 %]", "bounds"]
    return Figure("judge", "The judge's error", caption, [], header, rows, wide=True, notes=notes)


def _share(of: Proportion) -> str:
    return f"{said(of.value, *(of.ci95 or ()), share=True)} ({of.k} of {of.n})"
