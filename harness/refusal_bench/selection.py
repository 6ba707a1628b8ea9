"""Which candidate (position, layer), and why the others not: bypass, induce and KL (Arditi et al. 2024, section 2.3).

The chosen candidate is the one with the lowest bypass score among those with KL < KL_THRESHOLD, induce >
INDUCE_THRESHOLD and layer < DEPTH_LIMIT of depth. The scan gives the same answer as evaluating all three quantities for
every candidate, with less work:

1. KL of each prompt is never negative, so the sum over the first prompts, divided by the number of all, is a lower
   bound. Candidates leave as soon as the bound reaches the threshold; the prompts seen, shortest first, double each
   round, up to half.
2. Bypass is computed for the survivors only.
3. The rest of KL, then induce, are computed in ascending order of bypass, until a candidate passes both.

A screened selection ranks all candidates by a first-order estimate of bypass and scans them in this way a few at a
time, the best by the estimate first. Once one passes, it stops where the next, and so every later one, has too high an
estimate to win; how far estimates may be wrong is told by those of candidates whose bypass is known (95 % prediction
interval). It gives up only after many that pass KL and fail induce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.hf import HookBackend, Prompt
from refusal_bench.config import DEPTH_LIMIT, INDUCE_THRESHOLD, KL_THRESHOLD
from refusal_bench.interventions import Ablate, Add
from refusal_bench.metrics.refusal import kl_divergence, refusal_score
from refusal_bench.record import Candidate, Screen, Selection, Site
from refusal_bench.screening import cannot_win, estimated_change

FIRST_PROMPTS = 4
"""Harmless prompts in the first round of the KL scan."""

SCREENED = 8
"""Candidates that a screened selection scans at a time, the best by the estimate first."""

MOST_FAILED = 24
"""Candidates failing induce after which a screened selection gives up. Those failing KL do not count: where most do,
the few that pass may rank anywhere."""

LEAST_BAD = 8
"""Candidates of lowest KL that are evaluated in full when none passes every filter."""


@dataclass(frozen=True)
class SelectionData:
    """What candidates are judged on: prompts that no direction was computed from, and never held-out ones."""

    harmful: Sequence[Prompt]
    harmless: Sequence[Prompt]
    refusal_tokens: Sequence[int]


@dataclass(frozen=True)
class Selected:
    """The outcome of a selection."""

    site: Site
    """The chosen candidate, or the least bad one."""
    passed: bool
    """Whether it passed every filter."""
    selection: Selection
    """For the record."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"site": self.site.model_dump(), "passed": self.passed, "selection": self.selection.model_dump()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Selected:
        """Read back what `to_json` returned."""
        return Selected(
            Site.model_validate(value["site"]), value["passed"], Selection.model_validate(value["selection"])
        )


@dataclass(frozen=True)
class _Trial:
    """One candidate under evaluation; `kl_sum` is over the first `seen` harmless prompts."""

    place: int
    layer: int
    kl_sum: float = 0.0
    seen: int = 0
    bypass: float | None = None
    induce: float | None = None
    rejected: str | None = None
    estimate: float = 0.0
    """By how much ablation changes the bypass score, to first order; in a screened selection."""


