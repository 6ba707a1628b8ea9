from __future__ import annotations

import io
from typing import Any

import pytest
from record_factory import make_record, make_record_of_0_1, record_dict
from refusal_bench.console import print_leaderboard, print_summary
from refusal_bench.leaderboard.rows import rows_of
from refusal_bench.record import Record
from rich.console import Console

STUDY = ("weapons", "violence", "self_harm", "privacy", "fraud")


def summary(record: Record, width: int = 100, **options: Any) -> str:
    file = io.StringIO()
    print_summary(record, Console(file=file, width=width, **options))
    return file.getvalue()


def line_of(text: str, start: str, after: str) -> str:
    return next(line for line in text[text.index(after) :].splitlines() if line.startswith(start))


def test_numbers_stand_where_they_belong() -> None:
    record = make_record(STUDY, n=40)
    text = summary(record)
    assert record.model.id in text
    assert record.results.geometry is not None
    assert record.results.geometry.verdict in text
    refusal = record.results.tasks["privacy"].refusal
    line = line_of(text, "privacy", "Refusal rate in % on held-out")
    for condition in (refusal.baseline_harmful, refusal.ablated_harmful, refusal.added_harmless):
        assert condition.rate is not None
        assert condition.ci95 is not None
        low, high = (f"{100 * end:.0f}" for end in condition.ci95)
        assert f"{100 * condition.rate:.0f} [{low}–{high}]" in line
    cross = record.results.cross_domain
    assert cross is not None
    line = line_of(text, "weapons", "Refusal rate in % on the column")
    for rate, share in zip(cross.ablation.refusal_rate[0], cross.transfer[0], strict=True):
        assert f"{100 * rate:.0f} ({share:.2f})" in line  # type: ignore[operator]
    assert "random (mean of 3)" in text
    assert "−1 \\n" in line_of(text, "fraud", "Direction of each domain")


def test_every_pair_of_domains_is_said_in_words_with_the_pairs_it_would_take() -> None:
    record = make_record()
    geometry = record.results.geometry
    assert geometry is not None
    text = summary(record, width=200)
    for sentence in geometry.comparisons or []:
        pair, said = sentence.split(": ")
        assert said.replace(", ", ",") in line_of(text, pair, "What the data say").replace(", ", ",")
    assert "fraud 80, privacy 81, weapons 82" in text
    assert line_of(text, "one direction", "Explained variance").split()[2:5] == ["[80–90]", "[1–10]", "[1–10]"]
    data = record.model_dump()
    data["results"]["geometry"]["pairs_needed"][1] = None
    assert "fraud 80, privacy –, weapons 82" in summary(Record.model_validate(data), width=200)


def test_a_record_of_before_these_fields_is_still_shown() -> None:
    text = summary(make_record_of_0_1())
    assert "What the data say" not in text
    assert "Explained variance" in text
    assert "None" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_it_is_plain_and_fits_without_a_terminal(width: int) -> None:
    text = summary(make_record((*STUDY[:4], "cybercrime"), n=100), width=width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\ncybercrime ") == 4  # a row in every table by domain: no name is broken or cut
    assert all(line.count("[") == line.count("]") for line in text.splitlines())  # no interval is broken


def test_a_terminal_gets_shading() -> None:
    assert "\x1b[30;48;2;" in summary(make_record(), force_terminal=True, color_system="truecolor")


def test_missing_parts_say_why() -> None:
    text = summary(make_record(("fraud",), sections=("layers",)))
    assert "Geometry: Not measured: it needs at least two domains" in text
    assert "Cross domain: Left out" in text
    assert "Subspace: Left out" in text
    record = make_record()
    results = record.results.model_copy(update={"geometry": None})
    why = "geometry: null, fewer than two domains have a direction"
    assert why in summary(record.model_copy(update={"results": results, "warnings": [why]}))


def test_nulls_are_dashes() -> None:
    data = record_dict()
    for name in ("bypass", "induce", "kl"):
        data["results"]["tasks"]["fraud"]["selection"][name] = None
    data["results"]["cross_domain"]["transfer"][0][1] = None
    data["results"]["geometry"]["pca"]["centred"] = dict.fromkeys(data["results"]["geometry"]["pca"]["centred"])
    text = summary(Record.model_validate(data))
    assert line_of(text, "fraud", "Direction of").split()[5:8] == ["–", "–", "–"]
    assert "(–)" in text
    assert line_of(text, "centred", "Explained variance").split() == ["centred", "–", "–", "–", "–"]
    assert "None" not in text


def test_no_direction_incomplete_and_quick_are_said() -> None:
    record = make_record(no_direction=("privacy",), quick=True).model_copy(update={"status": "incomplete"})
    text = summary(record)
    assert "no_direction" in line_of(text, "privacy", "Direction of")
    assert record.results.tasks["privacy"].reason in text  # type: ignore[operator]
    assert "INCOMPLETE" in text
    assert "quick: smaller samples" in text


@pytest.mark.parametrize("hostile", ["[bold]x[/bold]", "[/INST]", "a\x1b[2Jb"])
def test_text_from_the_record_cannot_steer_the_terminal(hostile: str) -> None:
    data = record_dict(("fraud", "weapons", hostile), model_id=hostile)
    data["warnings"] = [hostile]
    data["model"]["post_instruction_tokens"] = [hostile] * 3
    text = summary(Record.model_validate(data))
    assert "\x1b" not in text
    assert hostile.replace("\x1b", "\\x1b") in text


def test_the_leaderboard_shows_rates_in_percent() -> None:
    record = make_record(no_direction=("fraud",))
    file = io.StringIO()
    print_leaderboard(rows_of(record), Console(file=file, width=120))
    rate = record.results.tasks["fraud"].refusal.baseline_harmful.rate
    text = file.getvalue()
    assert record.run_id in text
    assert line_of(text, "fraud", record.run_id).split()[1:3] == ["no_direction", f"{100 * rate:.0f}"]  # type: ignore[operator]


def test_an_empty_leaderboard_says_so() -> None:
    file = io.StringIO()
    print_leaderboard([], Console(file=file))
    assert "empty" in file.getvalue()
