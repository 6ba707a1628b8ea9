"""Dose response of a domain's own direction: multiples added, shares ablated, and ablation to the harmless mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.causal.bootstrap import mean_replicates
from refusal_bench.causal.column import Column, values
from refusal_bench.causal.rows import COEFFICIENTS, SHARES
from refusal_bench.metrics.statistics import nullable, nullable_interval
from refusal_bench.record import Affine, Dose, DoseCurve, Interval

LEAST_EFFECT = 0.1
"""A change of the mean score (nats) below this is no effect to take half of."""


def dose(column: Column, name: str, n_bootstrap: int, seed: int) -> Dose:
    """Both curves and the affine ablation of one domain's own prompts."""
    affine: dict[str, object] = {}
    for prompts in ("harmful", "harmless"):
        scores = values(column["scored"][f"affine_{prompts}"]["affine"])
        replicates = mean_replicates(scores, f"{name}.{prompts}", n_bootstrap, seed)
        affine |= {prompts: _mean(scores), f"{prompts}_ci95": nullable_interval(replicates)}
    kl = _mean(values(column["scored"]["affine_harmless"]["affine"], "kl"))
    return Dose(
        addition=_curve(column, name, "dose_added", COEFFICIENTS, "harmless", n_bootstrap, seed),
        ablation=_curve(column, name, "dose_ablated", SHARES, "harmful", n_bootstrap, seed),
        affine=Affine.model_validate(affine | {"kl": kl}),
    )


def _curve(
    column: Column, name: str, batch: str, doses: Sequence[float], effect_on: str, n_bootstrap: int, seed: int
) -> DoseCurve:
    every = sorted((0.0, *doses))
    fields: dict[str, object] = {}
    half: tuple[float | None, Interval | None] = (None, None)
    for prompts in ("harmful", "harmless"):
        measured = column["scored"][f"{batch}_{prompts}"]
        rows = [measured[str(x)] if x else column[f"baseline_{prompts}"] for x in every]
        scores = np.array([values(row) for row in rows])
        replicates = mean_replicates(scores, f"{name}.{prompts}", n_bootstrap, seed)
        fields[prompts] = [_mean(row) for row in scores]
        fields[f"{prompts}_ci95"] = [nullable_interval(replicates[:, i]) for i in range(len(every))]
        if prompts == effect_on:
            half = half_effect(np.array(every), np.array([_nan(x) for x in fields[prompts]]), replicates)  # type: ignore
        if prompts == "harmless":
            fields["kl"] = [_mean(values(row, "kl")) if x else 0.0 for x, row in zip(every, rows, strict=True)]
    return DoseCurve.model_validate({"dose": every} | fields | {"half_effect": half[0], "half_effect_ci95": half[1]})


def half_effect(
    doses: Float[ndarray, " dose"], means: Float[ndarray, " dose"], replicates: Float[ndarray, "replicate dose"]
) -> tuple[float | None, Interval | None]:
    """Smallest positive dose at which the mean has moved half as far as it ever does there, with its interval.

    Linear between the doses measured; null where the largest move is below LEAST_EFFECT.
    """
    positive = doses >= 0
    doses, means, replicates = doses[positive], means[positive], replicates[:, positive]
    if not np.isfinite(means).all() or np.abs(means - means[0]).max() < LEAST_EFFECT:
        return None, None
    return _crossing(doses, means), nullable_interval(np.array([_crossing(doses, row) for row in replicates]))


def _crossing(doses: Float[ndarray, " dose"], means: Float[ndarray, " dose"]) -> float:
    moved = means - means[0]
    moved = moved * np.sign(moved[np.abs(moved).argmax()])
    target = moved.max() / 2
    place = int((moved >= target).argmax())
    if place == 0:  # nothing moves
        return float("nan")
    left, right = moved[place - 1], moved[place]
    return float(doses[place - 1] + (target - left) / (right - left) * (doses[place] - doses[place - 1]))


def _mean(x: ndarray) -> float | None:
    return nullable(np.nanmean(x)) if np.isfinite(x).any() else None


def _nan(x: float | None) -> float:
    return float("nan") if x is None else x
