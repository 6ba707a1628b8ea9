"""How alike two models represent the same train prompts: CKA, each model at its own common site."""

from __future__ import annotations

from typing import Any

from refusal_bench.comparison.sources import Source
from refusal_bench.gram import Gram, read_gram
from refusal_bench.metrics.similarity import cka, cka_interval

LEAST_PAIRS = 10
"""Fewer pairs of prompts in common say nothing."""


def similarity(base: Source, candidate: Source) -> dict[str, Any] | None:
    """CKA with its interval, the number of prompts and both sites; None unless both are run folders that allow it."""
    if base.gram is None or candidate.gram is None:
        return None
    ours, theirs = read_gram(base.gram), read_gram(candidate.gram)
    known = set(theirs.pairs)
    common = [pair for pair in ours.pairs if pair in known]
    if len(common) < LEAST_PAIRS:
        return None
    one, other = ours.of(common), theirs.of(common)
    value = cka(one, other)
    if value is None:
        return None
    return {
        "cka": value,
        "ci95": cka_interval(one, other, [i for i in range(len(common)) for _ in range(2)]),
        "n_prompts": 2 * len(common),
        "base": _site(base, ours),
        "candidate": _site(candidate, theirs),
    }


def _site(source: Source, gram: Gram) -> dict[str, float]:
    layer = gram.site.layer
    return {
        "layer": layer,
        "position": gram.site.position,
        "relative_depth": layer / source.record.model.n_layers,
    }
