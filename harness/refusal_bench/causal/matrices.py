"""The matrices of rates, assembled from columns: domains on domains, with random and shared controls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refusal_bench.causal.column import Column, Observation
from refusal_bench.causal.dependence import dependence_matrix
from refusal_bench.causal.dose import dose
from refusal_bench.causal.effects import effects
from refusal_bench.causal.parts import parts
from refusal_bench.causal.transfer import (
    transfer,
    transfer_intervals,
    transfer_replicates,
    transfer_summary,
    verdict,
)
from refusal_bench.config import Sizes
from refusal_bench.metrics.refusal import finite_mean, refusal_rate
from refusal_bench.metrics.statistics import UNSCORED, holm, mcnemar_exact, nullable, percentile_interval
from refusal_bench.record import CausalMatrix, Control, ControlPair, Controls, CrossDomain, Geometry, Interval, Mixed


def cross_domain(
    columns: Mapping[str, Column],
    geometry: Geometry | None,
    mixed: Mixed | None,
    n_layers: int,
    sizes: Sizes,
    seed: int,
) -> CrossDomain:
    """Assemble all tables; row and column order is that of `columns`. Clusters and cosines are those of `geometry`."""
    found = matrices(columns, sizes, seed)
    replicates = transfer_replicates(found.baseline, found.ablation, sizes.n_bootstrap, seed)
    more = {
        "summary": None if geometry is None else transfer_summary(geometry, found.transfer, replicates, seed),
        "effects": effects(columns, found.transfer, sizes, seed),
        "parts": {name: parts(column, name, sizes.n_bootstrap, seed) for name, column in columns.items()},
        "dose": {name: dose(column, name, sizes.n_bootstrap, seed) for name, column in columns.items()},
        "dependence": dependence_matrix(columns, n_layers, sizes.n_bootstrap, seed),
        "mixed": mixed,
    }
    return found.model_copy(update=more)


def matrices(columns: Mapping[str, Column], sizes: Sizes, seed: int) -> CrossDomain:
    """Rates and transfer alone."""
    names = list(columns)
    baseline = _matrix(
        [[columns[d]["baseline_harmful"] for d in names], [columns[d]["baseline_harmless"] for d in names]]
    )
    ablation = _tested(_matrix([[columns[d]["ablated"][row] for d in names] for row in names]), baseline.labels[0])
    addition = _tested(_matrix([[columns[d]["added"][row] for d in names] for row in names]), baseline.labels[1])
    random = [f"random.{i}" for i in range(sizes.n_random_directions)]
    shares = transfer(baseline, ablation)
    intervals = transfer_intervals(shares, transfer_replicates(baseline, ablation, sizes.n_bootstrap, seed))
    return CrossDomain(
        domains=names,
        baseline=baseline,
        ablation=ablation,
        addition=addition,
        controls=Controls(
            random=ControlPair(
                ablation=_control(columns, "ablated", random), addition=_control(columns, "added", random)
            ),
            shared=ControlPair(
                ablation=_control(columns, "ablated", ["shared"]), addition=_control(columns, "added", ["shared"])
            ),
        ),
        transfer=shares,
        transfer_ci95=intervals,
        verdict=verdict(names, shares, intervals),
    )


def _matrix(cells: list[list[Observation]]) -> CausalMatrix:
    rates = [[refusal_rate(cell["labels"]) for cell in row] for row in cells]
    return CausalMatrix(
        refusal_rate=[[rate for rate, _, _ in row] for row in rates],
        ci95=[[interval for _, interval, _ in row] for row in rates],
        n=[[scored for _, _, scored in row] for row in rates],
        score=[[finite_mean(cell["scores"]) for cell in row] for row in cells],
        labels=[[cell["labels"] for cell in row] for row in cells],
        scores=[[cell["scores"] for cell in row] for row in cells],
    )


def _tested(matrix: CausalMatrix, before: list[str]) -> CausalMatrix:
    """Add exact McNemar tests of every cell against the column's unmodified labels, and Holm's correction of all."""
    p = np.array([[_p(labels, cell) for labels, cell in zip(before, row, strict=True)] for row in matrix.labels])
    adjusted = np.full_like(p, np.nan)
    adjusted[np.isfinite(p)] = holm(p[np.isfinite(p)])
    found = [[[nullable(value) for value in row] for row in table] for table in (p, adjusted)]
    return matrix.model_copy(update={"p_value": found[0], "p_holm": found[1]})


def _p(before: str, after: str) -> float:
    return mcnemar_exact(before, after) if set(after) - UNSCORED else float("nan")


def _control(columns: Mapping[str, Column], what: str, rows: list[str]) -> Control:
    by_domain = [[column[what][row] for row in rows] for column in columns.values()]
    rates = [[refusal_rate(cell["labels"])[0] for cell in cells] for cells in by_domain]
    means = [[finite_mean(cell["scores"]) for cell in cells] for cells in by_domain]
    return Control(
        n_directions=len(rows),
        refusal_rate=[finite_mean(row) for row in rates],
        band95=[_band(row) for row in rates],
        score=[finite_mean(row) for row in means],
        score_band95=[_band(row) for row in means],
        labels=[[cells[i]["labels"] for cells in by_domain] for i in range(len(rows))],
    )


def _band(values: list[float | None]) -> Interval | None:
    kept = np.array([value for value in values if value is not None])
    if kept.size < 2:
        return None
    low, high = percentile_interval(kept)
    return float(low), float(high)
