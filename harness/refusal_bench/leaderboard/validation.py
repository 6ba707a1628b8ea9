"""Does a record agree with itself? Every aggregate that labels, scores and matrices determine is derived again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from refusal_bench.leaderboard import derive
from refusal_bench.leaderboard.causal_tables import causal_faults
from refusal_bench.leaderboard.checks import in_range, labels_fit, long, ordered, same
from refusal_bench.leaderboard.judge import judge_faults
from refusal_bench.leaderboard.matrices import cross_domain_faults, geometry_faults, subspace_faults
from refusal_bench.record import (
    Condition,
    HeldOutIds,
    Model,
    OverRefusal,
    Record,
    Selection,
    Served,
    Site,
    TaskInfo,
    TaskResult,
)

SINGLE = 1e-3
"""Slack for cosines in single precision."""


def disagreements(record: Record) -> list[str]:
    """Return one sentence for every field of the record that contradicts another; an empty list if it is sound."""
    results = record.results
    faults = [*_whole(record), *judge_faults(record)]
    for name, task in results.tasks.items():
        where = f"results.tasks.{name}"
        faults += _task_faults(where, task, record.model)
        if name in record.tasks:
            faults += _info_faults(f"tasks.{name}", record.tasks[name], task.held_out_ids)
    for where, geometry in (("geometry", results.geometry), ("geometry_own_site", results.geometry_own_site)):
        if geometry is not None:
            faults += geometry_faults(f"results.{where}", geometry, record)
    if results.cross_domain is not None:
        faults += cross_domain_faults("results.cross_domain", results.cross_domain, results.tasks)
    if results.subspace is not None:
        faults += subspace_faults("results.subspace", results.subspace, results.tasks)
    if results.over_refusal is not None:
        faults += over_refusal_faults("results.over_refusal", results.over_refusal, record)
    if results.served is not None:
        faults += _served_faults("results.served.tasks", results.served, results.tasks)
    # What a matrix of another shape would be compared with is not there.
    return faults or list(causal_faults(record))


def site_faults(where: str, site: Site, model: Model) -> Iterator[str]:
    """A site lies inside the model, at one of the template's tokens after the instruction."""
    if not 0 <= site.layer < model.n_layers:
        yield f"{where}.layer is {site.layer}, the model has {model.n_layers} layers"
    if not -max(1, len(model.post_instruction_tokens)) <= site.position <= -1:
        yield f"{where}.position is {site.position}, the template has {len(model.post_instruction_tokens)} such tokens"


def _whole(record: Record) -> Iterator[str]:
    if set(record.tasks) != set(record.results.tasks):
        yield "results.tasks and tasks name different tasks"
    try:
        datetime.fromisoformat(record.created)
    except ValueError:
        yield f"created is {record.created!r}, not an ISO 8601 time"
    for stage, seconds in record.timings.items():
        yield from in_range(f"timings.{stage}", seconds, 0)
    for name in ("forward_passes", "tokens", "peak_memory_bytes"):
        yield from in_range(f"cost.{name}", getattr(record.cost, name), 0)


def _info_faults(where: str, info: TaskInfo, ids: HeldOutIds) -> Iterator[str]:
    yield from same(f"{where}.n_held_out_harmful", info.n_held_out_harmful, len(ids.harmful), "held_out_ids")
    yield from same(f"{where}.n_held_out_harmless", info.n_held_out_harmless, len(ids.harmless), "held_out_ids")
    yield from in_range(f"{where}.n_train_harmless", info.n_train_harmless, 0)
    yield from in_range(f"{where}.n_train_refused", info.n_train_refused, 0, info.n_train_harmful)


