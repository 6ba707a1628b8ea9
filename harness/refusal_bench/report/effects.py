"""Figures of the finer causal tests, for records that hold them: effects, parts, doses, depth, dependence, mixtures.

These fields are optional in a record; every function here gives nothing where its field is absent or null.
"""

from __future__ import annotations

from refusal_bench.record import CrossDomain, Dependence, Dose, Effects, Mixed, Parts, Record, ScoredRows
from refusal_bench.report import charts
from refusal_bench.report.charts import HeatCell, Point, Series
from refusal_bench.report.figure import MANY, Cell, Figure, cell, cell_style, labelled
from refusal_bench.report.svg import colour, said
from refusal_bench.words import number, shown

TABLES = (
    ("ablated_harmful", "Score of harmful prompts, row ablated", "change of the refusal score"),
    ("ablated_harmless", "Score of harmless prompts, row ablated", "change of the refusal score"),
    ("added_harmless", "Score of harmless prompts, row added", "change of the refusal score"),
)


def effects_figures(record: Record, effects: Effects | None) -> list[Figure]:
    """Change of the score of every row, controls and parts included, one heat map a kind of prompt."""
    if effects is None:
        return []
    domains = list(record.results.cross_domain.domains) if record.results.cross_domain else []
    columns = shown(record, domains)
    figures = []
    for key, title, what in TABLES:
        of: ScoredRows = getattr(effects, key)
        marked = shown(record, of.rows)
        names = [f"{name} ({n})" if n > 1 else name for name, n in zip(marked, of.n_directions, strict=True)]
        most = max([1e-9, *(abs(v) for row in of.change for v in row if v is not None)])
        cells, rows = [], []
        for i, name in enumerate(names):
            line = []
            for j, column in enumerate(columns):
                change, ends = of.change[i][j], of.change_ci95[i][j]
                tip = f"{name}, {column} asked: score {number(of.score[i][j])}, {what} {said(change, *(ends or ()))}"
                tip += "" if of.share is None else f", share of the own drop {number(of.share[i][j])}"
                tip += "" if of.kl is None else f", KL {number(of.kl[i][j], 3)}"
                spread = () if ends is None else (f"{number(ends[0], 1)} to {number(ends[1], 1)}",)
                line.append(
                    HeatCell(change, (number(change, 1), *spread), tip, cell_style(record, of.rows[i], domains[j]))
                )
            cells.append(line)
            rows.append([cell(c, e) for c, e in zip(of.change[i], of.change_ci95[i], strict=True)])
        caption = (
            f"{what.capitalize()} in nats against the same prompts with nothing done; blue raises refusal, orange "
            "lowers it. Several directions behind a row: their number is in brackets."
        )
        notes = [f"Moved by random ablation beyond noise: {', '.join(effects.fragile)}."] if effects.fragile else []
        drawing = charts.heat(title, names, columns, cells, most=most)
        header = ["direction", *columns]
        figures.append(
            Figure(
                f"effects-{key}", title, caption, [drawing], header, labelled(names, rows), len(columns) > MANY, notes
            )
        )
    return figures


def summary_sentences(cross: CrossDomain | None) -> list[str]:
    """What the table of transfer says as a whole."""
    summary = cross.summary if cross is not None else None
    if summary is None:
        return []
    left_out = len(cross.domains) - summary.n_domains if cross is not None else 0
    note = f" It rests on {summary.n_domains} of {summary.n_domains + left_out} domains." if left_out else ""
    return [summary.sentence + note]


def parts_figure(record: Record, parts: dict[str, Parts] | None) -> Figure | None:
    """Necessity and sufficiency of shared and specific parts, a table."""
    if not parts:
        return None
    rows = []
    for label, (_, part) in zip(shown(record, list(parts)), parts.items(), strict=True):
        places = ((1, 0), (0, 1), (1, 1))
        rows.append(
            [Cell(label), *(cell(part.share[i][j], part.share_ci95[i][j]) for i, j in places), Cell(part.sentence)]
        )
    caption = "Drop of the score of a domain's own harmful prompts, as a share of the drop when both parts are ablated."
    header = ["domain", "shared ablated", "specific ablated", "both ablated", "in words"]
    return Figure("parts", "Shared and specific part of each direction", caption, [], header, rows, wide=True)


