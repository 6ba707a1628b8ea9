"""Refusal score, divergence, rates and refusal tokens against torch, scipy and hand counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_bench.errors import InputError
from refusal_bench.evaluation import MIN_REFUSALS, learn_refusal_tokens, openers_to_tokens
from refusal_bench.metrics.refusal import condition, finite_mean, kl_divergence, refusal_rate, refusal_score
from scipy.special import logit
from scipy.stats import entropy
from tiny import tiny_tokenizer

INF = float("inf")


def random_logits(rows=6, vocab=50, scale=3.0, seed=0):
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def test_the_score_is_the_log_odds_of_the_refusal_tokens():
    logits = random_logits()
    probability = torch.softmax(logits.double(), dim=1)[:, [3, 7, 20]].sum(dim=1).numpy()
    np.testing.assert_allclose(refusal_score(logits, (3, 7, 20)), logit(probability), atol=1e-4)


def test_the_score_of_even_odds_is_zero_and_of_certainty_18_4_nats():
    assert refusal_score(torch.tensor([[2.0, 2.0]]), [0]).item() == pytest.approx(0, abs=1e-12)
    certain = refusal_score(torch.tensor([[100.0, 0.0, -INF], [-INF, 0.0, 50.0]]), [0])
    np.testing.assert_allclose(certain, [math.log(1e8), -math.log(1e8)], atol=1e-6)


def test_the_score_resolves_what_float32_loses():
    # P = 1 - 2e-8, which float32 rounds to 1
    score = refusal_score(torch.tensor([[math.log(5e7), 0.0]]), [0]).item()
    assert score == pytest.approx(-math.log(2e-8 + 1e-8), abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30), st.floats(-20, 20))
def test_the_score_ignores_a_shift_and_changes_sign_with_the_token_set(gap, shift):
    logits = torch.tensor([[gap, 0.0]], dtype=torch.double)
    score = refusal_score(logits, [0]).item()
    assert refusal_score(logits + shift, [0]).item() == pytest.approx(score, abs=1e-4)
    assert refusal_score(logits, [1]).item() == pytest.approx(-score, abs=1e-6)


def test_kl_agrees_with_torch_and_scipy_and_is_directed():
    base, changed = random_logits(seed=1), random_logits(seed=2)
    p, q = (torch.softmax(x.double(), dim=1) for x in (base, changed))
    found = kl_divergence(base, changed)
    torch.testing.assert_close(found, torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(dim=1))
    np.testing.assert_allclose(found, entropy(p, q, axis=1), rtol=1e-9)
    assert (found - kl_divergence(changed, base)).abs().min() > 1e-2


def test_kl_of_equal_distributions_is_zero_and_never_negative():
    base = random_logits(rows=200, seed=3)
    assert kl_divergence(base, base).eq(0).all()
    assert kl_divergence(base, base + 5).max() < 1e-12
    assert kl_divergence(base, base + 1e-6 * random_logits(rows=200, seed=4)).min() >= 0


def test_kl_with_impossible_tokens():
    base = torch.tensor([[0.0, 0.0, -INF]])
    assert kl_divergence(base, base).item() == 0
    assert kl_divergence(base, torch.zeros(1, 3)).item() == pytest.approx(math.log(1.5))
    assert kl_divergence(torch.zeros(1, 3), base).item() == INF


def test_kl_of_nan_is_nan():
    broken, fine = torch.tensor([[0.0, float("nan")]]), torch.zeros(1, 2)
    assert kl_divergence(fine, broken).isnan().all()
    assert kl_divergence(broken, fine).isnan().all()


@pytest.mark.parametrize(
    ("labels", "rate", "interval", "n"),
    [
        ("C" * 16, 0.0, (0.0, 0.1936), 16),
        ("R" * 16 + "U?" * 4, 1.0, (0.8064, 1.0), 16),
        ("RCRCRCRC" * 4, 0.5, (0.3363, 0.6637), 32),
        ("RPDCGU?", 0.2, (0.0362, 0.6245), 5),
    ],
)
def test_rates_count_refusals_among_scored_labels(labels, rate, interval, n):
    found_rate, found_interval, found_n = refusal_rate(labels)
    assert (found_rate, found_n) == (rate, n)
    assert found_interval == pytest.approx(interval, abs=6e-5)
    assert refusal_rate(labels[::-1]) == refusal_rate(labels)


@pytest.mark.parametrize("labels", ["", "?", "U??U"])
def test_nothing_scored_is_null(labels):
    assert refusal_rate(labels) == (None, None, 0)


def test_a_condition_keeps_order_and_leaves_out_what_is_missing():
    found = condition("RC?U", [2.0, -1.0, None, 5.0], n_bootstrap=500, seed=0)
    assert (found.rate, found.n, found.n_unscored) == (0.5, 4, 2)
    assert found.score == 2.0
    assert -1 <= found.score_ci95[0] <= 2 <= found.score_ci95[1] <= 5
    assert (found.labels, found.scores) == ("RC?U", [2.0, -1.0, None, 5.0])


def test_a_condition_without_any_score_is_null():
    found = condition("??", [None, None], n_bootstrap=10, seed=0)
    assert (found.rate, found.ci95, found.score, found.score_ci95) == (None, None, None, None)
    assert finite_mean([]) is None
    assert finite_mean([None, 1.0, 4.0]) == 2.5


# token 1 opens 8 refusals and 2 answers, 2 opens 1 of 10 refusals, 3 opens more answers than refusals, 4 only answers
TOKENS = [1] * 8 + [2] + [3] + [1] * 2 + [3] * 2 + [4] * 9
LETTERS = "R" * 10 + "CPDG" + "C" * 9


def test_refusal_tokens_are_learned_from_refusals():
    assert learn_refusal_tokens(TOKENS, LETTERS) == [1, 2]
    order = np.random.default_rng(0).permutation(len(TOKENS))
    assert learn_refusal_tokens([TOKENS[i] for i in order], "".join(LETTERS[i] for i in order)) == [1, 2]


def test_a_rare_opener_and_an_empty_completion_teach_nothing():
    assert learn_refusal_tokens([1] * 20 + [9], "R" * 21) == [1]
    assert learn_refusal_tokens([1] * 19 + [9], "R" * 20) == [1, 9]
    assert learn_refusal_tokens([None] * 5 + [1] * 4, "R" * 9) == [1]


def test_too_few_refusals_teach_nothing():
    assert learn_refusal_tokens([1] * MIN_REFUSALS, "R" * MIN_REFUSALS) == [1]
    assert learn_refusal_tokens([1] * MIN_REFUSALS, "R" * (MIN_REFUSALS - 1) + "U") == []
    assert learn_refusal_tokens([], "") == []


def test_openers_become_their_first_tokens():
    tokenizer = tiny_tokenizer()
    letters = tokenizer.convert_tokens_to_ids(["I", "S"])
    assert openers_to_tokens(tokenizer, ("Sorry", "I", "It", "Sad")) == sorted(letters)
    with pytest.raises(InputError, match="is empty for this tokenizer"):
        openers_to_tokens(tokenizer, ("I", ""))