def select(
    backend: HookBackend,
    vectors: Float[Tensor, "position layer d_model"],
    positions: Sequence[int],
    data: SelectionData,
    on_progress: Callable[[int], None] = lambda n: None,
    *,
    screened: bool = False,
) -> Selected:
    """Select the candidate; `on_progress` is told how many candidates are settled."""
    # The bound holds in any order of the prompts, and short ones cost least.
    data = replace(data, harmless=sorted(data.harmless, key=len))
    tokens_before = backend.counters.tokens
    base_harmful = scores(backend, data.harmful, data.refusal_tokens)[0]
    base_harmless = backend.logits(data.harmless, lambda logits, _: logits)[0]
    n_layers = vectors.shape[1]
    rejected = Counter[str]()
    trials = []
    floor = 1e-6 * float(vectors.norm(dim=-1).nan_to_num().max())
    for place in range(len(positions)):
        for layer in range(n_layers):
            norm = float(vectors[place, layer].norm())
            if layer >= int(DEPTH_LIMIT * n_layers):
                rejected["depth"] += 1
            elif not torch.isfinite(vectors[place, layer]).all():
                rejected["nan"] += 1
            elif norm <= floor:  # all prompts agree here, as on the template's embeddings
                rejected["zero"] += 1
            else:
                trials.append(_Trial(place, layer))
    if not trials:
        raise ValueError("no candidate differs between harmful and harmless prompts")

    scan = _Scan(backend, vectors, data, base_harmless)
    ranked = scan.ranked(trials) if screened else trials
    at_once = SCREENED if screened else len(trials)
    chosen: _Trial | None = None
    behind, failed, dropped, scanned = list[_Trial](), list[_Trial](), list[_Trial](), 0
    while scanned < len(ranked):
        if chosen is None and len(failed) >= MOST_FAILED:
            break
        if chosen is not None:
            seen = [chosen, *behind, *failed, *dropped]
            known = [(trial.estimate, trial.bypass) for trial in seen if trial.bypass is not None]
            if cannot_win(ranked[scanned].estimate, [a - b for a, b in known], best=known[0][1]):
                break
        tried = ranked[scanned : scanned + at_once]
        chosen, higher, failing, out = scan.search(tried, chosen, on_progress)
        behind, failed, dropped, scanned = behind + higher, failed + failing, dropped + out, scanned + len(tried)
    passed = chosen is not None
    if chosen is None:
        chosen, failed, dropped = _least_bad(scan, failed, dropped)
    if screened and scanned < len(ranked):
        rejected["screen"] = len(ranked) - scanned
    table = ([chosen] if passed else []) + behind + failed + dropped
    n = len(data.harmless)
    rejected.update(trial.rejected for trial in table if trial.rejected)
    return Selected(
        site=Site(layer=chosen.layer, position=positions[chosen.place]),
        passed=passed,
        selection=Selection(
            bypass=chosen.bypass,
            induce=chosen.induce,
            kl=chosen.kl_sum / n if chosen.seen == n else None,
            baseline_harmful=float(base_harmful.mean()),
            baseline_harmless=float(refusal_score(base_harmless, data.refusal_tokens).mean()),
            n_candidates=vectors.shape[0] * n_layers,
            n_eligible=vectors.shape[0] * n_layers - rejected.total(),
            rejected=dict(sorted(rejected.items())),
            n_prompts=n,
            tokens=backend.counters.tokens - tokens_before,
            tokens_exhaustive=vectors.shape[0]
            * n_layers
            * (sum(map(len, data.harmful)) + 2 * sum(map(len, data.harmless))),
            table=[_row(trial, positions, n) for trial in sorted(table, key=lambda t: (t.place, t.layer))],
            screen=Screen(scanned=scanned, rank=_rank(chosen, ranked)) if screened else None,
        ),
    )


def scores(
    backend: HookBackend,
    prompts: Sequence[Prompt],
    refusal_tokens: Sequence[int],
    intervention: Ablate | Add | None = None,
) -> Float[Tensor, "variant prompt"]:
    """Refusal score of every prompt under every variant."""
    return backend.logits(prompts, lambda logits, _: refusal_score(logits, refusal_tokens), intervention)


