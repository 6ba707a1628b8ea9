"""Figures of what the directions do to each other's domains, and of how many it takes."""

from __future__ import annotations

from refusal_bench.record import CausalMatrix, Control, CrossDomain, Interval, Record, Subspace
from refusal_bench.report import charts
from refusal_bench.report.charts import HeatCell, Point, Series
from refusal_bench.report.figure import MANY, Cell, Figure, cell, cell_style, labelled
from refusal_bench.report.svg import colour, said
from refusal_bench.words import number, shown

Row = tuple[str, str, list[tuple[float | None, Interval | None, str]]]
"""Name, name in the record, and (rate, interval, what else is known) by domain evaluated."""


def ablation_figure(record: Record, cross: CrossDomain) -> Figure:
    """Heat map of refusal of harmful prompts with the row's direction ablated."""
    caption = (
        "Low everywhere in a row: that direction carries the refusal of every domain; the random row must stay like "
        "“nothing”, or the effect is damage."
    )
    rows = _rows(record, cross, 0, cross.ablation, cross.controls.random.ablation, cross.controls.shared.ablation)
    return _causal_figure(record, "ablation", "Refusal of harmful prompts, row ablated", caption, cross, rows)


def addition_figure(record: Record, cross: CrossDomain) -> Figure:
    """Heat map of refusal of harmless prompts with the row's direction added."""
    caption = (
        "High: adding the row's direction makes the model refuse harmless prompts of the column; random must stay low."
    )
    rows = _rows(record, cross, 1, cross.addition, cross.controls.random.addition, cross.controls.shared.addition)
    return _causal_figure(record, "addition", "Refusal of harmless prompts, row added", caption, cross, rows)


