"""Does refusal-bench get worlds with known answers right, and at the stated rate?

Two levels, both through the code of a real run: residuals drawn from a planted model of the residual stream, where the
geometry is judged over many seeds; and planted Llama models, which a whole run measures from prompts to record.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from refusal_bench.calibration.activation_worlds import HARMFULNESS, WORLDS, ActivationWorld, two_directions
from refusal_bench.metrics.comparisons import MIN_RELIABILITY, SEVERAL
from refusal_bench.metrics.cosines import spectrum
from refusal_bench.metrics.geometry import PairResiduals, geometry
from refusal_bench.metrics.moments import moments
from refusal_bench.metrics.noise import disattenuated
from refusal_bench.metrics.statistics import wilson_interval
from refusal_bench.record import Geometry, GeometrySite, Record

N_PAIRS = 48
"""Pairs a domain, as many as the bundled tasks have for training."""
N_BOOTSTRAP = 100
CORRECT_SHARE = 0.9
"""Share of seeds that must come out right for a world to pass; 0.95 where the right answer is one direction."""
COVERAGE = (0.93, 0.985)
"""Where the coverage of a 95 % interval must lie."""
BIAS = 0.02
"""How far the mean corrected cosine may be from the planted one."""
NAIVE_COSINE = 0.9
"""The naive reading: two directions are different if their raw cosine is below this."""
SITE = GeometrySite(layer=0, position=-1, chosen_by="planted")


@dataclass(frozen=True)
class WorldResult:
    """How one world came out."""

    expected: str
    """The right answer, in words."""
    n_seeds: int
    correct_share: float
    """Share of seeds with the right answer."""
    coverage95: float | None = None
    """Share of 95 % intervals of corrected cosines that hold the planted one."""
    flagged_share: float | None = None
    """Share of seeds whose contrast was flagged as unfair."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Known and recovered figures."""
    passed: bool = True


Seeds = Sequence[Geometry]


def calibrate(
    names: Sequence[str] | None, seeds: int, on_progress: Callable[[str], None] = lambda name: None
) -> dict[str, WorldResult]:
    """Run the named worlds, or all; `seeds` is the number of activation samples a world."""
    results = {}
    for name in names or ALL:
        on_progress(name)
        results[name] = ALL[name](seeds)
    return results


def to_json(results: Mapping[str, WorldResult]) -> dict[str, Any]:
    """Plain JSON values, as `calibrate --json` prints them."""
    return {"worlds": {name: asdict(result) for name, result in results.items()}}


def _measure(world: ActivationWorld, seeds: int) -> Seeds:
    return [_geometry(world.draw(N_PAIRS, np.random.default_rng(seed)), seed) for seed in range(seeds)]


def _geometry(domains: Mapping[str, PairResiduals], seed: int) -> Geometry:
    return geometry(domains, SITE, n_bootstrap=N_BOOTSTRAP, seed=seed)[0]


def _says_several(found: Geometry) -> bool:
    return found.verdict.startswith(SEVERAL)


def _flags(found: Geometry) -> set[str]:
    return set(found.topic_control.flags) if found.topic_control else set()


def _coverage(found: Seeds, gram: np.ndarray) -> float | None:
    """Share of intervals that hold the planted cosine, over seeds and pairs of domains."""
    held = [
        interval[0] <= gram[i, j] + 1e-9 and gram[i, j] - 1e-9 <= interval[1]
        for g in found
        for i, j in combinations(range(len(gram)), 2)
        if g.cosine_disattenuated_ci95 and (interval := g.cosine_disattenuated_ci95[i][j])
    ]
    return float(np.mean(held)) if held else None


def _naive_share(found: Seeds) -> float:
    return float(np.mean([np.array(g.cosine, dtype=float).min() < NAIVE_COSINE for g in found]))


def _spectra(cosine: np.ndarray) -> dict[str, float]:
    """PC1 and the first three components of a table of cosines, in both conventions."""
    figures: dict[str, float] = {}
    for kind in ("centred", "uncentred"):
        values = spectrum(cosine, centred=kind == "centred")
        if values.sum() > 1e-9:
            shares = np.cumsum(values / values.sum())
            figures |= {f"{kind} PC1": float(shares[0]), f"{kind} three components": float(shares[2])}
    return figures


def _summary(world: ActivationWorld, found: Seeds) -> dict[str, Any]:
    """Known and recovered figures that every activation world has."""
    complete = [np.array(g.cosine_disattenuated, dtype=float) for g in found if _complete(g)]
    corrected = np.mean(complete, axis=0) if complete else np.full_like(world.gram, np.nan)
    upper = np.triu_indices(len(world.gram), 1)
    return {
        "known": {"mean cosine": float(world.gram[upper].mean()), **_spectra(world.gram)},
        "recovered": {
            "mean cosine as measured": float(np.mean([np.array(g.cosine)[upper].mean() for g in found])),
            "mean cosine": float(corrected[upper].mean()),
            **(_spectra(corrected) if complete else {}),
        },
        "dimensions": {
            str(n): sum(g.n_components == n for g in found) for n in sorted({g.n_components or 0 for g in found})
        },
        "says more than one direction": float(np.mean([_says_several(g) for g in found])),
        "naive reading says so": _naive_share(found),
        "pairs": N_PAIRS,
    }


