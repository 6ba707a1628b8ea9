"""A race on tables of known numbers, against the minimum that the whole table has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refusal_bench import race as races
from refusal_bench.metrics.statistics import drawn_mean_interval
from refusal_bench.scan import Scan, SelectionData, Trial
from scipy import stats

N, K = 32, 60


def test_the_interval_of_a_drawn_mean_covers_the_mean_of_all_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(4000):
        everything = rng.normal(2, 3, N)
        low, high = drawn_mean_interval(rng.permutation(everything)[:8], N)
        hits += low <= everything.mean() <= high
    assert 0.985 <= hits / 4000 <= 0.995


def test_the_interval_is_students_and_shrinks_to_a_point():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    low, high = drawn_mean_interval(values, 10**9)
    assert (low, high) == pytest.approx(stats.t.interval(0.99, 3, values.mean(), stats.sem(values)))
    assert drawn_mean_interval(values, 4) == (3.5, 3.5)
    assert drawn_mean_interval(values[:1], 4) == (-np.inf, np.inf)


class Table:
    """Scores and KL of every candidate on every prompt, in place of a model."""

    def __init__(self, seed, *, induces=0.5, nan=()):
        rng = np.random.default_rng(seed)
        bypass, induce, kl = (
            rng.normal(0, 3, K),
            rng.normal(np.where(rng.random(K) < induces, 4, -4), 1),
            rng.exponential(0.1, K),
        )
        self.ablated = bypass[:, None] + rng.normal(0, 1, N) + rng.normal(0, 1, (K, N))
        self.added = induce[:, None] + rng.normal(0, 2, (K, N))
        self.kl = kl[:, None] * rng.exponential(1, (K, N))
        self.ablated[list(nan)] = np.nan
        self.estimate = torch.from_numpy(bypass + rng.normal(0, 1, K))
        self.seen = 0

    def rows(self, table, candidates, prompts):
        self.seen += len(candidates) * len(prompts)
        return torch.from_numpy(table[np.ix_(candidates, [prompt[0] for prompt in prompts])])

    def scores(self, backend, prompts, tokens, what):
        table = self.ablated if isinstance(what, races.Ablate) else self.added
        return self.rows(table, what.table.reshape(len(what), -1).argmax(dim=1).tolist(), prompts)

    def run(self, monkeypatch):
        monkeypatch.setattr(races, "scores", self.scores)
        monkeypatch.setattr(races, "estimated_change", lambda *given: self.estimate)
        prompts = [(i,) for i in range(N)]
        data = races.shuffled(SelectionData(prompts, prompts, [0]))
        scan = Scanned(None, torch.eye(K)[None], data, torch.zeros(N, 1))
        object.__setattr__(scan, "numbers", self)
        return races.race(scan, [Trial(0, k) for k in range(K)], torch.zeros(N), lambda n: None)

    def best(self):
        """The winner of the whole table; None where nobody passes."""
        passing = (self.kl.mean(axis=1) < 0.1) & (self.added.mean(axis=1) > 0) & np.isfinite(self.ablated.mean(axis=1))
        return min(np.flatnonzero(passing), key=lambda k: self.ablated[k].mean(), default=None)


class Scanned(Scan):
    def kl_of(self, trials, start, stop):
        found = self.numbers.rows(self.numbers.kl, [trial.layer for trial in trials], self.data.harmless[start:stop])
        return [tuple(row) for row in found.tolist()]


def test_a_race_is_won_by_the_best_that_passes_and_most_see_few_prompts(monkeypatch):
    right, seen = 0, []
    for seed in range(200):
        table = Table(seed)
        found, ranked, started = table.run(monkeypatch)
        k = found.best.layer
        assert table.kl[k].mean() < 0.1
        assert table.added[k].mean() > 0
        assert found.best.bypass == pytest.approx(table.ablated[k].mean())
        assert found.best.induce == pytest.approx(table.added[k].mean())
        assert sum(found.best.kl) / N == pytest.approx(table.kl[k].mean())
        assert all(trial.bypass >= found.best.bypass for trial in found.behind)
        assert all(table.kl[trial.layer].mean() >= 0.1 for trial in found.dropped)
        assert sorted(trial.layer for trial in ranked) == list(range(K))
        assert len(found.behind) + len(found.failed) + len(found.dropped) < started <= K
        right += k == table.best()
        seen.append(table.seen)
    assert right >= 195
    assert np.mean(seen) < 0.2 * 3 * N * K


def test_where_nobody_passes_the_race_has_no_winner_and_one_that_fails_is_known_in_full(monkeypatch):
    for seed in range(30):
        table = Table(seed, induces=0)
        assert table.best() is None
        found, _, started = table.run(monkeypatch)
        assert found.best is None
        assert started == K
        (failed,) = found.failed
        assert failed.rejected == "induce"
        assert failed.bypass == pytest.approx(table.ablated[failed.layer].mean())
        assert len(failed.kl) == N


@pytest.mark.parametrize("noise", [0.01, 1])
def test_where_all_fail_kl_certain_or_not_some_are_known_to(monkeypatch, noise):
    table = Table(0)
    table.kl = 0.2 + noise * np.random.default_rng(1).exponential(1, (K, N)) / 20
    found, *_ = table.run(monkeypatch)
    assert found.best is None
    assert not found.failed
    assert found.dropped
    assert all(table.kl[trial.layer].mean() >= 0.1 for trial in found.dropped)


def test_a_candidate_whose_scores_are_no_numbers_does_not_win(monkeypatch):
    table = Table(3)
    first = table.best()
    found, *_ = Table(3, nan=[first]).run(monkeypatch)
    assert found.best.layer == Table(3, nan=[first]).best() != first


def test_a_race_repeats(monkeypatch):
    assert Table(5).run(monkeypatch) == Table(5).run(monkeypatch)
