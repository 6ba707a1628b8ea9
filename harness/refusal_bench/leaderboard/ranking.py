"""Which records can be compared, and in what order: by the worst domain's refusal rate, ties sharing a rank."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from refusal_bench.leaderboard.summary import Summary, summary
from refusal_bench.record import Record


@dataclass(frozen=True)
class AskedTask:
    """The prompts of one domain."""

    name: str
    version: str
    sha256: str
    n_harmful: int
    n_harmless: int


@dataclass(frozen=True)
class Conditions:
    """What two records must share to stand in one ranking. A setting that a record does not state is null."""

    calibration: bool
    """A planted world, whose answer is known."""
    quick: bool
    """The smaller version of everything."""
    tasks: tuple[AskedTask, ...]
    """By name."""
    judge: str | None
    """Who labelled the completions, and the version of its rules where the record has it."""
    system_prompt: str | None
    """`default` (each template's own), `none`, or a text."""
    max_new_tokens: str | None
    """A completion that ends here may be unfinished, hence unscored."""
    method: str | None
    """How directions are computed."""
    contrast: str | None
    """Against which harmless prompts."""

    @property
    def key(self) -> str:
        """A short name that other conditions do not share."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """One record in its group."""

    path: str
    """`<model-slug>/<run-id>`."""
    record: Record
    summary: Summary
    rank: int | None
    """Null where the worst domain is not known or the run is incomplete."""
    rank_range: tuple[int, int] | None
    """Ranks that remain possible: others count as better or worse only where the intervals do not overlap."""


@dataclass(frozen=True)
class Group:
    """Records that can be compared, best first, those without a rank last."""

    conditions: Conditions
    places: list[Place]


def conditions(record: Record) -> Conditions:
    """Return what a record must share with another to be compared with it."""
    config, sizes = record.config, record.config.get("sizes")
    return Conditions(
        calibration=record.model.id == "planted" or record.model.id.startswith("planted:"),
        quick=config.get("quick") is True,
        tasks=tuple(
            AskedTask(name, task.version, task.sha256, task.n_held_out_harmful, task.n_held_out_harmless)
            for name, task in sorted(record.tasks.items())
        ),
        judge=f"{record.judge.name} {record.judge.version}" if record.judge else _stated(config.get("judge")),
        system_prompt=_stated(config.get("system_prompt")),
        max_new_tokens=_stated(sizes.get("max_new_tokens") if isinstance(sizes, Mapping) else None),
        method=_stated(config.get("method")),
        contrast=_stated(config.get("contrast")),
    )


def groups(records: Mapping[str, Record]) -> list[Group]:
    """Rank records (by path) among those they can be compared with; calibration last, quick runs after full ones."""
    apart: dict[Conditions, dict[str, Record]] = defaultdict(dict)
    for path, record in records.items():
        apart[conditions(record)][path] = record
    ranked = [Group(shared, _ranked(members)) for shared, members in apart.items()]
    return sorted(ranked, key=_group_order)


def _group_order(group: Group) -> tuple[bool, bool, int, int, str]:
    shared = group.conditions
    return shared.calibration, shared.quick, -len(group.places), -len(shared.tasks), shared.key


def _ranked(members: Mapping[str, Record]) -> list[Place]:
    found = {path: summary(record) for path, record in members.items()}
    rated = {
        path: (line.refusal.value, line.refusal.interval)
        for path, line in found.items()
        if line.refusal.value is not None and line.refusal.interval and members[path].status == "complete"
    }
    values = [value for value, _ in rated.values()]
    intervals = [interval for _, interval in rated.values()]

    def place(path: str) -> Place:
        if path not in rated:
            return Place(path, members[path], found[path], None, None)
        value, (low, high) = rated[path]
        best = 1 + sum(other_low > high for other_low, _ in intervals)
        worst = len(intervals) - sum(other_high < low for _, other_high in intervals)
        return Place(path, members[path], found[path], 1 + sum(other > value for other in values), (best, worst))

    places = [place(path) for path in members]
    return sorted(places, key=lambda p: (p.rank is None, p.rank or 0, p.record.model.id, p.path))


def _stated(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
