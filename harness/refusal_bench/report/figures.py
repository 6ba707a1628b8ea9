"""The report's figures: plotly.js data, a sentence on how to read it, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from refusal_bench.record import (
    CausalMatrix,
    Condition,
    Control,
    CrossDomain,
    Geometry,
    Interval,
    Matrix,
    MatrixOfIntervals,
    Record,
    Spectrum,
    Subspace,
    TaskResult,
)
from refusal_bench.report.plots import (
    GREY,
    LEGEND,
    PALETTE,
    Plot,
    bars,
    curve,
    error,
    heat,
    label,
    named_shares,
    share_axis,
)
from refusal_bench.words import number, number_interval, percent, percent_interval

MANY = 7
"""More columns than this need the page's full width."""


@dataclass(frozen=True)
class Figure:
    """One figure with its caption and its table."""

    key: str
    title: str
    caption: str
    plot: Plot
    header: list[str]
    rows: list[list[str]]
    wide: bool = False


def cosine_figure(geometry: Geometry, *, own_site: bool = False) -> Figure:
    """Heat map of the cosines."""
    names, n = geometry.domains, len(geometry.domains)
    cells = [
        [number_interval(geometry.cosine[i][j], None if i == j else geometry.cosine_ci95[i][j]) for j in range(n)]
        for i in range(n)
    ]
    if own_site:
        title, key = "Cosine, each domain at its own site", "cosine-own"
        caption = "The same with every domain at its own best site; vectors of different layers are not in one space."
    else:
        title, key = "Cosine at the common site", "cosine"
        caption = (
            "1 is the same direction, 0 unrelated; compare with the ceiling that noise leaves of 1 (below), not with 1."
        )
    plot = heat(names, names, geometry.cosine, [[number(c) for c in row] for row in geometry.cosine], cells, "cosine")
    return Figure(key, title, caption, plot, ["", *names], _labelled(names, cells), wide=n > MANY)


def comparisons_figure(geometry: Geometry) -> Figure | None:
    """Corrected cosines of all pairs with their intervals, beside what was measured."""
    ceiling, intervals, adjusted = geometry.ceiling, geometry.cosine_disattenuated_ci95, geometry.p_same_holm
    if not geometry.comparisons or ceiling is None or intervals is None or adjusted is None:
        return None
    pairs = list(combinations(range(len(geometry.domains)), 2))
    names = [f"{geometry.domains[i]} and {geometry.domains[j]}" for i, j in pairs]
    corrected = [geometry.cosine_disattenuated[i][j] for i, j in pairs]
    shown = [0.0, *(value for i, j in pairs for value in (*(intervals[i][j] or ()), geometry.cosine[i][j] or 0.0))]
    marks = {"type": "scatter", "mode": "markers", "y": [label(name) for name in names]}
    data = [
        marks
        | {
            "x": corrected,
            "error_x": error(corrected, [intervals[i][j] for i, j in pairs]),
            "name": "corrected for noise",
        }
        | {"marker": {"size": 9, "color": PALETTE[0]}},
        marks
        | {"x": [geometry.cosine[i][j] for i, j in pairs], "name": "as measured"}
        | {"marker": {"size": 8, "symbol": "circle-open", "color": PALETTE[1]}},
        marks
        | {"x": [ceiling[i][j] for i, j in pairs], "name": "one direction would show"}
        | {"marker": {"size": 12, "symbol": "line-ns-open", "color": GREY}},
    ]
    layout = {
        "height": 120 + 26 * len(pairs),
        "xaxis": {"title": {"text": "cosine"}, "range": [-1.02 if min(shown) < 0 else -0.02, 1.02]},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "legend": LEGEND,
    }
    rows = [
        [
            name,
            number_interval(corrected[p], intervals[i][j]),
            number(geometry.cosine[i][j]),
            number(ceiling[i][j]),
            number(adjusted[i][j], 4),
            sentence.partition(": ")[2].partition(", cosine")[0],
        ]
        for p, (name, (i, j), sentence) in enumerate(zip(names, pairs, geometry.comparisons, strict=True))
    ]
    caption = (
        "The interval says which cosines of the true directions the data allow; a pair is called different only if one "
        "direction and the noise of this many prompts would hardly show so low a cosine, all pairs considered (Holm)."
    )
    header = ["pair", "corrected [95 %]", "measured", "ceiling", "p of one direction", "verdict"]
    plot = {"data": data, "layout": layout}
    return Figure("comparisons", "Cosine of each pair, corrected for noise", caption, plot, header, rows, wide=True)


