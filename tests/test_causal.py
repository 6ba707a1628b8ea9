"""Causal matrices assembled from hand-made columns, and the rows that a column measures, counted with a fake model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusal_bench.causal import Interventions, measure_column, n_rows, plan, subspace
from refusal_bench.causal.directions import Directions
from refusal_bench.causal.matrices import matrices
from refusal_bench.causal.transfer import transfer, verdict
from refusal_bench.config import QUICK
from refusal_bench.interventions import Ablate
from refusal_bench.prompts import Domain, Rendered
from refusal_bench.record import CausalMatrix

DOMAINS = ("fraud", "privacy", "weapons")


def cell(labels, scores):
    return {"labels": labels, "scores": list(scores), "kl": [0.0] * len(labels)}


def matrix(labels, scores):
    means = [[None if s is None else sum(s) / len(s) for s in row] for row in scores]
    empty = [[None for _ in row] for row in labels]
    return CausalMatrix(
        refusal_rate=empty,
        ci95=empty,
        score=means,
        n=[[len(text) for text in row] for row in labels],
        labels=labels,
        scores=[[s or [] for s in row] for row in scores],
    )


def transfer_of(base_labels, base_scores, own_labels, own_scores, other_scores):
    """Transfer onto the first of two domains: by its own direction, and by the other's."""
    n = len(base_labels)
    baseline = matrix([[base_labels, "C" * n]] * 2, [[base_scores, [0.0] * n]] * 2)
    ablation = matrix([[own_labels, "C" * n]] * 2, [[own_scores, [0.0] * n], [other_scores, [0.0] * n]])
    found = transfer(baseline, ablation)
    assert [row[1] for row in found] == [None, None]  # the second domain never refuses
    return [row[0] for row in found]


EIGHT = [4.0] * 8


@pytest.mark.parametrize(("other", "expected"), [(1.0, 0.5), (-2.0, 1.0), (-8.0, 2.0), (4.0, 0.0), (5.5, -0.25)])
def test_transfer_is_a_share_of_the_own_drop(other, expected):
    own, found = transfer_of("R" * 8, EIGHT, "C" * 8, [-2.0] * 8, [other] * 8)
    assert own == 1.0
    assert found == pytest.approx(expected)


def test_transfer_is_null_where_the_own_drop_is_noise():
    drop = (EIGHT, [-2.0] * 8, [1.0] * 8)
    # exact McNemar: 5 of 5 changes give 1/16, 6 of 6 give 1/32
    assert transfer_of("R" * 8, drop[0], "RRR" + "C" * 5, *drop[1:]) == [None, None]
    assert transfer_of("R" * 8, drop[0], "RR" + "C" * 6, *drop[1:]) == [1.0, 0.5]
    assert transfer_of("R" * 8, EIGHT, "C" * 8, [4.5] * 8, [1.0] * 8) == [None, None]
    assert transfer_of("R" * 8, EIGHT, "C" * 8, EIGHT, [1.0] * 8) == [None, None]
    assert transfer_of("R" * 8, EIGHT, "UUUU" + "C" * 4, [-2.0] * 8, [1.0] * 8) == [None, None]


def test_transfer_of_a_task_without_generated_text_rests_on_its_scores():
    noise = [4.0 + (-1) ** i * 0.5 - 0.1 for i in range(8)]
    assert transfer_of("R" * 8, EIGHT, "?" * 8, [-2.0] * 8, [1.0] * 8) == [1.0, 0.5]
    assert transfer_of("R" * 8, EIGHT, "?" * 8, noise, [1.0] * 8) == [None, None]


def test_transfer_is_null_where_a_score_is():
    assert transfer_of("R" * 8, EIGHT, "C" * 8, [-2.0] * 8, None) == [1.0, None]
    assert transfer_of("R" * 8, None, "C" * 8, [-2.0] * 8, [1.0] * 8) == [None, None]


ORDERED = tuple(f"{name}.{k}" for name in ("mincos", "greedy", "centred") for k in (1, 2)) + tuple(
    f"random_subspace.{draw}.{k}" for draw in range(3) for k in (1, 2, 3)
)


