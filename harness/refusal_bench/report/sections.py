"""The report's figures by question; a question without data says why."""

from __future__ import annotations

from dataclasses import dataclass, field

from refusal_bench import words
from refusal_bench.record import Record
from refusal_bench.report import backends, behaviour, causal, depth, effects, geometry
from refusal_bench.report.figure import Figure


@dataclass(frozen=True)
class Section:
    """A part of the report; `missing` says why there is nothing to show."""

    key: str
    short: str
    title: str
    figures: list[Figure]
    missing: str | None = None
    sentences: list[str] = field(default_factory=list)


def sections(record: Record) -> list[Section]:
    """All of them, in reading order."""
    domain_figures = [
        behaviour.refusal_figure(record),
        behaviour.directions_figure(record),
        behaviour.selection_figure(record),
    ]
    found = [
        _section(record, "Directions", "Does each domain have a direction?", "tasks", domain_figures),
        _section(record, "Geometry", "How do the directions lie to each other?", "geometry", _geometry(record)),
        _section(record, "Causality", "Do they act differently?", "cross_domain", _causal(record)),
        _section(record, "Dimensions", "How many directions carry refusal?", "subspace", _subspace(record)),
        _section(record, "Layers", "Where in the model?", "layers", _layers(record)),
    ]
    served, parity = record.results.served, record.results.parity
    for key, short, title, drawn in (
        ("judge", "Judge", "How far can the judge be trusted?", [behaviour.judge_figure(record)]),
        (
            "backends",
            "Backends",
            "What did other backends give?",
            [backends.served_figure(record, served), backends.parity_figure(parity)],
        ),
    ):
        if figures := [figure for figure in drawn if figure is not None]:
            found.append(Section(f"{key}-section", short, title, figures))
    return found


def _geometry(record: Record) -> list[Figure | None]:
    common, own = record.results.geometry, record.results.geometry_own_site
    if common is None:
        return []
    return [
        geometry.cosine_figure(record, common),
        geometry.comparisons_figure(record, common),
        geometry.angles_figure(record, common),
        geometry.projection_figure(record, common),
        geometry.spectrum_figure("uncentred", common.pca.uncentred),
        geometry.spectrum_figure("centred", common.pca.centred),
        geometry.dendrogram_figure(record, common),
        geometry.cosine_figure(record, own, own_site=True) if own is not None else None,
        geometry.noise_figure(record, common),
    ]


def _causal(record: Record) -> list[Figure | None]:
    cross = record.results.cross_domain
    if cross is None:
        return []
    return [
        causal.ablation_figure(record, cross),
        causal.addition_figure(record, cross),
        causal.transfer_figure(record, cross),
        effects.dependence_figure(record, cross.dependence),
        *effects.effects_figures(record, cross.effects),
        effects.parts_figure(record, cross.parts),
        effects.dose_figure(record, cross.dose),
        effects.mixed_figure(cross.mixed),
    ]


def _subspace(record: Record) -> list[Figure | None]:
    subspace = record.results.subspace
    return [] if subspace is None else [causal.subspace_figure(subspace), causal.orderings_figure(subspace)]


def _layers(record: Record) -> list[Figure | None]:
    return [depth.layers_figure(record), depth.depth_figure(record, record.results.depth)]


def _section(record: Record, short: str, title: str, part: str, drawn: list[Figure | None]) -> Section:
    present = [figure for figure in drawn if figure is not None]
    sentences = effects.summary_sentences(record.results.cross_domain) if part == "cross_domain" else []
    if part == "geometry" and record.results.site_effect is not None:
        sentences.append(record.results.site_effect.sentence)
    return Section(
        f"{part}-section", short, title, present, None if present else words.why_missing(record, part), sentences
    )
