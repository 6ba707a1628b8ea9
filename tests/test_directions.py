"""Difference in means, and how well a layer's direction separates, against numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from refusal_bench.directions import difference_in_means
from refusal_bench.layers import auc, separations
from sklearn.metrics import roc_auc_score


def draw(seed, n, *shape):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def test_difference_in_means_with_unequal_groups():
    harmful, harmless = draw(0, 7, 2, 3, 5), draw(1, 11, 2, 3, 5)
    found = difference_in_means(harmful, harmless)
    assert (found.shape, found.dtype) == ((2, 3, 5), np.float64)
    np.testing.assert_allclose(found, harmful.astype(float).mean(0) - harmless.astype(float).mean(0), atol=1e-12)


def test_difference_in_means_recovers_a_planted_direction_under_a_large_offset():
    # a coordinate a million times the signal, as in real residual streams, is the same for both groups
    truth = draw(0, 1, 1, 2, 16)[0]
    offset = np.zeros((1, 2, 16), np.float32)
    offset[..., 3] = 1e6
    noise = draw(1, 400, 1, 2, 16)
    harmful, harmless = truth + noise[:200], noise[200:]
    found = difference_in_means(np.float64(offset) + harmful, np.float64(offset) + harmless)
    assert np.abs(found - truth).max() < 5 / np.sqrt(100)
    single = difference_in_means(offset + harmful, offset + harmless)
    np.testing.assert_allclose(np.delete(single, 3, axis=2), np.delete(found, 3, axis=2), atol=1e-6)


def test_sums_are_kept_in_double_precision():
    harmful = np.full((20000, 1, 1, 1), 1000.1, np.float32)
    harmless = np.full((20000, 1, 1, 1), 1000.0, np.float32)
    exact = float(np.float32(1000.1)) - 1000.0
    assert difference_in_means(harmful, harmless).item() == pytest.approx(exact, abs=1e-9)


def test_difference_in_means_ignores_row_order_and_changes_sign_with_the_groups():
    harmful, harmless = draw(0, 9, 1, 2, 4), draw(1, 6, 1, 2, 4)
    found = difference_in_means(harmful, harmless)
    np.testing.assert_allclose(difference_in_means(harmful[::-1], harmless[::-1]), found, atol=1e-12)
    np.testing.assert_allclose(difference_in_means(harmless, harmful), -found, atol=1e-12)


def test_inputs_on_disk_are_read_prompt_by_prompt(tmp_path):
    harmful, harmless = draw(0, 5, 2, 2, 3), draw(1, 5, 2, 2, 3)
    stored = np.memmap(tmp_path / "harmful", np.float32, "w+", shape=harmful.shape)
    stored[:] = harmful
    np.testing.assert_array_equal(difference_in_means(stored, harmless), difference_in_means(harmful, harmless))


@pytest.mark.parametrize("ties", [False, True])
def test_auc_agrees_with_scikit_learn(ties):
    harmful, harmless = draw(0, 30) + 0.4, draw(1, 50)
    if ties:
        harmful, harmless = harmful.round(), harmless.round()
    expected = roc_auc_score([1] * 30 + [0] * 50, np.concatenate([harmful, harmless]))
    assert auc(harmful, harmless) == pytest.approx(expected)
    assert auc(harmless, harmful) == pytest.approx(1 - expected)


def test_auc_at_its_ends():
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auc(np.array([0.0]), np.array([1.0])) == 0
    assert auc(np.zeros(4), np.zeros(3)) == 0.5


def test_separations_are_the_auc_of_projections_and_null_for_a_zero_vector():
    vectors = draw(0, 4, 6)
    vectors[0] = 0
    harmful, harmless = draw(1, 20, 4, 6), draw(2, 25, 4, 6)
    harmful[:, 2] += vectors[2]
    found = separations(vectors, harmful, harmless)
    assert found[0] is None
    labels = [1] * 20 + [0] * 25
    for layer in (1, 2, 3):
        projection = np.einsum("nd,d->n", np.concatenate([harmful, harmless])[:, layer], vectors[layer])
        assert found[layer] == pytest.approx(roc_auc_score(labels, projection))
    assert found[2] > 0.9