def column(j):
    """Domain j's column: 8 prompts; row i leaves i + j refusals and scores of i - j."""
    ablated = {name: cell("R" * (i + j) + "C" * (8 - i - j), [i - j] * 8) for i, name in enumerate(DOMAINS)}
    ablated |= {f"random.{r}": cell("R" * (8 - r) + "C" * r, [8 - r] * 8) for r in range(QUICK.n_random_directions)}
    ablated |= {"shared": cell("CCCCCC?U", [-4.0] * 6 + [None, -4.0])}
    ablated |= {f"subspace.{k}": cell("R" * (6 - 2 * k) + "C" * (2 + 2 * k), [6 - k - j] * 8) for k in (1, 2, 3)}
    added = {name: cell("R" * (8 - i) + "C" * i, [10 * i + j] * 8) for i, name in enumerate(DOMAINS)}
    added |= {f"random.{r}": cell("C" * 8, [-9.0] * 8) for r in range(QUICK.n_random_directions)}
    added |= {"shared": cell("R" * 8, [9.0] * 8)}
    return {
        "baseline_harmful": cell("R" * 8, [6.0] * 8),
        "baseline_harmless": cell("C" * 8, [-6.0] * 8),
        "ablated": ablated,
        "added": added,
        "scored": {
            "ablated_harmful": {row: cell("", [5.0] * 8) for row in ORDERED},
            "ablated_harmless": {
                row: {"scores": [0.0] * 2, "kl": [int(row[-1]) * 0.1, (1 + j) * 0.1]}
                for row in ("subspace.1", "subspace.2", "subspace.3", *ORDERED)
            },
        },
    }


@pytest.fixture
def columns():
    return {name: column(j) for j, name in enumerate(DOMAINS)}


def test_rows_are_interventions_and_columns_are_prompts(columns):
    found = matrices(columns, QUICK, seed=0)
    assert found.domains == list(DOMAINS)
    for i in range(3):
        for j in range(3):
            assert found.ablation.refusal_rate[i][j] == (i + j) / 8
            assert found.ablation.score[i][j] == i - j
            assert found.addition.refusal_rate[i][j] == (8 - i) / 8
            assert found.addition.score[i][j] == 10 * i + j
            # own drop of column j: 6 - 0; the last column changes 4 of 8 labels, which is noise
            assert found.transfer[i][j] == (None if j == 2 else pytest.approx((6 - i + j) / 6))
    assert found.ablation.ci95[0][0] == pytest.approx((0, 0.3244), abs=6e-5)
    assert found.baseline.refusal_rate == [[1.0] * 3, [0.0] * 3]
    assert found.baseline.score == [[6.0] * 3, [-6.0] * 3]


def test_transfer_has_bootstrap_intervals_over_the_columns_prompts():
    rng = np.random.default_rng(0)
    before, own = rng.normal(4, 1, 40), rng.normal(-4, 1, 40)
    other = before - 0.5 * (before - own) + rng.normal(0, 0.5, 40)
    names = ["a", "b"]
    cells = {name: cell("R" * 40, before.tolist()) for name in names}
    columns = {
        name: {
            "baseline_harmful": cells[name],
            "baseline_harmless": cell("C" * 40, [-4.0] * 40),
            "ablated": {n: cell("C" * 40, (own if n == name else other).tolist()) for n in names}
            | {f"random.{r}": cells[name] for r in range(QUICK.n_random_directions)}
            | {"shared": cells[name]},
            "added": dict.fromkeys([*names, "shared", *(f"random.{r}" for r in range(3))], cell("C" * 40, [0.0] * 40)),
        }
        for name in names
    }
    found = matrices(columns, QUICK, seed=0)
    low, high = found.transfer_ci95[0][1]
    draws = rng.integers(0, 40, size=(4000, 40))
    ratios = (before - other)[draws].mean(axis=1) / (before - own)[draws].mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.01)
    assert low < found.transfer[0][1] < high
    assert found.transfer_ci95[0][0] is None
    assert found.verdict.startswith("The directions act differently: ablating that of")
    assert f"{found.transfer[0][1]:.2f} [" in found.verdict


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([[1.0, 0.85], [0.9, 1.0]], "One direction in effect"),
        ([[1.0, 0.3], [0.9, 1.0]], "The directions act differently: ablating that of a does 0.30 of what b's own does"),
        ([[None, None], [None, None]], "No domain's own ablation has an effect"),
    ],
)
def test_the_causal_verdict_in_words(shares, says):
    assert verdict(["a", "b"], shares, [[None, None], [None, None]]).startswith(says)


