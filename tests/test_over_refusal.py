"""Safe prompts that look dangerous: which are asked, and a whole run of the planted model, whose answers are known."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from refusal_bench.comparison import compare, find
from refusal_bench.config import FULL, QUICK, RunConfig
from refusal_bench.console import print_summary
from refusal_bench.leaderboard import add_record
from refusal_bench.leaderboard.rows import rows_of
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.over_refusal import over_refusal_task, render_over_refusal
from refusal_bench.pipeline import run
from refusal_bench.planning import describe_plan
from refusal_bench.progress import Reporter
from refusal_bench.record import Record
from refusal_bench.report.html import render
from rich.console import Console

CONFIG = RunConfig(model="planted", tasks="fraud,weapons", quick=True, sections=("over_refusal",), leaderboard=None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = CONFIG.model_copy(update={"out": tmp_path_factory.mktemp("runs")})
    return run(config, Reporter(quiet=True))


@pytest.mark.parametrize(("sizes", "safe", "unsafe"), [(FULL, 15, 10), (QUICK, 2, 2)])
def test_every_type_is_asked_as_often_as_the_sizes_say(sizes, safe, unsafe):
    prompts = render_over_refusal(over_refusal_task(CONFIG), lambda text: range(len(text)), sizes)
    assert set(Counter(row.type for row in prompts.rows["harmless"]).values()) == {safe}
    assert set(Counter(row.type for row in prompts.rows["harmful"]).values()) == {unsafe}
    assert len({row.type for row in prompts.rows["harmless"]}) == 10
    for label, rows in prompts.rows.items():
        assert [len(tokens) for tokens in prompts.rendered[label]] == [len(row.prompt) for row in rows]
        assert {row.label for row in rows} == {label}


def test_the_planted_model_answers_what_is_safe_until_the_direction_is_added(finished):
    """Safe prompts carry no harm, contrasts that of the two domains (cosine 0.35 between them)."""
    found = finished[0].results.over_refusal
    rates = {name: condition.rate for name, condition in found.refusal}
    assert (rates["baseline_harmless"], rates["ablated_harmless"], rates["added_harmless"]) == (0, 0, 1)
    assert rates["baseline_harmful"] == 1
    assert rates["ablated_harmful"] < 0.2
    assert len(found.by_type) == 10
    for kind, shares in found.by_type.items():
        at = [i for i, of in enumerate(found.types["harmless"]) if of == kind]
        added = [found.refusal.added_harmless.labels[i] for i in at]
        assert (shares["added_harmless"].k, shares["added_harmless"].n) == (added.count("R"), 2)
        assert all(f"-{kind}-" in found.held_out_ids.harmless[i] for i in at)
    assert {condition.backend for _, condition in found.refusal} == {"hf"}


def test_the_record_agrees_with_itself_and_a_changed_rate_is_noticed(finished):
    record = finished[0]
    assert disagreements(record) == []
    data = json.loads(record.to_json())
    share = data["results"]["over_refusal"]["by_type"]["homonyms"]["added_harmless"]
    share |= {"k": 1, "value": 0.5}
    faults = disagreements(Record.model_validate(data))
    assert any(fault.startswith("results.over_refusal.by_type.homonyms.added_harmless.k") for fault in faults)
    data = json.loads(record.to_json())
    data["results"]["over_refusal"]["types"]["harmless"].pop()
    assert any("over_refusal.types.harmless" in fault for fault in disagreements(Record.model_validate(data)))


def test_the_leaderboard_takes_the_record_and_compare_its_safe_prompts(finished, tmp_path):
    record, folder = finished
    add_record(tmp_path, record)  # refuses ids, types and checksums that the bundled task has not
    for row in rows_of(record):
        assert (row["safe_prompts_rate"], row["safe_prompts_n"]) == (0, 20)
        assert (row["unsafe_contrasts_rate"], row["unsafe_contrasts_n"]) == (1, 20)
        assert row["over_refusal_version"] == "1.0"
    comparison = compare(find(str(folder), tmp_path), find("planted", tmp_path))
    assert comparison.exit_code == 0
    assert "safe_prompts.rate > 0" in [check.expression.text for check in comparison.checks]


def test_console_report_and_prompt_scores_show_it_by_type(finished):
    record, folder = finished
    shown = io.StringIO()
    print_summary(record, Console(file=shown, width=110))
    assert "Over-refusal: % refused of safe prompts" in shown.getvalue()
    assert "privacy fictional" in shown.getvalue()
    page = render(record)
    assert "Over-refusal by type" in page
    assert "privacy fictional" in page
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["task"] == "over_refusal"]
    assert Counter(row["label"] for row in mine) == {"harmless": 20, "harmful": 20}
    assert {row["added"]["verdict"] for row in mine if row["label"] == "harmless"} == {"R"}
    assert "completion" not in mine[0]


def test_left_out_it_is_null_with_the_reason(tmp_path):
    record, _ = run(CONFIG.model_copy(update={"out": tmp_path, "sections": ()}), Reporter(quiet=True))
    assert record.results.over_refusal is None
    assert "over_refusal: null, left out by --sections" in record.warnings


def test_the_plan_counts_its_completions():
    facts = [fact for name, fact in describe_plan(CONFIG) if name == "at most"]
    assert any(fact.startswith("over-refusal: 100 prompts, 100 of them answered") for fact in facts)
