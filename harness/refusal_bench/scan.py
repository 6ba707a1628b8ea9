"""The passes over candidates, and the exact search for the best: bypass, induce, KL (Arditi et al. 2024, section 2.3).

The search gives the same answer as evaluating all three quantities for every candidate, with less work:

1. KL of each prompt is never negative, so the sum over the first prompts, divided by the number of all, is a lower
   bound. Candidates leave as soon as the bound reaches the threshold; the prompts seen, shortest first, double each
   round, up to half.
2. Bypass is computed for the survivors only.
3. The rest of KL, then induce, are computed in ascending order of bypass (of one candidate, of the next two, of four
   more, ...), until one passes both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.config import INDUCE_THRESHOLD, KL_THRESHOLD
from refusal_bench.interventions import Ablate, Add
from refusal_bench.metrics.refusal import kl_divergence, refusal_score

FIRST_PROMPTS = 4
"""Prompts in the first round."""


@dataclass(frozen=True)
class SelectionData:
    """What candidates are judged on: prompts that no direction was computed from, and never held-out ones."""

    harmful: Sequence[Prompt]
    harmless: Sequence[Prompt]
    refusal_tokens: Sequence[int]


@dataclass(frozen=True)
class Trial:
    """One candidate under evaluation; `kl` is of the first harmless prompts."""

    place: int
    layer: int
    kl: tuple[float, ...] = ()
    bypass: float | None = None
    induce: float | None = None
    rejected: str | None = None

    def kl_bound(self, n: int) -> float:
        """Lower bound of the mean KL of `n` prompts; the mean itself once all were seen."""
        return sum(self.kl) / n


@dataclass
class Found:
    """What a search found out."""

    best: Trial | None = None
    """The candidate of lowest bypass that passes every filter."""
    behind: list[Trial] = field(default_factory=list)
    """Candidates of higher bypass, of which not all need be known."""
    failed: list[Trial] = field(default_factory=list)
    """Candidates that pass KL and fail induce."""
    dropped: list[Trial] = field(default_factory=list)
    """Candidates that fail KL."""


def scores(
    backend: HookBackend,
    prompts: Sequence[Prompt],
    refusal_tokens: Sequence[int],
    intervention: Ablate | Add | None = None,
) -> Float[Tensor, "variant prompt"]:
    """Refusal score of every prompt under every variant."""
    return backend.logits(prompts, lambda logits, _: refusal_score(logits, refusal_tokens), intervention)


@dataclass(frozen=True)
class Scan:
    """The passes over candidates; `data` holds the harmless prompts in the order in which KL sees them."""

    backend: HookBackend
    vectors: Float[Tensor, "position layer d_model"]
    data: SelectionData
    base_harmless: Float[Tensor, "prompt vocab"]

    def search(self, trials: list[Trial], on_progress: Callable[[int], None]) -> Found:
        """Find the best candidate as if all of them had been evaluated in full."""
        found, n = Found(), len(self.data.harmless)
        trials, found.dropped = self.kl(trials, n // 2, on_progress)
        found.behind = sorted(self.bypass(trials), key=by_bypass)
        size = 1
        while found.behind and found.best is None:
            passing, dropped = self.kl(found.behind[:size], n)
            tried = self.induce(passing)
            passed = [trial for trial in tried if trial.rejected is None]
            found.dropped += dropped
            found.failed += [trial for trial in tried if trial.rejected is not None]
            found.best = passed[0] if passed else None
            found.behind = passed[1:] + found.behind[size:]
            size *= 2
        return found

    def kl(
        self, trials: Sequence[Trial], stop: int, on_progress: Callable[[int], None] = lambda n: None
    ) -> tuple[list[Trial], list[Trial]]:
        """Look at harmless prompts up to `stop`: the candidates still below the KL threshold, and those proven out."""
        n, passing, dropped = len(self.data.harmless), list(trials), list[Trial]()
        while passing and len(passing[0].kl) < stop:
            seen = len(passing[0].kl)
            until = min(stop, 2 * seen or FIRST_PROMPTS)
            rows = self.kl_of(passing, seen, until)
            seeing = [replace(trial, kl=trial.kl + row) for trial, row in zip(passing, rows, strict=True)]
            # Written so that NaN, which fails every comparison, is rejected too.
            out = [trial for trial in seeing if not trial.kl_bound(n) < KL_THRESHOLD]
            dropped += [replace(trial, rejected="nan" if math.isnan(trial.kl_bound(n)) else "kl") for trial in out]
            passing = [trial for trial in seeing if trial not in out]
            on_progress(len(out) + (len(passing) if until == stop else 0))
        return passing, dropped

    def kl_of(self, trials: Sequence[Trial], start: int, stop: int) -> list[tuple[float, ...]]:
        """KL of each candidate on some of the harmless prompts."""
        base = self.base_harmless[start:stop]
        found = self.backend.logits(
            self.data.harmless[start:stop],
            lambda logits, rows: kl_divergence(base[rows].to(logits), logits),
            Ablate.each(self.stack(trials)),
        )
        return [tuple(row) for row in found.tolist()]

    def bypass(self, trials: Sequence[Trial]) -> list[Trial]:
        """Mean refusal score of harmful prompts with each direction ablated."""
        if not trials:
            return []
        ablate = Ablate.each(self.stack(trials))
        means = scores(self.backend, self.data.harmful, self.data.refusal_tokens, ablate).mean(dim=1)
        return [replace(trial, bypass=float(mean)) for trial, mean in zip(trials, means, strict=True)]

    def induce(self, trials: Sequence[Trial]) -> list[Trial]:
        """Mean refusal score of harmless prompts with each vector added at its layer, and the filter on it."""
        if not trials:
            return []
        add = Add(self.stack(trials), tuple(trial.layer for trial in trials))
        means = scores(self.backend, self.data.harmless, self.data.refusal_tokens, add).mean(dim=1).tolist()
        return [
            replace(trial, induce=mean, rejected=None if mean > INDUCE_THRESHOLD else "induce")
            for trial, mean in zip(trials, means, strict=True)
        ]

    def stack(self, trials: Sequence[Trial]) -> Float[Tensor, "variant d_model"]:
        """The candidates' vectors."""
        return torch.stack([self.vectors[trial.place, trial.layer] for trial in trials])


def by_bypass(trial: Trial) -> tuple[float | None, int, int]:
    """Sort key: lowest bypass first, ties in the order of the candidates."""
    return trial.bypass, trial.place, trial.layer