def test_a_direction_that_does_nothing_in_its_own_domain_does_not_make_the_others_differ():
    shares = [[1.0, 0.9, None], [0.95, 1.0, None], [0.1, 0.2, None]]
    words = verdict(["a", "b", "c"], shares, [[None] * 3] * 3)
    assert words.startswith("One direction in effect")
    assert "mean transfer 0.93; c left out, where the own ablation has no effect beyond noise" in words


def test_controls_average_over_directions_and_count_only_what_was_scored(columns):
    controls = matrices(columns, QUICK, seed=0).controls
    random, shared = controls.random.ablation, controls.shared.ablation
    assert random.n_directions == QUICK.n_random_directions == 3
    assert random.refusal_rate == pytest.approx([7 / 8] * 3)
    assert random.score == pytest.approx([7] * 3)
    assert random.band95[0] == pytest.approx((6.05 / 8, 7.95 / 8))
    assert random.labels[2] == ["RRRRRRCC"] * 3
    assert (shared.n_directions, shared.refusal_rate, shared.score) == (1, [0.0] * 3, [-4.0] * 3)
    assert shared.band95 == [None] * 3
    assert controls.random.addition.score == [-9.0] * 3
    assert controls.shared.addition.refusal_rate == [1.0] * 3


def test_the_subspace_curve_starts_at_the_unmodified_model(columns):
    found = subspace(columns, {"mincos": [2, 0, 1], "greedy": [0, 1, 2]}, 200, seed=0)
    assert found.k == [0, 1, 2, 3]
    assert found.refusal_rate == pytest.approx([1, 4 / 8, 2 / 8, 0])
    assert found.score == pytest.approx([6, 4, 3, 2])
    assert found.kl == pytest.approx([0, (3 * 0.1 + 0.6) / 6, (3 * 0.2 + 0.6) / 6, (3 * 0.3 + 0.6) / 6])
    assert found.labels[1] == "RRRRCCCC" * 3
    assert found.ci95[0] == pytest.approx((0.8620, 1), abs=6e-5)
    curves = found.curves
    assert found.order == {"mincos": ["weapons", "fraud", "privacy"], "greedy": list(DOMAINS)}
    assert curves["uncentred"].share == pytest.approx([0, 2 / 4, 3 / 4, 1])
    assert (curves["uncentred"].k_for_50, curves["uncentred"].k_for_90) == (1, 3)
    # Orders of directions end at the whole span, which all principal components span; centred ones do not reach it.
    for name in ("mincos", "greedy"):
        assert curves[name].score == pytest.approx([6, 5, 5, 2])
        assert (curves[name].k_for_50, curves[name].k_for_90) == (3, 3)
    assert curves["centred"].score == pytest.approx([6, 5, 5])
    assert curves["centred"].k_for_90 is None
    assert curves["random"].share == pytest.approx([0, 1 / 4, 1 / 4, 1 / 4])
    assert curves["random"].kl == pytest.approx(curves["uncentred"].kl)


VECTORS = torch.as_tensor([[3.0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0], [0, 4, 3, 0, 0, 0]])


def planned(**options):
    own = {name: (VECTORS[i], i) for i, name in enumerate(DOMAINS)}
    means = {name: torch.zeros(4, 6) for name in DOMAINS}
    directions = Directions(own, means, VECTORS, torch.eye(6)[3:5], 2)
    sections = {"cross": True, "subspace": True} | options
    return plan(directions, [1, 0, 2], QUICK, 0, **sections)


def batch(found, name, domain="privacy"):
    (only,) = (one for one in found.batches(domain) if one.name == name)
    return only


def removed(what, row):
    """Projection that one row of a batch takes out."""
    return what.basis[row].T @ what.basis[row]


