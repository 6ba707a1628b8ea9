"""The site's pages, rendered from templates that escape everything."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from refusal_bench import words
from refusal_bench.leaderboard.ranking import Conditions, Group, Place
from refusal_bench.leaderboard.site import curves, wording
from refusal_bench.record import CausalMatrix, Control, CrossDomain, Interval, Matrix
from refusal_bench.version import __version__

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A matrix as it is shown: rows and columns by domain, a number and perhaps an interval a cell."""

    title: str
    caption: str
    scale: str
    """`cosine` from -1 to 1, `share` from 0 to 1."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[float | None, Interval | None]]]]


class Pages:
    """Renders the pages of one build."""

    def __init__(self, groups: Sequence[Group], downloads: Sequence[str]) -> None:
        self._groups = groups
        self._downloads = downloads
        self._runs_of: dict[str, list[tuple[Group, Place]]] = defaultdict(list)
        for group in groups:
            for place in group.places:
                self._runs_of[place.record.model.id].append((group, place))
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {
            "words": words,
            "wording": wording,
            "curves": curves,
            "heading": heading,
            "version": __version__,
        }
        self._environment.filters["json"] = as_json

    def index(self) -> str:
        """The rankings."""
        return self._render(
            "index.html.j2",
            root="",
            groups=self._groups,
            downloads=self._downloads,
            n_runs=sum(len(group.places) for group in self._groups),
            latest=max((place.record.created[:10] for group in self._groups for place in group.places), default=""),
            quantizations=sorted({place.record.model.quantization for group in self._groups for place in group.places}),
            domains=sorted({name for group in self._groups for place in group.places for name in place.record.tasks}),
        )

    def compare(self) -> str:
        """The comparison, which scripts fill in."""
        choice = {
            "groups": [
                {
                    "key": group.conditions.key,
                    "title": heading(group.conditions),
                    "stated": wording.stated(group.conditions),
                    "runs": [
                        [
                            place.path,
                            wording.title(place.record),
                            place.record.model.quantization,
                            place.record.run_id,
                        ]
                        for place in group.places
                    ],
                }
                for group in self._groups
            ],
            "measures": curves.MEASURES,
        }
        return self._render("compare.html.j2", root="", choice=choice)

    def run(self, group: Group, place: Place) -> str:
        """One run's page."""
        return self._render(
            "run.html.j2",
            root="../../",
            group=group,
            place=place,
            record=place.record,
            facts=wording.facts(group, place),
            geometry=_geometry_tables(place),
            causal=_causal_tables(place),
            charts=curves.charts(place.record),
            others=[each for each in self._runs_of[place.record.model.id] if each[1] is not place],
            config=json.dumps(place.record.config, indent=1),
            downloads=self._downloads,
        )

    def _render(self, template: str, **values: object) -> str:
        return self._environment.get_template(template).render(values)


def heading(shared: Conditions) -> str:
    """A group's name."""
    kind = "Calibration, planted worlds" if shared.calibration else "Quick runs" if shared.quick else "Full runs"
    quick = ", quick" if shared.calibration and shared.quick else ""
    n = len(shared.tasks)
    return f"{kind}{quick}: {n} domain{'' if n == 1 else 's'}"


def as_json(value: object) -> Markup:
    """JSON that no HTML or JavaScript parser takes for anything else, not even for a closing script tag."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&'":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _geometry_tables(place: Place) -> list[Table]:
    geometry = place.record.results.geometry
    if geometry is None:
        return []
    site, names = geometry.site, words.shown(place.record, geometry.domains)
    found = [
        _table(
            "Cosine",
            f"Cosine of the domains' directions at layer {site.layer}, position {words.number(site.position, 0)} "
            "[95 % interval, bootstrap over prompt pairs].",
            "cosine",
            names,
            geometry.cosine,
            geometry.cosine_ci95,
        ),
        _table(
            "Cosine corrected for noise",
            "What the cosine would be without estimation noise [95 % interval].",
            "cosine",
            names,
            geometry.cosine_disattenuated,
            geometry.cosine_disattenuated_ci95,
        ),
    ]
    if geometry.ceiling is not None:
        caption = "The cosine that two estimates of one and the same direction would show with this noise."
        found.append(_table("Ceiling", caption, "cosine", names, geometry.ceiling))
    return found


def _causal_tables(place: Place) -> list[Table]:
    cross = place.record.results.cross_domain
    if cross is None:
        return []
    random, shared, names = cross.controls.random, cross.controls.shared, words.shown(place.record, cross.domains)
    ablation = _causal_table(
        "Ablation",
        "Refusal rate of the column's harmful prompts with the row's direction ablated [95 % interval].",
        names,
        cross,
        cross.ablation,
        0,
        random.ablation,
        shared.ablation,
    )
    addition = _causal_table(
        "Addition",
        "Refusal rate of the column's harmless prompts with the row's vector added [95 % interval].",
        names,
        cross,
        cross.addition,
        1,
        random.addition,
        shared.addition,
    )
    transfer = _table(
        "Transfer",
        "Drop of the column's refusal score by the row's direction, as a share of the drop by its own [95 % interval].",
        "share",
        names,
        cross.transfer,
        cross.transfer_ci95,
    )
    return [transfer, ablation, addition]


def _causal_table(
    title: str,
    caption: str,
    names: Sequence[str],
    cross: CrossDomain,
    matrix: CausalMatrix,
    baseline: int,
    random: Control,
    shared: Control,
) -> Table:
    """A matrix of rates under the rows `nothing`, `random` and `shared`; `baseline` is the row of unmodified rates."""
    above = (
        ("nothing", cross.baseline.refusal_rate[baseline], cross.baseline.ci95[baseline]),
        ("random", random.refusal_rate, random.band95),
        ("shared", shared.refusal_rate, shared.band95),
    )
    return _table(title, caption, "share", names, matrix.refusal_rate, matrix.ci95, above)


def _table(
    title: str,
    caption: str,
    scale: str,
    domains: Sequence[str],
    values: Matrix,
    intervals: Sequence[Sequence[Interval | None]] | None = None,
    controls: Sequence[tuple[str, Sequence[float | None], Sequence[Interval | None]]] = (),
) -> Table:
    none: list[Interval | None] = [None] * len(domains)
    rows = [
        (name, list(zip(values[i], none if intervals is None else intervals[i], strict=True)))
        for i, name in enumerate(domains)
    ]
    rows += [(name, list(zip(numbers, bands, strict=True))) for name, numbers, bands in controls]
    return Table(title, caption, scale, domains, rows)
