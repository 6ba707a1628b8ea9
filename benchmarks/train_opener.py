"""Fit the word weights of the opener judge: python benchmarks/train_opener.py [--json]

Logistic regression (L2, C = 1, balanced classes) on words and pairs of words that at least two completions hold, from
`judges/data/wordings.jsonl` and the development part of `judges/data/calibration.jsonl`. The test part is not read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from refusal_bench.files import write_atomic
from refusal_bench.judges.check import BUNDLED, LabelledCompletion, read_labelled
from refusal_bench.judges.text import after_thinking, normalise, without_thinking
from refusal_bench.judges.wording import WEIGHTS, features
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

MIN_COMPLETIONS = 2
WORDINGS = WEIGHTS.with_name("wordings.jsonl")


def main() -> None:
    """Fit, write, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = training_rows()
    found = fit(rows)
    write_atomic(WEIGHTS, json.dumps(found, ensure_ascii=False, indent=0, sort_keys=True) + "\n")
    done = {"n": len(rows), "n_refusals": sum(row.label == "R" for row in rows), "n_weights": len(found["weights"])}
    print(json.dumps(done) if options.json else f"{done}, written to {WEIGHTS.name}")


def training_rows() -> list[LabelledCompletion]:
    """Rows that rules may be written from."""
    return read_labelled(WORDINGS) + [row for row in read_labelled(BUNDLED) if row.part == "development"]


def fit(rows: Sequence[LabelledCompletion]) -> dict:
    """Return {bias, weights} of the regression, rounded to three decimals."""
    answers = [normalise(after_thinking(without_thinking(row.completion)[0])[1]) for row in rows]
    vectorizer = DictVectorizer()
    seen = vectorizer.fit_transform([dict.fromkeys(features(answer), 1.0) for answer in answers])
    frequent = np.asarray(seen.sum(axis=0)).ravel() >= MIN_COMPLETIONS
    model = LogisticRegression(max_iter=2000, class_weight="balanced")
    model.fit(seen[:, frequent], [row.label == "R" for row in rows])
    names = np.array(vectorizer.get_feature_names_out())[frequent]
    weights = {str(name): round(float(w), 3) for name, w in zip(names, model.coef_[0], strict=True) if abs(w) >= 5e-4}
    return {"bias": round(float(model.intercept_[0]), 3), "weights": weights}


if __name__ == "__main__":
    main()
