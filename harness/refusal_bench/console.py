"""What a person reads in the terminal: a run's summary and the leaderboard's table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from refusal_bench import words
from refusal_bench.causal_words import causal_facts
from refusal_bench.leaderboard.rows import Row
from refusal_bench.models.memory import gigabytes
from refusal_bench.record import (
    CrossDomain,
    Geometry,
    Interval,
    OverRefusal,
    Published,
    Record,
    Served,
    Spectrum,
    Subspace,
)
from refusal_bench.words import DASH, number, visible

WIDE = 100
"""Columns from which numbers and their intervals stand side by side."""


def print_summary(record: Record, console: Console) -> None:
    """Print a record's findings for a reader; fits 100 columns and is plain text where there is no terminal."""
    results = record.results
    _header(record, console)
    _directions(record, console)
    _refusal(record, console)
    if results.over_refusal is not None:
        _over_refusal(results.over_refusal, console)
    if results.served is not None:
        _served(results.served, console)
    if results.geometry is None:
        _missing(record, "geometry", console)
    else:
        _cosines(results.geometry, console)
        _comparisons(results.geometry, console)
        _spectra(results.geometry, console)
    if results.cross_domain is None:
        _missing(record, "cross_domain", console)
    else:
        _cross_domain(results.cross_domain, console)
    if results.subspace is None:
        _missing(record, "subspace", console)
    else:
        _subspace(results.subspace, console)
    facts = list(causal_facts(results))
    if facts:
        console.print()
        console.print(Text("What acts, by the refusal score [95 % intervals]", style="bold"))
    for name, said in facts:
        _fact(console, name, said)
    if record.published is not None:
        _published(record.published, console)
    _footer(record, console)


def print_leaderboard(rows: Sequence[Row], console: Console) -> None:
    """Print the main columns of the leaderboard's rows, one table a run."""
    if not rows:
        console.print("The leaderboard is empty; a run adds its record.")
    conditions = ("baseline_harmful", "ablated_harmful", "baseline_harmless", "added_harmless")
    for (model, run, quick), tasks in groupby(rows, lambda row: (row["model"], row["run_id"], row["quick"])):
        table = _table(
            ["refusal in %", "status", "harmful", "→ ablated", "harmless", "→ added", "cosine", "transfer"], 2
        )
        for row in tasks:
            rates = [_share(_float(row[f"{name}_rate"])) for name in conditions]
            means = [number(_float(row[name])) for name in ("mean_cosine", "mean_transfer")]
            _add(table, [str(row["task"]), str(row["task_status"]), *rates, *means])
        _titled(visible(f"{model}  run {run}{' (quick)' if quick else ''}"), table, console)


