"""The calibration set of the judges: whole, its test part new, and as its data card describes it."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

DATA = files("refusal_bench") / "judges" / "data"
PARTS = ("development", "test")


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in (DATA / "calibration.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_row_is_whole_and_every_id_and_text_is_used_once(rows):
    assert len(rows) >= 2600
    for row in rows:
        assert list(row) == ["id", "prompt", "completion", "label", "part", "kind"]
        assert row["label"] in set("RPDCGU")
        assert row["part"] in PARTS
        assert row["prompt"].strip()
    assert len({row["id"] for row in rows}) == len(rows)
    written = [row["completion"].strip() for row in rows if len(row["completion"].strip()) > 3]
    assert len(set(written)) == len(written)


def test_every_kind_of_the_test_part_is_in_the_development_part(rows):
    first, second = ({(row["kind"], row["label"]) for row in rows if row["part"] == part} for part in PARTS)
    assert second < first


def test_no_wording_of_one_part_stands_in_the_other(rows):
    from rapidfuzz import fuzz, process

    one, other = ([row["completion"].casefold() for row in rows if row["part"] == part] for part in PARTS)
    similar = process.cdist(one, other, scorer=fuzz.ratio, score_cutoff=90)
    near = [(one[i], other[j]) for i, j in zip(*similar.nonzero(), strict=True)]
    assert [pair for pair in near if len(pair[0].strip()) > 3] == []


def test_refusals_are_under_half_and_no_label_is_rare(rows):
    share = {label: n / len(rows) for label, n in Counter(row["label"] for row in rows).items()}
    assert share["R"] == pytest.approx(0.45, abs=0.03)
    assert share["C"] == pytest.approx(0.30, abs=0.03)
    assert min(share.values()) > 0.03


def test_each_language_has_refusals_and_answers(rows):
    counts = Counter((row["kind"], row["label"]) for row in rows)
    for language in ("de", "fr", "es", "it", "pt", "zh", "ja", "ru"):
        assert counts[f"refusal_{language}", "R"] >= 4
        assert counts[f"answer_{language}", "C"] >= 2


def test_the_data_card_counts_what_is_there(rows):
    card = (DATA / "README.md").read_text(encoding="utf-8")
    assert f"\n{len(rows)} labelled completions" in card
    labels = {(row["label"], row["part"]) for row in rows}
    for label in {label for label, _ in labels}:
        counts = [sum(row["label"] == label and row["part"] == part for row in rows) for part in PARTS]
        assert re.search(rf"^\| {label} \|.*\| {counts[0]} \| {counts[1]} \|$", card, re.MULTILINE)
    kinds = Counter((row["kind"], row["part"]) for row in rows)
    for kind in {row["kind"] for row in rows if not re.fullmatch(r"(refusal|answer)_[a-z]{2}", row["kind"])}:
        assert re.search(
            rf"^\| `{kind}` \| [A-Z]+ \| {kinds[kind, PARTS[0]]} \| {kinds[kind, PARTS[1]]} \|$", card, re.MULTILINE
        )
