"""Geometry against the published table, scikit-learn, and directions planted under noise of known size."""

from __future__ import annotations

import numpy as np
import pytest
from record_factory import holm
from refusal_bench.calibration.activation_worlds import WORLDS
from refusal_bench.metrics import geometry as module
from refusal_bench.metrics.comparisons import MIN_RELIABILITY, SIGNIFICANT
from refusal_bench.metrics.cosines import clusters, cosines, dendrogram, principal_components, spectrum
from refusal_bench.metrics.geometry import HALF_WIDTH, PairResiduals, geometry, reliability
from refusal_bench.record import GeometrySite
from scipy.stats import kstest
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.metrics.pairwise import cosine_similarity

SITE = GeometrySite(layer=3, position=-1, chosen_by="pooled selection")


def published_cosines():
    """Cosines of the study's five directions."""
    gram = np.eye(5)
    upper = np.triu_indices(5, 1)
    gram[upper] = [0.6332, 0.3515, 0.3214, 0.3504, 0.3472, 0.3390, 0.3667, 0.7098, 0.7885, 0.7626]
    return gram + np.triu(gram, 1).T


def pairs(differences, harmless_mean):
    """Pairs with the given differences whose harmless prompts have that mean, to rounding, and differ."""
    differences = np.asarray(differences, dtype=float)
    spread = np.random.default_rng(len(differences)).standard_normal(differences.shape)
    harmless = harmless_mean + 1e-9 * (spread - spread.mean(axis=0))
    return PairResiduals(harmless + differences, harmless)


def planted(truth, n, reliabilities, rng):
    """One domain a row of `truth`: pair differences around it, noisy enough for the given reliability of their mean.

    reliability = |mu|^2 / (|mu|^2 + tr Sigma / n), with isotropic Sigma.
    """
    width = truth.shape[1]
    domains = {}
    for i, (mu, r) in enumerate(zip(truth, np.broadcast_to(reliabilities, len(truth)), strict=True)):
        sigma = np.sqrt(mu @ mu * (1 - r) / r * n / width)
        domains[f"d{i}"] = pairs(mu + sigma * rng.standard_normal((n, width)), rng.standard_normal(width))
    return domains


def exact(vectors):
    """Domains whose pairs average to the given vectors, almost without noise."""
    noise = 1e-7 * np.random.default_rng(0).standard_normal((4, vectors.shape[1]))
    return {
        f"d{i}": pairs(np.concatenate([vector + noise, vector - noise]), vector + i % 2)
        for i, vector in enumerate(vectors)
    }


def at_cosine(c, width):
    truth = np.zeros((2, width))
    truth[:, 0] = 1, c
    truth[1, 1] = np.sqrt(1 - c * c)
    return truth


def describe(domains, seed=0, n_bootstrap=200):
    return geometry(domains, SITE, n_bootstrap=n_bootstrap, seed=seed)


def test_cosines_agree_with_scikit_learn():
    vectors = np.random.default_rng(0).standard_normal((7, 20))
    found = cosines(vectors @ vectors.T)
    np.testing.assert_allclose(found, cosine_similarity(vectors), atol=1e-12)
    assert (np.diag(found) == 1).all()
    assert (found == found.T).all()
    parallel = cosines(np.array([[4.0, -6.0 - 1e-9], [-6.0 - 1e-9, 9.0]]))
    assert parallel[0, 1] == -1


def test_the_published_spectra_in_both_conventions():
    cosine = published_cosines()
    for centred, expected in (
        (True, [0.5729, 0.1831, 0.1448, 0.0993, 0]),
        (False, [0.6049, 0.2234, 0.0737, 0.0582, 0.0399]),
    ):
        eigenvalues = spectrum(cosine, centred=centred)
        np.testing.assert_allclose(eigenvalues / eigenvalues.sum(), expected, atol=6e-5)


