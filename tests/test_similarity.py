"""CKA against the published formula, against worlds whose answer is known, and between stored runs."""

from __future__ import annotations

import numpy as np
import pytest
from record_factory import make_record
from refusal_bench.comparison.compare import Comparison, compare
from refusal_bench.comparison.markdown import markdown
from refusal_bench.comparison.similarity import similarity
from refusal_bench.comparison.sources import Source, find
from refusal_bench.errors import InputError
from refusal_bench.gram import Gram, gram_of, read_gram, to_bytes
from refusal_bench.metrics.similarity import MAX_BLOCKS, cka, cka_interval, u_centred
from refusal_bench.record import Site

RNG = np.random.default_rng(0)
SITE = Site(layer=5, position=-1)


def unbiased_hsic(k, l):  # noqa: E741 (as in the paper)
    """Song et al. 2012, equation 5."""
    n, one = len(k), np.ones(len(k))
    k, l = (gram - np.diag(np.diag(gram)) for gram in (k, l))  # noqa: E741
    mixed = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + mixed - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def gram(features):
    return features @ features.T


def test_it_is_the_ratio_of_the_published_unbiased_estimator():
    x, y = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 9))
    k, other = gram(x), gram(y + x @ RNG.normal(size=(5, 9)))
    expected = unbiased_hsic(k, other) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(other, other))
    assert cka(k, other) == pytest.approx(expected, abs=1e-12)


def test_centred_rows_and_diagonal_are_zero():
    centred = u_centred(gram(RNG.normal(size=(9, 4)) + 3))
    assert np.diag(centred) == pytest.approx(0)
    assert centred.sum(axis=0) == pytest.approx(0, abs=1e-10)


def test_rotation_scale_shift_and_width_do_not_matter():
    x, y = RNG.normal(size=(30, 6)), RNG.normal(size=(30, 4))
    rotation = np.linalg.qr(RNG.normal(size=(11, 11)))[0][:6]  # into a wider space
    moved = 7 * x @ rotation + RNG.normal(size=11)
    assert cka(gram(x), gram(moved)) == pytest.approx(1)
    assert cka(gram(moved), gram(y)) == pytest.approx(cka(gram(x), gram(y)))


def test_unrelated_wide_representations_are_near_0_where_the_biased_estimate_is_not():
    n, width = 40, 400
    found, biased = [], []
    keep = np.eye(n) - 1 / n
    for _ in range(100):
        k, other = gram(RNG.normal(size=(n, width))), gram(RNG.normal(size=(n, width)))
        found.append(cka(k, other))
        a, b = keep @ k @ keep, keep @ other @ keep
        biased.append((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.mean(biased) > 0.8
    assert abs(np.mean(found)) < 3 * np.std(found) / 10


def test_the_interval_covers_the_known_value_of_a_linear_world():
    # y shares the first two of x's four unit-variance features; CKA of the covariances: |xy|² / (|xx| |yy|)
    expected = 2 / (np.sqrt(4) * np.sqrt(2 + 3))
    groups, covered, estimates = np.repeat(np.arange(60), 2), 0, []
    for _ in range(200):
        x = RNG.normal(size=(120, 4))
        y = np.hstack([x[:, :2], RNG.normal(size=(120, 3))])
        low, high = cka_interval(gram(x), gram(y), groups)
        estimates.append(cka(gram(x), gram(y)))
        covered += low <= expected <= high
    assert np.mean(estimates) == pytest.approx(expected, abs=0.02)
    assert 0.90 <= covered / 200 <= 0.99  # binomial 95 % of 0.95 with 200: 0.92 to 0.98
    assert len(np.unique(groups % MAX_BLOCKS)) == MAX_BLOCKS


def test_one_point_has_no_similarity():
    same = np.ones((8, 8))
    assert cka(same, gram(RNG.normal(size=(8, 3)))) is None
    assert cka_interval(same, same, range(8)) is None


def stored(folder, features, names, record=None):
    """A run folder with these residuals: features [pair, twin, d_model]."""
    folder.mkdir()
    pairs = {(f"t:{name}-bad", f"t:{name}-good"): (row[0], row[1]) for name, row in zip(names, features, strict=True)}
    (folder / "gram.safetensors").write_bytes(to_bytes(gram_of(pairs, SITE)))
    (folder / "record.json").write_text((record or make_record(("fraud", "weapons"))).to_json())
    return find(str(folder), folder)


def test_the_prompts_in_common_are_compared_whatever_their_order(tmp_path):
    features = RNG.normal(size=(30, 2, 5))
    names = [f"p{i}" for i in range(30)]
    one = stored(tmp_path / "one", features[:25], names[:25])
    order = RNG.permutation(np.arange(5, 30))
    turned = features @ np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    two = stored(tmp_path / "two", turned[order], [names[i] for i in order])
    found = similarity(one, two)
    assert found["n_prompts"] == 40
    assert found["cka"] == pytest.approx(1, abs=1e-5)
    assert found["ci95"] == pytest.approx((1, 1), abs=1e-4)
    assert found["base"] == {"layer": 5, "position": -1, "relative_depth": 0.5}
    assert similarity(one, stored(tmp_path / "few", features[:9], names[:9])) is None
    assert similarity(one, Source(one.record)) is None


def test_a_comparison_of_run_folders_says_it(tmp_path):
    names = [f"p{i}" for i in range(20)]
    sides = [stored(tmp_path / name, RNG.normal(size=(20, 2, 5)), names) for name in ("one", "two")]
    found: Comparison = compare(*sides)
    assert found.similarity is not None
    assert "on the same 40 train prompts, layer 5 of the base" in markdown(found)
    assert compare(Source(sides[0].record), sides[1]).similarity is None


def test_the_file_holds_what_it_was_given(tmp_path):
    pairs = {("a", "b"): (np.array([3.0, 0]), np.array([1.0, 0])), ("c", "d"): (np.zeros(2), np.zeros(2))}
    made = gram_of(pairs, SITE)
    (tmp_path / "gram.safetensors").write_bytes(to_bytes(made))
    read: Gram = read_gram(tmp_path / "gram.safetensors")
    assert (read.pairs, read.site) == ((("a", "b"), ("c", "d")), SITE)
    assert np.trace(read.values) == pytest.approx(4)  # mean square 1
    assert read.of([("c", "d")]) == pytest.approx(made.values[2:, 2:])
    assert read.values[0] == pytest.approx(np.array([2, 0, -1, -1]) * 2 / 1.5)


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_another_file_is_bad_input(tmp_path, content):
    (tmp_path / "gram.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"gram\.safetensors: does not hold"):
        read_gram(tmp_path / "gram.safetensors")