def _task_faults(where: str, task: TaskResult, model: Model) -> Iterator[str]:
    ids = task.held_out_ids
    if len(set(ids.harmful + ids.harmless)) < len(ids.harmful + ids.harmless):
        yield f"{where}.held_out_ids names a prompt twice"
    for name, condition in task.refusal:
        prompts = ids.harmful if name.endswith("harmful") else ids.harmless
        yield from _condition_faults(f"{where}.refusal.{name}", condition, len(prompts))
    if len({condition.backend for _, condition in task.refusal} - {None}) > 1:
        yield f"{where}.refusal contrasts the text of different backends"
    yield from site_faults(f"{where}.direction", task.direction, model)
    yield from in_range(f"{where}.direction.norm", task.direction.norm, 0)
    yield from _selection_faults(f"{where}.selection", task.selection, model)
    yield from _chosen_faults(where, task)
    yield from _layer_faults(f"{where}.layers", task, model)
    yield from in_range(f"{where}.reliability.split_half", task.reliability.split_half, high=1)
    yield from ordered(f"{where}.reliability.split_half_ci95", task.reliability.split_half_ci95, high=1)
    yield from _damage_faults(f"{where}.damage", task)


def _damage_faults(where: str, task: TaskResult) -> Iterator[str]:
    damage, neutral, refusal = task.damage, task.damage.neutral, dict(task.refusal)
    yield from in_range(f"{where}.kl_harmless", damage.kl_harmless, 0)
    yield from in_range(f"{where}.kl_added", damage.kl_added, 0)
    for name, share in (damage.degenerate or {}).items():
        if name not in refusal:
            yield f"{where}.degenerate has no condition {name}"
            continue
        labels = refusal[name].labels
        yield from same(f"{where}.degenerate.{name}.k", share.k, labels.count("G"))
        yield from same(f"{where}.degenerate.{name}.n", share.n, derive.n_scored(labels))
        yield from same(f"{where}.degenerate.{name}.value", share.value, share.k / share.n if share.n else None)
    if neutral is not None:
        yield from in_range(f"{where}.neutral.baseline", neutral.baseline, 0)
        for name in ("ablated", "added"):
            interval = getattr(neutral, f"{name}_rise_ci95")
            yield from ordered(f"{where}.neutral.{name}_rise_ci95", interval)


def _served_faults(where: str, served: Served, tasks: Mapping[str, TaskResult]) -> Iterator[str]:
    if set(served.tasks) != set(tasks):
        yield f"{where} and results.tasks name different tasks"
        return
    for name, task in served.tasks.items():
        ids = tasks[name].held_out_ids
        yield from _condition_faults(f"{where}.{name}.harmful", task.harmful, len(ids.harmful))
        yield from _condition_faults(f"{where}.{name}.harmless", task.harmless, len(ids.harmless))


def over_refusal_faults(where: str, found: OverRefusal, record: Record) -> Iterator[str]:
    """Rates follow from labels, those by type from labels and types; the layer is that of the common site."""
    ids = dict(found.held_out_ids)
    if len({*ids["harmful"], *ids["harmless"]}) < len(ids["harmful"] + ids["harmless"]):
        yield f"{where}.held_out_ids names a prompt twice"
    if set(found.types) != set(ids):
        yield f"{where}.types is not by label"
    for label, of in ids.items():
        yield from long(f"{where}.types.{label}", found.types.get(label, ()), len(of))
    if set(found.by_type) != {kind for types in found.types.values() for kind in types}:
        yield f"{where}.by_type and {where}.types name different types"
    yield from in_range(f"{where}.layer", found.layer, 0, record.model.n_layers - 1)
    if record.results.geometry is not None:
        yield from same(f"{where}.layer", found.layer, record.results.geometry.site.layer, "results.geometry.site")
    if len({condition.backend for _, condition in found.refusal} - {None}) > 1:
        yield f"{where}.refusal contrasts the text of different backends"
    for kind, shares in found.by_type.items():
        if set(shares) != set(dict(found.refusal)):
            yield f"{where}.by_type.{kind} and {where}.refusal name different conditions"
    for name, condition in found.refusal:
        label = name.rpartition("_")[2]
        yield from _condition_faults(f"{where}.refusal.{name}", condition, len(ids[label]))
        for kind, shares in found.by_type.items():
            if name not in shares:
                continue
            at, types = f"{where}.by_type.{kind}.{name}", found.types.get(label, ())
            labels = "".join(letter for letter, of in zip(condition.labels, types, strict=False) if of == kind)
            yield from same(f"{at}.k", shares[name].k, labels.count("R"))
            yield from same(f"{at}.n", shares[name].n, derive.n_scored(labels))
            yield from same(f"{at}.value", shares[name].value, derive.refusal_rate(labels))
            yield from same(f"{at}.ci95", shares[name].ci95, derive.rate_interval(labels))


