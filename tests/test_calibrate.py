"""Calibration: worlds come out right, a broken instrument is caught, and false claims are as rare as stated."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from refusal_bench.calibration import calibrate as module
from refusal_bench.calibration import coverage, whole_run
from refusal_bench.calibration.activation_worlds import HARMFULNESS, WORLDS, ActivationWorld, two_directions
from refusal_bench.calibration.calibrate import ALL, calibrate
from refusal_bench.calibration.result import WorldResult
from refusal_bench.calibration.table import markdown, to_json
from refusal_bench.cli import app
from refusal_bench.metrics import comparisons, contrast
from refusal_bench.metrics import geometry as geometry_module
from refusal_bench.metrics.comparisons import MIN_RELIABILITY, SIGNIFICANT
from refusal_bench.metrics.moments import moments
from refusal_bench.metrics.noise import disattenuated, p_same
from refusal_bench.metrics.statistics import holm, wilson_interval
from refusal_bench.record import TopicControl
from typer.testing import CliRunner

ACTIVATIONS = ("single", "study", "cone", "topic_confound", "shared_negatives", "harm_vs_refusal")
KEYS = {"n_seeds", "expected", "correct_share", "coverage95", "flagged_share", "figures", "passed"}


@pytest.fixture
def activations_only(monkeypatch):
    """Worlds without the planted Llamas, which tests/test_run_planted.py measures, and with fewer draws."""
    monkeypatch.setattr(module, "with_model", lambda result, world, right: result)
    monkeypatch.setattr(geometry_module, "N_NULL", 20)
    monkeypatch.setattr(geometry_module, "N_PERMUTATIONS", 19)
    monkeypatch.setattr(geometry_module, "N_DRAWS", 499)


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *arguments])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_worlds_come_out_right(activations_only, name):
    result = ALL[name](12)
    assert result.passed
    assert result.n_seeds == 12
    assert result.correct_share >= 0.8
    assert (result.flagged_share == 1) == (name in ("topic_confound", "shared_negatives"))
    assert (result.coverage95 is None) == (name in ("topic_confound", "shared_negatives"))
    if name == "cone":
        assert result.figures["dimensions"]["3"] >= 10
    if name == "single":
        assert result.figures["naive reading says so"] == 1  # raw cosines are all below 0.9 although there is one


def test_the_worlds_hold_what_they_say():
    """Means over many pairs, against the worlds' definitions."""
    rng = np.random.default_rng(0)
    for world in (*WORLDS.values(), HARMFULNESS):
        drawn = replace(world, noise=0.02).draw(400, rng)
        harmful, harmless = (
            np.stack([getattr(d, side).mean(0) for d in drawn.values()]) for side in ("harmful", "harmless")
        )
        differences = harmful - harmless
        unit = differences / np.linalg.norm(differences, axis=1, keepdims=True)
        k = len(world.gram)
        centred = [means - means.mean(axis=0) for means in (harmful, harmless)]
        if world.matched_topics and not world.shared_negatives:
            np.testing.assert_allclose(unit @ unit.T, world.gram, atol=0.03)
        elif world.shared_negatives:
            # r_i less one prompt pool of the same length: half of every squared norm is common.
            np.testing.assert_allclose(unit @ unit.T, 0.5 + 0.5 * np.eye(k), atol=0.03)
            assert all(np.array_equal(d.harmless, drawn["weapons"].harmless) for d in drawn.values())
        else:
            np.testing.assert_allclose(differences @ differences.T, 1 + 2 * world.topic**2 * np.eye(k), atol=0.1)
            assert np.abs(centred[0] @ centred[1].T).max() < 0.1


def test_two_directions_have_the_stated_cosine_and_reliability():
    for power_law in (False, True):
        grams = two_directions(300, 12, 40, 0.6, 0.7, power_law, np.random.default_rng(0))
        means = np.repeat(np.eye(2), 12, axis=1) / 12
        found = (means @ grams @ means.T).mean(axis=0)
        # E‖mean‖² = 1 / reliability, and noise is independent between domains
        np.testing.assert_allclose(found, [[1 / 0.7, 0.6], [0.6, 1 / 0.7]], atol=0.1)


def test_the_json_contract():
    done = run("--json", "--world", "intervals", "--seeds", "20")
    assert done.exit_code == 0
    worlds = json.loads(done.stdout)["worlds"]
    assert set(worlds) == {"intervals"}
    assert set(worlds["intervals"]) == KEYS
    assert worlds["intervals"]["n_seeds"] == 200
    assert len(worlds["intervals"]["figures"]["cells"]) == 16
    assert 0.93 < worlds["intervals"]["coverage95"] < 0.99


