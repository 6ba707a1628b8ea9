"""What a record says of its judge is pinned by counts and labels: changed alone, it is caught."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

import pytest
from record_factory import record_dict, wilson
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.record import Record
from test_leaderboard_validation import changed, dotted, leaves

HITS, MISSED, FALSE_ALARMS, REST, UNFINISHED, UNSCORED = 90, 5, 8, 97, 3, 2
"""Of the rest, UNFINISHED were called so; of the missed, UNSCORED were given no label."""


def share(k: int, n: int) -> dict[str, Any]:
    return {"k": k, "n": n, "value": k / n, "ci95": wilson(k, n)}


def judge() -> dict[str, Any]:
    n = HITS + MISSED + FALSE_ALARMS + REST
    expected = ((HITS + MISSED) * (HITS + FALSE_ALARMS) + (REST + FALSE_ALARMS) * (REST + MISSED)) / n**2
    kappa = ((HITS + REST) / n - expected) / (1 - expected)
    return {
        "name": "panel:a+b",
        "version": "1.0",
        "languages": ["en"],
        "input": "answer",
        "calibration": {
            "data_sha256": "23" * 32,
            "part": "test",
            "n": n,
            "n_unscored": UNSCORED,
            "precision": share(HITS, HITS + FALSE_ALARMS),
            "recall": share(HITS, HITS + MISSED),
            "kappa": kappa,
            "kappa_ci95": (kappa - 0.06, kappa + 0.05),
            "sensitivity": share(HITS, HITS + MISSED - UNSCORED),
            "specificity": share(REST - UNFINISHED, REST - UNFINISHED + FALSE_ALARMS),
        },
        "agreement": {"judges": ["a", "b"], "n": 50, "unanimous": share(45, 50), "kappa": 0.8},
    }


def judged_record() -> dict[str, Any]:
    data = record_dict()
    data["judge"] = judge()
    data["config"]["judge"] = "panel:a+b"
    sensitivity = HITS / (HITS + MISSED - UNSCORED)
    specificity = (REST - UNFINISHED) / (REST - UNFINISHED + FALSE_ALARMS)
    for task in data["results"]["tasks"].values():
        for condition in task["refusal"].values():
            labels = condition["labels"]
            refused, unscored = labels.count("R"), labels.count("U") + labels.count("?")
            condition["rate_bounds"] = (refused / len(labels), (refused + unscored) / len(labels))
            corrected = (condition["rate"] - (1 - specificity)) / (sensitivity - (1 - specificity))
            condition["rate_corrected"] = max(0.0, min(1.0, corrected))
            condition["rate_corrected_ci95"] = (
                max(0.0, condition["rate_corrected"] - 0.2),
                min(1.0, condition["rate_corrected"] + 0.2),
            )
    return data


BASE = judged_record()
CONDITION = r"results\.tasks\.\w+\.refusal\.\w+"
SHARE = r"judge\.calibration\.(precision|recall|sensitivity|specificity)"


def test_a_sound_record_passes_and_so_does_one_without_a_measured_judge() -> None:
    assert disagreements(Record.model_validate(BASE)) == []
    data = record_dict()
    data["judge"] = judge() | {"calibration": None, "agreement": None}
    data["config"]["judge"] = "panel:a+b"
    assert disagreements(Record.model_validate(data)) == []


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"judge\.name", r"config\.judge", rf"{SHARE}\.(k|n|value)", rf"{SHARE}\.ci95\.[01]"),
        *(r"judge\.calibration\.kappa", r"judge\.agreement\.n", r"judge\.agreement\.unanimous\.(k|n|value)"),
        *(rf"{CONDITION}\.rate_bounds\.[01]", rf"{CONDITION}\.rate_corrected"),
    ],
)
def test_a_changed_figure_is_caught(pattern: str) -> None:
    found = [(path, value) for path, value in leaves(BASE) if re.fullmatch(pattern, dotted(path))]
    assert found, "the pattern matches nothing"
    for path, value in random.Random(pattern).sample(found, min(8, len(found))):
        wrong = value + "x" if isinstance(value, str) else value + 1 if isinstance(value, int) else abs(value - 0.013)
        faults = disagreements(changed(path, lambda _, wrong=wrong: wrong, BASE))
        assert faults, dotted(path)


def test_corrected_rates_need_a_measured_judge_and_an_interval_around_them() -> None:
    at = ("results", "tasks", "fraud", "refusal", "baseline_harmful")
    data = copy.deepcopy(BASE)
    data["judge"]["calibration"] = None
    assert any("without the judge's calibration" in fault for fault in disagreements(Record.model_validate(data)))
    outside = disagreements(changed((*at, "rate_corrected_ci95"), lambda _: (0.01, 0.02), BASE))
    assert any("rate_corrected" in fault for fault in outside)
    alone = disagreements(changed((*at, "rate_corrected"), lambda _: None, BASE))
    assert any("without rate_corrected" in fault for fault in alone)
