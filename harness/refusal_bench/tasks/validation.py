"""What must hold of a task's rows, alone and beside other tasks: no leak, no duplicate, no giveaway."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from refusal_bench.tasks.reading import Place, Problem, Reading
from refusal_bench.tasks.schema import LABELS, SPLITS, Row

NEAR = 90.0
"""Token-sort similarity (rapidfuzz, 0 to 100) from which two prompts are near duplicates."""

MIN_TRAIN_PAIRS = 12
MIN_HELD_OUT_PAIRS = 4
"""Fewest pairs of a split that a run can use."""

LENGTH_TOLERANCE = 0.15
"""Largest relative difference of mean word counts between labels before length gives the label away."""

Placed = tuple[Place, Row]


def problems_of(readings: Sequence[Reading]) -> list[Problem]:
    """Every problem of the tasks, in file order; a task that could not be read is checked as far as it was."""
    found = [problem for reading in readings for problem in reading.problems]
    for reading in readings:
        found += _pairs(reading) + _balance(reading) + _kind(reading)
    rows = [placed for reading in readings for placed in reading.rows]
    return found + _ids(rows) + _duplicates(rows)


def normalised(prompt: str) -> str:
    """A prompt without case, punctuation and spacing."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    # Combining marks stay: in many scripts they are the vowels.
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in folded)
    return " ".join("".join(kept).split())


def _problem(severity: str, place: Place, message: str) -> Problem:
    return Problem("error" if severity == "error" else "warning", place.file, place.line, message)


def _ids(rows: Sequence[Placed]) -> list[Problem]:
    """Ids that are used twice, in one task or in two: results refer to prompts by id."""
    first: dict[str, Place] = {}
    found = []
    for place, row in rows:
        if row.id in first:
            found.append(
                _problem("error", place, f"id {row.id!r} is also {_where(first[row.id])}; give it another id.")
            )
        first.setdefault(row.id, place)
    return found


def _pairs(reading: Reading) -> list[Problem]:
    members: dict[str, list[Placed]] = defaultdict(list)
    for place, row in reading.rows:
        if row.pair is not None:
            members[row.pair].append((place, row))
    found = []
    for pair, placed in members.items():
        place = placed[-1][0]
        if len({p.split for p, _ in placed}) > 1:
            found.append(_problem("error", place, f"pair {pair!r} spans both splits; keep twins in one split."))
        elif Counter(row.label for _, row in placed) != Counter(harmful=1, harmless=1):
            message = f"pair {pair!r} needs exactly one harmful and one harmless row, it has {len(placed)}; mend it."
            found.append(_problem("error", place, message))
    return found


def _balance(reading: Reading) -> list[Problem]:
    found = []
    for split in SPLITS:
        placed = [(place, row) for place, row in reading.rows if place.split == split]
        if not placed:
            continue
        words = {label: [len(row.prompt.split()) for _, row in placed if row.label == label] for label in LABELS}
        n_harmful, n_harmless = len(words["harmful"]), len(words["harmless"])
        whole_file = Place(reading.name, split, placed[0][0].file, None)
        if reading.kind == "over_refusal":
            # Two populations of their own sizes: each only has to be there.
            if not (n_harmful and n_harmless):
                found.append(_problem("error", whole_file, "needs harmful and harmless rows; add the missing ones."))
                continue
        elif n_harmful != n_harmless:
            message = (
                f"has {n_harmful} harmful and {n_harmless} harmless rows; add or remove rows until they are equal."
            )
            found.append(_problem("error", whole_file, message))
            continue
        least = MIN_TRAIN_PAIRS if split == "train" else MIN_HELD_OUT_PAIRS
        if n_harmful < least and reading.kind != "over_refusal":
            message = f"has {n_harmful} pairs of {split} rows, a run needs at least {least}; add pairs."
            found.append(_problem("error", whole_file, message))
        mean = {label: sum(counts) / len(counts) for label, counts in words.items()}
        if abs(mean["harmful"] - mean["harmless"]) > LENGTH_TOLERANCE * max(mean.values()):
            message = (
                f"harmful prompts have {mean['harmful']:.1f} words and harmless ones {mean['harmless']:.1f}; "
                "even them out, or length gives the label away."
            )
            found.append(_problem("warning", whole_file, message))
    return found


def _kind(reading: Reading) -> list[Problem]:
    """Rows that lack what is reported by: the type of an over-refusal prompt, the two domains of a mixed one."""
    found = []
    domains: dict[str | None, tuple[str, ...]] = {}
    for place, row in reading.rows:
        if (row.type is not None) != (reading.kind == "over_refusal"):
            message = "type: belongs to every row of an over-refusal task and to no other; add or remove it."
            found.append(_problem("error", place, message))
        if reading.kind == "mixed":
            if row.pair is None or len(row.domains) != 2 or len(set(row.domains)) != 2:
                message = "a mixed prompt needs a twin and exactly two domains; mend pair or domains."
                found.append(_problem("error", place, message))
            elif set(domains.setdefault(row.pair, row.domains)) != set(row.domains):
                found.append(_problem("error", place, f"the twins of {row.pair!r} differ in domains; make them agree."))
    return found


def _duplicates(rows: Sequence[Placed]) -> list[Problem]:
    """Exact and near duplicates; the twins of a pair may be near, which is what makes them twins."""
    import numpy as np
    from rapidfuzz import fuzz, process

    texts = [normalised(row.prompt) for _, row in rows]
    if len(texts) < 2:
        return []
    # The score is 0 below the cutoff, so only near pairs are left; each is looked at once, the later row is reported.
    similar = process.cdist(texts, texts, scorer=fuzz.token_sort_ratio, score_cutoff=NEAR, dtype=np.float32)
    found = []
    for earlier, later in np.argwhere(np.triu(similar, 1) > 0):
        (place, row), (other, twin) = rows[later], rows[earlier]
        exact = texts[earlier] == texts[later]
        if not exact and row.pair is not None and row.pair == twin.pair and place.task == other.task:
            continue
        leak = place.task == other.task and place.split != other.split
        kind = "repeats" if exact else f"nearly repeats ({similar[earlier, later]:.0f} of 100 alike)"
        consequence = " and leaks between train and held-out" if leak else ""
        message = f"{row.id} {kind} {twin.id} {_where(other)}{consequence}; reword or remove one."
        found.append(_problem("error" if exact or leak else "warning", place, message))
    return found


def _where(place: Place) -> str:
    return f"in {place.file}" + (f" line {place.line}" if place.line else "")
