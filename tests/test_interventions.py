"""Ablation and addition as linear algebra: properties that hold for every direction, basis and stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_bench.interventions import Ablate, Add, joined, stacked_ablation
from sklearn.linear_model import LinearRegression

FAST = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = st.integers(2, 24)
SCALES = st.sampled_from([1e-20, 1e-3, 1.0, 1e4, 1e25])


def normal(seed, *shape, dtype=torch.float64):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def one(rows):
    return torch.zeros(rows, dtype=torch.long)


@FAST
@given(SEEDS, WIDTHS, SCALES, st.sampled_from([torch.float32, torch.float64]))
def test_ablation_removes_the_direction_and_nothing_else(seed, width, scale, dtype):
    direction, x = normal(seed, 1, width, dtype=dtype), normal(seed + 1, 3, 4, width, dtype=dtype)
    kept = Ablate.each(scale * direction).apply(x, one(3)).numpy()
    # what least squares on the direction leaves over
    flat = x.reshape(-1, width).numpy()
    fit = LinearRegression(fit_intercept=False).fit(direction.numpy().T, flat.T)
    expected = flat - fit.predict(direction.numpy().T).T
    np.testing.assert_allclose(kept.reshape(-1, width), expected, atol=1e-12 if dtype == torch.float64 else 1e-4)


@FAST
@given(SEEDS, WIDTHS, st.integers(1, 5))
def test_ablating_twice_is_ablating_once_and_the_rest_is_orthogonal(seed, width, k):
    directions, x = normal(seed, k, width), normal(seed + 1, 2, 3, width)
    ablate = Ablate.span(directions)
    kept = ablate.apply(x, one(2))
    torch.testing.assert_close(ablate.apply(kept, one(2)), kept, atol=1e-10, rtol=0)
    torch.testing.assert_close(kept @ directions.T, torch.zeros(2, 3, k, dtype=kept.dtype), atol=1e-8, rtol=0)
    removed = x - kept
    assert torch.allclose((removed * kept).sum(-1), torch.zeros(2, 3, dtype=kept.dtype), atol=1e-8)


@FAST
@given(SEEDS, WIDTHS, st.integers(1, 4), SCALES)
def test_a_span_does_not_depend_on_its_basis(seed, width, k, scale):
    k = min(k, width)
    directions, x = normal(seed, k, width), normal(seed + 1, 2, 3, width)
    mixing = torch.linalg.qr(normal(seed + 2, k, k))[0] + 2 * torch.eye(k, dtype=torch.float64)
    expected = Ablate.span(directions).apply(x, one(2))
    for basis in (scale * mixing @ directions, directions.flip(0), torch.cat([directions, -3 * directions[:1]])):
        torch.testing.assert_close(Ablate.span(basis).apply(x, one(2)), expected, atol=1e-7, rtol=0)


@FAST
@given(SEEDS, WIDTHS)
def test_a_span_of_one_is_each_and_a_full_span_leaves_nothing(seed, width):
    directions, x = normal(seed, width, width), normal(seed + 1, 2, 3, width)
    torch.testing.assert_close(
        Ablate.span(directions[:1]).apply(x, one(2)), Ablate.each(directions[:1]).apply(x, one(2))
    )
    assert Ablate.span(directions).apply(x, one(2)).abs().max() < 1e-6 * x.abs().max()


def test_a_span_is_orthonormal_and_counts_its_dimensions():
    directions = normal(0, 3, 10, dtype=torch.float32)
    dependent = torch.cat([directions, directions.sum(dim=0, keepdim=True), 5 * directions[1:2]])
    basis = Ablate.span(dependent).basis
    assert (basis.shape, basis.dtype) == ((1, 3, 10), torch.float32)
    torch.testing.assert_close(basis[0] @ basis[0].T, torch.eye(3))


@FAST
@given(SEEDS, WIDTHS, st.integers(0, 3))
def test_adding_then_subtracting_restores(seed, width, layer):
    vector, x = normal(seed, 1, width), normal(seed + 1, 2, 3, width)
    moved = Add.at(vector, layer).apply(x, one(2))
    torch.testing.assert_close(moved - x, vector.expand(2, 3, width), atol=1e-12, rtol=0)
    torch.testing.assert_close(Add.at(-vector, layer).apply(moved, one(2)), x, atol=1e-12, rtol=0)


@FAST
@given(SEEDS, st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_each_row_gets_its_own_variant(seed, variants):
    directions, x = normal(seed, 3, 7), normal(seed + 1, len(variants), 2, 7)
    for many, single in (
        (Ablate.each(directions), lambda v: Ablate.each(directions[v : v + 1])),
        (Add.at(directions, 1), lambda v: Add.at(directions[v : v + 1], 1)),
    ):
        together = many.apply(x, torch.tensor(variants))
        for row, variant in enumerate(variants):
            alone = single(variant).apply(x[row : row + 1], one(1))
            torch.testing.assert_close(together[row : row + 1], alone)
            taken = many.take([variant]).apply(x[row : row + 1], one(1))
            torch.testing.assert_close(taken, alone)


@FAST
@given(SEEDS, WIDTHS, st.integers(1, 3))
def test_marks_are_equal_for_one_projection_on_any_basis_and_differ_for_another(seed, width, k):
    vectors = normal(seed, min(k, width - 1), width)
    mixed = normal(seed + 1, len(vectors), len(vectors)) @ vectors
    (mark,), (again,) = Ablate.span(vectors).marks(), Ablate.span(mixed).marks()
    torch.testing.assert_close(again, mark, atol=1e-6, rtol=1e-6)
    (more,) = Ablate.span(torch.cat([vectors, normal(seed + 2, 1, width)])).marks()
    (less,) = Ablate.partly(vectors[0], [0.5]).marks()
    assert (more - mark).norm() > 1e-5 * mark.norm()
    assert (less - mark).norm() > 1e-5 * mark.norm()
    assert Ablate.to_mean(vectors[0], normal(seed, 2, width)).marks().shape != mark[None].shape


def test_marks_of_additions_tell_vectors_and_layers_apart():
    vector = normal(0, 1, 5)
    marks = Add(torch.cat([vector, vector, 1.01 * vector, vector]), (3, 3, 3, 4)).marks()
    assert torch.equal(marks[0], marks[1])
    assert all((marks[0] - other).norm() > 1e-5 * marks[0].norm() for other in marks[2:])


def test_interventions_that_one_pass_can_evaluate_are_joined_and_stay_what_they_are():
    x = normal(9, 1, 2, 5)
    affine = Ablate.to_mean(normal(0, 5), normal(1, 3, 5))
    given = [Ablate.each(normal(2, 2, 5)), Add.at(normal(3, 2, 5), 1), affine, Ablate.span(normal(4, 3, 5))]
    given += [Add.at(normal(5, 1, 5), 2)]
    found = joined(given)
    assert [places for places, _ in found] == [[0, 3], [1, 4], [2]]
    for places, together in found:
        alone = [(given[place], variant) for place in places for variant in range(len(given[place]))]
        assert len(together) == len(alone)
        for i, (what, variant) in enumerate(alone):
            expected = what.apply(x, torch.tensor([variant]))
            torch.testing.assert_close(together.apply(x, torch.tensor([i])), expected)
    assert found[1][1].layers == (1, 1, 2)
    assert found[2][1] is affine


def test_a_span_of_no_vectors_is_nothing_beside_others():
    vectors = normal(0, 2, 6)
    both = stacked_ablation([vectors[:0], vectors])
    x = normal(1, 1, 3, 6)
    assert torch.equal(both.apply(x, one(1)), x)
    assert [both.take([variant]).is_nothing for variant in (0, 1)] == [True, False]
    assert not Ablate(torch.zeros(1, 1, 6), normal(2, 1, 3, 6)).is_nothing


def test_length_and_layer_survive_taking_variants():
    ablate, add = Ablate.each(normal(0, 5, 4)), Add.at(normal(0, 5, 4), layer=3)
    assert (len(ablate), len(ablate.take([1, 2]))) == (5, 2)
    assert (len(add), len(add.take([1, 2])), add.take([1, 2]).layers) == (5, 2, (3, 3))


def test_the_stream_is_not_changed_in_place_and_keeps_its_dtype():
    x = normal(0, 2, 3, 8, dtype=torch.bfloat16)
    before = x.clone()
    for intervention in (Ablate.each(normal(1, 1, 8)), Add.at(normal(1, 1, 8), 0)):
        assert intervention.apply(x, one(2)).dtype == torch.bfloat16
        assert torch.equal(x, before)


def test_rows_of_zeros_in_a_basis_project_nothing():
    basis = Ablate.span(normal(0, 2, 6)).basis
    x = normal(1, 1, 2, 6)
    padded = Ablate(torch.nn.functional.pad(basis, (0, 0, 0, 3)))
    torch.testing.assert_close(padded.apply(x, one(1)), Ablate(basis).apply(x, one(1)))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("build", [Ablate.each, Ablate.span])
def test_a_direction_that_is_none_is_refused(build, value):
    whole, part = normal(0, 3, 5), normal(0, 3, 5)
    whole[1] = value
    with pytest.raises(ValueError, match="zero or holds NaN or infinity"):
        build(whole)
    part[1, 2] = value
    if value == 0:
        build(part)
    else:
        with pytest.raises(ValueError, match="zero or holds NaN or infinity"):
            build(part)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_not_added(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        Add.at(torch.tensor([[1.0, value]]), 0)
    Add.at(torch.zeros(1, 2), 0)
