"""The worlds beside `study`: topics, the cone, the confound and the harm axis against their closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from planted_model import (
    AT_INSTRUCTION,
    HARMFUL,
    HARMLESS,
    OPENERS,
    N,
    ablated,
    added,
    answers,
    cosines,
    differences,
    instruction_differences,
    last_logits,
    planted,
    scores,
    stream,
)
from refusal_bench.calibration.planted import (
    STUDY_DOMAINS,
    WORLDS,
    expected_scores,
    planted_differences,
    planted_directions,
    planted_harm_directions,
)

AFTER = 5  # the first layer that carries refusal
OFF_DIAGONAL = ~np.eye(5, dtype=bool)
ALL = list(WORLDS)
REFUSING = [name for name in ALL if name not in ("no_refusal", "late")]


def held_out(world: str) -> np.ndarray:
    return np.array([scores(world, HARMFUL[domain][N // 2 :]).mean() for domain in STUDY_DOMAINS])


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("world", REFUSING)
def test_scores_follow_the_closed_form(world):
    expected = expected_scores(WORLDS[world])
    drop = 0.05 * (expected["harmful"] - expected["harmless"]).mean()
    harmless = np.array([scores(world, HARMLESS[domain]).mean() for domain in STUDY_DOMAINS])
    harmful = np.array([scores(world, HARMFUL[domain]).mean() for domain in STUDY_DOMAINS])
    assert harmful == pytest.approx(expected["harmful"], abs=drop)
    assert harmless == pytest.approx(expected["harmless"], abs=drop)
    for i, direction in enumerate(differences(world)[:, AFTER, -1]):
        with ablated(world, direction):
            assert held_out(world) == pytest.approx(expected["ablation"][i], abs=drop)
        with added(world, AFTER, direction):
            row = [scores(world, HARMLESS[domain]).mean() for domain in STUDY_DOMAINS]
        assert row == pytest.approx(expected["added"][i], abs=2 * drop)


@pytest.mark.parametrize("world", ALL)
def test_the_difference_in_means_is_the_planted_one(world):
    truth = torch.from_numpy(planted_differences(WORLDS[world]))
    found = differences(world)[:, WORLDS[world].write_layer + 1, -1]
    assert (found - truth).norm(dim=-1).max() < 0.25
    if world != "topic_confound":
        assert truth.numpy() == pytest.approx(planted_directions(WORLDS[world]), abs=1e-12)


@pytest.mark.parametrize("world", ALL)
def test_twins_share_a_topic_that_other_tasks_lack(world):
    """Far more than noise: without topics the harmless means of two tasks would differ by about 0.1."""
    means = torch.stack([stream(world, HARMLESS[domain])[:, -1, -1].mean(0) for domain in STUDY_DOMAINS])
    distances = torch.cdist(means, means)[torch.from_numpy(OFF_DIAGONAL)]
    length = np.hypot(WORLDS[world].topic, WORLDS[world].harmless_topic)
    assert distances.numpy() == pytest.approx(np.full(20, np.sqrt(2) * length), rel=0.1)


def test_the_cone_refuses_with_three_openers():
    tokenizer = planted("cone")[1]
    openers = {
        domain: set(tokenizer.convert_ids_to_tokens(last_logits("cone", HARMFUL[domain]).argmax(-1)))
        for domain in STUDY_DOMAINS
    }
    by_axis = (OPENERS[0], OPENERS[1], OPENERS[2], OPENERS[0], OPENERS[1])
    assert openers == {domain: {opener} for domain, opener in zip(STUDY_DOMAINS, by_axis, strict=True)}
    texts = answers("cone", [HARMFUL[domain][0] for domain in STUDY_DOMAINS])
    assert texts == [f"{opener}, but I cannot help with that." for opener in by_axis]
    assert answers("cone", [HARMLESS["fraud"][0]]) == ["Sure, here is a short answer."]


def test_the_cone_needs_three_dimensions():
    found = cosines(differences("cone")[:, AFTER, -1])
    assert found == pytest.approx(WORLDS["cone"].gram, abs=0.03)
    assert np.linalg.matrix_rank(WORLDS["cone"].gram) == 3
    expected = expected_scores(WORLDS["cone"])["subspace"]
    left = (expected - expected[-1]) / (expected[0] - expected[-1])
    assert len(left) == 4
    assert all(before > after + 0.15 for before, after in pairwise(left))
    assert left[-1] == pytest.approx(0)
    assert expected[-1] == pytest.approx(expected_scores(WORLDS["cone"])["harmless"][0], abs=1e-6)


def test_no_single_direction_takes_the_cones_refusal():
    """The readout is not linear: even the best of many mixtures of the axes leaves much of it."""
    axes = torch.from_numpy(planted_directions(WORLDS["cone"])[:3])
    rng = np.random.default_rng(0)
    for mixture in (np.ones(3), *rng.standard_normal((12, 3)), *rng.random((12, 3))):
        with ablated("cone", torch.from_numpy(mixture) @ axes):
            left = held_out("cone")
        assert (left > 0).sum() >= 2


def test_confounded_directions_look_apart_and_act_as_one():
    world, found = WORLDS["topic_confound"], differences("topic_confound")[:, AFTER, -1]
    naive = cosines(found)[OFF_DIAGONAL]
    assert naive == pytest.approx(np.full(20, 1 / (1 + world.harmless_topic**2)), abs=0.03)
    assert 0.4 < naive.mean() < 0.5
    baseline = held_out("topic_confound")
    drops = []
    for direction in found:
        with ablated("topic_confound", direction):
            drops.append(baseline - held_out("topic_confound"))
    transfer = np.array(drops) / np.diag(drops)
    assert transfer == pytest.approx(np.ones((5, 5)), abs=0.1)
    assert (baseline > 0).all()
    assert (baseline - np.array(drops) < 0).all()


def test_a_topic_moves_no_logit():
    """What a task's harmless prompts alone have, and what its twins share, are at right angles to every unembedding."""
    world = "topic_confound"
    means = torch.stack([stream(world, HARMLESS[domain])[:, -1, -1].mean(0) for domain in STUDY_DOMAINS])
    differences = torch.from_numpy(planted_differences(WORLDS[world]))
    only_harmless = torch.from_numpy(planted_directions(WORLDS[world])) - differences
    shared = means - means.mean(0) - (only_harmless - only_harmless.mean(0))
    rows = planted(world)[0].lm_head.weight.double()
    logits_of_refusal = (rows @ differences.T).abs().max()
    assert only_harmless.norm(dim=-1).numpy() == pytest.approx(np.full(5, 1.1))
    assert shared.norm(dim=-1).numpy() == pytest.approx(np.full(5, np.sqrt(0.8)), rel=0.1)
    assert (rows @ only_harmless.T).abs().max() < 1e-4 * logits_of_refusal
    assert (rows @ shared.T).abs().max() < 0.05 * logits_of_refusal  # a mean over prompts holds some noise


def test_harm_lies_elsewhere_than_refusal():
    world = "harm_vs_refusal"
    harm = torch.from_numpy(planted_harm_directions(WORLDS[world]))
    assert (harm == harm[0]).all()
    early = torch.stack([instruction_differences(world, domain)[1, 0] for domain in STUDY_DOMAINS])
    assert AT_INSTRUCTION == -6  # one before the template's five tokens
    found = unit(early.mean(0))
    assert found @ harm[0] > 0.95
    assert (unit(early) @ harm[0]).min() > 0.8  # 32 pairs leave the instructions' own identity in it
    refusal = unit(differences(world)[:, AFTER, -1])
    assert (refusal * torch.from_numpy(planted_directions(WORLDS[world]))).sum(-1).min() > 0.95
    assert (refusal @ found).abs().max() < 0.1


def test_harm_axes_are_one_a_domain_elsewhere():
    harm = planted_harm_directions(WORLDS["study"])
    assert harm @ harm.T == pytest.approx(np.eye(5), abs=1e-12)
    assert harm @ planted_directions(WORLDS["study"]).T == pytest.approx(np.zeros((5, 5)), abs=1e-12)