def test_geometry_reproduces_the_published_study():
    found, warnings = describe(exact(np.linalg.cholesky(published_cosines()) * np.array([[1], [2], [3], [4], [5]])))
    assert warnings == []
    np.testing.assert_allclose(found.cosine, published_cosines(), atol=1e-9)
    np.testing.assert_allclose(found.cosine_disattenuated, published_cosines(), atol=1e-9)
    np.testing.assert_allclose(found.angle_deg, np.degrees(np.arccos(published_cosines())), atol=1e-5)
    centred, uncentred = found.pca.centred, found.pca.uncentred
    np.testing.assert_allclose(np.cumsum(centred.explained_variance_ratio)[[0, 2]], [0.5729, 0.9007], atol=6e-5)
    np.testing.assert_allclose(np.cumsum(uncentred.explained_variance_ratio)[[0, 2]], [0.6049, 0.9019], atol=6e-5)
    assert (centred.n_for_90, uncentred.n_for_90) == (3, 3)
    assert found.effective_rank == pytest.approx(2.35, abs=5e-3)
    assert found.clusters == [["d0", "d1"], ["d2", "d3", "d4"]]
    assert "10 of 10 pairs" in found.verdict
    assert "Closest: d2 and d4: different directions, cosine 0.79 [0.79, 0.79]" in found.verdict
    assert "Farthest: d0 and d3: different directions, cosine 0.32" in found.verdict


@pytest.mark.parametrize("n", [2, 5, 9])
def test_spectra_agree_with_scikit_learn_on_unit_vectors(n):
    vectors = np.random.default_rng(n).standard_normal((n, 30)) + 0.5
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found, _ = describe(exact(vectors))
    ratio = PCA().fit(unit).explained_variance_ratio_
    np.testing.assert_allclose(found.pca.centred.explained_variance_ratio, ratio, atol=1e-8)
    singular = np.linalg.svd(unit, compute_uv=False)
    np.testing.assert_allclose(found.pca.uncentred.explained_variance_ratio, singular**2 / n, atol=1e-8)
    assert found.effective_rank == pytest.approx(n**2 / (singular**4).sum())


def test_principal_components_span_the_directions_strongest_first():
    vectors = np.random.default_rng(0).standard_normal((4, 12)) * [[1], [10], [0.1], [3]] + 0.3
    found = principal_components(vectors)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(vectors @ found.T @ found, vectors, atol=1e-9)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    leading = TruncatedSVD(2, algorithm="arpack", random_state=0).fit(unit).components_
    np.testing.assert_allclose(np.abs((leading * found[:2]).sum(axis=1)), 1, atol=1e-9)
    assert len(principal_components(np.concatenate([vectors, 2 * vectors[:1]]))) == 4


def test_clusters_by_hand():
    cosine = np.eye(4)
    cosine[0, 2] = cosine[2, 0] = 0.9
    cosine[1, 3] = cosine[3, 1] = 0.51
    cosine[0, 3] = cosine[3, 0] = 0.6  # on average 0.15 between the groups, whatever single linkage would say
    assert clusters(list("abcd"), cosine) == [["a", "c"], ["b", "d"]]
    cosine[1, 3] = cosine[3, 1] = 0.49
    cosine[0, 3] = cosine[3, 0] = 0.0
    assert clusters(list("abcd"), cosine) == [["a", "c"], ["b"], ["d"]]
    assert clusters(["a", "b"], np.full((2, 2), 1.0)) == [["a", "b"]]


def test_identical_directions_leave_no_centred_spectrum():
    differences = np.random.default_rng(0).standard_normal((8, 6)) + 2
    found, warnings = describe({name: pairs(differences, np.arange(6.0) * i) for i, name in enumerate("ab")})
    assert found.pca.centred.explained_variance_ratio is None
    assert found.pca.centred.n_for_90 is None
    assert found.pca.uncentred.explained_variance_ratio == pytest.approx([1, 0])
    assert [warning for warning in warnings if "centred spectrum is null" in warning]


