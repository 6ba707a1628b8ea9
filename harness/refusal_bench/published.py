"""Published figures beside ours: what a run with a preset is for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from refusal_bench.calibration.planted_world import STUDY_COSINES, STUDY_DOMAINS
from refusal_bench.config import RunConfig
from refusal_bench.metrics.refusal import refusal_rate
from refusal_bench.models.aliases import alias_of
from refusal_bench.presets import (
    ARDITI,
    ARDITI_SOURCE,
    ARDITI_TOLERANCE,
    MODELS,
    STUDY_CENTRED,
    STUDY_SOURCE,
    settings_of,
)
from refusal_bench.record import Geometry, Interval, Published, PublishedFigure, Results
from refusal_bench.selection import Selected


def beside(config: RunConfig, results: Results, common: Selected) -> Published | None:
    """Return a preset's published figures with ours; None without a preset."""
    if config.preset is None:
        return None
    study = config.preset == "study"
    return Published(
        preset=config.preset,
        source=STUDY_SOURCE if study else ARDITI_SOURCE,
        deviations=_deviations(config),
        figures=_study(results.geometry_own_site) if study else _arditi(alias_of(config.model), results, common),
    )


def _study(geometry: Geometry | None) -> list[PublishedFigure]:
    """Cosines of all pairs and the centred spectrum, with each domain at its own layer, as in the study."""
    found = []
    for i, j in combinations(range(len(STUDY_DOMAINS)), 2):
        names = STUDY_DOMAINS[i], STUDY_DOMAINS[j]
        ours, interval = _cosine(geometry, *names)
        found.append(_figure(f"cosine, {names[0]} and {names[1]}", float(STUDY_COSINES[i, j]), ours, interval))
    spectrum = geometry.pca.centred if geometry else None
    shares = spectrum.explained_variance_ratio if spectrum else None
    for n, published in STUDY_CENTRED.items():
        ours = None if shares is None else sum(shares[:n])
        interval = spectrum.ci95[0] if n == 1 and spectrum and spectrum.ci95 else None
        name = "first component" if n == 1 else f"first {n} components"
        found.append(_figure(f"variance, {name} (centred)", published, ours, interval))
    return found


def _arditi(model: str, results: Results, common: Selected) -> list[PublishedFigure]:
    """The one direction of all domains together, and what ablating it does."""
    if model not in ARDITI:
        return []
    expected, selection = ARDITI[model], common.selection
    pairs = {
        "layer": (float(expected.layer), float(common.site.layer)),
        "position": (float(expected.position), float(common.site.position)),
        "bypass": (expected.bypass, selection.bypass),
        "induce": (expected.induce, selection.induce),
        "KL": (expected.kl, selection.kl),
    }
    found = [_figure(name, published, ours, None, ARDITI_TOLERANCE[name]) for name, (published, ours) in pairs.items()]
    if expected.attack_success is None:
        return found
    baseline = [task.refusal.baseline_harmful.labels for task in results.tasks.values()]
    shared = results.cross_domain.controls.shared.ablation.labels[0] if results.cross_domain else []
    for name, labels, success in zip(
        ("refused, harmful", "refused, harmful, direction ablated"),
        (baseline, shared),
        expected.attack_success,
        strict=True,
    ):
        rate, interval, _ = refusal_rate("".join(labels))
        found.append(_figure(name, round(1 - success, 3), rate, interval))
    return found


def _cosine(geometry: Geometry | None, a: str, b: str) -> tuple[float | None, Interval | None]:
    if geometry is None or a not in geometry.domains or b not in geometry.domains:
        return None, None
    i, j = geometry.domains.index(a), geometry.domains.index(b)
    return geometry.cosine[i][j], geometry.cosine_ci95[i][j]


def _figure(
    name: str, published: float, ours: float | None, interval: Interval | None, tolerance: float | None = None
) -> PublishedFigure:
    agrees = None
    if ours is not None and interval is not None:
        agrees = interval[0] <= published <= interval[1]
    elif ours is not None and tolerance is not None:
        agrees = abs(ours - published) <= tolerance
    return PublishedFigure(name=name, published=published, ours=ours, ci95=interval, tolerance=tolerance, agrees=agrees)


def _deviations(config: RunConfig) -> list[str]:
    """What this run does otherwise; the prompts are always our own."""
    assert config.preset is not None
    found = ["prompts: our own, not the published ones"]
    if alias_of(config.model) not in MODELS[config.preset]:
        found.append(f"model: {config.model}, for which nothing was published")
    for name, value in settings_of(config.preset, config.model).items():
        chosen = getattr(config, name)
        if name == "tasks":
            value, chosen = _names(value), _names(chosen)
        if chosen != value:
            found.append(f"{name.replace('_', ' ')}: {_said(chosen)} instead of {_said(value)}")
    if config.quick:
        found.append("quick: fewer prompts and replicates")
    return found


def _names(tasks: str) -> tuple[str, ...]:
    return tuple(sorted(part.strip() for part in tasks.split(",")))


def _said(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "the model's own"
