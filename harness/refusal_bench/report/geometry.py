"""Figures of how the directions lie to each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from refusal_bench.metrics.comparisons import SIGNIFICANT
from refusal_bench.record import Geometry, Record, Spectrum
from refusal_bench.report import charts, shapes
from refusal_bench.report.charts import Dot, HeatCell
from refusal_bench.report.figure import MANY, Cell, Figure, band, cell, cell_style, labelled
from refusal_bench.report.svg import said
from refusal_bench.words import number, percent, shown


def cosine_figure(record: Record, geometry: Geometry, *, own_site: bool = False) -> Figure:
    """Heat map of the cosines, with everything that is known of a pair on hovering."""
    names, n = shown(record, geometry.domains), len(geometry.domains)
    intervals = [[None if i == j else geometry.cosine_ci95[i][j] for j in range(n)] for i in range(n)]
    cells = [
        [
            HeatCell(
                value,
                charts.cell_lines(value, intervals[i][j]),
                _pair_in_words(geometry, names, i, j),
                " ".join(
                    filter(None, (_apart(geometry, i, j), cell_style(record, geometry.domains[i], geometry.domains[j])))
                ),
            )
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(geometry.cosine)
    ]
    if own_site:
        title, key = "Cosine, each domain at its own site", "cosine-own"
        caption = "The same with every domain at its own best site; vectors of different layers are not in one space."
    else:
        title, key = "Cosine at the common site", "cosine"
        caption = (
            "1 is the same direction, 0 unrelated; compare with the ceiling that noise leaves of 1 (on hovering), not "
            "with 1. A dark frame: different beyond noise, all pairs considered."
        )
    rows = [
        [cell(c, interval) for c, interval in zip(*row, strict=True)]
        for row in zip(geometry.cosine, intervals, strict=True)
    ]
    drawing = charts.heat(f"{title}: cosines of all pairs of domains", names, names, cells)
    return Figure(key, title, caption, [drawing], ["", *names], labelled(names, rows), wide=n > MANY)


def _apart(geometry: Geometry, i: int, j: int) -> str:
    p = geometry.p_same_holm[i][j] if geometry.p_same_holm else None
    return "apart" if p is not None and p < SIGNIFICANT else ""


def _pair_in_words(geometry: Geometry, names: list[str], i: int, j: int) -> str:
    if i == j:
        return f"{names[i]} with itself"
    said_of = [f"{names[i]} and {names[j]}: cosine {said(geometry.cosine[i][j], *(geometry.cosine_ci95[i][j] or ()))}"]
    if geometry.ceiling is not None:
        said_of.append(f"ceiling {number(geometry.ceiling[i][j])}")
    ends = geometry.cosine_disattenuated_ci95
    corrected = said(geometry.cosine_disattenuated[i][j], *((ends[i][j] if ends else None) or ()))
    said_of.append(f"corrected for noise {corrected}")
    said_of.append(f"angle {number(geometry.angle_deg[i][j], 0)}°")
    if geometry.p_same_holm is not None:
        said_of.append(f"p of one direction {number(geometry.p_same_holm[i][j], 3)} (Holm)")
    return "; ".join([*said_of, f"p of cosine 0 {number(geometry.p_value[i][j], 4)}"])


def comparisons_figure(record: Record, geometry: Geometry) -> Figure | None:
    """Corrected cosines of all pairs with their intervals, beside what was measured and the ceiling."""
    ceiling, intervals, adjusted = geometry.ceiling, geometry.cosine_disattenuated_ci95, geometry.p_same_holm
    if not geometry.comparisons or ceiling is None or intervals is None or adjusted is None:
        return None
    shown_names = shown(record, geometry.domains)
    lines, rows, values = [], [], [0.9]
    for (i, j), sentence in zip(combinations(range(len(shown_names)), 2), geometry.comparisons, strict=True):
        name = f"{shown_names[i]} and {shown_names[j]}"
        corrected, interval, measured, top = (
            geometry.cosine_disattenuated[i][j],
            intervals[i][j],
            geometry.cosine[i][j],
            ceiling[i][j],
        )
        verdict = sentence.partition(": ")[2].partition(", cosine")[0]
        tip = f"{name}: {verdict}; corrected {said(corrected, *(interval or ()))}, "
        tip += f"measured {number(measured)}, ceiling {number(top)}"
        dots = [
            Dot(corrected, interval, "c0 dot", tip),
            Dot(measured, None, "c1 ring", f"{name}: measured {number(measured)}"),
            Dot(top, None, "c7 tick", f"{name}: one direction would show {number(top)}"),
        ]
        lines.append((name, dots))
        values += [v for v in (corrected, measured, top, *(interval or ())) if v is not None]
        rows.append(
            [
                Cell(name),
                cell(corrected, interval),
                cell(measured),
                cell(top),
                cell(adjusted[i][j], digits=4),
                Cell(verdict),
            ]
        )
    low = next((start for start in (0.8, 0.5, 0.0) if min(values) >= start), -1.0)
    keys = [("c0 dot", "corrected for noise"), ("c1 ring", "as measured"), ("c7 tick", "one direction")]
    drawing = charts.forest("Cosine of every pair of domains with intervals", lines, keys, "cosine", (low, 1.0))
    caption = (
        "The interval says which cosines of the true directions the data allow; a pair is called different only if one "
        "direction and the noise of this many prompts would hardly show so low a cosine, all pairs considered (Holm). "
        f"The axis begins at {low:g}."
    )
    header = ["pair", "corrected [95 %]", "measured", "ceiling", "p of one direction", "verdict"]
    return Figure("comparisons", "Cosine of each pair, corrected for noise", caption, [drawing], header, rows)


def angles_figure(record: Record, geometry: Geometry) -> Figure | None:
    """The angle of each domain's direction from their mean."""
    gram = _gram(geometry)
    if gram is None:
        return None
    names = shown(record, geometry.domains)
    to_mean = gram.sum(axis=1) / np.sqrt(gram.sum())
    angles = np.degrees(np.arccos(np.clip(to_mean, -1, 1))).tolist()
    drawing = shapes.fan("Angle of each domain's direction from the mean direction", names, angles)
    rows = [
        [Cell(f"{number(a, 1)}°", (a,)) for a in (angle, *(a or 0.0 for a in row))]
        for angle, row in zip(angles, geometry.angle_deg, strict=True)
    ]
    caption = (
        "How far each domain's direction turns from what they share. Up and down only keep the rays apart: the angles "
        "are in a space of many dimensions; the table has the angle of every pair."
    )
    return Figure(
        "angles", "Angle from the mean direction", caption, [drawing], ["", "mean", *names], labelled(names, rows)
    )


