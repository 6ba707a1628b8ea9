"""Checks of geometry, cross-domain matrices and the subspace curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.leaderboard import derive
from refusal_bench.leaderboard.checks import in_range, labels_fit, long, ordered, same, shaped, symmetric
from refusal_bench.metrics.noise import SIGNIFICANT_COMPONENT
from refusal_bench.metrics.statistics import holm
from refusal_bench.record import (
    CausalMatrix,
    Control,
    CrossDomain,
    Geometry,
    Interval,
    Matrix,
    Record,
    Spectrum,
    Subspace,
)
from refusal_bench.record import TaskResult as Task


def geometry_faults(where: str, geometry: Geometry, record: Record) -> Iterator[str]:
    """Angles, spectra, rank and clusters follow from the cosines, which are those of unit vectors."""
    n, site = len(geometry.domains), geometry.site
    shapes = [*_domain_faults(where, geometry.domains, record.results.tasks)]
    matrices: dict[str, Matrix] = {
        name: getattr(geometry, name)
        for name in ("cosine", "angle_deg", "cosine_disattenuated", "p_value", "topic_cosine")
    }
    # Records of before 0.2 have none of these.
    later = {"ceiling": geometry.ceiling, "p_same": geometry.p_same, "p_same_holm": geometry.p_same_holm}
    matrices |= {name: matrix for name, matrix in later.items() if matrix is not None}
    for name, matrix in matrices.items():
        shapes += shaped(f"{where}.{name}", matrix, n, n)
    intervals = {"cosine_ci95": geometry.cosine_ci95}
    if geometry.cosine_disattenuated_ci95 is not None:
        intervals["cosine_disattenuated_ci95"] = geometry.cosine_disattenuated_ci95
    for name, cells in intervals.items():
        shapes += shaped(f"{where}.{name}", cells, n, n)
    lists = {"reliability": geometry.reliability, "pairs": geometry.pairs, "pairs_needed": geometry.pairs_needed}
    for name, values in lists.items():
        if values is not None:
            shapes += long(f"{where}.{name}", values, n)
    if geometry.comparisons is not None:
        shapes += long(f"{where}.comparisons", geometry.comparisons, n * (n - 1) // 2)
    yield from shapes
    if shapes:
        return
    if (site.layer is None) != (site.position is None):
        yield f"{where}.site has a layer or a position without the other"
    yield from in_range(f"{where}.site.layer", site.layer, 0, record.model.n_layers - 1)
    yield from in_range(f"{where}.site.position", site.position, -max(1, len(record.model.post_instruction_tokens)), -1)
    for name, matrix in matrices.items():
        yield from symmetric(f"{where}.{name}", matrix)
    for i, j in product(range(n), range(n)):
        at, cosine = f"[{i}][{j}]", geometry.cosine[i][j]
        yield from in_range(f"{where}.cosine{at}", cosine, -1, 1)
        yield from in_range(f"{where}.cosine_disattenuated{at}", geometry.cosine_disattenuated[i][j], -1, 1)
        yield from in_range(f"{where}.topic_cosine{at}", geometry.topic_cosine[i][j], -1, 1)
        for name in ("p_value", *(name for name in later if name in matrices)):
            yield from in_range(f"{where}.{name}{at}", matrices[name][i][j], 0, 1)
        for name, cells in intervals.items():
            yield from ordered(f"{where}.{name}{at}", cells[i][j], -1, 1)
            yield from same(f"{where}.{name}{at}", cells[i][j], cells[j][i], "its mirror")
        yield from _angle_faults(f"{where}.angle_deg{at}", geometry.angle_deg[i][j], cosine)
        if i == j and cosine is not None:
            yield from same(f"{where}.cosine{at}", cosine, 1.0, "a direction with itself")
    yield from _holm_faults(where, geometry)
    yield from _dendrogram_faults(where, geometry)
    array = derive.complete(geometry.cosine)
    if array is not None and n >= 2:
        yield from _spectral_faults(where, geometry, array)
    if geometry.p_components is not None and geometry.n_components is not None:
        yield from _dimension_faults(where, geometry.p_components, geometry.n_components, len(geometry.domains))


def _dimension_faults(where: str, p: list[float], n_components: int, n_domains: int) -> Iterator[str]:
    """The p-values go on to the first that is not significant, and their number is that of the dimensions."""
    significant = [value <= SIGNIFICANT_COMPONENT for value in p]
    if n_components != 1 + sum(significant):
        yield f"{where}.n_components is {n_components}, its p-values say {1 + sum(significant)}"
    if not all(significant[:-1]) or (len(p) < n_domains - 1 and (not p or significant[-1])):
        yield f"{where}.p_components does not end with the first that is not significant"


def _holm_faults(where: str, geometry: Geometry) -> Iterator[str]:
    """Adjusted p-values are those of the pairs that were tested."""
    plain, adjusted = geometry.p_same, geometry.p_same_holm
    if plain is None or adjusted is None:
        return
    pairs = [(i, j) for i, j in combinations(range(len(plain)), 2) if adjusted[i][j] is not None]
    tested = [p for i, j in pairs if (p := plain[i][j]) is not None]
    if len(tested) != len(pairs):
        yield f"{where}.p_same_holm adjusts a p-value that is null"
        return
    for (i, j), expected in zip(pairs, holm(np.array(tested)), strict=True):
        yield from same(f"{where}.p_same_holm[{i}][{j}]", adjusted[i][j], float(expected), "Holm's correction")


def _dendrogram_faults(where: str, geometry: Geometry) -> Iterator[str]:
    """Every merge joins two groups that exist, at the mean cosine between them (average linkage)."""
    groups = {frozenset([name]) for name in geometry.domains}
    for i, merge in enumerate(geometry.dendrogram or []):
        joined = frozenset(merge.domains)
        parts = [group for group in groups if group <= joined]
        if len(parts) != 2 or parts[0] | parts[1] != joined:
            yield f"{where}.dendrogram[{i}] does not join two groups"
            return
        one, two = ([geometry.domains.index(name) for name in part] for part in parts)
        between = derive.mean([geometry.cosine[a][b] for a, b in product(one, two)])
        yield from same(f"{where}.dendrogram[{i}].cosine", merge.cosine, between, "its cosines")
        yield from in_range(f"{where}.dendrogram[{i}].support", merge.support, 0, 1)
        groups = groups - set(parts) | {joined}
    if geometry.dendrogram is not None and len(groups) > 1:
        yield f"{where}.dendrogram does not join all domains"


def _spectral_faults(where: str, geometry: Geometry, cosine: Float[ndarray, "n n"]) -> Iterator[str]:
    power = derive.eigenvalues(cosine, centred=False)
    if power[-1] < -derive.TOLERANCE:
        yield f"{where}.cosine is not a matrix of cosines: its smallest eigenvalue is {power[-1]}"
    if {frozenset(group) for group in geometry.clusters} != derive.clusters(geometry.domains, cosine):
        yield f"{where}.clusters are not those of its cosines"
    if not geometry.normalised:  # the cosines then do not determine the spectrum
        return
    rank = float(power.sum() ** 2 / (power**2).sum())
    yield from same(f"{where}.effective_rank", geometry.effective_rank, rank, "its cosines")
    yield from _spectrum_faults(f"{where}.pca.uncentred", geometry.pca.uncentred, power)
    yield from _spectrum_faults(f"{where}.pca.centred", geometry.pca.centred, derive.eigenvalues(cosine, centred=True))


def _angle_faults(where: str, angle: float | None, cosine: float | None) -> Iterator[str]:
    expected = None if cosine is None else float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    # near cosine 1 the angle amplifies rounding: 1 - 1e-12 is already 1e-4 degrees
    if angle is None or expected is None or abs(angle - expected) > 1e-3:
        yield from same(where, angle, expected, "its cosine")


def _spectrum_faults(where: str, spectrum: Spectrum, power: Float[ndarray, " n"]) -> Iterator[str]:
    stated, total = spectrum.explained_variance_ratio, float(power.sum())
    if stated is None or total < derive.TOLERANCE:  # identical directions leave nothing to share out
        return
    shares = [max(0.0, float(value)) / total for value in power]
    padded = stated + [0.0] * (len(shares) - len(stated))  # centring leaves n - 1 components; the last may be left out
    yield from long(f"{where}.explained_variance_ratio", padded, len(shares))
    for i, (share, value) in enumerate(zip(padded, shares, strict=False)):
        yield from same(f"{where}.explained_variance_ratio[{i}]", share, value, "its cosines")
    sums = np.cumsum(shares)
    enough = spectrum.n_for_90
    if enough is None or not 1 <= enough <= len(sums) or sums[enough - 1] < 0.9 - derive.TOLERANCE:
        yield f"{where}.n_for_90 is {enough}, which is not enough components"
    elif enough > 1 and sums[enough - 2] > 0.9 + derive.TOLERANCE:
        yield f"{where}.n_for_90 is {enough}, fewer components are enough"
    for name in ("ci95", "null95", "one_direction95"):
        intervals: list[Interval] | None = getattr(spectrum, name)
        yield from long(f"{where}.{name}", stated if intervals is None else intervals, len(stated))
        for i, interval in enumerate(intervals or []):
            yield from ordered(f"{where}.{name}[{i}]", interval, 0, 1)


def cross_domain_faults(where: str, cross: CrossDomain, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Cells follow from their labels and scores; baseline and diagonal are the tasks' own passes."""
    domains, n = cross.domains, len(cross.domains)
    shapes = [*_domain_faults(where, domains, tasks), *shaped(f"{where}.transfer", cross.transfer, n, n)]
    if cross.transfer_ci95 is not None:
        shapes += shaped(f"{where}.transfer_ci95", cross.transfer_ci95, n, n)
    for name, matrix, rows in (
        ("baseline", cross.baseline, 2),
        ("ablation", cross.ablation, n),
        ("addition", cross.addition, n),
    ):
        for field, values in matrix:
            if values is not None:
                shapes += shaped(f"{where}.{name}.{field}", values, rows, n)
    yield from shapes
    if shapes:
        return
    harmful = [len(tasks[name].held_out_ids.harmful) for name in domains]
    harmless = [len(tasks[name].held_out_ids.harmless) for name in domains]
    yield from _causal_faults(f"{where}.baseline", cross.baseline, [harmful, harmless])
    yield from _causal_faults(f"{where}.ablation", cross.ablation, [harmful] * n)
    yield from _causal_faults(f"{where}.addition", cross.addition, [harmless] * n)
    for j, name in enumerate(domains):
        refusal = tasks[name].refusal
        for field, row, matrix, own in (
            ("baseline", 0, cross.baseline, refusal.baseline_harmful),
            ("baseline", 1, cross.baseline, refusal.baseline_harmless),
            ("ablation", j, cross.ablation, refusal.ablated_harmful),
            ("addition", j, cross.addition, refusal.added_harmless),
        ):
            if (matrix.labels[row][j], matrix.scores[row][j]) != (own.labels, own.scores):
                yield f"{where}.{field}[{row}][{j}] has other labels or scores than results.tasks.{name}.refusal"
    for i, j in product(range(n), range(n)):
        if cross.transfer[i][j] is not None:
            after = cross.ablation.score
            share = derive.transfer(cross.baseline.score[0][j], after[i][j], after[j][j])
            yield from same(f"{where}.transfer[{i}][{j}]", cross.transfer[i][j], share, "the scores")
        if cross.transfer_ci95 is not None:
            yield from ordered(f"{where}.transfer_ci95[{i}][{j}]", cross.transfer_ci95[i][j])
    for kind, pair in cross.controls:
        yield from _control_faults(f"{where}.controls.{kind}.ablation", pair.ablation, harmful)
        yield from _control_faults(f"{where}.controls.{kind}.addition", pair.addition, harmless)