def test_random_directions_are_the_null_of_both_spectra():
    rng = np.random.default_rng(0)
    found, _ = describe(planted(rng.standard_normal((5, 2048)), 6, 0.9, rng), n_bootstrap=20)
    for kind, first, three in (("centred", 0.263, 0.763), ("uncentred", 0.213, 0.618)):
        null = np.array(getattr(found.pca, kind).null95)
        assert null[0].mean() == pytest.approx(first, abs=0.003)
        assert null[:3].mean(axis=1).sum() == pytest.approx(three, abs=0.004)
        assert (null[:, 0] <= null[:, 1]).all()


def test_the_topic_control_compares_harmless_means_around_their_centre():
    rng = np.random.default_rng(0)
    domains = planted(rng.standard_normal((4, 16)), 6, 0.9, rng)
    means = np.stack([domain.harmless.mean(axis=0) for domain in domains.values()])
    found, _ = describe(domains)
    np.testing.assert_allclose(found.topic_cosine, cosine_similarity(means - means.mean(axis=0)), atol=1e-9)


def test_order_of_pairs_and_domains_and_scale_do_not_matter():
    rng = np.random.default_rng(1)
    domains = planted(rng.standard_normal((3, 16)) + 0.5, 12, 0.8, rng)
    found, _ = describe(domains)
    other, _ = describe(
        {
            name: pairs(7 * domains[name].differences[::-1], domains[name].harmless.mean(axis=0))
            for name in ("d2", "d0", "d1")
        }
    )
    back = [1, 2, 0]
    for field in ("cosine", "cosine_disattenuated", "angle_deg", "topic_cosine"):
        moved = np.array(getattr(other, field))[np.ix_(back, back)]
        np.testing.assert_allclose(moved, getattr(found, field), atol=1e-6)
    shares = [g.pca.centred.explained_variance_ratio for g in (found, other)]
    np.testing.assert_allclose(*shares, atol=1e-9)
    assert other.effective_rank == pytest.approx(found.effective_rank)
    assert describe(domains)[0] == found
    assert found.p_value[0][0] is None
    assert found.cosine_ci95[1][1] is None


@pytest.fixture
def cheap(monkeypatch):
    """Fewer random draws for the parts that a simulation over many seeds does not look at."""
    monkeypatch.setattr(module, "N_NULL", 3)
    monkeypatch.setattr(module, "N_PERMUTATIONS", 199)
    monkeypatch.setattr(module, "N_DRAWS", 199)


def simulate(c, r, *, width=40, n=24, seeds=250, n_bootstrap=2):
    """Geometries of two domains whose true directions have cosine c, estimated with reliability r."""
    for seed in range(seeds):
        domains = planted(at_cosine(c, width), n, r, np.random.default_rng(seed))
        yield describe(domains, seed=seed, n_bootstrap=n_bootstrap)[0]


@pytest.mark.parametrize(("c", "r"), [(0.5, [0.8, 0.8]), (0.5, [0.95, 0.8]), (0.0, [0.8, 0.8]), (-0.4, [0.8, 0.9])])
def test_raw_cosines_are_attenuated_and_corrected_ones_are_not(cheap, c, r):
    found = list(simulate(c, r))
    raw = np.mean([g.cosine[0][1] for g in found])
    corrected = np.mean([g.cosine_disattenuated[0][1] for g in found])
    assert raw == pytest.approx(c * np.sqrt(r[0] * r[1]), abs=0.02)
    assert corrected == pytest.approx(c, abs=0.02)
    if c:
        assert abs(raw) < 0.9 * abs(c)


@pytest.mark.parametrize(("width", "r"), [(6, 0.9), (30, 0.9), (400, 0.8)])
def test_the_interval_covers_the_expected_raw_cosine(cheap, width, r):
    found = list(simulate(0.5, r, width=width, n=32, seeds=200, n_bootstrap=200))
    expected = np.mean([g.cosine[0][1] for g in found])
    intervals = np.array([g.cosine_ci95[0][1] for g in found])
    coverage = ((intervals[:, 0] <= expected) & (expected <= intervals[:, 1])).mean()
    # Resampling adds its own noise to that of the sample: the interval is a little wide where noise dominates.
    assert 0.90 <= coverage <= (0.98 if r == 0.9 else 1.0)
    middle = intervals.mean(axis=1)
    assert np.mean(middle) == pytest.approx(expected, abs=0.02)
    spread = np.std([g.cosine[0][1] for g in found])
    assert 3 * spread < (intervals[:, 1] - intervals[:, 0]).mean() < 8 * spread