def onto(*vectors):
    """Projection on the span of vectors, by least squares."""
    span = torch.stack(vectors).T
    return span @ torch.linalg.pinv(span)


def test_the_plan_adds_controls_of_the_common_norm_and_ablates_nested_subspaces():
    found = planned()
    assert list(found.ablate) == [
        "random.0",
        "random.1",
        "random.2",
        "shared",
        "subspace.1",
        "subspace.2",
        "subspace.3",
    ]
    assert list(found.add) == ["random.0", "random.1", "random.2", "shared"]
    for name, vector in found.add.items():
        assert vector.norm() == pytest.approx((3 + 5 + 5) / 3)
        torch.testing.assert_close(vector / vector.norm(), found.ablate[name][0])
    mean = torch.tensor([1, 1.8, 0.6, 0, 0, 0])
    torch.testing.assert_close(found.ablate["shared"][0], mean / mean.norm())
    everything = Ablate.span(found.ablate["subspace.3"]).apply(VECTORS[None], torch.zeros(1, dtype=torch.long))
    assert everything.abs().max() < 1e-5
    assert torch.equal(found.ablate["subspace.2"], found.ablate["subspace.3"][:2])
    again = planned()
    assert all(torch.equal(found.ablate[name], again.ablate[name]) for name in found.ablate)


def test_rows_without_text_are_the_controls_and_parts_that_they_are_called():
    found = planned()
    harmful, added = batch(found, "ablated_harmful"), batch(found, "added_harmless")
    mean = torch.tensor([1, 1.8, 0.6, 0, 0, 0])
    shared = mean / mean.norm()
    expected = {"pooled": onto(VECTORS.mean(dim=0)), "span": onto(*VECTORS), "permuted.1": onto(torch.eye(6)[4])}
    for i, name in enumerate(DOMAINS):
        rest = VECTORS[i] - (VECTORS[i] @ shared) * shared
        expected[f"specific.{name}"] = onto(rest)
        place = added.rows.index(f"shared_only.{name}")
        torch.testing.assert_close(added.what.vectors[place], VECTORS[i] - rest)
        torch.testing.assert_close(added.what.vectors[added.rows.index(f"specific.{name}")], rest)
    expected |= {"greedy.1": onto(VECTORS[1]), "greedy.2": onto(VECTORS[1], VECTORS[0])}
    # The first two are at right angles and come first; k = 3 is the whole span, which subspace.3 measures.
    expected |= {"mincos.1": onto(VECTORS[0]), "mincos.2": onto(VECTORS[0], VECTORS[1])}
    for row, projection in expected.items():
        torch.testing.assert_close(removed(harmful.what, harmful.rows.index(row)), projection, atol=1e-5, rtol=0)
    assert not {"mincos.3", "greedy.3", "centred.3"} & set(harmful.rows)
    ranks = [round(float(removed(harmful.what, i).trace())) for i in range(len(harmful.rows))]
    assert all(rank == int(row[-1]) for row, rank in zip(harmful.rows, ranks, strict=True) if row.count(".") == 2)
    random = [row for row in (*found.ablate, *harmful.rows) if row.startswith("random.")]
    assert len(random) == QUICK.n_scored_random_directions
    assert set(batch(found, "ablated_harmless").rows) == {*DOMAINS, *found.ablate, *harmful.rows}
    parts = batch(found, "parts", "weapons")
    torch.testing.assert_close(removed(parts.what, 0), onto(shared, VECTORS[2]), atol=1e-5, rtol=0)


def test_doses_are_multiples_of_the_domains_own_direction():
    found = planned()
    added, ablated = batch(found, "dose_added_harmless", "weapons"), batch(found, "dose_ablated_harmful", "weapons")
    assert set(added.what.layers) == {2}
    for row, vector in zip(added.rows, added.what.vectors, strict=True):
        torch.testing.assert_close(vector, float(row) * VECTORS[2])
    for i, row in enumerate(ablated.rows):
        torch.testing.assert_close(removed(ablated.what, i), float(row) * onto(VECTORS[2]), atol=1e-6, rtol=0)


