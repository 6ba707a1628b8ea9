"""Refusal against the number of ablated components, in four orders and against random subspaces of the same rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.causal.bootstrap import mean_replicates
from refusal_bench.causal.column import Column, Observation, cell, values
from refusal_bench.causal.rows import N_RANDOM_SUBSPACES
from refusal_bench.causal.transfer import NOISE_P
from refusal_bench.metrics.refusal import finite_mean, refusal_rate
from refusal_bench.metrics.statistics import nullable, nullable_interval, percentile_interval, sign_test
from refusal_bench.record import Curve, Interval, Subspace

NESTED = {"uncentred": "subspace", "centred": "centred", "mincos": "mincos", "greedy": "greedy"}
"""Ordering: what its rows are called."""


def subspace(
    columns: Mapping[str, Column], orders: Mapping[str, Sequence[int]], n_bootstrap: int, seed: int
) -> Subspace:
    """Refusal over all domains against the number of ablated components, k = 0 being the unmodified model.

    Rates are of the uncentred principal components. `orders` holds the domains by the orderings that take directions.
    """
    names = list(columns)
    n_components = _depth(next(iter(columns.values())), "subspace")
    rows = ["none", *(f"subspace.{k}" for k in range(1, n_components + 1))]
    letters = ["".join(_found(column, row, "harmful")["labels"] for column in columns.values()) for row in rows]
    rates = [refusal_rate(row) for row in letters]
    curves = {
        name: _curve(columns, _rows(columns, prefix, rows), rows[-1], n_bootstrap, seed)
        for name, prefix in NESTED.items()
    }
    return Subspace(
        k=list(range(n_components + 1)),
        refusal_rate=[rate for rate, _, _ in rates],
        ci95=[interval for _, interval, _ in rates],
        score=curves["uncentred"].score,
        kl=curves["uncentred"].kl,
        labels=letters,
        curves=curves | {"random": _random_curve(columns, rows[-1])},
        order={name: [names[i] for i in order] for name, order in orders.items()},
    )


def _rows(columns: Mapping[str, Column], prefix: str, uncentred: list[str]) -> list[str]:
    """Row of every k; orders of directions end at the whole span, which is measured once."""
    depth = _depth(next(iter(columns.values())), prefix)
    rows = ["none", *(f"{prefix}.{k}" for k in range(1, depth + 1))]
    return [*rows, uncentred[-1]] if prefix in ("mincos", "greedy") else rows


def _depth(column: Column, prefix: str) -> int:
    measured = [*column["ablated"], *column["scored"]["ablated_harmful"]]
    return sum(row.startswith(f"{prefix}.") for row in measured)


def _found(column: Column, row: str, prompts: str) -> Observation:
    observation = cell(column, row, "ablated", prompts)
    if observation is None:
        raise KeyError(row)
    return observation


def _all(columns: Mapping[str, Column], rows: Sequence[str]) -> Float[ndarray, "row prompt"]:
    """Scores of all domains' harmful prompts, in task order."""
    return np.array([np.concatenate([values(_found(c, row, "harmful")) for c in columns.values()]) for row in rows])


def _kl(columns: Mapping[str, Column], row: str) -> float | None:
    if row == "none":
        return 0.0
    return finite_mean([x for column in columns.values() for x in _found(column, row, "harmless")["kl"]])


def _curve(columns: Mapping[str, Column], rows: list[str], full: str, n_bootstrap: int, seed: int) -> Curve:
    scores = _all(columns, rows)
    share = _shares(scores, _all(columns, [full])[0])
    replicates = mean_replicates(scores, "all.harmful", n_bootstrap, seed)
    return Curve(
        k=list(range(len(rows))),
        score=[finite_mean([nullable(x) for x in row]) for row in scores],
        score_ci95=[nullable_interval(replicates[:, k]) for k in range(len(rows))],
        share=share,
        kl=[_kl(columns, row) for row in rows],
        k_for_50=_reaches(share, 0.5),
        k_for_90=_reaches(share, 0.9),
    )


def _random_curve(columns: Mapping[str, Column], full: str) -> Curve:
    """Means over draws of random subspaces, with the central 95 % of the draws."""
    depth = _depth(next(iter(columns.values())), "random_subspace.0")
    rows = [["none"] * N_RANDOM_SUBSPACES] + [
        [f"random_subspace.{draw}.{k}" for draw in range(N_RANDOM_SUBSPACES)] for k in range(1, depth + 1)
    ]
    scores = np.array([_all(columns, draws) for draws in rows])
    by_draw = np.nanmean(scores, axis=2)
    bands: list[Interval | None] = [
        None if k == 0 else (float(low), float(high)) for k, (low, high) in enumerate(percentile_interval(by_draw.T).T)
    ]
    share = _shares(np.nanmean(scores, axis=1), _all(columns, [full])[0])
    return Curve(
        k=list(range(depth + 1)),
        score=[nullable(x) for x in by_draw.mean(axis=1)],
        score_ci95=bands,
        share=share,
        kl=[finite_mean([_kl(columns, row) for row in draws]) for draws in rows],
        k_for_50=_reaches(share, 0.5),
        k_for_90=_reaches(share, 0.9),
    )


def _shares(scores: Float[ndarray, "k prompt"], full: Float[ndarray, " prompt"]) -> list[float | None]:
    """Mean drop at every k as a share of the full drop; null where that is within noise (sign test over prompts)."""
    drop = scores[0] - full
    down, up = int((drop > 0).sum()), int((drop < 0).sum())
    if down <= up or sign_test(down, up) > NOISE_P:
        return [None] * len(scores)
    return [nullable(np.nanmean(scores[0] - row) / np.nanmean(drop)) for row in scores]


def _reaches(share: Sequence[float | None], least: float) -> int | None:
    return next((k for k, value in enumerate(share) if value is not None and value >= least), None)