@pytest.mark.parametrize("width", [8, 400])
def test_noise_alone_does_not_tell_one_direction_apart(cheap, width):
    same = [
        g.verdict.startswith("More than one direction")
        for g in simulate(1.0, 0.8, width=width, seeds=80, n_bootstrap=200)
    ]
    assert np.mean(same) <= 0.05
    apart = [
        g.verdict.startswith("More than one direction")
        for g in simulate(0.0, 0.8, width=width, seeds=40, n_bootstrap=200)
    ]
    # In 8 dimensions an eighth of the noise is along the direction itself, and lengths are known badly.
    assert np.mean(apart) > (0.75 if width == 8 else 0.95)


def test_one_pair_that_is_not_told_apart_is_named_once():
    found, _ = describe(planted(at_cosine(1.0, 64), 24, (0.9, 0.9), np.random.default_rng(0)))
    said, named, _ = found.verdict.split(". ", 2)
    assert said == "No sign of more than one direction: the pair tested does not differ beyond noise"
    assert named.startswith("Closest: d0 and d1: not told apart")
    assert "Farthest" not in found.verdict


def test_a_cosine_too_noisy_to_correct_is_null_with_the_reason():
    rng = np.random.default_rng(0)
    found, warnings = describe(planted(at_cosine(0.5, 40), 24, [0.95, 0.2], rng))
    assert found.cosine_disattenuated[0] == [1.0, None]
    assert found.cosine_disattenuated[1] == [None, None]
    assert len(warnings) == 1
    assert "cosines of d1 for noise (reliability 0." in warnings[0]
    assert f"needs {MIN_RELIABILITY}" in warnings[0]


@pytest.mark.parametrize("r", [0.3, 0.6, 0.8, 0.95])
def test_split_half_reliability_is_the_analytic_one(r):
    values = []
    for seed in range(80):
        (domain, *_) = planted(at_cosine(0, 400), 40, r, np.random.default_rng(seed)).values()
        found = reliability(domain.differences, 50, seed)
        assert found.split_half_ci95[0] <= found.split_half <= found.split_half_ci95[1]
        values.append(found.split_half)
    assert np.mean(values) == pytest.approx(r, abs=0.02)


def test_reliability_at_its_ends():
    rng = np.random.default_rng(0)
    assert reliability(rng.standard_normal((3, 5)), 50, 0).split_half is None
    exact_copy = reliability(np.ones((6, 5)), 50, 0)
    assert exact_copy.split_half == pytest.approx(1)
    assert exact_copy.n_splits == 50
    noise = [reliability(rng.standard_normal((20, 200)), 50, seed).split_half for seed in range(30)]
    assert abs(np.mean(noise)) < 0.05
    # all pairs on one line: halves point the same way or the opposite way, and the formula has its pole at -1
    line = reliability(rng.standard_normal((20, 1)) * np.ones(5), 50, 0)
    assert -1 <= line.split_half_ci95[0] <= line.split_half <= 1


def test_the_permutation_p_is_uniform_without_signal(cheap):
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scale = 1 / (1 + np.arange(20.0))  # anisotropic, so that 1/sqrt(width) would be the wrong null
        domains = {name: pairs(scale * rng.standard_normal((10, 20)), np.arange(20.0)) for name in "a"}
        domains["b"] = pairs(scale * rng.standard_normal((14, 20)), -np.arange(20.0))
        p.append(describe(domains, seed=seed, n_bootstrap=2)[0].p_value[0][1])
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize("c", [0.6, -0.6])
def test_the_permutation_p_is_small_for_related_directions(cheap, c):
    p = np.array([g.p_value[0][1] for g in simulate(c, 0.9, seeds=40)])
    assert (p <= 0.05).mean() > 0.95
    assert p.min() == pytest.approx(1 / 200)


