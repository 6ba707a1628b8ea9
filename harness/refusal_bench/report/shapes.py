"""Drawings of the directions themselves: fan of angles, map, tree, scatter of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from refusal_bench.record import Candidate, Direction, Merge
from refusal_bench.report.svg import (
    BOLD,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    axis_over,
    colour,
    dot,
    drawing,
    frame,
    legend,
    mark,
    path,
    shorten,
    tag,
    text,
    wide_as,
)
from refusal_bench.words import number, visible

KL_LEAST = 1e-4
"""Nats; below this the logarithmic axis ends."""


def fan(alt: str, names: Sequence[str], angles: Sequence[float]) -> Markup:
    """Rays at an angle (degrees) from the horizontal, which is the mean direction; above and below in turn."""
    x0, y0, radius = 16.0, 190.0, 250.0
    most = max(20.0, max(angles) * 1.15)
    stretch = min(1.0, 90 / most) if most > 45 else 1.0
    drawn = [_arc(x0, y0, radius, degrees) for degrees in (-45, -30, -15, 15, 30, 45) if abs(degrees) <= most]
    drawn.append(tag("line", x1=x0, x2=x0 + radius + 10, y1=y0, y2=y0, class_="grid strong-line"))
    drawn.append(text(x0 + radius + 16, y0 + 4, "mean direction", class_="soft"))
    order = sorted(range(len(names)), key=lambda i: angles[i])
    signed = {i: angles[i] * (1 if place % 2 else -1) * stretch for place, i in enumerate(order)}
    ends = {
        i: (x0 + radius * math.cos(math.radians(a)), y0 + radius * math.sin(math.radians(a))) for i, a in signed.items()
    }
    last = {-1: y0 - 4.0, 1: y0 + 4.0}
    for i in order:
        x, y = ends[i]
        side = 1 if signed[i] > 0 else -1
        last[side] = spot = side * max(side * y, side * last[side] + 16)
        words = f"{shorten(names[i], 120)} {angles[i]:.0f}°"
        tip = f"{names[i]}: {angles[i]:.1f}° from the mean direction"
        ray = tag("line", x1=x0, y1=y0, x2=x, y2=y, class_="curve")
        leader = path([(x + 5, y), (x0 + radius + 34, spot)], class_="leader")
        label = text(x0 + radius + 38, spot + 4, words)
        drawn.append(mark(tip, tag("g", ray, dot(x, y, radius=4.5), leader, label, class_=colour(i))))
    ys = [*last.values(), *(y for _, y in ends.values()), y0 - 40, y0 + 40]
    shift = min(ys) - 14
    return drawing(max(ys) - shift + 16, alt, tag("g", *drawn, transform=f"translate(0 {-shift:.1f})"))


def _arc(x0: float, y0: float, radius: float, degrees: float) -> Markup:
    x, y = x0 + radius * math.cos(math.radians(degrees)), y0 + radius * math.sin(math.radians(degrees))
    return tag("line", x1=x0, y1=y0, x2=x, y2=y, class_="grid")


def places(
    alt: str, names: Sequence[str], points: Sequence[tuple[float, float]], shares: tuple[float, float]
) -> Markup:
    """A map: equal scales on both axes, so that distances can be read."""
    reach = 1.25 * max(1e-9, *(abs(v) for point in points for v in point))
    size = 300.0
    across, up = Axis(-reach, reach, 70, 70 + size), Axis(-reach, reach, 22 + size, 22)
    titles = [f"axis {i + 1}, {100 * share:.0f} % of what differs" for i, share in enumerate(shares)]
    cross = [tag("line", x1=70, x2=70 + size, y1=up(0), y2=up(0), class_="grid strong-line")]
    cross.append(tag("line", x1=across(0), x2=across(0), y1=22, y2=22 + size, class_="grid strong-line"))
    drawn = [frame(across, up, titles[0], titles[1]), *cross]
    spots = label_spots(names, [(across(x), up(y)) for x, y in points])
    for i, (name, (x, y), (left, base)) in enumerate(zip(names, points, spots, strict=True)):
        tip = f"{name}: {number(x)}, {number(y)}"
        drawn.append(mark(tip, tag("g", dot(across(x), up(y)), text(left, base, name), class_=colour(i))))
    return drawing(size + 68, alt, *drawn)


def label_spots(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each label begins: beside its point, where it covers no other point or label and stays on the drawing."""
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in points]
    spots = []
    for name, (x, y) in zip(names, points, strict=True):
        wide = wide_as(name)
        options = [
            (start, base)
            for base in (y + 4, y - 9, y + 18, y - 22, y + 31)
            for start in (x + 10, x - 10 - wide, x - wide / 2)
            if base != y + 4 or start != x - wide / 2
        ]
        boxes = [(start, start + wide, base - 11, base + 3) for start, base in options]
        covered = [_overlaps(box, taken) + (box[0] < 0 or box[1] > WIDTH) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        spots.append(options[best])
    return spots


def _overlaps(box: tuple[float, float, float, float], others: Sequence[tuple[float, float, float, float]]) -> int:
    left, right, top, bottom = box
    return sum(left < r and right > x and top < b and bottom > t for x, r, t, b in others)


def tree(alt: str, domains: Sequence[str], merges: Sequence[Merge], shown: Sequence[str]) -> Markup:
    """A dendrogram: groups join at their mean cosine; numbers are bootstrap support."""
    order = _leaves(domains, merges)
    left = min(160.0, BOLD * max(map(wide_as, shown)) + 16)
    low = min(merge.cosine for merge in merges)
    across = Axis(min(low - 0.06 * (1 - low), 0.98), 1.0, WIDTH - 40, left)
    each, bottom = 34.0, 20 + 34.0 * len(domains)
    drawn = [tag("line", x1=x, x2=x, y1=10, y2=bottom, class_="grid") for x, _ in across.ticks()]
    drawn += [text(x, bottom + 18, words, text_anchor="middle") for x, words in across.ticks()]
    drawn.append(text((left + WIDTH) / 2, bottom + 38, "mean cosine at which groups join", text_anchor="middle"))
    at: dict[frozenset[str], tuple[float, float]] = {}
    for place, name in enumerate(order):
        y = 24 + each * place
        at[frozenset([name])] = (left, y)
        label = shown[domains.index(name)]
        drawn.append(text(left - 10, y + 4, shorten(label, (left - 10) / BOLD), text_anchor="end", class_="strong"))
    for merge in merges:
        whole = frozenset(merge.domains)
        parts = sorted((at.pop(group) for group in list(at) if group <= whole), key=lambda p: p[1])
        x = across(merge.cosine)
        (x1, y1), (x2, y2) = parts[0], parts[-1]
        middle = (y1 + y2) / 2
        at[whole] = (x, middle)
        branch = path([(x1, y1), (x, y1), (x, y2), (x2, y2)], class_="branch")
        support = "" if merge.support is None else f"{100 * merge.support:.0f} %"
        tip = f"{', '.join(merge.domains)}: join at cosine {number(merge.cosine)}" + (
            support and f", support {support}"
        )
        drawn.append(mark(tip, branch, text(x + 5, middle - 5, support, class_="small-left")))
    return drawing(bottom + 46, alt, *drawn)


def _leaves(domains: Sequence[str], merges: Sequence[Merge]) -> list[str]:
    """An order in which no branches cross: groups are joined end to end as they merge."""
    groups = [[name] for name in domains]
    for merge in merges:
        inside = [group for group in groups if set(group) <= set(merge.domains)]
        groups = [group for group in groups if group not in inside] + [[name for group in inside for name in group]]
    return [name for group in groups for name in group]


def candidates(alt: str, name: str, table: Sequence[Candidate], chosen: Direction, baseline: float) -> Markup:
    """Bypass against KL of one domain's candidates; those without a bypass are ticks below the axis."""
    listed, top = legend(
        [("c1 dot", "chosen"), ("c0 dot", "eligible"), ("c7 ring", "rejected"), ("c7 tick", "KL only")], 28
    )
    kls = [max(KL_LEAST, row.kl) for row in table]
    known = [row.bypass for row in table if row.bypass is not None]
    across = Axis(min(kls) * 0.8, max(kls) * 1.25, LEFT, WIDTH - RIGHT, log=True)
    up = axis_over([*known, baseline], top + 200, top)
    drawn = [listed, frame(across, up, "KL on harmless prompts (nats)", f"{visible(name)}: bypass (nats)")]
    drawn.append(tag("line", x1=across.start, x2=across.end, y1=up(baseline), y2=up(baseline), class_="reference"))
    drawn.append(text(across.end, up(baseline) - 5, "nothing ablated", text_anchor="end", class_="soft"))
    is_chosen = [(row.layer, row.position) == (chosen.layer, chosen.position) for row in table]
    for row, its in sorted(zip(table, is_chosen, strict=True), key=lambda pair: pair[1]):
        x = across(max(KL_LEAST, row.kl))
        tip = _in_words(row)
        if row.bypass is None:
            shape, style = tag("line", x1=x, x2=x, y1=up.start - 9, y2=up.start, class_="tick"), "c7"
        else:
            kind = "ring" if row.rejected and not its else "dot"
            shape, style = (
                dot(x, up(row.bypass), kind, 7 if its else 4),
                "c1" if its else "c7" if row.rejected else "c0",
            )
        drawn.append(mark(("chosen: " if its else "") + tip, tag("g", shape, class_=style)))
    return drawing(top + 246, alt, *drawn)


def _in_words(row: Candidate) -> str:
    kl = ("at least " if row.kl_is_bound else "") + number(row.kl, 3)
    where = f"layer {row.layer}, position {number(row.position, 0)}"
    rejected = f", rejected by {row.rejected}" if row.rejected else ""
    return f"{where}: KL {kl}, bypass {number(row.bypass)}, induce {number(row.induce)}{rejected}"