def test_a_domain_that_is_all_shared_has_no_specific_row():
    own = dict.fromkeys(DOMAINS, (VECTORS[0], 0))
    same = Directions(
        own, {name: torch.zeros(4, 6) for name in DOMAINS}, VECTORS[:1].expand(3, 6), torch.eye(6)[3:5], 0
    )
    found = plan(same, [0, 1, 2], QUICK, 0, cross=True, subspace=True)
    assert not [row for one in found.batches("fraud") for row in one.rows if row.startswith(("specific", "centred"))]


def test_sections_that_are_left_out_plan_nothing():
    assert list(planned(cross=False).ablate) == ["subspace.1", "subspace.2", "subspace.3"]
    assert planned(cross=False).add == {}
    assert [one.name for one in planned(cross=False).batches("privacy")] == ["ablated_harmful", "ablated_harmless"]
    assert "subspace.1" not in planned(subspace=False).ablate
    assert planned(cross=False, subspace=False).ablate == {}
    assert planned(cross=False, subspace=False).batches("privacy") == ()


@dataclass
class FakeEvaluator:
    """Answers like a model whose scores tell which intervention and which prompts it was given."""

    seen: list = field(default_factory=list)
    backend: object = None

    def __post_init__(self):
        self.backend = self
        self.model = SimpleNamespace(n_layers=2, structure=SimpleNamespace(blocks=[torch.nn.Identity()] * 2))

    def keeping_prefix(self, prompts):
        return nullcontext()

    def logits(self, prompts, reduce, intervention=None, on_progress=lambda rows: None):
        if reduce.__name__ != "keep":
            return torch.zeros(1, len(prompts), 3)
        on_progress(len(intervention) * len(prompts))
        return torch.zeros(len(intervention), len(prompts), 2, 6)

    def answer_loss(self, prompts, answers, ablation):
        assert len(prompts) == len(answers)
        plain, changed = ablation.basis
        assert not plain.any()
        assert changed.any()
        return torch.tensor([[1.0], [1.25]]).expand(2, len(prompts))

    def evaluate(self, stage, prompts, what, base=None, *, generate, on_progress):
        variants = 1 if what is None else len(what)
        on_progress(variants * len(prompts))
        stages = [stage] if isinstance(stage, str) else stage
        self.seen += [(one, variants, len(prompts), generate, base is not None) for one in dict.fromkeys(stages)]
        return [
            {"labels": "C" * len(prompts), "scores": [float(v)] * len(prompts), "kl": [0.0] * len(prompts)}
            | {"tokens": [[1, 2]] * (len(prompts) - 1) + [[]]}
            for v in range(variants)
        ]  # fmt: skip


def fake_domain(n, generate=True):
    prompts = tuple((i,) for i in range(n))
    ids = tuple(map(str, prompts))
    held_out = Rendered(ids, ids, prompts, prompts)
    return Domain(held_out, held_out, held_out, generate)


@pytest.mark.parametrize("sections", [(True, True), (True, False), (False, True), (False, False)])
def test_a_column_measures_as_many_rows_as_announced_and_keeps_no_text(sections):
    interventions = planned(cross=sections[0], subspace=sections[1])
    domain, done = fake_domain(5), []
    found = measure_column(FakeEvaluator(), "privacy", domain, interventions, done.append)
    assert sum(done) == n_rows(interventions, len(domain.held_out), "privacy")
    assert "tokens" not in str(found)
    assert found["loss_delta"] == 0.25
    crossed = list(DOMAINS) if sections[0] else ["privacy"]
    assert list(found["ablated"]) == crossed + list(interventions.ablate)
    assert list(found["added"]) == crossed + list(interventions.add)
    # scores number the variants: the rows come back in the order in which they were stacked, behind the baseline
    assert found["baseline_harmful"]["scores"][0] == 0
    assert [row["scores"][0] for row in found["ablated"].values()] == list(range(1, 1 + len(found["ablated"])))