def _causal_faults(where: str, matrix: CausalMatrix, prompts: list[list[int]]) -> Iterator[str]:
    for i, row in enumerate(prompts):
        for j, n in enumerate(row):
            at, labels, scores = f"[{i}][{j}]", matrix.labels[i][j], matrix.scores[i][j]
            yield from labels_fit(f"{where}.labels{at}", labels, n)
            yield from long(f"{where}.scores{at}", scores, n)
            yield from same(f"{where}.refusal_rate{at}", matrix.refusal_rate[i][j], derive.refusal_rate(labels))
            yield from same(f"{where}.ci95{at}", matrix.ci95[i][j], derive.rate_interval(labels))
            yield from same(f"{where}.n{at}", matrix.n[i][j], derive.n_scored(labels))
            yield from same(f"{where}.score{at}", matrix.score[i][j], derive.mean(scores), "its scores")


def _control_faults(where: str, control: Control, prompts: list[int]) -> Iterator[str]:
    n = len(prompts)
    shapes = [*shaped(f"{where}.labels", control.labels, control.n_directions, n)]
    for name in ("refusal_rate", "band95", "score", "score_band95"):
        shapes += long(f"{where}.{name}", getattr(control, name), n)
    yield from shapes
    if shapes:
        return
    for j, prompt_count in enumerate(prompts):
        rates = [derive.refusal_rate(row[j]) for row in control.labels]
        for i, row in enumerate(control.labels):
            yield from labels_fit(f"{where}.labels[{i}][{j}]", row[j], prompt_count)
        yield from same(f"{where}.refusal_rate[{j}]", control.refusal_rate[j], derive.mean(rates))
        if control.band95[j] is not None:  # null is allowed: one direction has no spread
            yield from same(f"{where}.band95[{j}]", control.band95[j], derive.central_interval(rates))
        yield from ordered(f"{where}.score_band95[{j}]", control.score_band95[j])


