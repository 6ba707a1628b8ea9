"""Can a record be what it says? Checksums, versions and status, against the tasks that are installed here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from refusal_bench.config import MAX_UNSCORED_SHARE
from refusal_bench.leaderboard import derive
from refusal_bench.leaderboard.checks import in_range
from refusal_bench.record import HeldOutIds, OverRefusal, Record, TaskInfo
from refusal_bench.tasks import Task
from refusal_bench.tasks.schema import LABELS


def provenance_faults(record: Record, installed: Mapping[str, Task]) -> Iterator[str]:
    """One sentence for each checksum, version, status or prompt id that cannot be right.

    A task that is not installed, or in another version, is not checked: its prompts are not at hand.
    """
    yield from _checksum_faults(record)
    if not re.match(r"\d+\.\d+", record.tool.version):
        yield f"tool.version is {record.tool.version!r}, not a version number"
    if record.config.get("model") not in (None, record.model.id):
        yield f"config.model is {record.config['model']!r}, but model.id is {record.model.id!r}"
    yield from _status_faults(record)
    for name in record.tasks:
        if name in installed and name in record.results.tasks:
            yield from _task_faults(name, record, installed[name])
    if record.results.over_refusal is not None and "over_refusal" in installed:
        yield from _over_refusal_faults(record.results.over_refusal, installed["over_refusal"])


def _checksum_faults(record: Record) -> Iterator[str]:
    model, apart = record.model, record.results.over_refusal
    checksums = {
        "model.weights_sha256": model.weights_sha256,
        "model.adapter_sha256": model.adapter_sha256,
        "model.chat_template_sha256": model.chat_template_sha256,
        "model.system_prompt_sha256": model.system_prompt_sha256,
        **{f"tasks.{name}.sha256": task.sha256 for name, task in record.tasks.items()},
        "results.over_refusal.sha256": None if apart is None else apart.sha256,
    }
    for where, checksum in checksums.items():
        if checksum is not None and not re.fullmatch(r"[0-9a-f]{64}", checksum):
            yield f"{where} is {checksum!r}, not a SHA-256 in hexadecimal"


def _status_faults(record: Record) -> Iterator[str]:
    # A task may forbid text under intervention; then there is nothing to score.
    apart = record.results.over_refusal
    labels = "".join(condition.labels for _, condition in apart.refusal) if apart is not None else ""
    labels += "".join(
        condition.labels
        for task in record.results.tasks.values()
        for name, condition in task.refusal
        if name.startswith("baseline") or set(condition.labels) != {"?"}
    )
    unscored = len(labels) - derive.n_scored(labels)
    if record.status == "complete" and unscored > MAX_UNSCORED_SHARE * len(labels):
        yield f"status is complete, but {unscored} of {len(labels)} completions are unscored"


def _task_faults(name: str, record: Record, task: Task) -> Iterator[str]:
    where, info = f"tasks.{name}", record.tasks[name]
    yield from _version_faults(where, info, task)
    if info.sha256 != task.sha256:
        return
    yield from _id_faults(f"results.tasks.{name}", record.results.tasks[name].held_out_ids, task)
    for label in LABELS:
        n_train = sum(row.label == label for row in task.train)
        yield from in_range(f"{where}.n_train_{label}", getattr(info, f"n_train_{label}"), 0, n_train)


def _over_refusal_faults(found: OverRefusal, task: Task) -> Iterator[str]:
    where = "results.over_refusal"
    yield from _version_faults(where, found, task)
    if found.sha256 != task.sha256:
        return
    yield from _id_faults(where, found.held_out_ids, task)
    types = {row.id: row.type for row in task.held_out}
    for label in LABELS:
        for prompt, kind in zip(getattr(found.held_out_ids, label), found.types.get(label, ()), strict=False):
            if prompt in types and types[prompt] != kind:
                yield f"{where}.types.{label} has {kind!r} for {prompt}, the task {types[prompt]!r}"


def _version_faults(where: str, asked: TaskInfo | OverRefusal, task: Task) -> Iterator[str]:
    if asked.version == task.manifest.version and asked.sha256 != task.sha256:
        yield f"{where}.sha256 is not that of version {asked.version} of the task"


def _id_faults(where: str, ids: HeldOutIds, task: Task) -> Iterator[str]:
    for label in LABELS:
        known = {row.id for row in task.held_out if row.label == label}
        if strange := sorted(set(getattr(ids, label)) - known):
            yield f"{where}.held_out_ids.{label} has {strange[0]!r}, which the task has not"
