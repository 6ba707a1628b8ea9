"""Planted Llamas, measured by a whole run from prompts to record, and whether the record says what was planted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refusal_bench.calibration.activations import says_several
from refusal_bench.calibration.planted_world import STUDY_DOMAINS
from refusal_bench.calibration.result import WorldResult
from refusal_bench.record import Record


def with_model(result: WorldResult, world: str, right: Callable[[Record], bool]) -> WorldResult:
    """Add a whole run of the planted Llama of that world; it must be right as well."""
    record = run_planted(world)
    correct = right(record)
    figures = result.figures | {"model": _model_figures(record) | {"correct": correct}}
    return replace(
        result,
        figures=figures,
        correct_share=result.correct_share if correct else 0.0,
        passed=result.passed and correct,
    )


def run_planted(world: str) -> Record:
    """Measure the planted Llama of a world with the bundled tasks, a quick run in a folder that is then removed."""
    from refusal_bench.config import RunConfig
    from refusal_bench.pipeline import run
    from refusal_bench.progress import Reporter

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            model="planted" if world == "study" else f"planted:{world}",
            tasks="all",
            out=Path(folder),
            leaderboard=None,
            quick=True,
            sections=("cross_domain", "subspace"),
        )
        return run(config, Reporter(quiet=True))[0]


def _model_figures(record: Record) -> dict[str, Any]:
    results = record.results
    figures: dict[str, Any] = {"status": {name: task.status for name, task in results.tasks.items()}}
    if results.geometry is not None and results.cross_domain is not None:
        upper = np.triu_indices(len(results.geometry.domains), 1)
        transfer = np.array(results.cross_domain.transfer, dtype=float)
        figures |= {
            "mean cosine": float(np.array(results.geometry.cosine)[upper].mean()),
            "mean transfer": float(np.nanmean(transfer[~np.eye(len(transfer), dtype=bool)])),
            "components for 90 %": components_for(record, 0.9),
            "verdict": results.geometry.verdict,
        }
    return figures


def components_for(record: Record, share: float) -> int | None:
    """Fewest ablated components that lower refusal by that share of what the most of them do; null without a curve."""
    curve = record.results.subspace
    if curve is None or any(rate is None for rate in curve.refusal_rate):
        return None
    drop = curve.refusal_rate[0] - np.array(curve.refusal_rate, dtype=float)
    if drop[-1] <= 0:
        return None
    return int(curve.k[int(np.argmax(drop >= share * drop[-1] - 1e-9))])


def all_ok(record: Record) -> bool:
    """Whether every domain has a direction."""
    return all(task.status == "ok" for task in record.results.tasks.values())


def several(record: Record) -> bool:
    """Whether the record has a geometry whose verdict is that there is more than one direction."""
    return record.results.geometry is not None and says_several(record.results.geometry)


def transfer_within(record: Record, expected: np.ndarray, tolerance: float) -> bool:
    """Whether every cell of the transfer matrix is near what the construction predicts."""
    cross = record.results.cross_domain
    if cross is None:
        return False
    order = [STUDY_DOMAINS.index(name) for name in cross.domains]
    found = np.array(cross.transfer, dtype=float)
    return bool((np.abs(found - expected[np.ix_(order, order)]) <= tolerance).all())
