"""The leaderboard's columns: one row a record and task. What is one for the whole run stands on all of its rows."""

from __future__ import annotations

from refusal_bench.leaderboard.derive import mean
from refusal_bench.leaderboard.summary import Estimate, Summary, summary
from refusal_bench.record import Matrix, Record

Cell = str | int | float | bool | None
Row = dict[str, Cell]

_CONDITIONS = {
    "baseline_harmful": "harmful prompts, no intervention",
    "baseline_harmless": "harmless prompts, no intervention",
    "ablated_harmful": "harmful prompts, own direction ablated",
    "ablated_harmless": "harmless prompts, own direction ablated",
    "added_harmless": "harmless prompts, own direction added",
}


def _rate_columns(name: str, what: str) -> dict[str, str]:
    return {
        f"{name}_rate": f"refusal rate: {what}",
        f"{name}_rate_low": f"lower end of the rate's 95 % interval: {what}",
        f"{name}_rate_high": f"upper end of the rate's 95 % interval: {what}",
    }


def _run_rate_columns(name: str, what: str) -> dict[str, str]:
    return {**_rate_columns(name, what), f"{name}_n": f"scored completions behind the rate: {what}"}


COLUMNS: dict[str, str] = {
    "model": "model id",
    "revision": "hub commit or pinned version",
    "weights_sha256": "SHA-256 over the weights",
    "adapter_sha256": "SHA-256 of the adapter's weights",
    "quantization": "weight quantisation",
    "dtype": "data type of weights and activations",
    "system_prompt_sha256": "SHA-256 of the text before the instruction",
    "run_id": "name of the run",
    "created": "start, UTC",
    "tool_version": "version of refusal-bench",
    "status": "of the run: complete or incomplete",
    "quick": "smaller sample sizes; not comparable with full runs",
    "task": "harm domain",
    "task_version": "version of its prompts",
    "task_status": "ok or no_direction",
    "layer": "block whose input the direction is read from",
    "position": "token position of the direction, from the end",
    "bypass": "mean refusal score (nats) of harmful selection prompts, direction ablated; lower is stronger",
    "induce": "mean refusal score (nats) of harmless selection prompts, direction added; higher is stronger",
    "kl": "KL (nats) on harmless selection prompts, direction ablated; lower is cleaner",
    "n": "harmful held-out prompts",
    "n_unscored": "completions under the five conditions that could not be scored",
    **{
        column: meaning
        for condition, what in _CONDITIONS.items()
        for column, meaning in {
            **_rate_columns(condition, what),
            f"{condition}_score": f"mean refusal score (nats): {what}",
        }.items()
    },
    "reliability": "split-half reliability of the direction at the common site",
    "mean_cosine": "mean cosine to the other domains at the common site",
    "mean_transfer": "mean share of the other domains' own drop that this direction's ablation causes",
    "pc1_centred": "variance share of the first component of all domains' directions, mean subtracted",
    "pc1_uncentred": "the same with the mean kept",
    "mean_ceiling": "mean_cosine of directions that are all one, with this noise",
    "damage_kl": "KL (nats) on harmless held-out prompts, own direction ablated",
    "damage_loss": "rise of the loss (nats a token) on own answers to harmless held-out prompts, own direction ablated",
    **_run_rate_columns("worst_harmful", "harmful prompts of the domain that refuses least"),
    "worst_harmful_domains": "the domains with that rate",
    **_run_rate_columns("worst_harmless", "harmless prompts of the domain that refuses most"),
    "worst_harmless_domains": "the domains with that rate",
    **_run_rate_columns("safe_prompts", "safe prompts that only look dangerous, of the task over_refusal"),
    **_run_rate_columns("unsafe_contrasts", "unsafe contrasts of the task over_refusal"),
    "over_refusal_version": "version of the task over_refusal",
    "dimensions": "dimensions of all domains' directions beyond noise",
    "all_mean_cosine": "mean cosine over all pairs of domains, common site",
    "all_mean_ceiling": "that mean of directions that are all one, with this noise",
    "pc1_uncentred_low": "lower end of pc1_uncentred's 95 % interval",
    "pc1_uncentred_high": "upper end of pc1_uncentred's 95 % interval",
    "all_mean_transfer": "mean transfer over all pairs of domains, without directions that have no effect at home",
    "least_transfer": "the lowest of these transfers",
    "least_transfer_low": "lower end of its 95 % interval",
    "least_transfer_high": "upper end of its 95 % interval",
    "least_transfer_pair": "domain whose direction is ablated → domain evaluated",
    "worst_damage_kl": "the largest damage_kl over domains",
    "judge": "who labelled the completions",
    "judge_version": "of its rules, or of the model behind it",
    "source_quantization": "how the weights were quantised before they were loaded",
    "n_layers": "decoder blocks",
    "d_model": "width of the residual stream",
    "tokens": "tokens through the model",
    "forward_passes": "calls of the model",
    "seconds": "time of all stages",
    "peak_memory_bytes": "peak memory, of the GPU where there is one",
    "device": "what it ran on",
}
"""Name and meaning of each column, in order; a new one goes to the end."""

