"""The agreement of screened and exact selection: what is counted, and that a wrong choice is found out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from refusal_bench.config import RunConfig
from refusal_bench.models.loading import load_model
from refusal_bench.prompts import planted_prompts
from refusal_bench.tasks import load_tasks

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import screened
import selection


def run(capsys, *arguments):
    screened.main([*arguments, "--domains", "fraud", "--prompts", "4", "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_cases_with_and_without_a_direction_count_apart(capsys, tmp_path):
    file = tmp_path / "result.json"
    result = run(capsys, "--models", "planted,planted:late", "--seeds", "0", "--save", str(file))
    assert json.loads(file.read_text()) == result
    assert result["n_cases"] == 2
    assert result["found"] == {"both": 1, "neither": 1, "exact_only": 0, "screened_only": 0}
    assert [result[name]["n"] for name in screened.GROUPS] == [1, 1, 0]
    assert result["models"]["planted:late"]["no_direction"]["agree"] == 1
    assert result["all_scanned"]["share"] is None
    for name in ("direction", "no_direction"):
        low, high = result[name]["ci95"]
        assert low < result[name]["share"] <= high
        assert 0 < result[name]["work_ratio"] < 1
    assert result["direction"]["agree"] + len(result["misses"]) == 1
    assert result["winner_ranked_first"]["8"] >= result["direction"]["agree"]
    assert result["machine"]["torch"]


def test_a_choice_that_is_wrong_is_listed_with_what_it_costs(capsys, monkeypatch):
    right = screened.estimated_change
    monkeypatch.setattr("refusal_bench.race.estimated_change", lambda *given: -right(*given))
    monkeypatch.setattr("refusal_bench.race.cannot_win", lambda *given, best: True)
    result = run(capsys, "--models", "planted", "--seeds", "0")
    (miss,) = result["misses"]
    assert miss["exact"] != miss["screened"]
    assert miss["cost"] == pytest.approx(miss["bypass"]["screened"] - miss["bypass"]["exact"])
    assert miss["cost"] > 0
    assert miss["rank"] < 20  # by the estimate as it should be: 15 of the 35 candidates come before the planted write
    assert result["miss_cost_nats"] == {"median": miss["cost"], "max": miss["cost"]}
    assert result["direction"]["agree"] == 0


def test_a_direction_that_only_one_finds_is_a_miss_without_a_cost():
    row = {
        "model": "m",
        "group": "direction",
        "exact": [5, -1],
        "screened": None,
        "agree": False,
        "rank": 30,
        "bypass": {"exact": -3.0, "screened": -4.0},
        "tokens": {"exact": 100, "screened": 50},
    }
    same = row | {"screened": [5, -1], "agree": True, "rank": 0, "tokens": {"exact": 300, "screened": 50}}
    result = screened.summarise([row, same], {})
    assert result["found"] == {"both": 1, "neither": 0, "exact_only": 1, "screened_only": 0}
    assert [miss["cost"] for miss in result["misses"]] == [None]
    assert result["miss_cost_nats"] is None
    assert (result["direction"]["share"], result["direction"]["work_ratio"]) == (0.5, 0.25)
    assert result["winner_ranked_first"] == {"1": 1, "8": 1}


def test_where_everything_is_scanned_in_any_case_agreement_says_nothing():
    assert screened.group(True, 8) == screened.group(False, 8) == "all_scanned"
    assert (screened.group(True, 9), screened.group(False, 9)) == ("direction", "no_direction")


def test_a_seed_draws_another_planted_model_and_seed_0_the_usual_one():
    tasks = load_tasks("fraud")
    usual = load_model(RunConfig(model="planted", device="cpu", dtype="float32"), planted_prompts(tasks))
    first, second = (selection.load("planted", tasks, seed).weights_sha256 for seed in (0, 1))
    assert first == usual.weights_sha256 != second