def spectrum_figure(kind: str, spectrum: Spectrum) -> Figure | None:
    """Explained variance by component, over the band that as many random directions give."""
    shares = spectrum.explained_variance_ratio
    if shares is None:
        return None
    components = [f"PC{i + 1}" for i in range(len(shares))]
    data = [bars(components, shares, spectrum.ci95, "measured", PALETTE[0]) | {"width": 0.5}]
    if spectrum.null95:
        low, height = [band[0] for band in spectrum.null95], [band[1] - band[0] for band in spectrum.null95]
        band = {"type": "bar", "x": components, "y": height, "base": low, "name": "random directions, 95 %"}
        data.append(band | {"width": 0.85, "marker": {"color": GREY}, "opacity": 0.45, "hoverinfo": "skip"})
    if spectrum.one_direction95:
        middle = [(low + high) / 2 for low, high in spectrum.one_direction95]
        drawn = {
            "type": "scatter",
            "mode": "markers",
            "x": components,
            "y": middle,
            "name": "one direction and noise, 95 %",
        }
        look = {"marker": {"symbol": "line-ew-open", "size": 10, "color": PALETTE[1]}}
        data.append(drawn | look | {"error_y": error(middle, spectrum.one_direction95)})
    captions = {
        "centred": "The mean direction is subtracted first, so this shows how the domains differ, not what they share.",
        "uncentred": "The mean direction is kept, so the first component is the axis that the domains share.",
    }
    rows = [
        [
            component,
            percent_interval(share, _at(spectrum.ci95, i)),
            _band(_at(spectrum.one_direction95, i)),
            _band(_at(spectrum.null95, i)),
        ]
        for i, (component, share) in enumerate(zip(components, shares, strict=True))
    ]
    layout = {"height": 320, "barmode": "overlay"} | named_shares("explained variance")
    title = f"Explained variance, {kind}"
    header = ["component", "share [95 %]", "one direction, 95 %", "random directions, 95 %"]
    return Figure(f"pca-{kind}", title, captions[kind], {"data": data, "layout": layout}, header, rows)


def ablation_figure(cross: CrossDomain) -> Figure:
    """Heat map of refusal of harmful prompts with the row's direction ablated."""
    caption = (
        "Low everywhere in a row: that direction carries the refusal of every domain; the random row must stay like "
        "“nothing”, or the effect is damage."
    )
    cells = _rows(cross, 0, cross.ablation, cross.controls.random.ablation, cross.controls.shared.ablation)
    return _causal_figure("ablation", "Refusal of harmful prompts, row ablated", caption, cross.domains, cells)


def addition_figure(cross: CrossDomain) -> Figure:
    """Heat map of refusal of harmless prompts with the row's direction added."""
    caption = (
        "High: adding the row's direction makes the model refuse harmless prompts of the column; random must stay low."
    )
    cells = _rows(cross, 1, cross.addition, cross.controls.random.addition, cross.controls.shared.addition)
    return _causal_figure("addition", "Refusal of harmless prompts, row added", caption, cross.domains, cells)


def transfer_figure(cross: CrossDomain) -> Figure:
    """Heat map of transfer."""
    names = cross.domains
    shown = [[number(value) for value in row] for row in cross.transfer]
    intervals: MatrixOfIntervals = cross.transfer_ci95 or [[None] * len(names) for _ in names]
    cells = [
        [number_interval(*cell) for cell in zip(*row, strict=True)]
        for row in zip(cross.transfer, intervals, strict=True)
    ]
    caption = (
        "Drop of the refusal score as a share of what the column's own direction causes: 1 is as good as its own, "
        "0 does nothing; a dash means that the own drop is within noise."
    )
    plot = heat(names, names, cross.transfer, shown, cells, "share")
    header, wide = ["ablated", *names], len(names) > MANY
    return Figure("transfer", "Transfer of ablation", caption, plot, header, _labelled(names, cells), wide)


def refusal_figure(tasks: dict[str, TaskResult]) -> Figure:
    """Bars of refusal with and without each domain's own direction."""
    conditions = {
        "baseline_harmful": ("harmful, nothing done", "#596373"),
        "ablated_harmful": ("harmful, direction ablated", PALETTE[0]),
        "baseline_harmless": ("harmless, nothing done", "#a9b0ba"),
        "ablated_harmless": ("harmless, direction ablated", "#8fbce8"),
        "added_harmless": ("harmless, direction added", PALETTE[1]),
    }
    data = []
    for name, (title, colour) in conditions.items():
        each: list[Condition] = [getattr(task.refusal, name) for task in tasks.values()]
        names = [label(task) for task in tasks]
        data.append(bars(names, [c.rate for c in each], [c.ci95 for c in each], title, colour))
    rows = [
        [task, *(percent_interval(c.rate, c.ci95) for c in (getattr(result.refusal, name) for name in conditions))]
        for task, result in tasks.items()
    ]
    caption = "Ablation should bring the dark bar down and addition the grey bar up; lines are 95 % intervals."
    layout = {"height": 380, "barmode": "group"} | named_shares("refusal rate")
    header = ["domain", *(title for title, _ in conditions.values())]
    return Figure(
        "refusal", "Refusal on held-out prompts", caption, {"data": data, "layout": layout}, header, rows, True
    )