def test_p_values_of_one_direction_are_adjusted_over_the_pairs_that_can_be_compared(cheap):
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((4, 60)) + 1.5
    found, _ = describe(planted(truth, 24, [0.9, 0.9, 0.2, 0.85], rng))
    good = np.array(found.reliability) >= MIN_RELIABILITY
    assert good.tolist() == [True, True, False, True]
    pairs_of_good = [(0, 1), (0, 3), (1, 3)]
    expected = holm([found.p_same[i][j] for i, j in pairs_of_good])
    assert [found.p_same_holm[i][j] for i, j in pairs_of_good] == pytest.approx(expected)
    assert [found.p_same_holm[j][i] for i, j in pairs_of_good] == pytest.approx(expected)
    assert found.p_same_holm[2] == [None] * 4
    assert [row[2] for row in found.p_same_holm] == [None] * 4
    assert f"{sum(p < SIGNIFICANT for p in expected)} of 6 pairs" in found.verdict
    assert "3 could not be tested" in found.verdict


def test_every_pair_is_said_in_words_with_its_interval_and_its_ceiling():
    rng = np.random.default_rng(0)
    truth = np.eye(3, 50)
    truth[1] = truth[0]
    found, warnings = describe(planted(truth, 30, [0.9, 0.9, 0.9], rng))
    assert warnings == []
    for said, (i, j), verdict in zip(
        found.comparisons,
        [(0, 1), (0, 2), (1, 2)],
        ["not told apart", "different directions", "different directions"],
        strict=True,
    ):
        low, high = found.cosine_disattenuated_ci95[i][j]
        assert said == (
            f"d{i} and d{j}: {verdict}, cosine {found.cosine_disattenuated[i][j]:.2f} [{low:.2f}, {high:.2f}] "
            f"corrected for noise, {found.cosine[i][j]:.2f} as measured where one direction would give "
            f"{found.ceiling[i][j]:.2f}"
        )
        assert found.ceiling[i][j] == pytest.approx(np.sqrt(found.reliability[i] * found.reliability[j]))
        assert found.ceiling[i][j] == pytest.approx(0.9, abs=0.03)
    assert found.pairs == [30] * 3
    assert found.n_components == 2


def test_too_few_prompts_are_said_with_how_many_it_would_take(cheap):
    needed = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found, warnings = describe(planted(at_cosine(0.5, 400), 24, [0.95, 0.3], rng), n_bootstrap=2)
        assert found.comparisons[0].startswith("d0 and d1: too few prompts of d1 (reliability 0.")
        assert found.verdict.startswith("Too few prompts to say whether there is more than one direction.")
        assert found.cosine_disattenuated_ci95[0][1] is None
        assert found.p_same_holm[0][1] is None
        needed.append(int(warnings[0].partition("about ")[2].partition(" pairs")[0]))
    assert np.median(needed) == pytest.approx(24 * 0.7 / 0.3, rel=0.1)  # where its reliability is one half


def test_a_domain_without_signal_is_null_everywhere_and_no_crash():
    rng = np.random.default_rng(0)
    domains = planted(at_cosine(0.5, 40), 10, 0.9, rng)
    half = rng.standard_normal((5, 40))
    domains["none"] = pairs(np.concatenate([half, 0.1 - half]), rng.standard_normal(40))
    found, warnings = describe(domains)
    assert found.pairs_needed[2] is None
    assert None not in found.pairs_needed[:2]
    assert found.reliability[2] == 0
    assert found.n_components is None
    assert found.pca.centred.one_direction95 is None
    assert "too few prompts of none (reliability 0.00, needs 0.5)" in found.comparisons[1]
    assert "1 of 3 pairs of domains differ" in found.verdict
    assert len(warnings) == 1