def subspace_faults(where: str, subspace: Subspace, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Rates follow from labels; nothing ablated is the baseline."""
    n = len(subspace.k)
    lists = {name: getattr(subspace, name) for name in ("refusal_rate", "ci95", "score", "kl", "labels")}
    shapes = [fault for name, values in lists.items() for fault in long(f"{where}.{name}", values, n)]
    yield from shapes
    if shapes:
        return
    if subspace.k != sorted(set(subspace.k)) or any(not 0 <= k <= len(tasks) for k in subspace.k):
        yield f"{where}.k is not ascending within 0 to {len(tasks)}, the number of directions"
    baseline = "".join(task.refusal.baseline_harmful.labels for task in tasks.values())
    for i, (k, labels) in enumerate(zip(subspace.k, subspace.labels, strict=True)):
        yield from labels_fit(f"{where}.labels[{i}]", labels, len(baseline))
        yield from same(f"{where}.refusal_rate[{i}]", subspace.refusal_rate[i], derive.refusal_rate(labels))
        yield from same(f"{where}.ci95[{i}]", subspace.ci95[i], derive.rate_interval(labels))
        yield from in_range(f"{where}.kl[{i}]", subspace.kl[i], 0)
        if k == 0 and labels != baseline:
            yield f"{where}.labels[{i}] with nothing ablated are not the baseline labels"


def _domain_faults(where: str, domains: list[str], tasks: Mapping[str, Task]) -> Iterator[str]:
    if len(set(domains)) < len(domains) or not set(domains) <= set(tasks):
        yield f"{where}.domains is not a list of different tasks of this record"
