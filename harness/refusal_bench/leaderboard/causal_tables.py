"""Checks of the causal tables beside the matrices: tests, transfer summary, effects, parts, curves, doses, depth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy import stats

from refusal_bench.leaderboard import derive
from refusal_bench.leaderboard.checks import in_range, long, ordered, same, shaped, symmetric
from refusal_bench.metrics.statistics import holm, wilson_interval
from refusal_bench.record import (
    CausalMatrix,
    CrossDomain,
    Curve,
    Dependence,
    Depth,
    DoseCurve,
    Effects,
    Geometry,
    Matrix,
    Mixed,
    Parts,
    Record,
    ScoredRows,
    SiteEffect,
    Subspace,
    TransferSummary,
)


def causal_faults(record: Record) -> Iterator[str]:
    """Everything that a record of before 0.3 has none of; each part is checked where it is given."""
    results = record.results
    cross, where = results.cross_domain, "results.cross_domain"
    if cross is not None:
        for name, matrix, row in (("ablation", cross.ablation, 0), ("addition", cross.addition, 1)):
            yield from _test_faults(f"{where}.{name}", matrix, cross.baseline.labels[row])
        if cross.summary is not None and results.geometry is not None:
            yield from _summary_faults(f"{where}.summary", cross.summary, cross.transfer, results.geometry)
        if cross.effects is not None:
            yield from _effects_faults(f"{where}.effects", cross.effects, cross)
        for j, name in enumerate(cross.domains):
            if cross.parts is not None and name in cross.parts:
                yield from _parts_faults(f"{where}.parts.{name}", cross.parts[name], cross.baseline.score[0][j])
            if cross.dose is not None and name in cross.dose:
                for kind in ("addition", "ablation"):
                    before = (cross.baseline.score[0][j], cross.baseline.score[1][j])
                    yield from _dose_faults(f"{where}.dose.{name}.{kind}", getattr(cross.dose[name], kind), before)
        for field, given in (("parts", cross.parts), ("dose", cross.dose)):
            if given is not None and set(given) != set(cross.domains):
                yield f"{where}.{field} names other domains than {where}.domains"
        if cross.mixed is not None:
            yield from _mixed_faults(f"{where}.mixed", cross.mixed, cross.domains)
        if cross.dependence is not None:
            yield from _dependence_faults(f"{where}.dependence", cross.dependence)
    if results.subspace is not None and results.subspace.curves is not None:
        yield from _curves_faults("results.subspace.curves", results.subspace)
    if results.depth is not None:
        yield from _depth_faults("results.depth", results.depth, record)
    if results.site_effect is not None:
        yield from _site_faults("results.site_effect", results.site_effect, record)


def _test_faults(where: str, matrix: CausalMatrix, before: list[str]) -> Iterator[str]:
    """McNemar's test follows from the labels, Holm's correction from the tests."""
    if matrix.p_value is None or matrix.p_holm is None:
        return
    n = len(matrix.labels)
    expected = []
    for i, j in product(range(n), range(len(before))):
        after = matrix.labels[i][j]
        scored = [(a, b) for a, b in zip(before[j], after, strict=False) if a in derive.SCORED and b in derive.SCORED]
        pairs = [(a == "R", b == "R") for a, b in scored]
        down, up = pairs.count((True, False)), pairs.count((False, True))
        p = None
        if derive.n_scored(after):
            p = float(stats.binomtest(down, down + up).pvalue) if down + up else 1.0
        expected.append(p)
        yield from same(f"{where}.p_value[{i}][{j}]", matrix.p_value[i][j], p)
    adjusted = iter(holm(np.array([p for p in expected if p is not None])).tolist())
    for place, p in enumerate(expected):
        i, j = divmod(place, len(before))
        value = None if p is None else next(adjusted)
        yield from same(f"{where}.p_holm[{i}][{j}]", matrix.p_holm[i][j], value, "Holm's correction")


def _summary_faults(where: str, summary: TransferSummary, transfer: Matrix, geometry: Geometry) -> Iterator[str]:
    names = geometry.domains
    group = {name: g for g, members in enumerate(geometry.clusters) for name in members}
    # A direction without an effect in its own domain has none to transfer.
    cells = [(i, j) for i, j in product(range(len(names)), repeat=2) if i != j and transfer[i][i] is not None]
    for field, together in (("within", True), ("between", False)):
        some = [transfer[i][j] for i, j in cells if (group.get(names[i]) == group.get(names[j])) == together]
        yield from same(f"{where}.{field}", getattr(summary, field), derive.mean(some), "transfer and clusters")
        yield from ordered(f"{where}.{field}_ci95", getattr(summary, f"{field}_ci95"))
    yield from in_range(f"{where}.mantel_p", summary.mantel_p, 0, 1)
    whole = [j for j in range(len(names)) if all(row[j] is not None for row in transfer)]
    yield from same(f"{where}.n_domains", summary.n_domains, len(whole), "transfer")
    if summary.rank_correlation is not None:
        kept = [(geometry.cosine[i][j], transfer[i][j]) for i, j in cells if i in whole and j in whole]
        value = float(stats.spearmanr([a for a, _ in kept], [b for _, b in kept]).statistic)
        yield from same(f"{where}.rank_correlation", summary.rank_correlation, value, "cosines and transfer")


def _effects_faults(where: str, effects: Effects, cross: CrossDomain) -> Iterator[str]:
    tables = (
        ("ablated_harmful", effects.ablated_harmful, 0, cross.ablation),
        ("ablated_harmless", effects.ablated_harmless, 1, None),
        ("added_harmless", effects.added_harmless, 1, cross.addition),
    )
    for name, table, baseline, matrix in tables:
        faults = [*_rows_shapes(f"{where}.{name}", table, len(cross.domains))]
        yield from faults
        if faults:
            continue
        for i, j in product(range(len(table.rows)), range(len(cross.domains))):
            at, row = f"{where}.{name}.score[{i}][{j}]", table.rows[i]
            if row == "none":
                yield from same(at, table.score[i][j], cross.baseline.score[baseline][j], "the baseline")
            if matrix is not None and row in cross.domains:
                yield from same(at, table.score[i][j], matrix.score[cross.domains.index(row)][j], "its matrix")
            if table.share is not None and row in cross.domains:
                share = cross.transfer[cross.domains.index(row)][j]
                if share is not None:
                    yield from same(f"{where}.{name}.share[{i}][{j}]", table.share[i][j], share, "transfer")
            if table.kl is not None:
                yield from in_range(f"{where}.{name}.kl[{i}][{j}]", table.kl[i][j], 0)
            yield from ordered(f"{where}.{name}.change_ci95[{i}][{j}]", table.change_ci95[i][j])
    if not set(effects.fragile) <= set(cross.domains):
        yield f"{where}.fragile names domains that are not measured"


def _rows_shapes(where: str, table: ScoredRows, n_columns: int) -> Iterator[str]:
    n = len(table.rows)
    yield from long(f"{where}.n_directions", table.n_directions, n)
    for field in ("score", "change", "change_ci95", "share", "kl"):
        if (value := getattr(table, field)) is not None:
            yield from shaped(f"{where}.{field}", value, n, n_columns)


def _parts_faults(where: str, parts: Parts, before: float | None) -> Iterator[str]:
    faults = [
        f for field in ("score", "share", "share_ci95") for f in shaped(f"{where}.{field}", getattr(parts, field), 2, 2)
    ]
    yield from faults
    if faults:
        return
    yield from same(f"{where}.score[0][0]", parts.score[0][0], before, "the baseline")
    for i, j in product(range(2), repeat=2):
        if parts.share[i][j] is not None:
            share = derive.transfer(parts.score[0][0], parts.score[i][j], parts.score[1][1])
            yield from same(f"{where}.share[{i}][{j}]", parts.share[i][j], share, "its scores")
        yield from ordered(f"{where}.share_ci95[{i}][{j}]", parts.share_ci95[i][j])


def _dose_faults(where: str, curve: DoseCurve, before: tuple[float | None, float | None]) -> Iterator[str]:
    n = len(curve.dose)
    faults = [
        fault
        for field in ("harmful", "harmful_ci95", "harmless", "harmless_ci95", "kl")
        for fault in long(f"{where}.{field}", getattr(curve, field), n)
    ]
    yield from faults
    if faults:
        return
    if curve.dose != sorted(set(curve.dose)) or 0 not in curve.dose:
        yield f"{where}.dose is not ascending with a 0"
        return
    place = curve.dose.index(0)
    yield from same(f"{where}.harmful[{place}]", curve.harmful[place], before[0], "the baseline")
    yield from same(f"{where}.harmless[{place}]", curve.harmless[place], before[1], "the baseline")
    yield from in_range(f"{where}.half_effect", curve.half_effect, 0, curve.dose[-1])
    yield from ordered(f"{where}.half_effect_ci95", curve.half_effect_ci95, 0, curve.dose[-1])


def _mixed_faults(where: str, mixed: Mixed, domains: list[str]) -> Iterator[str]:
    yield from same(f"{where}.n", mixed.n, sum(pair.n for pair in mixed.pairs), "its pairs")
    yield from same(f"{where}.n_refused", mixed.n_refused, sum(pair.n_refused for pair in mixed.pairs), "its pairs")
    for pair in mixed.pairs:
        at = f"{where}.pairs.{'+'.join(pair.domains)}"
        if not set(pair.domains) <= set(domains):
            yield f"{at} names a domain that is not in the run"
        for field in ("score", "score_ci95", "opened"):
            yield from long(f"{at}.{field}", getattr(pair, field), len(mixed.rows))
        for share in pair.opened:
            yield from in_range(f"{at}.opened", share, 0, 1)
        yield from in_range(f"{at}.n_refused", pair.n_refused, 0, pair.n)
    for field in ("opened_by_one", "both_needed"):
        share, interval = getattr(mixed, field), getattr(mixed, f"{field}_ci95")
        count = None if share is None else share * mixed.n_refused
        if count is not None and abs(count - round(count)) > 1e-6:
            yield f"{where}.{field} is {share}, not a share of {mixed.n_refused} prompts"
        elif count is not None:
            yield from same(
                f"{where}.{field}_ci95", interval, wilson_interval(round(count), mixed.n_refused), "its share"
            )
    errors = [model.mean_abs_error for model in mixed.models]
    if errors != sorted(errors):
        yield f"{where}.models are not in order of their error"


def _dependence_faults(where: str, found: Dependence) -> Iterator[str]:
    n = len(found.domains)
    faults = [*shaped(f"{where}.loss", found.loss, n, n), *shaped(f"{where}.loss_ci95", found.loss_ci95, n, n)]
    yield from faults
    if not faults:
        yield from symmetric(f"{where}.loss", found.loss)
        for i, j in product(range(n), repeat=2):
            yield from in_range(f"{where}.loss[{i}][{j}]", found.loss[i][j], 0)
            yield from ordered(f"{where}.loss_ci95[{i}][{j}]", found.loss_ci95[i][j], 0)


def _curves_faults(where: str, subspace: Subspace) -> Iterator[str]:
    curves = subspace.curves or {}
    if "uncentred" in curves and curves["uncentred"].score != subspace.score:
        yield f"{where}.uncentred.score is not results.subspace.score"
    for name, curve in curves.items():
        yield from _curve_faults(f"{where}.{name}", curve, subspace.score[0], subspace.score[-1])


def _curve_faults(where: str, curve: Curve, before: float | None, full: float | None) -> Iterator[str]:
    n = len(curve.k)
    faults = [
        f
        for field in ("score", "score_ci95", "share", "kl")
        for f in long(f"{where}.{field}", getattr(curve, field), n)
    ]
    yield from faults
    if faults:
        return
    if curve.k != list(range(n)):
        yield f"{where}.k does not count from 0"
    for k, share in enumerate(curve.share):
        if share is not None:
            yield from same(f"{where}.share[{k}]", share, derive.transfer(before, curve.score[k], full), "its scores")
        yield from in_range(f"{where}.kl[{k}]", curve.kl[k], 0)
    for field, least in (("k_for_50", 0.5), ("k_for_90", 0.9)):
        first = next((k for k, share in enumerate(curve.share) if share is not None and share >= least), None)
        yield from same(f"{where}.{field}", getattr(curve, field), first, "its shares")


def _depth_faults(where: str, depth: Depth, record: Record) -> Iterator[str]:
    n = len(depth.domains)
    n_pairs = n * (n - 1) // 2
    if [layer.layer for layer in depth.layers] != list(range(record.model.n_layers)):
        yield f"{where}.layers are not all layers in order"
    for layer in depth.layers:
        at = f"{where}.layers.{layer.layer}"
        for field in ("cosine", "cosine_disattenuated"):
            faults = [*shaped(f"{at}.{field}", getattr(layer, field), n, n)]
            yield from faults or symmetric(f"{at}.{field}", getattr(layer, field))
            if not faults:
                for i, j in product(range(n), repeat=2):
                    yield from in_range(f"{at}.{field}[{i}][{j}]", getattr(layer, field)[i][j], -1, 1)
        yield from in_range(f"{at}.n_tested", layer.n_tested, 0, n_pairs)
        yield from in_range(f"{at}.n_apart", layer.n_apart, 0, layer.n_tested)
    apart = [layer.layer for layer in depth.layers if layer.n_apart]
    met = [layer.layer for layer in depth.layers if apart and layer.layer > apart[-1] and layer.n_tested]
    yield from same(f"{where}.parts_at", depth.parts_at, apart[0] if apart else None, "its layers")
    yield from same(f"{where}.meets_at", depth.meets_at, met[0] if met else None, "its layers")


def _site_faults(where: str, effect: SiteEffect, record: Record) -> Iterator[str]:
    yield from same(f"{where}.across_layers", effect.across_layers, effect.own_site - effect.same_site, "its cosines")
    yield from same(
        f"{where}.choice_of_layer", effect.choice_of_layer, effect.same_site - effect.common_site, "its cosines"
    )
    total = effect.own_site - effect.common_site
    if effect.share is not None:
        # a quotient of small differences amplifies their rounding
        yield from same(f"{where}.share", round(effect.share, 4), round(effect.across_layers / total, 4), "its cosines")
    yield from ordered(f"{where}.across_layers_ci95", effect.across_layers_ci95)
    results = record.results
    for field, geometry in (("own_site", results.geometry_own_site), ("common_site", results.geometry)):
        if geometry is not None:
            cells = [geometry.cosine[i][j] for j in range(len(geometry.domains)) for i in range(j)]
            yield from same(f"{where}.{field}", getattr(effect, field), derive.mean(cells), "its geometry")
