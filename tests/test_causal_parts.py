"""Pure parts of the causal tables against independent computations: enumerations, closed forms, plain loops."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_bench.backends.hf import HookBackend
from refusal_bench.causal import measure_column, plan
from refusal_bench.causal.dependence import dependence, n_layers_compared
from refusal_bench.causal.depth import layer_geometry, parting
from refusal_bench.causal.directions import Directions, permuted_means
from refusal_bench.causal.dose import half_effect
from refusal_bench.causal.orderings import greedy_by_effect, mincos, orthonormal
from refusal_bench.causal.sites import site_effect
from refusal_bench.causal.transfer import transfer_summary
from refusal_bench.config import QUICK, RunConfig
from refusal_bench.evaluation import Evaluator
from refusal_bench.interventions import Ablate, Add
from refusal_bench.judges import load_judge
from refusal_bench.metrics.mantel import mantel
from refusal_bench.models.loading import load_model
from refusal_bench.observation import Residuals
from refusal_bench.prompts import Domain, Rendered
from refusal_bench.record import LayerGeometry, Site
from scipy import stats
from tiny import save_tiny

FAST = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def tables(seed, n):
    rng = np.random.default_rng(seed)
    one = rng.standard_normal((n, n))
    return one + one.T, one + rng.standard_normal((n, n))


def off(matrix):
    return [matrix[i, j] for i in range(len(matrix)) for j in range(len(matrix)) if i != j]


@FAST
@given(SEEDS, st.integers(3, 5))
def test_mantel_is_spearman_over_all_relabellings(seed, n):
    one, other = tables(seed, n)
    found = [stats.spearmanr(off(one[np.ix_(order, order)]), off(other)).statistic for order in permutations(range(n))]
    correlation, p, count = mantel(one, other, seed=0)
    assert correlation == pytest.approx(found[0])
    assert p == pytest.approx(np.mean(np.array(found) >= found[0] - 1e-9))
    assert count == len(found)


def test_mantel_draws_relabellings_for_many_items_and_knows_when_there_is_nothing_to_test():
    one, other = tables(1, 9)
    assert mantel(one, one, seed=0) == (pytest.approx(1), pytest.approx(1e-4), 10000)
    assert 0.0 < mantel(one, other, seed=0)[1] < 0.2
    # Unrelated tables: p is uniform, so it is below a half about half of the time.
    rng = np.random.default_rng(0)
    low = [mantel(one, rng.standard_normal((9, 9)), seed=0)[1] < 0.5 for _ in range(12)]
    assert 2 <= sum(low) <= 10
    assert mantel(one[:2, :2], one[:2, :2], seed=0) is None
    assert mantel(np.ones((4, 4)), tables(0, 4)[1], seed=0) is None


@FAST
@given(SEEDS, st.integers(2, 6))
def test_mincos_begins_with_the_least_alike_pair_and_adds_what_is_least_alike(seed, n):
    vectors = np.random.default_rng(seed).standard_normal((n, 8)) + 0.3
    cosine = np.abs(
        1 - np.array([[np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors] for a in vectors]) - 1
    )
    order = mincos(vectors)
    assert sorted(order) == list(range(n))
    assert cosine[order[0], order[1]] == pytest.approx(min(cosine[i, j] for i, j in combinations(range(n), 2)))
    for k in range(2, n):
        sums = {i: sum(cosine[i, j] for j in order[:k]) for i in range(n) if i not in order[:k]}
        assert sums[order[k]] == pytest.approx(min(sums.values()))


def test_greedy_takes_what_helps_most_beside_what_it_has():
    # Direction 1 covers two prompts, 0 and 2 one each; 2 covers what 1 does not.
    covers = {0: {"a"}, 1: {"a", "b"}, 2: {"c"}}
    tried = []

    def score(sets):
        tried.append(sets)
        return [-len(set().union(*(covers[i] for i in some))) for some in sets]

    assert greedy_by_effect(3, score) == [1, 2, 0]
    assert tried == [[[0], [1], [2]], [[1, 0], [1, 2]]]  # the last needs no measurement


def test_orthonormal_rows_keep_the_nesting():
    vectors = np.random.default_rng(0).standard_normal((4, 9))
    rows = orthonormal(vectors)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-12)
    for k in range(1, 5):
        assert np.linalg.matrix_rank(np.concatenate([rows[:k], vectors[:k]]), tol=1e-9) == k


def test_permuted_labels_leave_nothing_of_what_all_pairs_share():
    rng = np.random.default_rng(0)
    shared = np.zeros(6)
    shared[0] = 50
    differences = [shared + rng.standard_normal((n, 6)) for n in (10, 11)]
    drawn = permuted_means(differences, 4, seed=0)
    assert drawn.shape == (4, 6)
    assert np.abs(drawn[:, 0]).max() < 2
    assert len({tuple(row) for row in drawn}) == 4


def test_half_effect_is_interpolated_on_the_positive_side():
    doses = np.array([-1.0, 0, 0.5, 1, 2])
    means = np.array([9.0, -4, -4, 0, 4])  # rises by 8: half of it at dose 1
    assert half_effect(doses, means, np.array([means, 2 * means]))[0] == pytest.approx(1)
    falling = np.array([0.0, 4, 3, -1, -4])
    half, interval = half_effect(doses, falling, np.stack([falling] * 10))
    assert half == pytest.approx(0.5 + 0.5 * 3 / 4)
    assert interval == pytest.approx((half, half))
    assert half_effect(doses, 0.01 * means, means[None]) == (None, None)


def residuals_of(vectors, n=40, noise=0.0):
    """Residuals of two domains whose differences at (position, layer) are given; harmless prompts are zero."""
    rng = np.random.default_rng(0)
    places, rows = {}, []
    for name, by_site in vectors.items():
        for label in ("harmful", "harmless"):
            places[name, "direction", label] = slice(len(rows), len(rows) + n)
            for _ in range(n):
                base = by_site if label == "harmful" else np.zeros_like(by_site)
                rows.append(base + noise * rng.standard_normal(by_site.shape))
    return Residuals(np.array(rows, dtype=np.float32), places, (-1,))


def test_the_effect_of_comparing_across_layers_is_set_apart():
    """Layer 1 is layer 0 turned by 60 degrees: only across layers does the common direction look like two."""
    turned = np.array([[1.0, 0, 0], [0.5, np.sqrt(0.75), 0]])[None]
    own = {"a": Site(layer=0, position=-1), "b": Site(layer=1, position=-1)}
    residuals = residuals_of({"a": turned, "b": turned}, noise=0.02)
    found = site_effect(residuals, own, Site(layer=0, position=-1), 300, seed=0)
    assert found.own_site == pytest.approx(0.5, abs=0.01)
    assert found.same_site == pytest.approx(1, abs=0.01)
    assert found.common_site == pytest.approx(1, abs=0.01)
    assert found.share == pytest.approx(1, abs=0.02)
    assert found.across_layers_ci95[0] < -0.5 < found.across_layers_ci95[1]
    assert np.diff(found.across_layers_ci95) < 0.05
    same = site_effect(residuals, {"a": own["a"], "b": own["a"]}, own["b"], 50, seed=0)
    assert (same.across_layers, same.n_pairs_across) == (0, 0)
    assert "same site" in same.sentence


def test_the_effect_of_another_layer_alone_is_no_effect_across():
    """At layer 0 the domains agree, at layer 1 they are at right angles; both prefer layer 1."""
    a, b = np.array([[[1.0, 0], [1, 0]]]), np.array([[[1.0, 0], [0, 1]]])
    own = dict.fromkeys(("a", "b"), Site(layer=1, position=-1))
    found = site_effect(residuals_of({"a": a, "b": b}, noise=0.02), own, Site(layer=0, position=-1), 50, seed=0)
    assert found.across_layers == 0
    assert found.choice_of_layer == pytest.approx(-1, abs=0.02)
    assert found.share == 0


def layer(index, n_apart, n_tested=1):
    empty = [[None] * 2] * 2
    values = {"cosine": empty, "cosine_disattenuated": empty, "mean_cosine": None}
    return LayerGeometry(layer=index, n_tested=n_tested, n_apart=n_apart, **values)


@pytest.mark.parametrize(
    ("apart", "tested", "expected"),
    [
        ([0, 0, 0], [1, 1, 1], (None, None)),
        ([0, 1, 1], [1, 1, 1], (1, None)),
        ([0, 1, 0, 1, 0, 0], [1] * 6, (1, 4)),
        ([0, 1, 0, 0], [1, 1, 0, 1], (1, 3)),  # a layer at which nothing can be compared is no meeting
        ([1, 0, 0], [1, 0, 0], (0, None)),
    ],
)
def test_where_domains_part_and_meet(apart, tested, expected):
    assert parting([layer(i, a, t) for i, (a, t) in enumerate(zip(apart, tested, strict=True))]) == expected


def test_a_layer_tells_apart_what_noise_does_not_explain():
    rng, width, n = np.random.default_rng(0), 30, 40
    owner = np.repeat([0, 1, 2], n)
    axes = np.eye(width)[:2]
    truth = np.array([[1, 0], [1, 0], [0.6, 0.8]]) @ axes
    found = layer_geometry(3, 3 * truth[owner] + rng.standard_normal((3 * n, width)), owner)
    assert (found.n_tested, found.n_apart) == (3, 2)
    assert found.cosine_disattenuated[0][1] == pytest.approx(1, abs=0.05)
    assert found.cosine_disattenuated[0][2] == pytest.approx(0.6, abs=0.05)
    assert found.mean_cosine == pytest.approx((1 + 0.6 + 0.6) / 3, abs=0.05)
    nothing = layer_geometry(0, np.zeros((3 * n, width)), owner)
    assert (nothing.n_tested, nothing.mean_cosine) == (0, None)
    noise = layer_geometry(1, rng.standard_normal((3 * n, width)), owner)
    assert noise.n_apart == 0


class Geometry:
    domains = ["a", "b", "c", "d"]
    clusters = [["a", "b"], ["c", "d"]]
    cosine = (np.kron(np.eye(2), np.full((2, 2), 0.5)) + 0.3 + np.diag([0.2] * 4)).tolist()


def test_the_summary_sets_clusters_apart_and_leaves_out_domains_without_a_drop():
    shares = np.array(Geometry.cosine)
    shares[:, 3] = np.nan
    table = [[None if np.isnan(x) else float(x) for x in row] for row in shares]
    found = transfer_summary(Geometry, table, np.stack([shares, shares + 0.1]), seed=0)
    assert found.within == pytest.approx(0.8)  # a-b both ways and d on c: what acts on d is null
    assert found.between == pytest.approx(0.3)
    assert found.between_ci95 == pytest.approx((0.3025, 0.3975))
    assert (found.n_domains, found.n_permutations) == (3, 6)
    assert found.sentence.startswith("Mean transfer is 0.80 [0.80, 0.90] within clusters and 0.30")
    none = transfer_summary(Geometry, [[None] * 4] * 4, np.full((2, 4, 4), np.nan), seed=0)
    assert (none.within, none.mantel_p, none.n_domains) == (None, None, 0)
    assert "no transfer" in none.sentence


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return HookBackend(load_model(RunConfig(model=str(save_tiny(tmp_path_factory.mktemp("tiny") / "llama")))))


@pytest.fixture(scope="module")
def prompts(backend):
    texts = ["hi", "Tell me of rivers.", "What now, then?", "A longer question, with more words."]
    return [tuple(backend.model.template.render(text)) for text in texts]


def normal(seed, *shape):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def streams(backend, prompt, direction=None, offsets=None):
    """Last token's stream entering every block of one prompt alone, all writes projected by hooks of its own."""
    seen, handles, structure = [], [], backend.model.structure

    def project(x):
        return x if direction is None else x - (x @ direction)[..., None] * direction / direction.norm() ** 2

    def entering(index):
        def hook(_, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            x = project(x) if index == 0 else x
            x = x if offsets is None else x + offsets[index]
            seen.append(x[0])
            return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

        return hook

    def written(_, __, output):
        return (project(output[0]), *output[1:]) if isinstance(output, tuple) else project(output)

    try:
        for index, block in enumerate(structure.blocks):
            handles.append(block.register_forward_pre_hook(entering(index), with_kwargs=True))
        handles += [writer.register_forward_hook(written) for writer in structure.writers]
        with torch.inference_mode():
            logits = backend.model.module(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen), logits


def test_dependence_is_the_definition_of_methods_2_4(backend, prompts):
    directions = normal(1, 3, backend.model.d_model)
    done = []
    found = dependence(backend, prompts, directions, done.append)
    assert sum(done) == 4 * len(prompts)
    n_layers = n_layers_compared(backend.model.n_layers)
    assert n_layers == 5  # l < 0.9 * 5
    for p, prompt in enumerate(prompts):
        for i, j in combinations(range(3), 2):
            total = 0.0
            for kept, gone in ((i, j), (j, i)):
                plain, changed = (streams(backend, prompt, d)[0][:n_layers, -1] for d in (None, directions[gone]))
                cosine = [torch.cosine_similarity(x, directions[kept][None]) for x in (plain, changed)]
                total += float(((cosine[0] - cosine[1]) ** 2).mean())
            assert found[p, i, j] == pytest.approx(total, abs=1e-6)
            assert found[p, j, i] == found[p, i, j]
        assert np.abs(np.diag(found[p])).max() == 0
    assert found.max() > 1e-4


def test_ablating_to_the_mean_gives_the_stream_the_means_component_everywhere(backend, prompts):
    direction, means = normal(2, backend.model.d_model), normal(3, backend.model.n_layers, backend.model.d_model)
    unit = direction / direction.norm()
    ablate = Ablate.to_mean(direction, means)
    wanted = means @ unit
    steps = torch.diff(wanted, prepend=torch.zeros(1))[:, None] * unit
    found = backend.logits(prompts, lambda logits, _: logits, ablate)[0]
    for prompt, logits in zip(prompts, found, strict=True):
        entering, expected = streams(backend, prompt, direction, steps)
        for level, stream in zip(wanted, entering, strict=True):
            torch.testing.assert_close(stream @ unit, level.expand(len(prompt)), atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    two = Ablate(torch.cat([ablate.basis] * 2), torch.cat([ablate.offsets, torch.zeros_like(ablate.offsets)]))
    both = backend.logits(prompts, lambda logits, _: logits, two)
    torch.testing.assert_close(both[0], found, atol=1e-4, rtol=1e-3)
    plain = backend.logits(prompts, lambda logits, _: logits, Ablate.each(direction[None]))[0]
    torch.testing.assert_close(both[1], plain, atol=1e-4, rtol=1e-3)


def test_measuring_what_is_one_intervention_once_changes_nothing(backend, prompts, monkeypatch):
    d_model, names = backend.model.d_model, ("a", "b", "c")
    common = normal(4, 3, d_model)
    own = {name: (vector, layer) for layer, (name, vector) in enumerate(zip(names, common, strict=True))}
    means = {name: normal(5, backend.model.n_layers, d_model) for name in names}
    directions = Directions(own, means, common, normal(6, 1, d_model), 1)
    sizes = QUICK.model_copy(update={"n_random_directions": 1, "n_scored_random_directions": 2})
    interventions = plan(directions, [1, 0, 2], sizes, 0, cross=True, subspace=True)
    ids = tuple(map(str, range(len(prompts))))
    split = Rendered(ids, ids, tuple(prompts), tuple(reversed(prompts)))
    evaluator = Evaluator(backend, (40, 41), 4, load_judge("opener"))

    def measure():
        before = backend.counters.tokens
        column = measure_column(evaluator, "b", Domain(split, split, split, True), interventions, lambda rows: None)
        return column, backend.counters.tokens - before

    once, spent = measure()
    monkeypatch.setattr("refusal_bench.interventions.SAME", -1.0)
    every, spent_on_all = measure()
    assert spent < 0.95 * spent_on_all
    assert {name: list(rows) for name, rows in once["scored"].items()} == {
        name: list(rows) for name, rows in every["scored"].items()
    }
    for name, rows in every["scored"].items():
        for row, observation in rows.items():
            for what in ("scores", "kl"):
                np.testing.assert_allclose(once["scored"][name][row][what], observation[what], atol=1e-4)
    assert once["ablated"] == every["ablated"]


@FAST
@given(SEEDS, st.floats(0, 1))
def test_a_share_of_a_direction_is_removed_and_all_of_it_is_ablation(seed, share):
    direction, x = normal(seed, 7), normal(seed + 1, 1, 2, 7)
    ablate = Ablate.partly(direction, [share, 1.0])
    along = (x @ direction)[..., None] * direction / direction.norm() ** 2
    torch.testing.assert_close(ablate.apply(x, torch.tensor([0])), x - share * along, atol=1e-4, rtol=1e-3)
    whole = Ablate.each(direction[None])
    torch.testing.assert_close(
        ablate.apply(x, torch.tensor([1])), whole.apply(x, torch.tensor([0])), atol=1e-5, rtol=1e-4
    )


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_on_a_model_twice_is_once_a_basis_does_not_matter_and_what_is_added_can_be_taken_away(backend, prompts, seed):
    keep = lambda logits, _: logits  # noqa: E731
    directions = normal(seed, 2, backend.model.d_model)
    once = backend.logits(prompts, keep, Ablate.span(directions))[0]
    again = backend.logits(prompts, keep, Ablate.span(torch.cat([directions, directions])))[0]
    mixed = backend.logits(prompts, keep, Ablate.span(torch.tensor([[2.0, 1], [-1, 1]]) @ directions))[0]
    torch.testing.assert_close(again, once, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mixed, once, atol=1e-4, rtol=1e-3)
    plain = backend.logits(prompts, keep)[0]
    added = Add.at(torch.stack([directions[0], directions[0] - directions[0]]), 2)
    moved = backend.logits(prompts, keep, added)
    assert (moved[0] - plain).abs().max() > 1e-3
    torch.testing.assert_close(moved[1], plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_direction_that_is_none_is_refused_by_every_ablation(value):
    for build in (
        lambda: Ablate.partly(torch.full((4,), value), [0.5]),
        lambda: Ablate.to_mean(torch.full((4,), value), torch.zeros(2, 4)),
    ):
        with pytest.raises(ValueError, match="zero or holds NaN"):
            build()