def dose_figure(record: Record, doses: dict[str, Dose] | None) -> Figure | None:
    """Score against the dose of a domain's own direction: added, and ablated."""
    if not doses:
        return None
    labels = dict(zip(doses, shown(record, list(doses)), strict=True))
    panels, rows = [], []
    wanted = (
        ("addition", "harmless", "multiples of the difference in means added"),
        ("ablation", "harmful", "share of the direction removed"),
    )
    for kind, prompts, x_title in wanted:
        series = []
        for i, (name, dose) in enumerate(doses.items()):
            of = getattr(dose, kind)
            values, ends = getattr(of, prompts), getattr(of, f"{prompts}_ci95")
            points = [
                Point(d, v, e, f"{labels[name]}, dose {number(d)}: score {said(v, *(e or ()))}, KL {number(kl, 3)}")
                for d, v, e, kl in zip(of.dose, values, ends, of.kl, strict=True)
            ]
            series.append(Series(labels[name], colour(i), points, {0.0}))
            rows += [
                [
                    Cell(labels[name]),
                    Cell(kind),
                    cell(d),
                    cell(of.harmful[p], of.harmful_ci95[p]),
                    cell(of.harmless[p], of.harmless_ci95[p]),
                    cell(of.kl[p], digits=3),
                ]
                for p, d in enumerate(of.dose)
            ]
        panels.append(charts.curves(f"Score by dose: {kind}", f"score of {prompts} prompts (nats)", x_title, series))
    notes = [f"{labels[name]}: {_dose_in_words(dose)}" for name, dose in doses.items()]
    caption = (
        "A smooth rise means the direction acts by degree; dose 0, the large marker, is the unmodified model, 1 a full "
        "addition or ablation."
    )
    header = ["domain", "intervention", "dose", "harmful [95 %]", "harmless [95 %]", "KL"]
    return Figure("dose", "Dose and response", caption, panels, header, rows, wide=True, notes=notes)


def _dose_in_words(dose: Dose) -> str:
    added, removed = (said(of.half_effect, *(of.half_effect_ci95 or ())) for of in (dose.addition, dose.ablation))
    affine = dose.affine
    return (
        f"half of the effect at dose {added} added, {removed} removed; ablated to the harmless mean (affine): score of "
        f"harmful prompts {number(affine.harmful)}, of harmless ones {number(affine.harmless)}, "
        f"KL {number(affine.kl, 3)}."
    )


def dependence_figure(record: Record, dependence: Dependence | None) -> Figure | None:
    """Heat map of representational dependence."""
    if dependence is None:
        return None
    names = shown(record, dependence.domains)
    most = max([1e-9, *(v for row in dependence.loss for v in row if v is not None)])
    table = [
        [cell(*pair, digits=4) for pair in zip(*row, strict=True)]
        for row in zip(dependence.loss, dependence.loss_ci95, strict=True)
    ]
    cells = [
        [
            HeatCell(
                v,
                (number(v, 3),),
                f"{names[i]} and {names[j]}: {said(v, *(dependence.loss_ci95[i][j] or ()))}",
                cell_style(record, dependence.domains[i], dependence.domains[j]),
            )
            for j, v in enumerate(row)
        ]
        for i, row in enumerate(dependence.loss)
    ]
    caption = (
        "Squared change of one direction's cosine with the stream when the other is ablated, both ways: 0 for "
        f"directions that do not disturb each other, which orthogonal ones still may. First "
        f"{dependence.n_layers} layers, {dependence.n_prompts} prompts."
    )
    drawing = charts.heat("Representational dependence of all pairs", names, names, cells, most=most)
    return Figure(
        "dependence",
        "Representational dependence",
        caption,
        [drawing],
        ["", *names],
        labelled(names, table),
        len(names) > MANY,
    )


def mixed_figure(mixed: Mixed | None) -> Figure | None:
    """Prompts that belong to two domains, a table."""
    if mixed is None:
        return None
    rows = [
        [
            Cell(" and ".join(pair.domains)),
            Cell(str(pair.n), (pair.n,)),
            Cell(str(pair.n_refused), (pair.n_refused,)),
            *(cell(v, share=True) for v in pair.opened),
        ]
        for pair in mixed.pairs
    ]
    notes = [mixed.sentence]
    for of in mixed.models:
        error = said(of.mean_abs_error, *(of.mean_abs_error_ci95 or ()))
        notes.append(f"Model {of.name}: mean absolute error {error} nats, R² {number(of.r2)}.")
    caption = "Share of the refused prompts of two domains that each ablation takes to a score of 0 or below."
    header = ["domains", "prompts", "refused", *mixed.rows]
    return Figure("mixed", "Prompts of two domains", caption, [], header, rows, wide=True, notes=notes)
