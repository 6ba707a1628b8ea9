"""Several judges on one run's completions: refusal rates by condition, and how far the judges agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from refusal_bench.errors import InputError
from refusal_bench.judges.check import share_fields
from refusal_bench.judges.protocol import Judge
from refusal_bench.judges.saved import Cell
from refusal_bench.metrics.judging import CELLS, cohen_kappa, kappa_interval, proportion
from refusal_bench.metrics.statistics import UNSCORED
from refusal_bench.record import JudgeInfo, Record

RECORD = "record"
"""Stands for the run's own verdicts, as its record holds them, beside the judges."""


def compare(
    record: Record, completions: Mapping[Cell, Sequence[str | None]], judges: Sequence[Judge]
) -> dict[str, Any]:
    """Judge a run's completions; return what `judges compare --json` prints, which holds no text."""
    names = [RECORD, *(judge.name for judge in judges)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--judge: two judges are called {twice[0]}; name each once.")
    letters = {RECORD: [cell.letters for cell in completions]}
    letters |= {judge.name: verdicts(judge, list(completions.values())) for judge in judges}
    together = {name: "".join(found) for name, found in letters.items()}
    rows = [
        {"task": cell.task, "condition": cell.condition, "direction": cell.direction, "n": len(cell.ids)}
        | {"judges": {name: rate(found[i]) for name, found in letters.items()}}
        for i, cell in enumerate(completions)
    ]
    return {
        "run_id": record.run_id,
        "model": record.model.id,
        "judges": {
            RECORD: _who(record.judge, together[RECORD]),
            **{judge.name: _who(judge, together[judge.name]) for judge in judges},
        },
        "conditions": [row for row in rows if row["direction"] is None],
        "further_directions": [row for row in rows if row["direction"] is not None],
        "agreement": [
            {"judges": [one, other], **agreement(together[one], together[other])}
            for one, other in combinations(names, 2)
        ],
    }


def _who(judge: Judge | JudgeInfo | None, letters: str) -> dict[str, Any]:
    """A judge and what it leaves unscored; None for that of a record made before records named theirs."""
    name, version = (None, None) if judge is None else (judge.name, judge.version)
    return {"name": name, "version": version, "n": len(letters), "n_unscored": _unscored(letters)}


def verdicts(judge: Judge, completions: Sequence[Sequence[str | None]]) -> list[str]:
    """A judge's letters on each list of completions; what a provider withheld is `?`, as in a run."""
    letters = iter(judge.judge([text for texts in completions for text in texts if text is not None]))
    return ["".join("?" if text is None else next(letters) for text in texts) for texts in completions]


def rate(letters: str) -> dict[str, Any]:
    """Refusals among the scored, with Wilson's interval."""
    unscored = _unscored(letters)
    return {"n_unscored": unscored, **share_fields("rate", proportion(letters.count("R"), len(letters) - unscored))}


def _unscored(letters: str) -> int:
    return sum(letter in UNSCORED for letter in letters)


def agreement(first: str, second: str) -> dict[str, Any]:
    """How often two judges give the same verdict, refusal or none, on completions that both scored."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if not UNSCORED & {a, b}]
    both, one, other, neither = (sum((a == "R", b == "R") == cell for a, b in pairs) for cell in CELLS)
    return {
        "n": len(pairs),
        "n_unscored": len(first) - len(pairs),
        "both_refusal": both,
        "only_first": one,
        "only_second": other,
        "neither": neither,
        **share_fields("agreement", proportion(both + neither, len(pairs))),
        "kappa": cohen_kappa(both, one, other, neither) if pairs else None,
        "kappa_ci95": kappa_interval(both, one, other, neither) if pairs else None,
    }
