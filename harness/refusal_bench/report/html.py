"""Renders a record as one self-contained HTML file: the findings in words, key numbers, figures, method notes."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from refusal_bench import words
from refusal_bench.files import write_atomic
from refusal_bench.leaderboard.derive import mean, mean_transfer, off_diagonal_mean
from refusal_bench.record import Geometry, Record, Spectrum
from refusal_bench.report.sections import sections
from refusal_bench.words import DASH, number, percent

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tile:
    """A key number."""

    name: str
    value: str
    note: str


def write_report(record: Record, path: Path) -> None:
    """Write the record's report; the file makes no request and runs no script but its own."""
    write_atomic(path, render(record))


def render(record: Record) -> str:
    """Return the report's HTML."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html.j2").render(
        record=record,
        words=words,
        findings=findings(record),
        tiles=tiles(record),
        sections=sections(record),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        hash=b64encode(sha256(script.encode()).digest()).decode(),
    )


def findings(record: Record) -> list[str]:
    """What was found, in words: a headline, then paragraphs."""
    geometry = record.results.geometry
    causal = _causal_sentences(record)
    if geometry is None:
        return [sentence for sentence in causal if sentence]
    headline, _, rest = geometry.verdict.partition(". ")
    return [text for text in (headline.removesuffix(".") + ".", rest, " ".join(causal)) if text]


def _causal_sentences(record: Record) -> list[str]:
    results, said = record.results, []
    before, after = _mean_rate(record, "baseline_harmful"), _mean_rate(record, "ablated_harmful")
    if before is not None and after is not None:
        said.append(f"Ablating its own direction takes a domain from {percent(before)} refusal to {percent(after)}.")
    if results.cross_domain is not None:
        cross = results.cross_domain
        if cross.verdict:
            said.insert(0, cross.verdict)
        share = mean_transfer(cross.transfer)
        left = mean(cross.controls.random.ablation.refusal_rate)
        if share is not None:
            said.append(f"By the refusal score, another domain's direction does {percent(share)} of what its own does.")
        if left is not None:
            said.append(f"With a random direction ablated, {percent(left)} are refused.")
    without = [name for name, task in results.tasks.items() if task.status != "ok"]
    if without:
        said.append(f"No direction passed every filter for {', '.join(without)}.")
    return said


def tiles(record: Record) -> list[Tile]:
    """The key numbers that this record has."""
    geometry, cross = record.results.geometry, record.results.cross_domain
    found = [
        _change(record, "Harmful prompts refused", "baseline_harmful", "ablated_harmful", "own direction ablated"),
        _change(record, "Harmless prompts refused", "baseline_harmless", "added_harmless", "own direction added"),
    ]
    served = record.results.served
    if served is not None:
        rate = percent(mean([task.harmful.rate for task in served.tasks.values()]))
        found.append(
            Tile("Refused at the endpoint", rate, f"of harmful prompts, by {served.model}; contrasted with nothing")
        )
    if geometry is not None:
        found += [
            Tile("Mean cosine", number(off_diagonal_mean(geometry.cosine)), "between different domains"),
            _spectrum_tile(geometry),
        ]
    if cross is not None:
        transfer = number(mean_transfer(cross.transfer))
        left = percent(mean(cross.controls.random.ablation.refusal_rate))
        found += [
            Tile("Transfer", transfer, "of the own drop, by another's direction"),
            Tile("Random control", left, "of harmful prompts still refused"),
        ]
    return found


def _mean_rate(record: Record, condition: str) -> float | None:
    return mean([getattr(task.refusal, condition).rate for task in record.results.tasks.values()])


def _change(record: Record, name: str, before: str, after: str, what: str) -> Tile:
    value = f"{percent(_mean_rate(record, before))} → {percent(_mean_rate(record, after))}"
    n = len(record.results.tasks)
    return Tile(name, value, f"{what}, {'mean of ' if n > 1 else ''}{n} domain{'s' if n > 1 else ''}")


def _spectrum_tile(geometry: Geometry) -> Tile:
    def said(spectrum: Spectrum) -> tuple[str, str]:
        shares, enough = spectrum.explained_variance_ratio, spectrum.n_for_90
        return percent(shares[0] if shares else None), f"{DASH if enough is None else enough} for 90 %"

    (first, enough), (other, other_enough) = said(geometry.pca.uncentred), said(geometry.pca.centred)
    return Tile("First component", first, f"uncentred, {enough}; centred {other}, {other_enough}")