def transfer_figure(record: Record, cross: CrossDomain) -> Figure:
    """Heat map of transfer."""
    names, n = shown(record, cross.domains), len(cross.domains)
    intervals = cross.transfer_ci95 or [[None] * n for _ in range(n)]
    cells = [
        [
            HeatCell(
                value,
                charts.cell_lines(value, intervals[i][j]),
                f"{names[i]} ablated, {names[j]} asked: transfer {said(value, *(intervals[i][j] or ()))}",
                cell_style(record, cross.domains[i], cross.domains[j]),
            )
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(cross.transfer)
    ]
    caption = (
        "Drop of the refusal score as a share of what the column's own direction causes: 1 is as good as its own, "
        "0 does nothing; a dash means that the own drop is within noise."
    )
    table = [[cell(*pair) for pair in zip(*row, strict=True)] for row in zip(cross.transfer, intervals, strict=True)]
    drawing = charts.heat("Transfer of ablation between domains", names, names, cells)
    return Figure(
        "transfer", "Transfer of ablation", caption, [drawing], ["ablated", *names], labelled(names, table), n > MANY
    )


def subspace_figure(subspace: Subspace) -> Figure:
    """Refusal and KL against the number of ablated components."""
    each = list(zip(subspace.k, subspace.refusal_rate, subspace.ci95, subspace.kl, strict=True))
    rates = [
        Point(k, rate, ci, f"{k} components: {said(rate, *(ci or ()), share=True)} refused") for k, rate, ci, _ in each
    ]
    costs = [Point(k, kl, None, f"{k} components: KL {number(kl, 4)} nats") for k, _, _, kl in each]
    steps = [str(k) for k in subspace.k]
    title, x_title = "Refusal by number of ablated components", "components ablated together"
    panels = [
        charts.curves(
            title, "harmful prompts refused", x_title, [Series("", colour(0), rates)],
            span=(0, 1), categories=steps, shares=True, keys=False,
        ),
        charts.curves(
            "KL by number of ablated components", "KL on harmless prompts (nats)", x_title,
            [Series("", colour(7), costs)], include=0, categories=steps, keys=False,
        ),
    ]  # fmt: skip
    caption = (
        "If one shared direction carried all refusal, the curve would be flat after the first component; "
        "KL shows what each further component costs on harmless prompts."
    )
    rows = [[Cell(str(k), (k,)), cell(rate, ci, share=True), cell(kl, digits=4)] for k, rate, ci, kl in each]
    header = ["components", "refusal rate [95 %]", "KL (nats)"]
    return Figure("subspace", title, caption, panels, header, rows, wide=True)


def orderings_figure(subspace: Subspace) -> Figure | None:
    """Score against the number of components, by the order in which they are taken."""
    found = subspace.curves
    if not found:
        return None
    score, costs, rows = [], [], []
    for i, (name, of) in enumerate(found.items()):
        each = list(zip(of.k, of.score, of.score_ci95, of.share, of.kl, strict=True))
        score.append(
            Series(
                name,
                colour(i),
                [
                    Point(k, v, e, f"{name}, {k}: score {said(v, *(e or ()))}, share {number(s)}")
                    for k, v, e, s, _ in each
                ],
            )
        )
        costs.append(
            Series(name, colour(i), [Point(k, kl, None, f"{name}, {k}: KL {number(kl, 3)}") for k, _, _, _, kl in each])
        )
        rows += [[Cell(name), Cell(str(k), (k,)), cell(v, e), cell(s), cell(kl, digits=3)] for k, v, e, s, kl in each]
    ks = sorted({k for of in found.values() for k in of.k})
    steps = [str(k) for k in range(ks[0], ks[-1] + 1)]
    x_title = "components ablated together"
    panels = [
        charts.curves(
            "Score by number of components and ordering",
            "score of harmful prompts (nats)",
            x_title,
            score,
            categories=steps,
        ),
        charts.curves(
            "KL by number of components and ordering",
            "KL on harmless prompts (nats)",
            x_title,
            costs,
            include=0,
            categories=steps,
        ),
    ]
    notes = [
        f"{name}: {_least('half', of.k_for_50)}, {_least('90 %', of.k_for_90)} of the full effect."
        for name, of in found.items()
    ]
    order = subspace.order or {}
    notes += [f"Order of {name}: {', '.join(domains)}." for name, domains in order.items()]
    caption = (
        "The order that falls fastest needs the fewest directions; random components of the same span show what chance "
        "does. uncentred and centred take principal components; mincos takes the domains' directions, least alike "
        "first; greedy the one that lowers the score most."
    )
    header = ["ordering", "components", "score [95 %]", "share of the full drop", "KL"]
    return Figure("orderings", "Which components carry refusal", caption, panels, header, rows, wide=True, notes=notes)


def _least(share: str, k: int | None) -> str:
    """How many components reach a share of the effect."""
    return f"no number reaches {share}" if k is None else f"{k} component{'' if k == 1 else 's'} for {share}"


def _rows(
    record: Record, cross: CrossDomain, baseline_row: int, matrix: CausalMatrix, random: Control, shared: Control
) -> list[Row]:
    """Every row of a causal heat map: nothing, the domains, the controls; a single direction has no spread."""

    def control(label: str, of: Control) -> Row:
        spread = of.band95 if of.n_directions > 1 else [None] * len(cross.domains)
        said_of = f"mean of {of.n_directions} directions" if of.n_directions > 1 else ""
        return label, "", [(rate, ends, said_of) for rate, ends in zip(of.refusal_rate, spread, strict=True)]

    def measured(of: CausalMatrix, row: int) -> list[tuple[float | None, Interval | None, str]]:
        adjusted = of.p_holm
        known = [f"n = {n}" for n in of.n[row]]
        if adjusted is not None:
            known = [f"{text}, p {number(p, 4)} (McNemar, Holm)" for text, p in zip(known, adjusted[row], strict=True)]
        return list(zip(of.refusal_rate[row], of.ci95[row], known, strict=True))

    names = shown(record, cross.domains)
    return [
        ("nothing", "", measured(cross.baseline, baseline_row)),
        *((names[i], domain, measured(matrix, i)) for i, domain in enumerate(cross.domains)),
        control(f"random ({random.n_directions})", random),
        control("shared (mean)", shared),
    ]


def _causal_figure(record: Record, key: str, title: str, caption: str, cross: CrossDomain, rows: list[Row]) -> Figure:
    columns = shown(record, cross.domains)
    cells = [
        [
            HeatCell(
                rate,
                charts.cell_lines(rate, ends, share=True),
                f"{name}, {columns[j]} asked: {said(rate, *(ends or ()), share=True)}{', ' if more else ''}{more}",
                cell_style(record, domain, cross.domains[j]),
            )
            for j, (rate, ends, more) in enumerate(row)
        ]
        for name, domain, row in rows
    ]
    names = [name for name, _, _ in rows]
    table = [[cell(rate, ends, share=True) for rate, ends, _ in row] for _, _, row in rows]
    drawing = charts.heat(title, names, columns, cells)
    header = ["direction", *columns]
    return Figure(key, title, caption, [drawing], header, labelled(names, table), len(columns) > MANY)
