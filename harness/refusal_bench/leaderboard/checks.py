"""The small checks that validation is made of; each yields a sentence per fault and starts with the field's path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refusal_bench.leaderboard import derive
from refusal_bench.record import Interval, Matrix

Stated = float | Interval | None


def same(where: str, stated: Stated, derived: Stated, source: str = "its labels") -> Iterator[str]:
    """A number or interval equals the one derived from its source."""
    if stated == derived:  # the usual case, and a leaderboard has millions
        return
    pair = _both(stated), _both(derived)
    if any(derive.differs(a, b) for a, b in zip(*pair, strict=True)):
        yield f"{where} is {stated}, but {source} give{'' if source.endswith('s') else 's'} {derived}"


def in_range(where: str, value: float | None, low: float | None = None, high: float | None = None) -> Iterator[str]:
    """A number lies between two bounds, rounding allowed."""
    below = value is not None and low is not None and value < low - derive.TOLERANCE
    above = value is not None and high is not None and value > high + derive.TOLERANCE
    if below or above:
        yield f"{where} is {value}, outside [{'-∞' if low is None else low}, {'∞' if high is None else high}]"


def ordered(
    where: str, interval: Interval | None, low: float | None = None, high: float | None = None
) -> Iterator[str]:
    """An interval's ends are in order and between two bounds."""
    if interval is None:
        return
    if interval[0] > interval[1]:
        yield f"{where} is {interval}, its ends are swapped"
    for end in interval:
        yield from in_range(where, end, low, high)


def labels_fit(where: str, labels: str, n: int) -> Iterator[str]:
    """There is one known letter a prompt."""
    if len(labels) != n:
        yield f"{where} has {len(labels)} letters for {n} prompts"
    if unknown := set(labels) - set(derive.LABELS):
        yield f"{where} has unknown letters {''.join(sorted(unknown))!r}"


def shaped(where: str, rows: Sequence[Sequence[object]], n_rows: int, n_columns: int) -> Iterator[str]:
    """A nested list has this many rows and columns."""
    if len(rows) != n_rows or any(len(row) != n_columns for row in rows):
        yield f"{where} is not {n_rows} by {n_columns}"


def long(where: str, values: Sequence[object], n: int) -> Iterator[str]:
    """A list has this many values."""
    if len(values) != n:
        yield f"{where} has {len(values)} values, not {n}"


def symmetric(where: str, matrix: Matrix) -> Iterator[str]:
    """Cells mirrored at the diagonal are equal."""
    for i, row in enumerate(matrix):
        for j in range(i):
            if derive.differs(row[j], matrix[j][i]):
                yield f"{where} is not symmetric at row {i}, column {j}"


def _both(value: Stated) -> Interval | tuple[None, None]:
    if value is None:
        return None, None
    return value if isinstance(value, tuple) else (value, value)