def test_rows_that_are_one_intervention_are_measured_once():
    evaluator, interventions = FakeEvaluator(), planned()
    found = measure_column(evaluator, "privacy", fake_domain(5), interventions, lambda rows: None)
    text, scored = found["ablated"], found["scored"]
    # Every direction of this plan is its domain's own, two of them the first of an ordering; the pair is in both.
    twins = {"span": "subspace.3", "mincos.1": "fraud", "greedy.1": "privacy", "random_subspace.0.1": "random.0"}
    for row, twin in twins.items():
        assert scored["ablated_harmful"][row]["scores"] == text[twin]["scores"]
        assert scored["ablated_harmless"][row] == scored["ablated_harmless"][twin]
    for row, twin in {"mincos.2": "greedy.2", "random_subspace.1.1": "random.3"}.items():
        assert scored["ablated_harmful"][row] == scored["ablated_harmful"][twin]
    assert scored["dose_ablated_harmful"]["1.0"]["scores"] == text["privacy"]["scores"]
    assert scored["ablated_harmless"]["privacy"]["scores"] == found["ablated_harmless"]["scores"]
    # The domain's direction at its own layer, not the common one.
    assert scored["dose_added_harmless"]["1.0"]["scores"] == found["added"]["privacy"]["scores"]
    rows = {one.name: len(one.rows) for one in interventions.batches("privacy")}
    passes = {stage.split(".")[1]: variants for stage, variants, *_ in evaluator.seen if "+" in stage}
    known = {names: sum(rows[name] for name in names.split("+")) - variants for names, variants in passes.items()}
    assert known == {
        # Those above, of which one is a dose.
        "ablated_harmful+parts+dose_ablated_harmful": 7,
        "ablated_harmless+dose_ablated_harmless": 8,
        # A dose, and two of the domains have the same shared part.
        "added_harmless+dose_added_harmless": 2,
    }


def test_all_text_of_one_label_is_written_in_common_passes():
    class Counting(FakeEvaluator):
        def evaluate(self, stage, prompts, what, base=None, *, generate, **options):
            texts.append((len(what), what)) if generate else None
            return super().evaluate(stage, prompts, what, base, generate=generate, **options)

    texts, interventions = [], planned()
    found = measure_column(Counting(), "privacy", fake_domain(5), interventions, lambda rows: None)
    (n_harmful, _), (n_harmless, beside) = texts
    assert n_harmful == 1 + len(found["ablated"])
    assert n_harmless == 2 + len(found["added"])
    assert torch.equal(beside.ablate.basis[1, 0].abs(), interventions.own["privacy"][0].sign())  # along one axis
    assert beside.add.layers == (*(layer for _, layer in interventions.own.values()), *[2] * len(interventions.add))
    # behind the model as it is and the own ablation
    assert [row["scores"][0] for row in found["added"].values()] == list(range(2, n_harmless))


def test_a_task_that_forbids_it_generates_no_text_under_intervention():
    evaluator = FakeEvaluator()
    measure_column(evaluator, "privacy", fake_domain(3, generate=False), planned(), lambda rows: None)
    generated = {stage.split(".")[1] for stage, _, _, generate, _ in evaluator.seen if generate}
    assert generated == {"baseline_harmful", "baseline_harmless"}
    based = {stage.split(".")[1] for stage, *_, base in evaluator.seen if base}
    # KL is of harmless prompts.
    assert {name for names in based for name in names.split("+")} == {
        *("ablated_harmless", "added_harmless", "dose_added_harmless", "dose_ablated_harmless", "affine_harmless")
    }


def test_a_row_is_ablated_as_its_own_subspace_beside_wider_ones():
    captured = {}

    class Capturing(FakeEvaluator):
        def evaluate(self, stage, prompts, what, base=None, **options):
            captured[stage if isinstance(stage, str) else stage[-1]] = what
            return super().evaluate(stage, prompts, what, base, **options)

    interventions = Interventions({"a": (VECTORS[0], 0)}, {"subspace.2": VECTORS[1:]}, {}, 0, cross=True)
    measure_column(Capturing(), "a", fake_domain(2), interventions, lambda rows: None)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    found = captured["a.ablated_harmful"].apply(x, torch.tensor([1, 2]))  # behind the unmodified model
    expected = x.clone()
    expected[0, :, 0] = 0
    expected[1, :, 1:3] = 0
    torch.testing.assert_close(found, expected)
