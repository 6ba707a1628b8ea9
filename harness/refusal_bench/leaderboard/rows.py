"""The leaderboard's columns: one row a record and task."""

from __future__ import annotations

from refusal_bench.leaderboard.derive import mean
from refusal_bench.record import CrossDomain, Geometry, Record, Refusal

Cell = str | int | float | bool | None
Row = dict[str, Cell]

_CONDITIONS = {
    "baseline_harmful": "harmful prompts, no intervention",
    "baseline_harmless": "harmless prompts, no intervention",
    "ablated_harmful": "harmful prompts, own direction ablated",
    "ablated_harmless": "harmless prompts, own direction ablated",
    "added_harmless": "harmless prompts, own direction added",
}

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
        f"{condition}_{name}": f"{meaning}: {what}"
        for condition, what in _CONDITIONS.items()
        for name, meaning in {
            "rate": "refusal rate",
            "rate_low": "lower end of the rate's 95 % interval",
            "rate_high": "upper end of the rate's 95 % interval",
            "score": "mean refusal score (nats)",
        }.items()
    },
    "reliability": "split-half reliability of the direction at the common site",
    "mean_cosine": "mean cosine to the other domains at the common site",
    "mean_transfer": "mean share of the other domains' own drop that this direction's ablation causes",
    "pc1_centred": "variance share of the first component of all domains' directions, mean subtracted",
    "pc1_uncentred": "the same with the mean kept",
}
"""Name and meaning of each column, in order."""

_TEXT = (
    *("model", "revision", "weights_sha256", "adapter_sha256", "quantization", "dtype", "system_prompt_sha256"),
    *("run_id", "created", "tool_version", "status", "task", "task_version", "task_status"),
)
DTYPES: dict[str, str] = {
    **dict.fromkeys(COLUMNS, "Float64"),
    **dict.fromkeys(_TEXT, "string"),
    **dict.fromkeys(("layer", "position", "n", "n_unscored"), "Int64"),
    "quick": "boolean",
}
"""pandas type of each column; stated, so that a column without values keeps its type."""


def rows_of(record: Record) -> list[Row]:
    """Return the record's leaderboard rows, one a task; a null means not measured or not defined."""
    return [_row(record, name) for name in record.results.tasks]


def _row(record: Record, name: str) -> Row:
    model, results = record.model, record.results
    task = results.tasks[name]
    row: Row = {
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
        **_refusal_cells(task.refusal),
        "reliability": task.reliability.split_half,
        "mean_cosine": _mean_cosine(results.geometry, name),
        "mean_transfer": _mean_transfer(results.cross_domain, name),
        "pc1_centred": _first(results.geometry.pca.centred.explained_variance_ratio) if results.geometry else None,
        "pc1_uncentred": _first(results.geometry.pca.uncentred.explained_variance_ratio) if results.geometry else None,
    }
    return {column: row[column] for column in COLUMNS}


def _refusal_cells(refusal: Refusal) -> Row:
    cells: Row = {}
    for name, condition in refusal:
        low, high = condition.ci95 or (None, None)
        cells |= {f"{name}_rate": condition.rate, f"{name}_rate_low": low, f"{name}_rate_high": high}
        cells[f"{name}_score"] = condition.score
    return cells


def _mean_cosine(geometry: Geometry | None, name: str) -> float | None:
    if geometry is None or name not in geometry.domains:
        return None
    own = geometry.domains.index(name)
    return mean([value for j, value in enumerate(geometry.cosine[own]) if j != own])


def _mean_transfer(cross: CrossDomain | None, name: str) -> float | None:
    if cross is None or name not in cross.domains:
        return None
    own = cross.domains.index(name)
    return mean([value for j, value in enumerate(cross.transfer[own]) if j != own])


def _first(values: list[float] | None) -> float | None:
    return values[0] if values else None
