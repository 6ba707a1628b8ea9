"""Which candidate (position, layer), and why the others not.

The chosen candidate is the one with the lowest bypass score among those with KL < KL_THRESHOLD, induce >
INDUCE_THRESHOLD and layer < DEPTH_LIMIT of depth (Arditi et al. 2024, section 2.3). `scan.py` finds it for certain with
a fraction of the work; `race.py` in all probability with less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import DEPTH_LIMIT, INDUCE_THRESHOLD
from refusal_bench.metrics.refusal import refusal_score
from refusal_bench.race import race, shuffled
from refusal_bench.record import Candidate, Screen, Selection, Site
from refusal_bench.scan import Found, Scan, SelectionData, Trial, by_bypass, scores

LEAST_BAD = 8
"""Candidates of lowest KL that are evaluated in full when none passes every filter."""


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
    # KL's bound holds in any order of the prompts, and short ones cost least; a race takes the first ones for a sample.
    data = shuffled(data) if screened else replace(data, harmless=sorted(data.harmless, key=len))
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
                trials.append(Trial(place, layer))
    if not trials:
        raise ValueError("no candidate differs between harmful and harmless prompts")

    scan = Scan(backend, vectors, data, base_harmless)
    with backend.keeping_prefix([*data.harmful, *data.harmless]):
        if screened:
            found, ranked, started = race(scan, trials, base_harmful, on_progress)
        else:
            found = scan.search(trials, on_progress)
        chosen = found.best or _least_bad(scan, found)
    table = ([found.best] if found.best else []) + found.behind + found.failed + found.dropped
    if screened and len(table) < len(trials):
        rejected["screen"] = len(trials) - len(table)
    n = len(data.harmless)
    rejected.update(trial.rejected for trial in table if trial.rejected)
    return Selected(
        site=Site(layer=chosen.layer, position=positions[chosen.place]),
        passed=found.best is not None,
        selection=Selection(
            bypass=chosen.bypass,
            induce=chosen.induce,
            kl=chosen.kl_bound(n) if len(chosen.kl) == n else None,
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
            screen=Screen(scanned=started, rank=_rank(chosen, ranked)) if screened else None,
        ),
    )


def _least_bad(scan: Scan, found: Found) -> Trial:
    """Choose among candidates of which none passed: lowest bypass with induce passing, else lowest bypass.

    Candidates that pass KL come first; without any, the LEAST_BAD ones of lowest mean KL so far are evaluated in full,
    and what is found out of them is kept.
    """
    if found.failed:
        return min(found.failed, key=by_bypass)
    dropped = sorted(found.dropped, key=lambda t: (t.rejected == "nan", t.kl_bound(len(t.kl)), t.place, t.layer))
    near, rest = dropped[:LEAST_BAD], dropped[LEAST_BAD:]
    n = len(scan.data.harmless)
    full = [
        trial if len(trial.kl) == n else replace(trial, kl=trial.kl + scan.kl_of([trial], len(trial.kl), n)[0])
        for trial in near
    ]
    tried = scan.induce(scan.bypass(full))
    finished = [replace(trial, rejected=before.rejected) for trial, before in zip(tried, near, strict=True)]
    found.dropped = finished + rest
    return min(finished, key=lambda t: (not (t.induce or 0) > INDUCE_THRESHOLD, *by_bypass(t)))


def _rank(chosen: Trial, ranked: list[Trial]) -> int:
    return next(i for i, trial in enumerate(ranked) if (trial.place, trial.layer) == (chosen.place, chosen.layer))


def _row(trial: Trial, positions: Sequence[int], n: int) -> Candidate:
    bound = trial.kl_bound(n)
    return Candidate(
        layer=trial.layer,
        position=positions[trial.place],
        kl=0.0 if math.isnan(bound) else bound,
        kl_is_bound=len(trial.kl) < n,
        bypass=trial.bypass,
        induce=trial.induce,
        rejected=trial.rejected,
    )