def _complete(found: Geometry) -> bool:
    return all(value is not None for row in found.cosine_disattenuated for value in row)


def _activations(
    world: ActivationWorld, seeds: int, expected: str, right: Callable[[Geometry], bool], least: float
) -> WorldResult:
    found = _measure(world, seeds)
    correct = float(np.mean([right(g) for g in found]))
    fair = world.matched_topics and not world.shared_negatives
    return WorldResult(
        expected=expected,
        n_seeds=seeds,
        correct_share=correct,
        coverage95=_coverage(found, world.gram) if fair else None,
        flagged_share=float(np.mean([bool(_flags(g)) for g in found])),
        figures=_summary(world, found),
        passed=_at_least(correct, least, seeds),
    )


def _at_least(share: float, least: float, n: int) -> bool:
    """Whether a share over n seeds is compatible with at least that rate."""
    return wilson_interval(round(share * n), n)[1] >= least


def _single(seeds: int) -> WorldResult:
    return _with_model(
        _activations(
            WORLDS["single"],
            seeds,
            "one direction, full transfer, no flag",
            lambda g: not _says_several(g) and not _flags(g),
            0.95,
        ),
        "single",
        lambda record: _all_ok(record) and not _several(record) and _transfer_within(record, np.ones((5, 5)), 0.1),
    )


def _study(seeds: int) -> WorldResult:
    from refusal_bench.calibration.planted_world import STUDY_COSINES

    return _with_model(
        _activations(
            WORLDS["study"],
            seeds,
            "more than one direction: the five published cosines",
            lambda g: _says_several(g) and not _flags(g),
            0.95,
        ),
        "study",
        lambda record: _all_ok(record) and _several(record) and _transfer_within(record, STUDY_COSINES, 0.1),
    )


def _cone(seeds: int) -> WorldResult:
    return _with_model(
        _activations(WORLDS["cone"], seeds, "three dimensions", lambda g: g.n_components == 3, CORRECT_SHARE),
        "cone",
        lambda record: _all_ok(record) and components_for(record, 0.9) == 3,
    )


def _topic_confound(seeds: int) -> WorldResult:
    return _with_model(
        _activations(
            WORLDS["topic_confound"],
            seeds,
            "one direction; low naive cosines are flagged as topic",
            lambda g: "topic_confound" in _flags(g),
            CORRECT_SHARE,
        ),
        "topic_confound",
        lambda record: (
            # A run knows more than activations: what acts as one is one, however low the cosines.
            _transfer_within(record, np.ones((5, 5)), 0.1)
            and any("differ but act as one" in warning for warning in record.warnings)
        ),
    )


def _shared_negatives(seeds: int) -> WorldResult:
    return _activations(
        WORLDS["shared_negatives"],
        seeds,
        "unrelated directions; spuriously high cosines are flagged",
        lambda g: "shared_negatives" in _flags(g),
        CORRECT_SHARE,
    )


def _harm_vs_refusal(seeds: int) -> WorldResult:
    """At the last instruction token each domain's harm has an axis; at the last template token refusal has one."""
    instruction, template = _measure(HARMFULNESS, seeds), _measure(WORLDS["single"], seeds)
    right = [_says_several(a) and not _says_several(b) for a, b in zip(instruction, template, strict=True)]
    result = WorldResult(
        expected="harm of several directions at the instruction, refusal of one at the template's last token",
        n_seeds=seeds,
        correct_share=float(np.mean(right)),
        coverage95=_coverage(instruction, HARMFULNESS.gram),
        flagged_share=float(np.mean([bool(_flags(g)) for g in (*instruction, *template)])),
        figures={"instruction": _summary(HARMFULNESS, instruction), "template": _summary(WORLDS["single"], template)},
        passed=_at_least(float(np.mean(right)), CORRECT_SHARE, seeds),
    )
    return _with_model(result, "harm_vs_refusal", lambda record: _all_ok(record) and not _several(record))


def _without_direction(name: str, expected: str, seeds: int) -> WorldResult:
    del seeds  # the model's answer is what counts
    return _with_model(
        WorldResult(expected=expected, n_seeds=0, correct_share=1.0),
        name,
        lambda record: (
            all(task.status == "no_direction" for task in record.results.tasks.values())
            and record.results.geometry is None
        ),
    )