@pytest.mark.parametrize(("c", "r"), [(0.5, 0.9), (0.0, 0.8)])
def test_the_pairs_said_to_be_needed_bring_the_half_width(cheap, c, r):
    needed = np.median([g.pairs_needed[0] for g in simulate(c, r, width=60, seeds=40)])
    assert needed > 24
    n = round(needed)
    more = n / (n + 24 * (1 - r) / r)  # the same noise, more pairs
    halves = []
    for g in simulate(c, more, width=60, n=n, seeds=15):
        low, high = g.cosine_disattenuated_ci95[0][1]
        halves.append((high - low) / 2)
        assert g.pairs_needed[0] == pytest.approx(n, rel=0.35)
    assert np.mean(halves) == pytest.approx(HALF_WIDTH, rel=0.12)


def test_the_band_of_one_direction_holds_one_direction_and_not_several(cheap, monkeypatch):
    monkeypatch.setattr(module, "N_NULL", 300)

    def within(truth, kind):
        inside = []
        for seed in range(60):
            found, _ = describe(planted(truth, 24, 0.85, np.random.default_rng(seed)), seed=seed, n_bootstrap=2)
            spectrum = getattr(found.pca, kind)
            low, high = spectrum.one_direction95[0]
            inside.append(low <= spectrum.explained_variance_ratio[0] <= high)
        return np.mean(inside)

    one = np.zeros((4, 50))
    one[:, 0] = 1
    assert within(one, "uncentred") >= 0.88
    assert within(one, "centred") >= 0.88
    assert within(np.eye(4, 50), "uncentred") == 0


def test_the_dendrogram_supports_separate_groups_and_not_ambiguous_ones():
    rng = np.random.default_rng(0)
    gram = np.full((4, 4), 0.1)
    gram[:2, :2] = gram[2:, 2:] = 0.8
    np.fill_diagonal(gram, 1)
    apart, _ = describe(planted(np.linalg.cholesky(gram) @ np.eye(4, 60), 24, 0.9, rng))
    assert sorted(merge.domains for merge in apart.dendrogram[:2]) == [["d0", "d1"], ["d2", "d3"]]
    assert [merge.support > 0.97 for merge in apart.dendrogram[:2]] == [True, True]
    assert apart.dendrogram[2].domains == ["d0", "d1", "d2", "d3"]
    assert apart.dendrogram[2].support is None
    between = np.array(apart.cosine)[:2, 2:].mean()
    assert apart.dendrogram[2].cosine == pytest.approx(between)
    same = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    lowest = []
    for _ in range(10):
        ambiguous, _ = describe(planted(np.linalg.cholesky(same) @ np.eye(4, 60), 24, 0.9, rng), n_bootstrap=100)
        lowest.append(min(merge.support for merge in ambiguous.dendrogram[:2]))
    assert np.mean(lowest) < 0.75


def test_support_counts_trees_by_hand():
    left, right = np.eye(3), np.eye(3)
    left[0, 1] = left[1, 0] = 0.9
    right[1, 2] = right[2, 1] = 0.9
    found = dendrogram(list("abc"), left, np.stack([left, left, left, right]))
    assert [(merge.domains, merge.support) for merge in found] == [(["a", "b"], 0.75), (["a", "b", "c"], None)]
    assert [merge.cosine for merge in found] == pytest.approx([0.9, 0])


@pytest.mark.parametrize(
    ("world", "words"), [("topic_confound", "other topics"), ("shared_negatives", "share harmless")]
)
def test_flags_reach_the_verdict_and_the_warnings(world, words):
    found, warnings = describe(WORLDS[world].draw(48, np.random.default_rng(0)))
    assert world in found.topic_control.flags
    assert words in found.topic_control.flags[world]
    assert any(warning.startswith("geometry: ") and words in warning for warning in warnings)
    assert words in found.verdict
    fair, warnings = describe(WORLDS["single"].draw(48, np.random.default_rng(0)))
    assert fair.topic_control.flags == {}
    assert fair.topic_control.agreement > 0.9
    assert warnings == []
    assert words not in fair.verdict