def layers_figure(record: Record) -> Figure | None:
    """Induce, bypass and separation by layer, one line a domain; the selected layer is marked."""
    curves = {name: task for name, task in record.results.tasks.items() if task.layers}
    if not curves:
        return None
    panels = (("induce", "induce (nats)"), ("bypass", "bypass (nats)"), ("separation", "separation (AUC)"))
    data: list[Plot] = []
    layout: Plot = {"height": 660, "legend": LEGEND}
    for row, (field, title) in enumerate(panels):
        suffix = "" if row == 0 else str(row + 1)
        layout[f"yaxis{suffix}"] = {"title": {"text": title}, "domain": [1 - (row + 0.86) / 3, 1 - row / 3]}
        layout[f"xaxis{suffix}"] = {"anchor": f"y{suffix}", "dtick": max(1, record.model.n_layers // 16)}
        for i, (name, task) in enumerate(curves.items()):
            line = curve(task.layers or [], field, task.direction.layer, label(name), PALETTE[i % len(PALETTE)])
            data.append(line | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": row == 0})
    layout["xaxis3"]["title"] = {"text": "layer (stream entering the block)"}
    rows = [
        [name, str(at.layer), *map(number, (at.induce, at.bypass, at.separation, at.norm, at.cosine_to_selected))]
        for name, task in curves.items()
        for at in task.layers or []
    ]
    caption = (
        "A layer's direction matters where adding it induces refusal (high) and ablating it bypasses refusal (low); "
        "separation alone does not show that; the large marker is the selected layer."
    )
    header = ["domain", "layer", "induce", "bypass", "separation", "norm", "cosine to selected"]
    return Figure("layers", "Layer by layer", caption, {"data": data, "layout": layout}, header, rows, wide=True)


def subspace_figure(subspace: Subspace) -> Figure:
    """Refusal and KL against the number of ablated components."""
    steps = [str(k) for k in subspace.k]
    line = {"type": "scatter", "mode": "lines+markers", "x": steps, "showlegend": False}
    refusal = line | {"y": subspace.refusal_rate, "error_y": error(subspace.refusal_rate, subspace.ci95)}
    kl = line | {"y": subspace.kl, "xaxis": "x2", "yaxis": "y2", "line": {"color": GREY}}
    layout = {
        "height": 440,
        "yaxis": share_axis("refusal rate") | {"domain": [0.38, 1]},
        "xaxis": {"anchor": "y", "type": "category"},
        "yaxis2": {"title": {"text": "KL (nats)"}, "domain": [0, 0.28], "rangemode": "tozero", "tickformat": ".2~g"},
        "xaxis2": {"anchor": "y2", "type": "category", "title": {"text": "components ablated together"}},
    }
    each = zip(steps, subspace.refusal_rate, subspace.ci95, subspace.kl, strict=True)
    rows = [[k, percent_interval(rate, interval), number(kl, 4)] for k, rate, interval, kl in each]
    caption = (
        "If one shared direction carried all refusal, the curve would be flat after the first component; "
        "KL below shows what each further component costs on harmless prompts."
    )
    data = [refusal | {"line": {"color": PALETTE[0]}}, kl]
    header = ["components", "refusal rate [95 %]", "KL (nats)"]
    plot = {"data": data, "layout": layout}
    return Figure("subspace", "Refusal by number of ablated components", caption, plot, header, rows, wide=True)


Cell = tuple[float | None, Interval | None]


def _rows(
    cross: CrossDomain, baseline_row: int, matrix: CausalMatrix, random: Control, shared: Control
) -> list[tuple[str, list[Cell]]]:
    """Every row of a causal heat map: nothing, the domains, the controls; a single direction has no spread."""

    def pairs(rates: list[float | None], intervals: list[Interval | None]) -> list[Cell]:
        return list(zip(rates, intervals, strict=True))

    def control(row: Control) -> list[Cell]:
        return pairs(row.refusal_rate, row.band95 if row.n_directions > 1 else [None] * len(cross.domains))

    own = [pairs(*row) for row in zip(matrix.refusal_rate, matrix.ci95, strict=True)]
    names = ["nothing", *cross.domains, f"random (mean of {random.n_directions})", "shared (mean direction)"]
    baseline = pairs(cross.baseline.refusal_rate[baseline_row], cross.baseline.ci95[baseline_row])
    return list(zip(names, [baseline, *own, control(random), control(shared)], strict=True))


def _causal_figure(
    key: str, title: str, caption: str, domains: list[str], rows: list[tuple[str, list[Cell]]]
) -> Figure:
    names = [name for name, _ in rows]
    rates: Matrix = [[rate for rate, _ in row] for _, row in rows]
    cells = [[percent_interval(*cell) for cell in row] for _, row in rows]
    plot = heat(names, domains, rates, [[percent(rate) for rate in row] for row in rates], cells, "share")
    header, wide = ["direction", *domains], len(domains) > MANY
    return Figure(key, title, caption, plot, header, _labelled(names, cells), wide)


def _labelled(names: Sequence[str], cells: list[list[str]]) -> list[list[str]]:
    return [[name, *row] for name, row in zip(names, cells, strict=True)]


def _at(intervals: list[Interval] | None, i: int) -> Interval | None:
    return intervals[i] if intervals else None


def _band(interval: Interval | None) -> str:
    return percent(None) if interval is None else f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f} %"
