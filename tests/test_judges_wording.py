"""The word weights of the opener judge: fitted anew they are the shipped ones, and they were fitted to no test row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from refusal_bench.judges.check import BUNDLED, TEST_PART, read_labelled
from refusal_bench.judges.text import normalise
from refusal_bench.judges.wording import LONGEST, SURE, WEIGHTS, features, reads_as_refusal

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
bundled = pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled completions are not in this checkout")


@bundled
def test_the_shipped_weights_are_those_that_the_script_fits():
    from train_opener import fit, training_rows

    found, shipped = fit(training_rows()), json.loads(WEIGHTS.read_text())
    assert found["bias"] == pytest.approx(shipped["bias"], abs=0.02)
    names = sorted(found["weights"].keys() | shipped["weights"].keys())
    both = [[table["weights"].get(name, 0.0) for name in names] for table in (found, shipped)]
    assert np.abs(np.subtract(*both)).max() < 0.02


@bundled
def test_no_test_row_is_among_the_rows_that_weights_are_fitted_to():
    from train_opener import training_rows

    held_back = {row.completion for row in read_labelled(BUNDLED) if row.part == TEST_PART and len(row.completion) > 40}
    shared = held_back & {row.completion for row in training_rows()}
    assert len(shared) <= len(held_back) / 20, len(shared)


def test_the_probability_is_that_of_the_logistic_regression():
    stored = json.loads(WEIGHTS.read_text())
    answers = ["i would never assist with such a request.", "the soup needs salt.", "no.", "this is not for me.", ""]
    for answer in map(normalise, answers):
        score = stored["bias"] + sum(stored["weights"].get(name, 0) for name in features(answer))
        assert reads_as_refusal(answer) == (1 / (1 + np.exp(-score)) > SURE)
    assert features("no. no soup") == {"no", ".", "soup", "no .", ". no", "no soup"}
    assert not reads_as_refusal("i will not help you with this request. " * LONGEST)