def _intervals(seeds: int) -> WorldResult:
    """Coverage and bias of corrected cosines over sample sizes, widths, cosines, noise and reliabilities."""
    rows = [
        coverage(10 * seeds, n, 64, cosine, reliability, power_law)
        for n in (10, 48)
        for cosine in (0.0, 0.35, 0.8, 1.0)
        for reliability, power_law in ((0.8, False), (0.9, True))
    ]
    held = [_holds(row, 10 * seeds) for row in rows]
    return WorldResult(
        expected="95 % intervals hold the planted cosine at their rate, bias below 0.02",
        n_seeds=10 * seeds,
        correct_share=float(np.mean(held)),
        coverage95=float(np.mean([row["coverage95"] for row in rows])),
        figures={"cells": rows},
        passed=float(np.mean(held)) >= CORRECT_SHARE,
    )


def _holds(row: Mapping[str, float], seeds: int) -> bool:
    """Whether coverage and bias over so many seeds are compatible with what is claimed."""
    low, high = wilson_interval(round(row["coverage95"] * seeds), seeds)
    # With noise along few axes intervals are conservative where cosines are high or reliability low (docs/calibration).
    conservative = row["power_law"] and (row["cosine"] >= 0.8 or row["reliability"] < 0.9)
    return bool(
        high >= COVERAGE[0]
        and (conservative or low <= COVERAGE[1])
        and abs(row["bias"]) < BIAS + row["half_width"] / np.sqrt(seeds)
    )


def coverage(
    seeds: int, n_pairs: int, d_model: int, cosine: float, reliability: float, power_law: bool, seed: int = 0
) -> dict[str, float]:
    """Coverage of the corrected cosine's 95 % interval, and its bias, over all seeds of one setting."""
    rng = np.random.default_rng([seed, n_pairs, d_model, round(1000 * cosine), round(1000 * reliability), power_law])
    owner = np.repeat([0, 1], n_pairs)
    held, estimates, widths, printed = [], [], [], []
    for first in range(0, seeds, 50):  # 50 Gram matrices at a time: few enough for the cache, many enough for numpy
        count = min(50, seeds - first)
        found = moments(two_directions(count, n_pairs, d_model, cosine, reliability, power_law, rng), owner)
        result = disattenuated(found)
        low, high = result.low[:, 0, 1], result.high[:, 0, 1]
        # An interval that the data do not bound holds everything.
        held.append(np.isnan(low) | ((low <= cosine + 1e-9) & (cosine - 1e-9 <= high)))
        estimates.append(result.cosine[:, 0, 1])
        widths.append((high - low) / 2)
        printed.append((found.reliability >= MIN_RELIABILITY).all(axis=-1))
    return {
        "n_pairs": n_pairs,
        "d_model": d_model,
        "cosine": cosine,
        "reliability": reliability,
        "power_law": float(power_law),
        "coverage95": float(np.concatenate(held).mean()),
        "bias": float(np.nanmean(np.concatenate(estimates)) - cosine),
        "half_width": float(np.nanmedian(np.concatenate(widths))),
        "printed_share": float(np.concatenate(printed).mean()),
    }


def _with_model(result: WorldResult, world: str, right: Callable[[Record], bool]) -> WorldResult:
    """Add a whole run of the planted Llama of that world; it must be right as well."""
    record = run_planted(world)
    correct = right(record)
    figures = result.figures | {"model": _model_figures(record) | {"correct": correct}}
    return WorldResult(
        **{
            **asdict(result),
            "figures": figures,
            "correct_share": result.correct_share if correct else 0.0,
            "passed": result.passed and correct,
        }
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


def _all_ok(record: Record) -> bool:
    return all(task.status == "ok" for task in record.results.tasks.values())


def _several(record: Record) -> bool:
    return record.results.geometry is not None and _says_several(record.results.geometry)


def _transfer_within(record: Record, expected: np.ndarray, tolerance: float) -> bool:
    """Whether every cell of the transfer matrix is near what the construction predicts."""
    cross = record.results.cross_domain
    if cross is None:
        return False
    from refusal_bench.calibration.planted_world import STUDY_DOMAINS

    order = [STUDY_DOMAINS.index(name) for name in cross.domains]
    found = np.array(cross.transfer, dtype=float)
    return bool((np.abs(found - expected[np.ix_(order, order)]) <= tolerance).all())


ALL: Mapping[str, Callable[[int], WorldResult]] = {
    "single": _single,
    "study": _study,
    "cone": _cone,
    "topic_confound": _topic_confound,
    "shared_negatives": _shared_negatives,
    "harm_vs_refusal": _harm_vs_refusal,
    "no_refusal": partial(_without_direction, "no_refusal", "the model never refuses: no direction, no geometry"),
    "late": partial(_without_direction, "late", "the direction exists only past 80 % of depth: no direction"),
    "intervals": _intervals,
}
"""What `calibrate` runs, in this order."""
