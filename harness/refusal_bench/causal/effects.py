"""Every row's effect on every domain's prompts by score and KL: domains, controls, shared and specific parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.causal.bootstrap import mean_replicates
from refusal_bench.causal.column import Column, cell, values
from refusal_bench.config import Sizes
from refusal_bench.metrics.statistics import nullable, nullable_interval
from refusal_bench.record import Effects, Interval, Matrix, ScoredRows

SEVERAL = ("random", "permuted")
"""Rows that stand for several directions, `random.0`, `random.1`, ..."""

Under = Literal["ablated", "added"]


def effects(columns: Mapping[str, Column], transfer: Matrix, sizes: Sizes, seed: int) -> Effects:
    """Assemble the three tables; `transfer` tells in which columns a share of the own drop is defined."""

    def table(under: Under, prompts: str) -> ScoredRows:
        return _scored_rows(columns, under, prompts, transfer, sizes, seed)

    ablated = table("ablated", "harmful")
    return Effects(
        ablated_harmful=ablated,
        ablated_harmless=table("ablated", "harmless"),
        added_harmless=table("added", "harmless"),
        fragile=_fragile(columns, ablated, sizes.n_bootstrap, seed),
    )


def row_names(columns: Mapping[str, Column], under: Under) -> list[str]:
    """Rows of a table: `none`, the domains, controls, then parts of directions."""
    names = list(columns)
    common = ["none", *names, *SEVERAL, "pooled"]
    if under == "ablated":  # what is left of one domain's direction in the shared one spans just that
        return [*common, "span", "shared", *(f"specific.{name}" for name in names)]
    return [*common, "shared", *(f"{part}.{name}" for part in ("shared_only", "specific") for name in names)]


def members(column: Column, row: str) -> list[str]:
    """Names under which the directions behind a row were measured."""
    if row not in SEVERAL:
        return [row]
    measured = [*column["ablated"], *column["scored"]["ablated_harmful"]]
    return sorted((name for name in measured if name.startswith(f"{row}.")), key=lambda name: int(name.split(".")[1]))


def _scored_rows(
    columns: Mapping[str, Column], under: Under, prompts: str, transfer: Matrix, sizes: Sizes, seed: int
) -> ScoredRows:
    rows = row_names(columns, under)
    table: dict[str, list[list[object]]] = {name: [] for name in ("score", "change", "change_ci95", "share", "kl")}
    for row in rows:
        cells = [
            _summary(column, row, under, prompts, name, j, transfer, sizes.n_bootstrap, seed)
            for j, (name, column) in enumerate(columns.items())
        ]
        for key, line in table.items():
            line.append([cell[key] for cell in cells])
    first = next(iter(columns.values()))
    return ScoredRows.model_validate(
        {"rows": rows, "n_directions": [len(members(first, row)) for row in rows]}
        | table
        | ({"share": None} if prompts == "harmless" else {"kl": None})
    )


def _summary(
    column: Column,
    row: str,
    under: Under,
    prompts: str,
    name: str,
    j: int,
    transfer: Matrix,
    n_bootstrap: int,
    seed: int,
) -> dict[str, object]:
    """Mean score, change with its interval, share of the own drop and KL of one cell."""
    found = [cell(column, member, under, prompts) for member in members(column, row)]
    kept = [observation for observation in found if observation is not None]
    if not kept:
        return dict.fromkeys(("score", "change", "change_ci95", "share", "kl"))
    before = values(column[f"baseline_{prompts}"])
    after = np.array([values(observation) for observation in kept])
    changes = after - before
    own = cell(column, name, under, prompts)
    share = None
    if prompts == "harmful" and transfer[j][j] is not None and own is not None:
        share = nullable(_mean(changes) / _mean(values(own) - before) + 0.0)  # no -0.0
    return {
        "score": nullable(_mean(after)),
        "change": nullable(_mean(changes)),
        "change_ci95": _interval(changes, name, prompts, n_bootstrap, seed),
        "share": share,
        "kl": nullable(_mean(np.array([values(observation, "kl") for observation in kept])) if row != "none" else 0.0),
    }


def _interval(
    changes: Float[ndarray, "direction prompt"], name: str, prompts: str, n_bootstrap: int, seed: int
) -> Interval | None:
    """Over prompts for one direction, over directions for several."""
    if len(changes) > 1:
        return nullable_interval(np.nanmean(changes, axis=1)) if np.isfinite(changes).any(axis=1).all() else None
    return nullable_interval(mean_replicates(changes[0], f"{name}.{prompts}", n_bootstrap, seed))


def _fragile(columns: Mapping[str, Column], table: ScoredRows, n_bootstrap: int, seed: int) -> list[str]:
    """Domains whose mean score under random ablation lies outside the interval of their unmodified score."""
    random = table.score[table.rows.index("random")]
    out = []
    for (name, column), after in zip(columns.items(), random, strict=True):
        before = values(column["baseline_harmful"])
        interval = nullable_interval(mean_replicates(before, f"{name}.harmful", n_bootstrap, seed))
        if after is not None and interval is not None and not interval[0] <= after <= interval[1]:
            out.append(name)
    return out


def _mean(x: ndarray) -> float:
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")
