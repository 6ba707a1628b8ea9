"""Topic agreement against planted topics and a naive computation; shared harmless prompts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from refusal_bench.metrics import contrast
from refusal_bench.metrics.contrast import MIN_AGREEMENT, shared_prompts, topic_agreement
from refusal_bench.metrics.statistics import Z95


def prompts(topics, n, noise, rng):
    """One domain a topic: n prompts about it."""
    return [topic + noise * rng.standard_normal((n, len(topic))) for topic in topics]


def two_sides(matched, rng, *, n=24, k=4, width=64, noise=0.5):
    topics = rng.standard_normal((2, k, width))
    subtopics = [rng.standard_normal((n, width)) for _ in range(k)]
    refusal = 2 * rng.standard_normal(width)
    sides = [prompts(topics[side if not matched else 0], n, noise, rng) for side in (0, 1)]
    twins = zip(*sides, subtopics, strict=True)
    harmful, harmless = zip(*((a + shared + refusal, b + shared * matched) for a, b, shared in twins), strict=True)
    return list(harmful), list(harmless)


def naive_form(left, right):
    """Sum over domains of the inner products of deviations from the mean of all, one pair of prompts at a time.

    A pair of one domain with itself never enters.
    """
    k, n = len(left), len(left[0])
    total = 0.0
    for c, d in product(range(k), repeat=2):
        products = [left[c][p] @ right[d][q] for p, q in product(range(n), repeat=2) if not (c == d and p == q)]
        # Σ_c <a_c - mean a, b_c - mean b> = Σ_c <a_c, b_c> - Σ_cd <a_c, b_d> / k
        total += (c == d) * sum(products) / (n * (n - 1))
        total -= sum(products) / k / (n * (n - 1) if c == d else n * n)
    return total


def naive_agreement(harmful, harmless):
    both, plus, minus = (naive_form(a, b) for a, b in ((harmful, harmless), (harmful, harmful), (harmless, harmless)))
    return both / np.sqrt(plus * max(minus, 0.01 * plus))


def test_matched_topics_agree_and_other_topics_do_not():
    rng = np.random.default_rng(0)
    for _ in range(20):
        matched, unmatched = (topic_agreement(*two_sides(matched, rng)) for matched in (True, False))
        assert matched.value == pytest.approx(1, abs=0.1)
        assert matched.has_topics
        assert not matched.unmatched
        assert abs(unmatched.value) < 0.4
        assert unmatched.has_topics
        assert unmatched.ci95[0] <= unmatched.value <= unmatched.ci95[1]
    values = [topic_agreement(*two_sides(False, rng)).value for _ in range(60)]
    assert np.mean(values) == pytest.approx(0, abs=0.08)


def test_other_topics_are_called_unmatched_and_matched_ones_are_not():
    rng = np.random.default_rng(1)
    for matched in (True, False):
        called = [topic_agreement(*two_sides(matched, rng, noise=1.5)).unmatched for _ in range(40)]
        assert np.mean(called) == (0 if matched else pytest.approx(1, abs=0.1))


def test_harmless_prompts_of_one_pool_have_no_topic_to_agree():
    rng = np.random.default_rng(0)
    harmful, _ = two_sides(True, rng)
    pool = rng.standard_normal((24, 64))
    found = topic_agreement(harmful, [pool] * 4)
    assert abs(found.value) < MIN_AGREEMENT
    assert found.unmatched


def test_without_topics_nothing_is_flagged():
    rng = np.random.default_rng(0)
    flat = np.zeros((4, 64))
    called, topical = [], []
    for _ in range(200):
        found = topic_agreement(prompts(flat, 12, 1.0, rng), prompts(flat, 12, 1.0, rng))
        called.append(found.unmatched)
        topical.append(found.has_topics)
    assert np.mean(called) <= 0.05
    assert np.mean(topical) <= 0.08


def test_it_is_the_naive_computation_and_so_is_every_jackknife_value(monkeypatch):
    """The closed forms of leave-one-out against recomputing each from scratch, one pair of every domain left out."""
    rng = np.random.default_rng(0)
    harmful, harmless = two_sides(True, rng, n=6, k=3, width=5)
    seen = []
    plain = contrast.jackknife_error
    monkeypatch.setattr(contrast, "jackknife_error", lambda values: seen.append(values) or plain(values))
    found = topic_agreement(harmful, harmless)

    def without(p):
        return [[np.delete(rows, p, axis=0) for rows in side] for side in (harmful, harmless)]

    values = np.array([naive_agreement(*without(p)) for p in range(6)])
    scales = np.array([naive_form(without(p)[0], without(p)[0]) for p in range(6)])
    assert found.value == pytest.approx(np.clip(naive_agreement(harmful, harmless), -1, 1), abs=1e-12)
    np.testing.assert_allclose(seen[0], values, atol=1e-12)
    np.testing.assert_allclose(seen[1], scales, atol=1e-12)
    half = Z95 * np.sqrt(5 / 6 * np.square(values - values.mean()).sum())
    centre = naive_agreement(harmful, harmless)
    assert found.ci95 == pytest.approx(tuple(np.clip([centre - half, centre + half], -1, 1)), abs=1e-12)


def test_neither_sub_topics_nor_an_offset_nor_surplus_pairs_matter():
    rng = np.random.default_rng(0)
    harmful, harmless = two_sides(False, rng)
    plain = topic_agreement(harmful, harmless)
    moved = topic_agreement([rows + 7 for rows in harmful], [3 * rows - 2 for rows in harmless])
    assert moved.value == pytest.approx(plain.value, abs=1e-9)
    longer = [np.concatenate([harmful[0], harmful[0]]), *harmful[1:]]
    assert topic_agreement(longer, harmless) == plain
    # What twins share beyond their domain's topic must not count as agreement.
    twins = rng.standard_normal((4, 24, 64)) * 3
    flat = np.zeros((4, 64))
    values = [
        topic_agreement(
            [
                t + topic + rows
                for t, topic, rows in zip(twins, rng.standard_normal((4, 64)), prompts(flat, 24, 1, rng), strict=True)
            ],
            [
                t + topic + rows
                for t, topic, rows in zip(twins, rng.standard_normal((4, 64)), prompts(flat, 24, 1, rng), strict=True)
            ],
        ).value
        for _ in range(40)
    ]
    assert np.mean(values) == pytest.approx(0, abs=0.1)


def test_shared_prompts_are_seen_by_their_residuals():
    rng = np.random.default_rng(0)
    one, two, three = rng.standard_normal((3, 5, 8)).astype(np.float32)
    assert not shared_prompts([one, two, three])
    assert shared_prompts([one, two, one])
    assert shared_prompts([one, two, np.concatenate([three, one[3:4]])])  # a single prompt, at another place
    assert not shared_prompts([np.concatenate([one, one]), two])  # a repetition within one domain is not sharing
    assert not shared_prompts([one, one + 1e-5])