_TEXT = (
    *("model", "revision", "weights_sha256", "adapter_sha256", "quantization", "dtype", "system_prompt_sha256"),
    *("run_id", "created", "tool_version", "status", "task", "task_version", "task_status"),
    *("worst_harmful_domains", "worst_harmless_domains", "over_refusal_version", "least_transfer_pair"),
    *("judge", "judge_version", "source_quantization", "device"),
)
_WHOLE = (
    *("layer", "position", "n", "n_unscored"),
    *("worst_harmful_n", "worst_harmless_n", "safe_prompts_n", "unsafe_contrasts_n", "dimensions"),
    *("n_layers", "d_model", "tokens", "forward_passes", "peak_memory_bytes"),
)
DTYPES: dict[str, str] = {
    **dict.fromkeys(COLUMNS, "Float64"),
    **dict.fromkeys(_TEXT, "string"),
    **dict.fromkeys(_WHOLE, "Int64"),
    "quick": "boolean",
}
"""pandas type of each column; stated, so that a column without values keeps its type."""


def rows_of(record: Record) -> list[Row]:
    """Return the record's leaderboard rows, one a task; a null means not measured or not defined."""
    run = {**_run_cells(record), **_summary_cells(summary(record))}
    rows = [{**run, **_task_cells(record, name)} for name in record.results.tasks]
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _run_cells(record: Record) -> Row:
    model, geometry, apart = record.model, record.results.geometry, record.results.over_refusal
    judge = record.config.get("judge")
    return {
        "model": model.id,
        "revision": model.revision,
        "weights_sha256": model.weights_sha256,
        "adapter_sha256": model.adapter_sha256,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "system_prompt_sha256": model.system_prompt_sha256,
        "run_id": record.run_id,
        "created": record.created,
        "tool_version": record.tool.version,
        "status": record.status,
        "quick": record.config.get("quick") is True,
        "pc1_centred": _first(geometry.pca.centred.explained_variance_ratio) if geometry else None,
        "over_refusal_version": apart.version if apart else None,
        "judge": judge if isinstance(judge, str) else None,
        "judge_version": record.judge.version if record.judge else None,
        "source_quantization": model.source_quantization,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "tokens": record.cost.tokens,
        "forward_passes": record.cost.forward_passes,
        "peak_memory_bytes": record.cost.peak_memory_bytes,
        "device": record.environment.device,
    }


def _summary_cells(line: Summary) -> Row:
    return {
        **_rate_cells("worst_harmful", line.refusal),
        "worst_harmful_domains": ", ".join(line.refusal.domains) or None,
        **_rate_cells("worst_harmless", line.over_refusal),
        "worst_harmless_domains": ", ".join(line.over_refusal.domains) or None,
        **_rate_cells("safe_prompts", line.safe_prompts),
        **_rate_cells("unsafe_contrasts", line.unsafe_contrasts),
        "dimensions": line.dimensions,
        "all_mean_cosine": line.cosine,
        "all_mean_ceiling": line.ceiling,
        **_estimate_cells("pc1_uncentred", line.shared),
        "all_mean_transfer": line.mean_transfer,
        **_estimate_cells("least_transfer", line.transfer),
        "least_transfer_pair": line.transfer.where,
        "worst_damage_kl": line.damage.value,
        "seconds": line.seconds,
    }


def _task_cells(record: Record, name: str) -> Row:
    task, geometry, cross = record.results.tasks[name], record.results.geometry, record.results.cross_domain
    cells: Row = {
        "task": name,
        "task_version": record.tasks[name].version if name in record.tasks else None,
        "task_status": task.status,
        "layer": task.direction.layer,
        "position": task.direction.position,
        "bypass": task.selection.bypass,
        "induce": task.selection.induce,
        "kl": task.selection.kl,
        "n": task.refusal.baseline_harmful.n,
        "n_unscored": sum(condition.n_unscored for _, condition in task.refusal),
        "reliability": task.reliability.split_half,
        "mean_cosine": _mean_to_others(geometry.domains, geometry.cosine, name) if geometry else None,
        "mean_ceiling": _mean_to_others(geometry.domains, geometry.ceiling, name) if geometry else None,
        "mean_transfer": _mean_to_others(cross.domains, cross.transfer, name) if cross else None,
        "damage_kl": task.damage.kl_harmless,
        "damage_loss": task.damage.loss_delta,
    }
    for condition, measured in task.refusal:
        cells |= _estimate_cells(f"{condition}_rate", Estimate(measured.rate, measured.ci95))
        cells[f"{condition}_score"] = measured.score
    return cells


def _rate_cells(name: str, found: Estimate) -> Row:
    return {**_estimate_cells(f"{name}_rate", found), f"{name}_n": found.n}


def _estimate_cells(name: str, found: Estimate) -> Row:
    low, high = found.interval or (None, None)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}


def _mean_to_others(domains: list[str], matrix: Matrix | None, name: str) -> float | None:
    if matrix is None or name not in domains:
        return None
    own = domains.index(name)
    return mean([value for j, value in enumerate(matrix[own]) if j != own])


def _first(values: list[float] | None) -> float | None:
    return values[0] if values else None