def _condition_faults(where: str, condition: Condition, n: int) -> Iterator[str]:
    labels, scores = condition.labels, condition.scores
    yield from labels_fit(f"{where}.labels", labels, n)
    if len(scores) != len(labels):
        yield f"{where}.scores has {len(scores)} numbers for {len(labels)} labels"
    yield from same(f"{where}.rate", condition.rate, derive.refusal_rate(labels))
    yield from same(f"{where}.ci95", condition.ci95, derive.rate_interval(labels))
    yield from same(f"{where}.n", condition.n, len(labels))
    yield from same(f"{where}.n_unscored", condition.n_unscored, len(labels) - derive.n_scored(labels))
    yield from same(f"{where}.score", condition.score, derive.mean(scores), "scores")
    known = [score for score in scores if score is not None]
    if known:  # a mean of resampled scores cannot leave their range
        yield from ordered(f"{where}.score_ci95", condition.score_ci95, min(known), max(known))
    elif condition.score_ci95 is not None:
        yield f"{where}.score_ci95 is given without scores"


def _selection_faults(where: str, selection: Selection, model: Model) -> Iterator[str]:
    table = selection.table
    for reason in ("kl", "induce"):  # decided by evaluation, so each such candidate is in the table
        count = sum(row.rejected == reason for row in table)
        yield from same(f"{where}.rejected.{reason}", selection.rejected.get(reason, 0), count, "its table")
    removed = sum(selection.rejected.values())
    yield from same(f"{where}.n_eligible", selection.n_eligible, selection.n_candidates - removed, "rejected")
    kept = sum(row.rejected is None for row in table)
    yield from same(f"{where}.n_eligible", selection.n_eligible, kept, "its table")
    if len({(row.layer, row.position) for row in table}) < len(table):
        yield f"{where}.table holds a candidate twice"
    if len(table) > selection.n_candidates:
        yield f"{where}.table holds {len(table)} candidates of {selection.n_candidates}"
    for i, row in enumerate(table):
        yield from site_faults(f"{where}.table.{i}", row, model)
        yield from in_range(f"{where}.table.{i}.kl", row.kl, 0)


def _chosen_faults(where: str, task: TaskResult) -> Iterator[str]:
    direction, selection = task.direction, task.selection
    if (task.status == "ok") != (task.reason is None):
        yield f"{where}.status is {task.status} {'with' if task.reason else 'without'} a reason"
    chosen = [c for c in selection.table if (c.layer, c.position) == (direction.layer, direction.position)]
    if not chosen:
        yield f"{where}.direction is not in selection.table"
        return
    row = chosen[0]
    for name, value in (("bypass", row.bypass), ("induce", row.induce), ("kl", None if row.kl_is_bound else row.kl)):
        yield from same(f"{where}.selection.{name}", getattr(selection, name), value, "the chosen row of its table")
    if task.status != "ok":
        return
    if row.rejected is not None:
        yield f"{where}.direction was rejected by the {row.rejected} filter"
    eligible = [other.bypass for other in selection.table if other.rejected is None and other.bypass is not None]
    if selection.bypass is None or any(bypass < selection.bypass - derive.TOLERANCE for bypass in eligible):
        yield f"{where}.selection.bypass is not the lowest of the eligible candidates"


def _layer_faults(where: str, task: TaskResult, model: Model) -> Iterator[str]:
    layers = task.layers or []
    if len({row.layer for row in layers}) < len(layers):
        yield f"{where} holds a layer twice"
    for row in layers:
        at = f"{where}.{row.layer}"
        yield from in_range(f"{at}.layer", row.layer, 0, model.n_layers - 1)
        yield from in_range(f"{at}.norm", row.norm, 0)
        yield from in_range(f"{at}.separation", row.separation, 0, 1)
        # computed in single precision: rounding grows with the width of the stream
        yield from in_range(f"{at}.cosine_to_selected", row.cosine_to_selected, -1 - SINGLE, 1 + SINGLE)
        if row.layer == task.direction.layer:
            yield from in_range(f"{at}.cosine_to_selected", row.cosine_to_selected, 1 - SINGLE)
