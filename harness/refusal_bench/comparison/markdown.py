"""A comparison as Markdown, for a job's summary or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from refusal_bench.comparison import phrases
from refusal_bench.comparison.compare import Comparison
from refusal_bench.words import number, visible


def markdown(comparison: Comparison) -> str:
    """Return the text: headline, checks, measurements that are not the same, everything else folded."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    base, candidate = (_escaped(phrases.title(record)) for record in (comparison.base, comparison.candidate))
    yield f"## Refusal: {candidate} against {base}"
    yield from ("", f"**{_escaped(phrases.headline(comparison))}**")
    if comparison.checks:
        yield from ("", *_table(phrases.CHECK_COLUMNS, map(phrases.check_cells, comparison.checks)))
    changed = [verdict for verdict in comparison.verdicts if verdict.word in ("better", "worse")]
    if changed:
        yield from ("", "### What changed", "", *_table(phrases.COLUMNS, map(phrases.measurement_cells, changed)))
    if comparison.reasons:
        yield from ("", "### What else differs", "")
        yield from (f"- {reason.grade}: {_escaped(visible(reason.text))}" for reason in comparison.reasons)
    if comparison.directions:
        directions = comparison.directions
        yield from ("", f"### Directions at layer {directions['layer']}, position {directions['position']}", "")
        cosines = [(name, number(value)) for name, value in directions["cosine"].items()]
        yield from _table(("domain", "cosine to itself"), cosines)
        angles = ", ".join(number(angle, 0) for angle in directions["principal_angles_deg"])
        yield from ("", f"Principal angles {angles}°: {directions['basis']}.")
    if comparison.similarity:
        yield from ("", "### Representations", "", f"{_escaped(phrases.similarity(comparison.similarity))}.")
    if comparison.verdicts:
        rows = _table(phrases.COLUMNS, map(phrases.measurement_cells, comparison.verdicts))
        yield from ("", "<details><summary>Every measurement</summary>", "", *rows, "", "</details>")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    header = [*columns]
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"


def _escaped(text: str) -> str:
    """Text that Markdown and the HTML inside it show as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#!~@])", r"\\\1", text)