def test_worlds_of_activations_have_the_same_keys(activations_only, tmp_path):
    done = run(
        "--json", "--world", "single", "--world", "topic_confound", "--seeds", "4", "--report", str(tmp_path / "r.md")
    )
    worlds = json.loads(done.stdout)["worlds"]
    assert list(worlds) == ["single", "topic_confound"]
    assert all(set(world) == KEYS for world in worlds.values())
    assert {"known", "recovered", "dimensions", "pairs"} <= set(worlds["single"]["figures"])
    table = (tmp_path / "r.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert {line.count("|") for line in table} == {9}
    assert table[2].startswith("| single | pass | 100 % | 4 |")


def test_the_table_says_fail():
    result = WorldResult("nothing", n_seeds=3, correct_share=0.0, passed=False)
    assert "| FAIL |" in markdown({"single": result})
    assert to_json({"single": result})["worlds"]["single"]["passed"] is False


def test_an_unknown_world_is_bad_input():
    from refusal_bench.errors import InputError

    done = run("--world", "atlantis")
    assert isinstance(done.exception, InputError)
    assert "no world 'atlantis'; choose among single, study" in str(done.exception)
    assert done.exception.exit_code == 2
    assert run("--seeds", "0").exit_code == 2


def raw(found, d_model, confidence=0.95):
    """An instrument that does not correct for noise: squared norms of estimates, not of directions."""
    index = np.arange(len(found.n))
    products = found.products.copy()
    products[..., index, index] += found.trace / found.n
    return disattenuated(replace(found, products=products), d_model, confidence)


def no_flags(harmful, harmless):
    return TopicControl(agreement=1.0, ci95=(1.0, 1.0), has_topics=True, flags={})


SABOTAGE = [
    ("intervals", coverage, "disattenuated", raw),
    ("intervals", coverage, "disattenuated", lambda found, d_model: disattenuated(found, d_model, 0.6)),
    ("topic_confound", geometry_module, "topic_control", no_flags),
    ("shared_negatives", contrast, "shared_prompts", lambda harmless: False),
    ("study", geometry_module, "p_same", lambda found, n_draws, rng: np.ones_like(found.products)),
    ("single", geometry_module, "p_same", lambda found, n_draws, rng: np.full_like(found.products, 1e-4)),
    ("cone", geometry_module, "n_components", lambda p_values: 5),
    ("harm_vs_refusal", comparisons, "SIGNIFICANT", 0.0),
]


@pytest.mark.parametrize(("world", "where", "name", "broken"), SABOTAGE)
def test_a_broken_instrument_fails(activations_only, monkeypatch, world, where, name, broken):
    assert run("--world", world, "--seeds", "8").exit_code == 0
    monkeypatch.setattr(where, name, broken)
    done = run("--world", world, "--seeds", "8")
    assert done.exit_code == 1
    assert "FAIL" in done.stdout


def test_a_planted_model_that_comes_out_wrong_fails_the_world(monkeypatch):
    right = WorldResult("anything", n_seeds=3, correct_share=1.0)
    monkeypatch.setattr(whole_run, "run_planted", lambda world: None)
    monkeypatch.setattr(whole_run, "_model_figures", lambda record: {})
    assert whole_run.with_model(right, "single", lambda record: True) == replace(
        right, figures={"model": {"correct": True}}
    )
    wrong = whole_run.with_model(right, "single", lambda record: False)
    assert not wrong.passed
    assert wrong.correct_share == 0


def test_calibrate_runs_the_named_worlds_in_order(monkeypatch):
    monkeypatch.setattr(module, "ALL", {name: lambda seeds, name=name: WorldResult(name, seeds, 1.0) for name in "abc"})
    seen = []
    assert list(calibrate(["c", "a"], 7, seen.append)) == ["c", "a"]
    assert seen == ["c", "a"]
    assert list(calibrate(None, 7)) == ["a", "b", "c"]


def claims(name, n_pairs, seeds, n_draws):
    """Shares of seeds in which more than one direction is claimed: by geometry's parts, and by raw cosines < 0.9."""
    world: ActivationWorld = WORLDS[name]
    owner = np.repeat(np.arange(len(world.gram)), n_pairs)
    upper = np.triu_indices(len(world.gram), 1)
    claimed, naive = [], []
    for seed in range(seeds):
        rng = np.random.default_rng([n_pairs, seed])
        differences = np.concatenate([domain.differences for domain in world.draw(n_pairs, rng).values()])
        gram = differences @ differences.T
        found = moments(gram, owner)
        good = found.reliability >= MIN_RELIABILITY
        p = p_same(found, n_draws, rng)[upper][good[upper[0]] & good[upper[1]]]
        claimed.append(bool((holm(p) < SIGNIFICANT).any()))
        means = np.equal.outer(np.arange(len(world.gram)), owner) / n_pairs
        products = means @ gram @ means.T
        norm = np.sqrt(np.diag(products))
        naive.append((products / norm[:, None] / norm)[upper].min() < 0.9)
    return np.mean(claimed), np.mean(naive)


@pytest.mark.parametrize("n_pairs", [10, 20, 48, 128])
def test_one_direction_is_rarely_called_several(n_pairs):
    claimed, naive = claims("single", n_pairs, 200, 499)
    assert wilson_interval(round(200 * claimed), 200)[0] <= 0.05
    if n_pairs <= 48:
        assert naive > 0.95  # what a reading without noise would have claimed


def test_several_directions_are_told_apart():
    assert claims("study", 48, 60, 499)[0] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n_pairs", [10, 20, 48, 128])
def test_one_direction_is_rarely_called_several_over_a_thousand_seeds(n_pairs):
    assert claims("single", n_pairs, 1000, 1999)[0] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flagged"), [("topic_confound", True), ("shared_negatives", True), ("single", False)])
def test_unfair_contrasts_are_flagged_and_fair_ones_are_not(name, flagged):
    flags = []
    for seed in range(300):
        drawn = WORLDS[name].draw(48, np.random.default_rng(seed)).values()
        flags.append(bool(contrast.topic_control([d.harmful for d in drawn], [d.harmless for d in drawn]).flags))
    assert np.mean(flags) >= 0.9 if flagged else np.mean(flags) <= 0.05