def projection_figure(record: Record, geometry: Geometry) -> Figure | None:
    """A map of the directions by classical scaling of their cosines."""
    gram = _gram(geometry)
    if gram is None or len(gram) < 3:
        return None
    points, shares = scaled(gram)
    names = shown(record, geometry.domains)
    pairs = [(float(x), float(y)) for x, y in points]
    drawing = shapes.places("Map of the domains' directions", names, pairs, shares)
    caption = (
        f"Domains near each other have similar directions (classical scaling of the cosine matrix). The map shows "
        f"{percent(sum(shares))} of what differs between them; sides and signs of the axes mean nothing, and part of "
        "the spread is noise."
    )
    rows = labelled(names, [[cell(x), cell(y)] for x, y in pairs])
    return Figure("map", "Map of the directions", caption, [drawing], ["domain", "axis 1", "axis 2"], rows)


def scaled(gram: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Classical scaling of unit vectors' cosines [n, n]: places [n, 2] and each axis' share of the centred variance."""
    n = len(gram)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centring @ gram @ centring)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    leading = vectors[:, :2]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), range(2)])  # eigh's signs are arbitrary
    total = values.sum() or 1.0
    return leading * np.sqrt(values[:2]), (float(values[0] / total), float(values[1] / total))


def _gram(geometry: Geometry) -> np.ndarray | None:
    """The cosines as an array; None if one is null."""
    if any(value is None for row in geometry.cosine for value in row):
        return None
    return np.array(geometry.cosine, dtype=float)


def spectrum_figure(kind: str, spectrum: Spectrum) -> Figure | None:
    """Explained variance by component, beside what random directions and one direction with noise give."""
    shares = spectrum.explained_variance_ratio
    if shares is None:
        return None
    one, random = spectrum.one_direction95, spectrum.null95
    bands = [("c1 band", "one direction and noise", one)] if one else []
    bands += [("c7 band", "random directions", random)] if random else []
    captions = {
        "centred": "The mean direction is subtracted first, so this shows how the domains differ, not what they share.",
        "uncentred": "The mean direction is kept, so the first component is the axis that the domains share.",
    }
    rows = [
        [
            Cell(f"PC{i + 1}"),
            cell(share, spectrum.ci95[i] if spectrum.ci95 else None, share=True),
            band(one[i] if one else None),
            band(random[i] if random else None),
        ]
        for i, share in enumerate(shares)
    ]
    title = f"Explained variance, {kind}"
    header = ["component", "share [95 %]", "one direction, 95 %", "random directions, 95 %"]
    drawing = charts.spectrum(title, shares, spectrum.ci95, bands)
    return Figure(f"pca-{kind}", title, captions[kind], [drawing], header, rows)


def dendrogram_figure(record: Record, geometry: Geometry) -> Figure | None:
    """Average linkage with bootstrap support."""
    merges = geometry.dendrogram
    if not merges:
        return None
    names = shown(record, geometry.domains)
    drawing = shapes.tree("Dendrogram of the domains by cosine", geometry.domains, merges, names)
    rows = [[Cell(", ".join(merge.domains)), cell(merge.cosine), cell(merge.support, share=True)] for merge in merges]
    caption = (
        "Domains that join far to the left have similar directions. Numbers are bootstrap support: the share of "
        "resampled trees that hold exactly this group; groups below about 70 % are not to be named."
    )
    header = ["group", "joins at cosine", "support"]
    return Figure("dendrogram", "Which domains group together", caption, [drawing], header, rows)


def noise_figure(record: Record, geometry: Geometry) -> Figure | None:
    """How well each direction is known, and whether the harmless prompts are a fair contrast; a table."""
    if geometry.reliability is None or geometry.pairs is None or geometry.pairs_needed is None:
        return None
    each = zip(
        shown(record, geometry.domains), geometry.reliability, geometry.pairs, geometry.pairs_needed, strict=True
    )
    rows = [[Cell(name), cell(r), Cell(str(n), (n,)), Cell(number(need, 0), (need,))] for name, r, n, need in each]
    site = geometry.site
    notes = [
        f"Contrast {geometry.contrast}; common site: layer {site.layer}, position {number(site.position, 0)}, "
        f"by {site.chosen_by}."
    ]
    if geometry.topic_control is not None:
        control = geometry.topic_control
        notes.append(
            f"Topic control: harmful and harmless topics agree with cosine {said(control.agreement, *control.ci95)}."
        )
        notes += [f"{flag}: {why}" for flag, why in control.flags.items()]
    caption = (
        "Reliability is the share of a direction's squared norm that is signal. Pairs needed bring the half-width of "
        "its corrected cosines below 0.05."
    )
    header = ["domain", "reliability", "prompt pairs", "pairs needed"]
    return Figure("noise", "How well the directions are known", caption, [], header, rows, notes=notes)
