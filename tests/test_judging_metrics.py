"""Agreement and corrected rates against scikit-learn, a published table, closed forms and simulation."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_bench.metrics.judging import (
    calibration,
    cohen_kappa,
    fleiss_kappa,
    kappa_interval,
    panel_agreement,
    proportion,
    rogan_gladen,
)
from refusal_bench.metrics.refusal import condition, rate_bounds
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

MEASURED = partial(calibration, data_sha256="0" * 64, part=None)
LETTERS = st.text("RPDCGU", min_size=60, max_size=60)


@settings(max_examples=60, deadline=None)
@given(LETTERS, st.text("RPDCGU?", min_size=60, max_size=60))
def test_figures_equal_those_of_scikit_learn(gold, verdicts):
    found = MEASURED(gold, verdicts)
    true, said = [g == "R" for g in gold], [v == "R" for v in verdicts]
    assert (found.n, found.n_unscored) == (60, verdicts.count("?"))
    for share, score in ((found.precision, precision_score), (found.recall, recall_score)):
        if share.n:
            assert share.value == pytest.approx(score(true, said))
    if any(true) or any(said):
        expected = cohen_kappa_score(true, said)
        assert found.kappa is None if math.isnan(expected) else found.kappa == pytest.approx(expected)
    scored = [i for i, v in enumerate(verdicts) if v not in "U?"]
    if any(true[i] for i in scored):
        assert found.sensitivity.value == pytest.approx(
            recall_score([true[i] for i in scored], [said[i] for i in scored])
        )
    rest = [i for i in scored if not true[i]]
    assert found.specificity.n == len(rest)
    assert found.specificity.k == sum(not said[i] for i in rest)


def test_kappa_of_one_label_is_null_and_of_chance_is_zero():
    assert MEASURED("RRR", "RRR").kappa is None
    assert cohen_kappa(25, 25, 25, 25) == 0
    assert cohen_kappa(50, 0, 0, 50) == 1


def test_the_interval_of_kappa_covers_at_its_rate_and_does_not_shrink_to_a_point():
    rng = np.random.default_rng(0)
    cells = np.array([0.35, 0.05, 0.1, 0.5])
    true = cohen_kappa(*cells)
    draws = rng.multinomial(150, cells, size=400)
    covered = [low <= true <= high for low, high in (kappa_interval(*map(int, draw)) for draw in draws)]
    assert 0.92 <= np.mean(covered) <= 0.98
    low, high = kappa_interval(30, 0, 0, 30)
    assert low < 0.97
    assert high == 1


def test_fleiss_kappa_of_the_published_example():
    # Fleiss 1971 as worked on its encyclopedia page: 14 raters, 10 subjects, 5 categories; kappa = 0.210.
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    subjects = ["".join(letter * n for letter, n in zip("RPDCG", row, strict=True)) for row in table]
    assert fleiss_kappa(["".join(votes) for votes in zip(*subjects, strict=True)]) == pytest.approx(0.210, abs=5e-4)


def test_agreement_of_a_panel_counts_unanimous_completions():
    found = panel_agreement({"a": "RRCC", "b": "RRCG", "c": "RCCC"})
    assert (found.judges, found.n, found.unanimous.k, found.unanimous.value) == (["a", "b", "c"], 4, 2, 0.5)
    assert panel_agreement({"a": "RR", "b": "RR"}).kappa is None


def test_the_corrected_rate_is_the_closed_form_within_its_range():
    se, sp = proportion(90, 100), proportion(80, 100)
    estimate, (low, high) = rogan_gladen(50, 100, se, sp)
    assert estimate == pytest.approx((0.5 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert low < estimate < high
    assert rogan_gladen(5, 100, se, sp)[0] == 0
    assert rogan_gladen(98, 100, se, sp)[0] == 1


def test_a_perfect_judge_changes_no_rate_and_a_useless_one_corrects_none():
    assert rogan_gladen(30, 100, proportion(10**6, 10**6), proportion(10**6, 10**6))[0] == pytest.approx(0.3)
    assert rogan_gladen(30, 100, proportion(50, 100), proportion(50, 100)) is None
    assert rogan_gladen(30, 100, proportion(0, 0), proportion(50, 100)) is None
    assert rogan_gladen(0, 0, proportion(9, 10), proportion(9, 10)) is None


def test_for_large_samples_the_interval_is_the_delta_method_of_rogan_and_gladen():
    n, rate, se, sp, n_se, n_sp = 400_000, 0.4, 0.9, 0.85, 200_000, 300_000
    informative = se + sp - 1
    true = (rate + sp - 1) / informative
    variance = rate * (1 - rate) / n + true**2 * se * (1 - se) / n_se + (1 - true) ** 2 * sp * (1 - sp) / n_sp
    half = 1.959964 * math.sqrt(variance) / informative
    measured = proportion(int(se * n_se), n_se), proportion(int(sp * n_sp), n_sp)
    assert rogan_gladen(int(rate * n), n, *measured)[1] == pytest.approx((true - half, true + half), abs=half / 100)


@pytest.mark.parametrize("true", [0.02, 0.3, 0.9, 1.0])
def test_the_corrected_interval_covers_the_true_rate_where_the_raw_one_does_not(true):
    rng = np.random.default_rng(1)
    n, se, sp, n_se, n_sp, runs = 200, 0.9, 0.93, 120, 150, 600
    positive = rng.binomial(n, true * se + (1 - true) * (1 - sp), runs)
    hits, rejections = rng.binomial(n_se, se, runs), rng.binomial(n_sp, sp, runs)
    found = [
        rogan_gladen(int(p), n, proportion(int(h), n_se), proportion(int(r), n_sp))
        for p, h, r in zip(positive, hits, rejections, strict=True)
    ]
    covered = np.mean([low <= true <= high for _, (low, high) in found])
    assert covered >= 0.93
    if 0.1 < true < 0.95:
        assert covered <= 0.99
    raw = np.mean([low <= true <= high for low, high in (proportion(int(p), n).ci95 for p in positive)])
    assert raw < covered
    assert np.mean([estimate for estimate, _ in found]) == pytest.approx(true, abs=0.02)


def test_unscored_completions_bound_the_rate():
    assert rate_bounds("RRCC") == (0.5, 0.5)
    assert rate_bounds("RRC?") == (0.5, 0.75)
    assert rate_bounds("U?") == (0, 1)
    assert rate_bounds("") is None


@settings(max_examples=60, deadline=None)
@given(st.text("RPDCGU?", min_size=1, max_size=40))
def test_bounds_hold_every_way_the_unscored_could_have_answered(labels):
    low, high = rate_bounds(labels)
    assert low == labels.translate(str.maketrans("U?", "CC")).count("R") / len(labels)
    assert high == labels.translate(str.maketrans("U?", "RR")).count("R") / len(labels)
    found = condition(labels, [0.0] * len(labels), n_bootstrap=10, seed=0)
    assert found.rate_bounds == (low, high)
    assert found.rate is None or low <= found.rate <= high


def test_a_condition_carries_the_corrected_rate_only_with_a_measured_judge():
    assert condition("RRCC?", [0.0] * 5, n_bootstrap=10, seed=0).rate_corrected is None
    judged = MEASURED("R" * 50 + "C" * 50, "R" * 45 + "C" * 45 + "R" * 10)
    found = condition("RRCC?", [0.0] * 5, n_bootstrap=10, seed=0, judged=judged)
    assert (found.rate_corrected, found.rate_corrected_ci95) == rogan_gladen(
        2, 4, judged.sensitivity, judged.specificity
    )
