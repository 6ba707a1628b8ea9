"""What a person reads in the terminal after a run: the record's findings, a table a question."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

from refusal_bench import words
from refusal_bench.causal_words import causal_facts
from refusal_bench.console.tables import add_row, fit, print_fact, print_titled, shaded, share, table_of
from refusal_bench.record import (
    CrossDomain,
    Geometry,
    OverRefusal,
    Published,
    Record,
    Served,
    Spectrum,
    Subspace,
)
from refusal_bench.words import DASH, number, visible


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
        print_fact(console, name, said)
    if record.published is not None:
        _published(record.published, console)
    _footer(record, console)


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
    print_fact(
        console, "weights", f"{words.short(model.weights_sha256)}, {model.dtype}, quantisation {model.quantization}"
    )
    if model.adapter_sha256 is not None:
        print_fact(console, "adapter", words.short(model.adapter_sha256))
    print_fact(console, "template", " ".join(visible(token) for token in model.post_instruction_tokens))
    print_fact(console, "refusal tokens", f"{tokens} ({source})")
    if record.results.parity is not None:
        print_fact(
            console,
            "text by",
            "vLLM" if record.results.parity.passed else "the hook backend, not vLLM: see the warnings",
        )
    if record.judge is not None:
        print_fact(console, "judge", words.judge(record.judge))
    if record.results.geometry is not None:
        print_fact(console, "verdict", record.results.geometry.verdict)
    if record.results.cross_domain is not None and record.results.cross_domain.verdict:
        print_fact(console, "in effect", record.results.cross_domain.verdict)


def _directions(record: Record, console: Console) -> None:
    columns = ["domain", "status", "layer", "position", "bypass", "induce", "KL", "reliability"]
    table = table_of(columns, n_left=2)
    for name, task in record.results.tasks.items():
        selection, spread = task.selection, task.reliability
        site = (f"{task.direction.layer}/{record.model.n_layers}", words.token_at(task.direction, record.model))
        scores = (number(selection.bypass), number(selection.induce), number(selection.kl, 3))
        reliability = fit(words.number_interval(spread.split_half, spread.split_half_ci95), console)
        add_row(table, [name, task.status, *site, *scores, reliability])
    print_titled("Direction of each domain (selection split; scores in nats)", table, console)
    for name, task in record.results.tasks.items():
        if task.reason:
            console.print(Text(visible(f"{name}: {task.reason}")))
    if work := words.selection_work([task.selection for task in record.results.tasks.values()]):
        console.print(Text(work, style="dim"))


def _refusal(record: Record, console: Console) -> None:
    table = table_of(["domain", "harmful", "→ ablated", "harmless", "→ ablated", "→ added", "n", "unscored"])
    for name, task in record.results.tasks.items():
        refusal = task.refusal
        conditions = (
            refusal.baseline_harmful,
            refusal.ablated_harmful,
            refusal.baseline_harmless,
            refusal.ablated_harmless,
            refusal.added_harmless,
        )
        rates = [fit(share(condition.rate, condition.ci95), console) for condition in conditions]
        unscored = sum(condition.n_unscored for condition in conditions)
        add_row(table, [name, *rates, str(refusal.baseline_harmful.n), str(unscored)])
    print_titled("Refusal rate in % on held-out prompts, own direction [95 % interval]", table, console)


def _over_refusal(found: OverRefusal, console: Console) -> None:
    names = ("baseline_harmless", "ablated_harmless", "added_harmless", "baseline_harmful", "ablated_harmful")
    table = table_of(["type", "safe", "→ ablated", "→ added", "unsafe", "→ ablated", "n safe", "n unsafe"])
    whole = dict(found.refusal)
    rates = [fit(share(whole[name].rate, whole[name].ci95), console) for name in names]
    add_row(table, ["all", *rates, str(whole["baseline_harmless"].n), str(whole["baseline_harmful"].n)])
    for kind, shares in found.by_type.items():
        n = [str(shares[name].n) for name in ("baseline_harmless", "baseline_harmful")]
        add_row(table, [kind.replace("_", " "), *(share(shares[name].value) for name in names), *n])
    print_titled(
        "Over-refusal: % refused of safe prompts that look dangerous, shared direction [95 % interval]", table, console
    )


def _served(served: Served, console: Console) -> None:
    table = table_of(["domain", "harmful", "harmless", "n", "unscored"])
    for name, task in served.tasks.items():
        both = (task.harmful, task.harmless)
        rates = [fit(share(condition.rate, condition.ci95), console) for condition in both]
        add_row(table, [name, *rates, str(task.harmful.n), str(sum(condition.n_unscored for condition in both))])
    print_titled(
        f"Refusal rate in % of the endpoint's {visible(served.model)}, to be contrasted with nothing", table, console
    )


def _cosines(geometry: Geometry, console: Console) -> None:
    site = geometry.site
    table = table_of(["", *geometry.domains])
    for i, name in enumerate(geometry.domains):
        cells = [Text(visible(name))]
        for j, cosine in enumerate(geometry.cosine[i]):
            interval = None if i == j else geometry.cosine_ci95[i][j]
            cells.append(shaded(words.number_interval(cosine, interval).replace(" [", "\n["), cosine))
        table.add_row(*cells)
    where = f"layer {site.layer}, position {site.position}, by {site.chosen_by}"
    print_titled(f"Cosine of the domains' directions [95 % interval] ({where})", table, console)


def _comparisons(geometry: Geometry, console: Console) -> None:
    """Every pair in words, and how many pairs of prompts it would take."""
    if not geometry.comparisons:
        return
    table = table_of(["pair", "verdict"], 2)
    for pair, _, said in (sentence.partition(": ") for sentence in geometry.comparisons):
        # Without its space an interval is one word, which no line break divides.
        add_row(table, [pair, re.sub(r"(\[\S+,) ", r"\1", said)])
    print_titled("What the data say about each pair of domains", table, console)
    needed = ", ".join(
        f"{name} {DASH if n is None else n}"
        for name, n in zip(geometry.domains, geometry.pairs_needed or [], strict=False)
    )
    print_fact(console, "pairs needed", f"{needed} (prompt pairs that bring cosines to ±0.05)")


def _spectra(geometry: Geometry, console: Console) -> None:
    n = len(geometry.domains)
    table = table_of(["", *(f"PC{i + 1}" for i in range(n)), "for 90 %"])
    for name, spectrum in (("centred", geometry.pca.centred), ("uncentred", geometry.pca.uncentred)):
        shares = spectrum.explained_variance_ratio or []
        add_row(table, [name, *_padded([share(part) for part in shares], n), _count(spectrum)])
        for null, bands in (("one direction", spectrum.one_direction95), ("random", spectrum.null95)):
            add_row(table, [null, *_padded([share(None, band) for band in bands or []], n), ""])
    print_titled("Explained variance in % of the unit directions [95 % bands of two nulls]", table, console)


def _cross_domain(cross: CrossDomain, console: Console) -> None:
    table = table_of(["ablated", *cross.domains])
    add_row(table, ["nothing", *(share(rate) for rate in cross.baseline.refusal_rate[0])])
    for i, name in enumerate(cross.domains):
        cells = [Text(visible(name))]
        for rate, transfer in zip(cross.ablation.refusal_rate[i], cross.transfer[i], strict=True):
            cells.append(shaded(f"{share(rate)} ({number(transfer)})", rate))
        table.add_row(*cells)
    for name, control in (("random", cross.controls.random.ablation), ("shared", cross.controls.shared.ablation)):
        label = f"{name} (mean of {control.n_directions})" if control.n_directions > 1 else name
        add_row(table, [label, *(share(rate) for rate in control.refusal_rate)])
    print_titled("Refusal rate in % on the column's harmful prompts (share of the column's own drop)", table, console)


def _subspace(subspace: Subspace, console: Console) -> None:
    table = table_of(["components", *(str(k) for k in subspace.k)])
    rates = zip(subspace.refusal_rate, subspace.ci95, strict=True)
    add_row(table, ["refusal", *(share(rate, interval).replace(" [", "\n[") for rate, interval in rates)])
    add_row(table, ["KL (nats)", *(number(kl, 3) for kl in subspace.kl)])
    print_titled("Refusal in % by number of shared components ablated together", table, console)


def _published(published: Published, console: Console) -> None:
    table = table_of(["", "published", "ours", "tolerance", "agrees"])
    for row in words.published_rows(published):
        add_row(table, row)
    print_titled(f"Published figures beside ours [95 % interval] ({published.source})", table, console)
    for deviation in published.deviations:
        print_fact(console, "differs", deviation)


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


def _padded(cells: list[str], n: int) -> list[str]:
    return (cells + [DASH] * n)[:n]


def _count(spectrum: Spectrum) -> str:
    return DASH if spectrum.n_for_90 is None else str(spectrum.n_for_90)
