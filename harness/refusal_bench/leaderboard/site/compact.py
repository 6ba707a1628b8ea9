"""A run's numbers for the side-by-side comparison: what is drawn, rounded to what can be seen."""

from __future__ import annotations

from refusal_bench.leaderboard.ranking import Group, Place
from refusal_bench.leaderboard.site.wording import facts
from refusal_bench.record import Matrix, Refusal, TaskResult

DIGITS = 6


def compact(group: Group, place: Place) -> dict[str, object]:
    """Return one run's numbers as JSON values; matrices by name, curves as [layer, induce, bypass, separation]."""
    record, results = place.record, place.record.results
    matrices: dict[str, object] = {}
    if results.geometry is not None:
        matrices["cosine"] = _matrix(results.geometry.domains, results.geometry.cosine)
    if results.cross_domain is not None:
        cross = results.cross_domain
        matrices["transfer"] = _matrix(cross.domains, cross.transfer)
        matrices["ablation"] = _matrix(cross.domains, cross.ablation.refusal_rate)
        matrices["addition"] = _matrix(cross.domains, cross.addition.refusal_rate)
    return {
        "group": group.conditions.key,
        "layers": record.model.n_layers,
        "facts": facts(group, place),
        "overRefusal": None if results.over_refusal is None else _rates(results.over_refusal.refusal),
        "tasks": {name: _task(task) for name, task in sorted(results.tasks.items())},
        "matrices": matrices,
    }


def _task(task: TaskResult) -> dict[str, object]:
    return {
        "rates": _rates(task.refusal),
        "chosen": task.direction.layer,
        "curve": [
            [row.layer, *(_rounded(value) for value in (row.induce, row.bypass, row.separation))]
            for row in task.layers or []
        ],
    }


def _rates(refusal: Refusal) -> dict[str, list[float | None]]:
    return {
        name: [_rounded(value) for value in (condition.rate, *(condition.ci95 or (None, None)))]
        for name, condition in refusal
    }


def _matrix(domains: list[str], values: Matrix) -> dict[str, object]:
    return {"domains": domains, "values": [[_rounded(value) for value in row] for row in values]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
