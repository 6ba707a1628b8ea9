"""Prompts that belong to two domains: which ablations open them, and how far single domains foretell their scores.

With S_a(r) the mean score of domain a's harmful prompts under row r and h the mean score of harmless prompts,

    additive   h + (S_a(r) - h) + (S_b(r) - h)    each domain adds what it has above harmless prompts
    maximum    max(S_a(r), S_b(r))                whichever domain refuses decides
    shared     (S_a(r) + S_b(r)) / 2              one mechanism that both share, counted once

predict the score of a prompt of a and b under the same row. Nothing is fitted to the mixed prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.backends.passes import Prompt
from refusal_bench.calibration.planted_world import Instruction
from refusal_bench.causal.bootstrap import mean_replicates
from refusal_bench.causal.column import Column, values
from refusal_bench.causal.rows import Interventions
from refusal_bench.config import RunConfig, Sizes
from refusal_bench.evaluation import Evaluator
from refusal_bench.interventions import stacked_ablation
from refusal_bench.metrics.refusal import finite_mean
from refusal_bench.metrics.statistics import nullable, nullable_interval, wilson_interval
from refusal_bench.record import Interval, Mixed, MixedPair, MixtureModel
from refusal_bench.tasks import Task, load_tasks
from refusal_bench.tasks.schema import Kind

Pair = tuple[str, str]

MIXED: Kind = "mixed"
"""Kind, and name, of the task of mixed prompts."""


@dataclass(frozen=True)
class MixedPrompts:
    """The prompts of a task of mixed prompts, rendered, by pair of domains."""

    task: Task
    harmful: Mapping[Pair, tuple[Prompt, ...]]
    harmless: tuple[Prompt, ...]

    @property
    def n(self) -> int:
        """Harmful prompts."""
        return sum(map(len, self.harmful.values()))

    def n_rows(self, n_domains: int) -> int:
        """Scores that `measure_mixed` computes."""
        return self.n * (1 + n_domains + 2) + len(self.harmless)


def mixed_task(config: RunConfig, tasks: Mapping[str, Task]) -> Task | None:
    """The task of mixed prompts; None where domains are not compared, so that nothing could be said of mixtures."""
    if "cross_domain" not in config.sections or len(tasks) < 2:
        return None
    return load_tasks(MIXED, config.tasks_path, (MIXED,))[MIXED]


def planted_mixtures(mixed: Task | None, tasks: Mapping[str, Task]) -> dict[str, Instruction]:
    """Mixed prompts of these tasks, with both their domains."""
    return {
        row.prompt: Instruction(row.domains[0], row.label == "harmful", row.domains[1])
        for row in (mixed.held_out if mixed else ())
        if set(row.domains) <= set(tasks)
    }


def render_mixed(
    task: Task, domains: Sequence[str], render: Callable[[str], Sequence[int]], sizes: Sizes
) -> MixedPrompts | None:
    """Render the prompts both of whose domains are given, a quarter of a domain's number for each pair of domains.

    None without any.
    """
    most = max(1, sizes.max_held_out_pairs // 4)
    chosen: dict[Pair, list[tuple[str, str]]] = {}
    for harmful, harmless in task.pairs("held_out"):
        if len(harmful.domains) == 2 and set(harmful.domains) <= set(domains):
            first, second = sorted(harmful.domains, key=list(domains).index)
            texts = chosen.setdefault((first, second), [])
            if len(texts) < most:
                texts.append((harmful.prompt, harmless.prompt))
    if not chosen:
        return None
    return MixedPrompts(
        task,
        {pair: tuple(tuple(render(harmful)) for harmful, _ in texts) for pair, texts in chosen.items()},
        tuple(tuple(render(harmless)) for texts in chosen.values() for _, harmless in texts),
    )


def row_names(interventions: Interventions) -> list[str]:
    """Rows that every mixed prompt is measured under."""
    return ["none", *interventions.own, "both", "shared"]


def measure_mixed(
    evaluator: Evaluator, prompts: MixedPrompts, interventions: Interventions, on_progress: Callable[[int], None]
) -> dict[str, Any]:
    """Scores of every mixed prompt under every row; no text."""

    def scores(some: Sequence[Prompt], what: Any) -> list[list[float | None]]:
        found = evaluator.evaluate("mixed", some, what, generate=False, on_progress=on_progress)
        return [observation["scores"] for observation in found]

    single = [vector[None] for vector, _ in interventions.own.values()]
    harmful = []
    with evaluator.backend.keeping_prefix([prompt for some in prompts.harmful.values() for prompt in some]):
        for (a, b), some in prompts.harmful.items():
            both = torch.stack([interventions.own[a][0], interventions.own[b][0]])
            nothing = both[:0]
            harmful.append(scores(some, stacked_ablation([nothing, *single, both, interventions.ablate["shared"]])))
    return {"harmful": harmful, "harmless": scores(prompts.harmless, None)[0]}


def mixed(
    measured: Mapping[str, Any],
    prompts: MixedPrompts,
    interventions: Interventions,
    columns: Mapping[str, Column],
    n_bootstrap: int,
    seed: int,
) -> Mixed:
    """Summarise what `measure_mixed` returned, and compare it with the domains' own columns."""
    rows = row_names(interventions)
    tables = {
        pair: np.array(table, dtype=float) for pair, table in zip(prompts.harmful, measured["harmful"], strict=True)
    }
    pairs = [_pair(pair, table, n_bootstrap, seed) for pair, table in tables.items()]
    n_refused = sum(pair.n_refused for pair in pairs)
    one, both = 0, 0
    for pair, table in tables.items():
        open_ = (table <= 0)[:, table[0] > 0]
        alone = open_[rows.index(pair[0])] | open_[rows.index(pair[1])]
        one += int(alone.sum())
        both += int((~alone & open_[rows.index("both")]).sum())
    models = _models(tables, rows, columns, n_bootstrap, seed) if n_refused else []
    shares = [_share(k, n_refused) for k in (one, both)]
    return Mixed(
        task=prompts.task.manifest.name,
        version=prompts.task.manifest.version,
        sha256=prompts.task.sha256,
        rows=rows,
        n=prompts.n,
        n_refused=n_refused,
        harmless_score=finite_mean(measured["harmless"]),
        pairs=pairs,
        opened_by_one=shares[0][0],
        opened_by_one_ci95=shares[0][1],
        both_needed=shares[1][0],
        both_needed_ci95=shares[1][1],
        models=models,
        sentence=_sentence(prompts.n, n_refused, shares, models),
    )