def print_models(described: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the aliases, what their weights take in three forms, and whether the hub asks for a login."""
    table = _table(["alias", "hub id, or what it is", "parameters", "16 bit", "8 bit", "4 bit", ""], 2)
    for name, model in described.items():
        sizes = [_weights(model["memory_bytes"], form) for form in ("bfloat16", "8bit", "4bit")]
        what = model["location"] if model["kind"] == "hub" else model["note"]
        _add(table, [name, what, _millions(model["parameters"]), *sizes, "gated" if model["gated"] else ""])
    console.print(table)


def print_model(described: Mapping[str, Any], console: Console) -> None:
    """Print what is known of one model, a fact a line."""
    for key, value in described.items():
        if key == "memory_bytes" and value:
            value = "; ".join(
                f"{form} {gigabytes(sizes['weights'])} of weights, at least {gigabytes(sizes['least'])} in a run"
                for form, sizes in value.items()
            )
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        console.print(Text.assemble((f"{key.replace('_', ' '):<24}", "dim"), visible(shown)))


def _weights(memory: Mapping[str, Mapping[str, int]] | None, form: str) -> str:
    return DASH if memory is None else gigabytes(memory[form]["weights"])


def _millions(parameters: int | None) -> str:
    return DASH if parameters is None else f"{parameters / 1e6:,.0f} M"


def _header(record: Record, console: Console) -> None:
    model = record.model
    title = Text(visible(model.id), style="bold")
    title.append(f"  run {record.run_id}", style="dim")
    if record.status == "incomplete":
        title.append("  INCOMPLETE: too much could not be scored", style="bold red")
    if record.config.get("quick") is True:
        title.append("  quick: smaller samples, wider intervals", style="yellow")
    console.print()
    console.print(title)
    tokens = " ".join(f"“{visible(token)}”" for token in model.refusal_tokens)
    source = {"model": "learned from the model", "user": "given", "default": "default list"}[model.refusal_tokens_from]
    _fact(console, "weights", f"{words.short(model.weights_sha256)}, {model.dtype}, quantisation {model.quantization}")
    if model.adapter_sha256 is not None:
        _fact(console, "adapter", words.short(model.adapter_sha256))
    _fact(console, "template", " ".join(visible(token) for token in model.post_instruction_tokens))
    _fact(console, "refusal tokens", f"{tokens} ({source})")
    if record.results.parity is not None:
        _fact(
            console,
            "text by",
            "vLLM" if record.results.parity.passed else "the hook backend, not vLLM: see the warnings",
        )
    if record.judge is not None:
        _fact(console, "judge", words.judge(record.judge))
    if record.results.geometry is not None:
        _fact(console, "verdict", record.results.geometry.verdict)
    if record.results.cross_domain is not None and record.results.cross_domain.verdict:
        _fact(console, "in effect", record.results.cross_domain.verdict)


def _directions(record: Record, console: Console) -> None:
    columns = ["domain", "status", "layer", "position", "bypass", "induce", "KL", "reliability"]
    table = _table(columns, n_left=2)
    for name, task in record.results.tasks.items():
        selection, spread = task.selection, task.reliability
        site = (f"{task.direction.layer}/{record.model.n_layers}", words.token_at(task.direction, record.model))
        scores = (number(selection.bypass), number(selection.induce), number(selection.kl, 3))
        reliability = _fit(words.number_interval(spread.split_half, spread.split_half_ci95), console)
        _add(table, [name, task.status, *site, *scores, reliability])
    _titled("Direction of each domain (selection split; scores in nats)", table, console)
    for name, task in record.results.tasks.items():
        if task.reason:
            console.print(Text(visible(f"{name}: {task.reason}")))
    if work := words.selection_work([task.selection for task in record.results.tasks.values()]):
        console.print(Text(work, style="dim"))


def _refusal(record: Record, console: Console) -> None:
    table = _table(["domain", "harmful", "→ ablated", "harmless", "→ ablated", "→ added", "n", "unscored"])
    for name, task in record.results.tasks.items():
        refusal = task.refusal
        conditions = (
            refusal.baseline_harmful,
            refusal.ablated_harmful,
            refusal.baseline_harmless,
            refusal.ablated_harmless,
            refusal.added_harmless,
        )
        rates = [_fit(_share(condition.rate, condition.ci95), console) for condition in conditions]
        unscored = sum(condition.n_unscored for condition in conditions)
        _add(table, [name, *rates, str(refusal.baseline_harmful.n), str(unscored)])
    _titled("Refusal rate in % on held-out prompts, own direction [95 % interval]", table, console)


def _over_refusal(found: OverRefusal, console: Console) -> None:
    names = ("baseline_harmless", "ablated_harmless", "added_harmless", "baseline_harmful", "ablated_harmful")
    table = _table(["type", "safe", "→ ablated", "→ added", "unsafe", "→ ablated", "n safe", "n unsafe"])
    whole = dict(found.refusal)
    rates = [_fit(_share(whole[name].rate, whole[name].ci95), console) for name in names]
    _add(table, ["all", *rates, str(whole["baseline_harmless"].n), str(whole["baseline_harmful"].n)])
    for kind, shares in found.by_type.items():
        n = [str(shares[name].n) for name in ("baseline_harmless", "baseline_harmful")]
        _add(table, [kind.replace("_", " "), *(_share(shares[name].value) for name in names), *n])
    _titled(
        "Over-refusal: % refused of safe prompts that look dangerous, shared direction [95 % interval]", table, console
    )


def _served(served: Served, console: Console) -> None:
    table = _table(["domain", "harmful", "harmless", "n", "unscored"])
    for name, task in served.tasks.items():
        both = (task.harmful, task.harmless)
        rates = [_fit(_share(condition.rate, condition.ci95), console) for condition in both]
        _add(table, [name, *rates, str(task.harmful.n), str(sum(condition.n_unscored for condition in both))])
    _titled(
        f"Refusal rate in % of the endpoint's {visible(served.model)}, to be contrasted with nothing", table, console
    )


def _cosines(geometry: Geometry, console: Console) -> None:
    site = geometry.site
    table = _table(["", *geometry.domains])
    for i, name in enumerate(geometry.domains):
        cells = [Text(visible(name))]
        for j, cosine in enumerate(geometry.cosine[i]):
            interval = None if i == j else geometry.cosine_ci95[i][j]
            cells.append(_shaded(words.number_interval(cosine, interval).replace(" [", "\n["), cosine))
        table.add_row(*cells)
    where = f"layer {site.layer}, position {site.position}, by {site.chosen_by}"
    _titled(f"Cosine of the domains' directions [95 % interval] ({where})", table, console)


def _comparisons(geometry: Geometry, console: Console) -> None:
    """Every pair in words, and how many pairs of prompts it would take."""
    if not geometry.comparisons:
        return
    table = _table(["pair", "verdict"], 2)
    for pair, _, said in (sentence.partition(": ") for sentence in geometry.comparisons):
        # Without its space an interval is one word, which no line break divides.
        _add(table, [pair, re.sub(r"(\[\S+,) ", r"\1", said)])
    _titled("What the data say about each pair of domains", table, console)
    needed = ", ".join(
        f"{name} {DASH if n is None else n}"
        for name, n in zip(geometry.domains, geometry.pairs_needed or [], strict=False)
    )
    _fact(console, "pairs needed", f"{needed} (prompt pairs that bring cosines to ±0.05)")


def _spectra(geometry: Geometry, console: Console) -> None:
    n = len(geometry.domains)
    table = _table(["", *(f"PC{i + 1}" for i in range(n)), "for 90 %"])
    for name, spectrum in (("centred", geometry.pca.centred), ("uncentred", geometry.pca.uncentred)):
        shares = spectrum.explained_variance_ratio or []
        _add(table, [name, *_padded([_share(share) for share in shares], n), _count(spectrum)])
        for null, bands in (("one direction", spectrum.one_direction95), ("random", spectrum.null95)):
            _add(table, [null, *_padded([_share(None, band) for band in bands or []], n), ""])
    _titled("Explained variance in % of the unit directions [95 % bands of two nulls]", table, console)


def _cross_domain(cross: CrossDomain, console: Console) -> None:
    table = _table(["ablated", *cross.domains])
    _add(table, ["nothing", *(_share(rate) for rate in cross.baseline.refusal_rate[0])])
    for i, name in enumerate(cross.domains):
        cells = [Text(visible(name))]
        for rate, share in zip(cross.ablation.refusal_rate[i], cross.transfer[i], strict=True):
            cells.append(_shaded(f"{_share(rate)} ({number(share)})", rate))
        table.add_row(*cells)
    for name, control in (("random", cross.controls.random.ablation), ("shared", cross.controls.shared.ablation)):
        label = f"{name} (mean of {control.n_directions})" if control.n_directions > 1 else name
        _add(table, [label, *(_share(rate) for rate in control.refusal_rate)])
    _titled("Refusal rate in % on the column's harmful prompts (share of the column's own drop)", table, console)


def _subspace(subspace: Subspace, console: Console) -> None:
    table = _table(["components", *(str(k) for k in subspace.k)])
    rates = zip(subspace.refusal_rate, subspace.ci95, strict=True)
    _add(table, ["refusal", *(_share(rate, interval).replace(" [", "\n[") for rate, interval in rates)])
    _add(table, ["KL (nats)", *(number(kl, 3) for kl in subspace.kl)])
    _titled("Refusal in % by number of shared components ablated together", table, console)


def _published(published: Published, console: Console) -> None:
    table = _table(["", "published", "ours", "tolerance", "agrees"])
    for row in words.published_rows(published):
        _add(table, row)
    _titled(f"Published figures beside ours [95 % interval] ({published.source})", table, console)
    for deviation in published.deviations:
        _fact(console, "differs", deviation)


def _missing(record: Record, section: str, console: Console) -> None:
    console.print()
    name = section.replace("_", " ").capitalize()
    console.print(Text.assemble((f"{name}: ", "bold"), visible(words.why_missing(record, section))))


def _footer(record: Record, console: Console) -> None:
    console.print()
    for warning in record.warnings:
        console.print(Text(f"warning: {visible(warning)}", style="yellow"))
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in record.timings.items())
    cost = record.cost
    peak = f"{cost.peak_memory_bytes / 1e9:.1f} GB"
    line = f"{stages}; {cost.forward_passes:,} passes, {cost.tokens:,} tokens, peak {peak}"
    console.print(Text(visible(line), style="dim"))


def _table(columns: Iterable[str], n_left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if i < n_left else "right"
        table.add_column(Text(visible(column)), justify=justify, overflow="fold", no_wrap=i == 0)
    return table


def _titled(title: str, table: Table, console: Console) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)


def _add(table: Table, cells: Iterable[str]) -> None:
    # Text, not str: a token such as "[/INST]" would be read as rich markup.
    table.add_row(*(Text("\n".join(visible(line) for line in cell.split("\n"))) for cell in cells))


def _shaded(text: str, value: float | None) -> Text:
    """Text on blue for positive and orange for negative values, stronger towards 1."""
    if value is None:
        return Text(text)
    strength = min(abs(value), 1.0)
    red, green, blue = (round(255 - strength * (255 - end)) for end in ((38, 84, 150) if value >= 0 else (176, 80, 30)))
    return Text(text, Style.parse(f"{'white' if strength > 0.6 else 'black'} on rgb({red},{green},{blue})"))


def _share(value: float | None, interval: Interval | None = None) -> str:
    """A share in percent without the sign, and its interval; a dash if there is neither."""
    band = f"[{100 * interval[0]:.0f}–{100 * interval[1]:.0f}]" if interval is not None else ""
    return f"{'' if value is None else f'{100 * value:.0f}'} {band}".strip() or DASH


def _fit(text: str, console: Console) -> str:
    """The interval goes below its number where the console is narrow."""
    return text if console.width >= WIDE else text.replace(" [", "\n[")


def _fact(console: Console, name: str, value: str) -> None:
    console.print(Text.assemble((f"  {name:<15}", "dim"), visible(value)))


def _padded(cells: list[str], n: int) -> list[str]:
    return (cells + [DASH] * n)[:n]


def _count(spectrum: Spectrum) -> str:
    return DASH if spectrum.n_for_90 is None else str(spectrum.n_for_90)


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
