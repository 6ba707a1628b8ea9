"""The causal tables in a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from refusal_bench.record import Results
from refusal_bench.words import number, number_interval


def causal_facts(results: Results) -> Iterator[tuple[str, str]]:
    """Yield (name, sentence) of every causal table that the record has."""
    cross = results.cross_domain
    if cross is not None:
        if cross.summary is not None:
            yield "transfer", cross.summary.sentence
        if cross.parts is not None:
            shares = [
                f"{name} {number_interval(parts.share[1][0], parts.share_ci95[1][0])}"
                for name, parts in cross.parts.items()
            ]
            yield "shared part", f"its ablation takes, of what shared and specific part take: {', '.join(shares)}"
        if cross.dose is not None:
            halves = [f"{name} {number(dose.addition.half_effect)}" for name, dose in cross.dose.items()]
            yield "half effect", f"of adding two norms is reached at (norms): {', '.join(halves)}"
        if cross.mixed is not None:
            yield "two domains", cross.mixed.sentence
        if cross.effects is not None and cross.effects.fragile:
            yield "fragile", f"random ablation moves the score of {', '.join(cross.effects.fragile)}"
    if results.subspace is not None and results.subspace.curves is not None:
        reached = [
            f"{name} {'never' if curve.k_for_90 is None else curve.k_for_90}"
            for name, curve in results.subspace.curves.items()
        ]
        yield "90 % at k", ", ".join(reached)
    if results.depth is not None:
        yield "depth", results.depth.sentence
    if results.site_effect is not None:
        yield "sites", results.site_effect.sentence