def _pair(pair: Pair, table: Float[ndarray, "row prompt"], n_bootstrap: int, seed: int) -> MixedPair:
    refused = table[0] > 0
    replicates = mean_replicates(table, f"mixed {pair}", n_bootstrap, seed)
    return MixedPair(
        domains=pair,
        n=table.shape[1],
        n_refused=int(refused.sum()),
        score=[finite_mean([nullable(x) for x in row]) for row in table],
        score_ci95=[nullable_interval(replicates[:, i]) for i in range(len(table))],
        opened=[float((row[refused] <= 0).mean()) if refused.any() else None for row in table],
    )


def _models(
    tables: Mapping[Pair, Float[ndarray, "row prompt"]],
    rows: Sequence[str],
    columns: Mapping[str, Column],
    n_bootstrap: int,
    seed: int,
) -> list[MixtureModel]:
    """Errors of the three predictions on all rows that single domains were measured under too."""
    kept = [row for row in rows if row != "both"]
    places = [rows.index(row) for row in kept]
    single = {
        name: np.array([_mean(column["baseline_harmful"] if row == "none" else column["ablated"][row]) for row in kept])
        for name, column in columns.items()
    }
    harmless = {name: _mean(column["baseline_harmless"]) for name, column in columns.items()}
    predicted: dict[str, list[ndarray]] = {"additive": [], "maximum": [], "shared": []}
    for a, b in tables:
        level = (harmless[a] + harmless[b]) / 2
        predicted["additive"].append(single[a] + single[b] - level)
        predicted["maximum"].append(np.maximum(single[a], single[b]))
        predicted["shared"].append((single[a] + single[b]) / 2)
    scores = np.concatenate([table[places] for table in tables.values()], axis=1)
    sizes = [table.shape[1] for table in tables.values()]
    found = []
    for name, columns_of in predicted.items():
        residual = scores - np.repeat(np.array(columns_of).T, sizes, axis=1)
        error = np.abs(residual)
        variance = float(np.nanvar(scores))
        found.append(
            MixtureModel(
                name=name,
                mean_abs_error=float(np.nanmean(error)),
                mean_abs_error_ci95=nullable_interval(
                    mean_replicates(np.nanmean(error, axis=0), "mixed", n_bootstrap, seed)
                ),
                r2=None if variance == 0 else 1 - float(np.nanmean(residual**2)) / variance,
            )
        )
    return sorted(found, key=lambda model: model.mean_abs_error)


def _mean(observation: Mapping[str, Any]) -> float:
    return float(np.nanmean(values(dict(observation))))


def _share(k: int, n: int) -> tuple[float | None, Interval | None]:
    return (k / n, wilson_interval(k, n)) if n else (None, None)


def _sentence(
    n: int, n_refused: int, shares: Sequence[tuple[float | None, Interval | None]], models: Sequence[MixtureModel]
) -> str:
    if not n_refused:
        return f"None of {n} prompts of two domains is refused by its score."
    said = [
        "–" if share is None or interval is None else f"{share:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]"
        for share, interval in shares
    ]
    return (
        f"Of {n_refused} refused prompts of two domains (of {n}), one of their domains' directions alone opens "
        f"{said[0]}; {said[1]} need both. Best foretold by the {models[0].name} model (mean error "
        f"{models[0].mean_abs_error:.2f} nats, next {models[1].name} {models[1].mean_abs_error:.2f})."
    )
