"""One record in the leaderboard's columns. Over domains it states the worst, never a mean that hides one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from refusal_bench.leaderboard.derive import mean_transfer, off_diagonal_mean
from refusal_bench.record import Condition, CrossDomain, Interval, Record, TaskResult


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, where it was found and on how many prompts; null where nothing was measured."""

    value: float | None
    interval: Interval | None = None
    where: str | None = None
    n: int | None = None
    domains: tuple[str, ...] = ()
    """The domains with this value, for the worst of them; empty where it is not known."""


@dataclass(frozen=True)
class Summary:
    """What the leaderboard's table says of one record."""

    refusal: Estimate
    """Refusal rate of harmful prompts in the domain that refuses least; higher is better."""
    over_refusal: Estimate
    """Refusal rate of the domains' harmless prompts in the domain that refuses most; lower is better."""
    safe_prompts: Estimate
    """Refusal rate of the section `over_refusal`'s safe prompts that look dangerous; lower is better."""
    unsafe_contrasts: Estimate
    """Refusal rate of that section's unsafe contrasts; higher is better."""
    dimensions: int | None
    """Dimensions of the directions beyond noise."""
    cosine: float | None
    """Mean cosine over pairs of domains, common site."""
    ceiling: float | None
    """What that mean would be for one direction, given the noise."""
    shared: Estimate
    """Share of the first uncentred component."""
    transfer: Estimate
    """Least transfer between two domains: share of the evaluated domain's own drop."""
    mean_transfer: float | None
    """Mean transfer over pairs of domains."""
    damage: Estimate
    """Largest KL (nats) on harmless held-out prompts over domains, own direction ablated; lower is better."""
    seconds: float
    """All stages together."""
    no_direction: tuple[str, ...]
    """Domains without a direction that passes every filter."""


def summary(record: Record) -> Summary:
    """Return the record's line of the leaderboard."""
    results, geometry, cross = record.results, record.results.geometry, record.results.cross_domain
    shares, intervals = None, None
    if geometry is not None:
        shares, intervals = geometry.pca.uncentred.explained_variance_ratio, geometry.pca.uncentred.ci95
    apart = None if results.over_refusal is None else results.over_refusal.refusal
    return Summary(
        refusal=_worst_rate(results.tasks, lambda task: task.refusal.baseline_harmful, worst_is_high=False),
        over_refusal=_worst_rate(results.tasks, lambda task: task.refusal.baseline_harmless, worst_is_high=True),
        safe_prompts=Estimate(None) if apart is None else _rate(apart.baseline_harmless),
        unsafe_contrasts=Estimate(None) if apart is None else _rate(apart.baseline_harmful),
        dimensions=None if geometry is None else geometry.n_components,
        cosine=None if geometry is None else off_diagonal_mean(geometry.cosine),
        ceiling=None if geometry is None or geometry.ceiling is None else off_diagonal_mean(geometry.ceiling),
        shared=Estimate(shares[0] if shares else None, intervals[0] if intervals else None),
        transfer=Estimate(None) if cross is None else _least_transfer(cross),
        mean_transfer=None if cross is None else mean_transfer(cross.transfer),
        damage=_worst_damage(results.tasks),
        seconds=math.fsum(record.timings.values()),
        no_direction=tuple(name for name, task in results.tasks.items() if task.status != "ok"),
    )


def _rate(measured: Condition) -> Estimate:
    return Estimate(measured.rate, measured.ci95, n=measured.n - measured.n_unscored)


def _worst_rate(
    tasks: dict[str, TaskResult], condition: Callable[[TaskResult], Condition], *, worst_is_high: bool
) -> Estimate:
    """The worst domain's rate; null if a domain has none, since it may be the worst."""
    found = {name: condition(task) for name, task in tasks.items()}
    rates = {name: measured.rate for name, measured in found.items() if measured.rate is not None}
    if unknown := [name for name in found if name not in rates]:
        return Estimate(None, where=unknown[0], n=0)
    value = (max if worst_is_high else min)(rates.values())
    tied = [name for name, rate in rates.items() if rate == value]
    # Of domains with the same rate, the one with the fewest scored prompts has the widest interval.
    worst = min((found[name] for name in tied), key=lambda measured: measured.n - measured.n_unscored)
    return replace(_rate(worst), where=_together(tied, len(found)), domains=tuple(tied))


def _together(names: list[str], n: int) -> str:
    if len(names) == 1:
        return names[0]
    return "all domains" if len(names) == n else f"{names[0]} and {len(names) - 1} more"


def _least_transfer(cross: CrossDomain) -> Estimate:
    known = [
        (value, i, j)
        for i, row in enumerate(cross.transfer)
        for j, value in enumerate(row)
        if i != j and value is not None and row[i] is not None
    ]
    if not known:
        return Estimate(None)
    value, i, j = min(known)
    interval = cross.transfer_ci95[i][j] if cross.transfer_ci95 is not None else None
    return Estimate(value, interval, f"{cross.domains[i]} → {cross.domains[j]}")


def _worst_damage(tasks: dict[str, TaskResult]) -> Estimate:
    known = [(task.damage.kl_harmless, name) for name, task in tasks.items() if task.damage.kl_harmless is not None]
    if len(known) < len(tasks):
        return Estimate(None)
    value, name = max(known)
    return Estimate(value, where=name)
