"""Screened selection: candidates race, the best by a first-order estimate first, and few run to the end.

Candidates are judged on 4 prompts, drawn at random, then on 8, 16 and so on. One leaves once its KL bound says that it
fails, which is certain, or once its whole 99 % interval says that it fails KL or induce, or that its bypass is above
that of a candidate that passed everything (Maron and Moore 1994). Of the others only the leader, which has the lowest
bypass so far, and those that may beat it go on. As many start as have started before, until the next estimate is too
high to win, as far as the errors of estimates so far tell (95 % prediction interval).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.passes import Prompt
from refusal_bench.config import INDUCE_THRESHOLD, KL_THRESHOLD
from refusal_bench.interventions import Ablate, Add
from refusal_bench.metrics.statistics import drawn_mean_interval, prediction_interval
from refusal_bench.scan import FIRST_PROMPTS, Found, Scan, SelectionData, Trial, by_bypass, scores
from refusal_bench.screening import estimated_change

STARTERS = 8
"""Candidates that start first."""

RECALLED = 8
"""Candidates of lowest KL that are looked at where all seem to fail KL."""


@dataclass(eq=False)
class Racer:
    """A candidate, the estimated change of its bypass score, and the scores of the prompts it has seen."""

    trial: Trial
    estimate: float
    ablated: list[float] = field(default_factory=list)
    """Of harmful prompts, its direction ablated."""
    added: list[float] = field(default_factory=list)
    """Of harmless prompts, its vector added."""

    @property
    def bypass(self) -> tuple[float, int, int]:
        """Sort key: lowest bypass so far first, ties in the order of the candidates."""
        return float(np.mean(self.ablated)), self.trial.place, self.trial.layer

    @property
    def seen(self) -> int:
        """Prompts of each label, up to as many as there are of either."""
        return max(len(self.ablated), len(self.added))

    @property
    def harms(self) -> bool:
        """Whether KL on the prompts seen so far is above the threshold."""
        return not np.mean(self.trial.kl) < KL_THRESHOLD

    def measured(self, rejected: str | None) -> Trial:
        """The candidate with the means of its scores."""
        bypass, induce = float(np.mean(self.ablated)), float(np.mean(self.added))
        return replace(self.trial, bypass=bypass, induce=induce, rejected=rejected)


def race(
    scan: Scan,
    trials: Sequence[Trial],
    unmodified: Float[Tensor, " harmful"],
    on_progress: Callable[[int], None],
) -> tuple[Found, list[Trial], int]:
    """Return what was found out, all candidates in the order of the estimate, and how many of them started.

    `unmodified` are the scores of the harmful prompts without intervention. Candidates that left because they probably
    fail or lose are in none of the lists of what was found out.
    """
    change = estimated_change(scan.backend, scan.data.harmful, scan.data.refusal_tokens, scan.stack(trials))
    ranked = [Racer(trials[i], float(change[i])) for i in torch.argsort(change, stable=True).tolist()]
    course, started = _Course(scan, unmodified), 0
    while started < len(ranked) and not course.is_decided(ranked[started].estimate):
        starters = ranked[started : 2 * started or STARTERS]
        course.run(starters)
        started += len(starters)
        on_progress(len(starters))
    on_progress(len(ranked) - started)
    return course.outcome(), [racer.trial for racer in ranked], started


def shuffled(data: SelectionData) -> SelectionData:
    """The prompts in random order; they come in that of their tasks."""
    draw = random.Random(0)
    harmful, harmless = (draw.sample(list(prompts), len(prompts)) for prompts in (data.harmful, data.harmless))
    return replace(data, harmful=harmful, harmless=harmless)


@dataclass
class _Course:
    """The candidates that may still win, and those that left for a known reason."""

    scan: Scan
    """With the prompts in random order."""
    unmodified: Float[Tensor, " harmful"]
    racing: list[Racer] = field(default_factory=list)
    """Candidates that nothing speaks against; those that have seen all prompts pass every filter."""
    failing: list[Racer] = field(default_factory=list)
    """Candidates that fail induce, for certain if they have seen all prompts."""
    doubtful: list[Racer] = field(default_factory=list)
    """Candidates that probably fail KL."""
    dropped: list[Trial] = field(default_factory=list)
    """Candidates that fail KL for certain."""
    errors: list[float] = field(default_factory=list)
    """Estimated less measured change of bypass on the first prompts, of every candidate that was scored on them."""

    def is_decided(self, estimate: float) -> bool:
        """Whether no candidate of that estimate, or a higher one, can win, as far as estimates can be trusted."""
        leader = self.leader()
        if leader is None:
            return False
        return cannot_win(estimate, self.errors, best=leader.bypass[0] - float(self.unmodified.mean()))

    def leader(self) -> Racer | None:
        """The candidate of lowest bypass so far among those with a KL below the threshold so far, if there are any."""
        return min(self.racing, key=lambda racer: (racer.harms, racer.bypass), default=None)

    def run(self, starters: Sequence[Racer]) -> None:
        """Let candidates start, and go on until the leader has seen all prompts and nobody may beat it."""
        self.racing += self.see(starters, FIRST_PROMPTS)
        for racer in starters:
            if racer.ablated:
                change = np.mean(racer.ablated) - float(self.unmodified[: len(racer.ablated)].mean())
                self.errors.append(float(racer.estimate - change))
        while (leader := self.leader()) is not None:
            ahead = [r for r in self.racing if r is leader or leader.harms or self.may_beat(r, leader)]
            unfinished = [racer for racer in ahead if not self.has_finished(racer)]
            if not unfinished:
                break
            seen = min(racer.seen for racer in unfinished)
            going = [racer for racer in unfinished if racer.seen == seen]
            self.racing = [racer for racer in self.racing if racer not in going] + self.see(going, 2 * seen)

    def see(self, racers: Sequence[Racer], until: int) -> list[Racer]:
        """Let candidates see so many prompts; return those that may still win."""
        racers = self.below_threshold(racers, until)
        finished = [racer for racer in self.racing if self.has_finished(racer)]
        if not finished:  # bypass decides nothing yet
            racers = self.inducing(racers, until)
        self.ablate(racers, until)
        racers = [r for r in racers if np.isfinite(r.ablated).all() and all(self.may_beat(r, f) for f in finished)]
        return self.inducing(racers, until) if finished else racers

    def below_threshold(self, racers: Sequence[Racer], until: int) -> list[Racer]:
        """Those whose KL may pass the filter on so many prompts."""
        n, at = len(self.scan.data.harmless), {(racer.trial.place, racer.trial.layer): racer for racer in racers}
        passing, dropped = self.scan.kl([racer.trial for racer in racers], min(until, n))
        self.dropped += dropped
        for trial in passing:
            at[trial.place, trial.layer].trial = trial
        racers = [at[trial.place, trial.layer] for trial in passing]
        return _divided(
            racers, lambda racer: drawn_mean_interval(np.array(racer.trial.kl), n)[0] < KL_THRESHOLD, self.doubtful
        )

    def inducing(self, racers: Sequence[Racer], until: int) -> list[Racer]:
        """Those whose induce score may pass the filter on so many prompts; one that is no number cannot."""
        self.add(racers, until)
        n = len(self.scan.data.harmless)
        return _divided(
            racers, lambda racer: drawn_mean_interval(np.array(racer.added), n)[1] > INDUCE_THRESHOLD, self.failing
        )

    def ablate(self, racers: Sequence[Racer], until: int) -> None:
        """Score harmful prompts, of which all candidates have seen as many, with each direction ablated."""
        if racers:
            what = Ablate.each(self.scan.stack([racer.trial for racer in racers]))
            self._score([racer.ablated for racer in racers], self.scan.data.harmful[:until], what)

    def add(self, racers: Sequence[Racer], until: int) -> None:
        """Score harmless prompts, of which all candidates have seen as many, with each vector added at its layer."""
        if racers:
            vectors = self.scan.stack([racer.trial for racer in racers])
            what = Add(vectors, tuple(racer.trial.layer for racer in racers))
            self._score([racer.added for racer in racers], self.scan.data.harmless[:until], what)

    def has_finished(self, racer: Racer) -> bool:
        """Whether a candidate has seen all prompts."""
        return len(racer.ablated) == len(self.scan.data.harmful) and len(racer.added) == len(self.scan.data.harmless)

    def may_beat(self, racer: Racer, other: Racer) -> bool:
        """Whether its bypass may be lower than the other's, as far as the prompts that both have seen tell."""
        leads = [b - a for a, b in zip(racer.ablated, other.ablated, strict=False)]
        return drawn_mean_interval(np.array(leads), len(self.scan.data.harmful))[1] > 0

    def outcome(self) -> Found:
        """The candidates of which everything is known, and those that fail KL."""
        finished = [racer for racer in self.racing if self.has_finished(racer)] or self.recall()
        passed = sorted((racer.measured(None) for racer in finished), key=by_bypass)
        failed = [racer.measured("induce") for racer in self.failing if self.has_finished(racer)]
        return Found(passed[0] if passed else None, passed[1:], failed, self.dropped)

    def recall(self) -> list[Racer]:
        """Where nobody passed, finish one to describe it, and return it if it passes every filter after all.

        Of those that fail induce, or so it seems, it is the one of lowest estimate; without any, one of lowest KL.
        """
        n = max(len(self.scan.data.harmful), len(self.scan.data.harmless))
        recalled = sorted(self.failing, key=lambda racer: (racer.harms, racer.estimate))
        for racer in recalled or sorted(self.doubtful, key=lambda racer: np.mean(racer.trial.kl))[:RECALLED]:
            if self.below_threshold([racer], n):
                self.failing = [other for other in self.failing if other is not racer]
                self.ablate([racer], n)
                return self.inducing([racer], n)
        return []

    def _score(self, known: Sequence[list[float]], prompts: Sequence[Prompt], what: Ablate | Add) -> None:
        """Extend each variant's known scores, equally many, to all of the prompts."""
        if new := prompts[len(known[0]) :]:
            found = scores(self.scan.backend, new, self.scan.data.refusal_tokens, what)
            for row, more in zip(known, found.tolist(), strict=True):
                row += more


def _divided(racers: Sequence[Racer], passes: Callable[[Racer], bool], others: list[Racer]) -> list[Racer]:
    """Return those that pass, and put the others to the `others`."""
    passing = [racer for racer in racers if passes(racer)]
    others += [racer for racer in racers if racer not in passing]
    return passing


def cannot_win(estimate: float, errors: Sequence[float], best: float) -> bool:
    """Whether a candidate of that estimate changes bypass by no less than `best`, as far as estimates can be trusted.

    `errors` are those of other candidates, estimate minus change.
    """
    return estimate - prediction_interval(np.array(errors))[1] >= best