@dataclass(frozen=True)
class _Scan:
    """The three passes over candidates."""

    backend: HookBackend
    vectors: Float[Tensor, "position layer d_model"]
    data: SelectionData
    base_harmless: Float[Tensor, "prompt vocab"]

    def search(
        self, trials: list[_Trial], best: _Trial | None, on_progress: Callable[[int], None]
    ) -> tuple[_Trial | None, list[_Trial], list[_Trial], list[_Trial]]:
        """Return the best candidate that passes every filter, those behind it, and those failing induce and KL.

        `best` is known to pass.
        """
        failed, n = list[_Trial](), len(self.data.harmless)
        trials, dropped = self.kl(trials, n // 2, on_progress)
        known = self.bypass(trials) + ([best] if best else [])
        known.sort(key=lambda trial: (trial.bypass, trial.place, trial.layer))
        while known:
            if known[0] is best:
                return known.pop(0), known, failed, dropped
            finished, failing = self.kl([known.pop(0)], n)
            dropped += failing
            for trial in map(self.induce, finished):
                if trial.rejected is None:
                    return trial, known, failed, dropped
                failed.append(trial)
        return None, known, failed, dropped

    def ranked(self, trials: list[_Trial]) -> list[_Trial]:
        """Candidates with their estimates, lowest first."""
        change = estimated_change(self.backend, self.data.harmful, self.data.refusal_tokens, self.stack(trials))
        return [replace(trials[i], estimate=float(change[i])) for i in torch.argsort(change, stable=True).tolist()]

    def kl(
        self, trials: list[_Trial], stop: int, on_progress: Callable[[int], None] = lambda n: None
    ) -> tuple[list[_Trial], list[_Trial]]:
        """Look at harmless prompts up to `stop`: the candidates still below the KL threshold, and those proven out."""
        n, dropped = len(self.data.harmless), list[_Trial]()
        while trials and trials[0].seen < stop:
            seen = trials[0].seen
            until = min(stop, 2 * seen or FIRST_PROMPTS)
            sums = self.kl_sums(trials, seen, until)
            trials = [
                replace(trial, kl_sum=trial.kl_sum + float(kl), seen=until)
                for trial, kl in zip(trials, sums, strict=True)
            ]
            # Written so that NaN, which fails every comparison, is rejected too.
            out = [trial for trial in trials if not trial.kl_sum / n < KL_THRESHOLD]
            dropped += [replace(t, rejected="nan" if t.kl_sum != t.kl_sum else "kl") for t in out]
            trials = [trial for trial in trials if trial.kl_sum / n < KL_THRESHOLD]
            on_progress(len(dropped) + (len(trials) if until == stop else 0))
        return trials, dropped

    def kl_sums(self, trials: list[_Trial], start: int, stop: int) -> Float[Tensor, " variant"]:
        """KL of each candidate summed over some of the harmless prompts."""
        base = self.base_harmless[start:stop]
        return self.backend.logits(
            self.data.harmless[start:stop],
            lambda logits, rows: kl_divergence(base[rows].to(logits), logits),
            Ablate.each(self.stack(trials)),
        ).sum(dim=1)

    def bypass(self, trials: list[_Trial]) -> list[_Trial]:
        """Mean refusal score of harmful prompts with each direction ablated."""
        if not trials:
            return []
        ablate = Ablate.each(self.stack(trials))
        means = scores(self.backend, self.data.harmful, self.data.refusal_tokens, ablate).mean(dim=1)
        return [replace(trial, bypass=float(mean)) for trial, mean in zip(trials, means, strict=True)]

    def induce(self, trial: _Trial) -> _Trial:
        """Mean refusal score of harmless prompts with the vector added at its layer, and the filter on it."""
        add = Add.at(self.stack([trial]), trial.layer)
        mean = float(scores(self.backend, self.data.harmless, self.data.refusal_tokens, add).mean())
        return replace(trial, induce=mean, rejected=None if mean > INDUCE_THRESHOLD else "induce")

    def stack(self, trials: list[_Trial]) -> Float[Tensor, "variant d_model"]:
        """The candidates' vectors."""
        return torch.stack([self.vectors[trial.place, trial.layer] for trial in trials])


def _least_bad(scan: _Scan, failed: list[_Trial], dropped: list[_Trial]) -> tuple[_Trial, list[_Trial], list[_Trial]]:
    """Choose among candidates of which none passed: lowest bypass with induce passing, else lowest bypass.

    Candidates that pass KL come first; without any, the LEAST_BAD ones of lowest mean KL so far are evaluated in full.
    Returns the choice and both lists with what was found out.
    """
    if failed:
        return min(failed, key=lambda t: (t.bypass, t.place, t.layer)), failed, dropped
    dropped = sorted(dropped, key=lambda t: (t.rejected == "nan", t.kl_sum / max(t.seen, 1), t.place, t.layer))
    near, rest = dropped[:LEAST_BAD], dropped[LEAST_BAD:]
    finished, n = [], len(scan.data.harmless)
    for trial in near:
        if trial.seen < n:
            more = float(scan.kl_sums([trial], trial.seen, n)[0])
            trial = replace(trial, kl_sum=trial.kl_sum + more, seen=n)
        finished.append(replace(scan.induce(scan.bypass([trial])[0]), rejected=trial.rejected))
    best = min(finished, key=lambda t: (not (t.induce or 0) > INDUCE_THRESHOLD, t.bypass, t.place, t.layer))
    return best, failed, finished + rest


def _rank(chosen: _Trial, ranked: list[_Trial]) -> int:
    return next(i for i, trial in enumerate(ranked) if (trial.place, trial.layer) == (chosen.place, chosen.layer))


def _row(trial: _Trial, positions: Sequence[int], n: int) -> Candidate:
    return Candidate(
        layer=trial.layer,
        position=positions[trial.place],
        kl=trial.kl_sum / n if trial.kl_sum == trial.kl_sum else 0.0,
        kl_is_bound=trial.seen < n,
        bypass=trial.bypass,
        induce=trial.induce,
        rejected=trial.rejected,
    )
