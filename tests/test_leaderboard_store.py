from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import re
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest
from record_factory import DOMAINS, condition, make_record, make_record_of_0_1, record_dict
from refusal_bench.errors import RefusalBenchError
from refusal_bench.leaderboard import add_record, load_records, store, table_faults
from refusal_bench.leaderboard.rows import COLUMNS, rows_of
from refusal_bench.record import Record, read_record
from scipy import stats

N_WRITERS, N_EACH = 3, 4


def read_csv(leaderboard: Path) -> list[dict[str, str]]:
    with (leaderboard / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(leaderboard: Path) -> list[dict[str, Any]]:
    lines = (leaderboard / "leaderboard.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def contradictory() -> Record:
    data = record_dict(run_id="forged")
    data["results"]["tasks"]["fraud"]["refusal"]["ablated_harmful"]["rate"] = 0.777
    return Record.model_validate(data)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = make_record()
    path = add_record(tmp_path, record)
    assert path == tmp_path / "records" / "example-org--example-1b-chat" / "20260102-030405-abcdef.json"
    assert read_record(path) == record


def test_tables_hold_one_row_a_task(tmp_path: Path) -> None:
    record = make_record(no_direction=("privacy",), quick=True)
    add_record(tmp_path, record)
    rows = read_jsonl(tmp_path)
    assert [row["task"] for row in rows] == list(DOMAINS)
    assert [row["task_status"] for row in rows] == ["ok", "no_direction", "ok"]
    assert all(list(row) == list(COLUMNS) for row in rows)
    fraud, results = rows[0], record.results
    condition = results.tasks["fraud"].refusal.added_harmless
    assert condition.ci95 is not None
    assert (fraud["added_harmless_rate"], fraud["added_harmless_score"]) == (condition.rate, condition.score)
    assert (fraud["added_harmless_rate_low"], fraud["added_harmless_rate_high"]) == condition.ci95
    assert fraud["quick"] is True
    assert fraud["n"] == 12
    assert results.geometry is not None
    assert results.cross_domain is not None
    cosine, transfer = results.geometry.cosine[0], results.cross_domain.transfer[0]
    assert fraud["mean_cosine"] == pytest.approx((cosine[1] + cosine[2]) / 2)  # type: ignore[operator]
    assert fraud["mean_transfer"] == pytest.approx((transfer[1] + transfer[2]) / 2)  # type: ignore[operator]
    assert results.geometry.pca.centred.explained_variance_ratio is not None
    assert fraud["pc1_centred"] == results.geometry.pca.centred.explained_variance_ratio[0]


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    add_record(tmp_path, make_record(model_id='a, "quoted"\nname', sections=()))
    for plain, row in zip(read_csv(tmp_path), read_jsonl(tmp_path), strict=True):
        for name, cell in row.items():
            expected = "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
            assert plain[name] == expected


def test_without_geometry_its_columns_are_null() -> None:
    row = rows_of(make_record(("fraud",), sections=("over_refusal",)))[0]
    assert {name for name, cell in row.items() if cell is None} == {
        *("adapter_sha256", "source_quantization", "judge", "judge_version"),  # which the made-up record has not
        *("mean_cosine", "mean_ceiling", "mean_transfer", "dimensions"),
        *("all_mean_cosine", "all_mean_ceiling", "all_mean_transfer"),
        *("pc1_centred", "pc1_uncentred", "pc1_uncentred_low", "pc1_uncentred_high"),
        *("least_transfer", "least_transfer_low", "least_transfer_high", "least_transfer_pair"),
    }


APART = [
    f"{name}_{end}" for name in ("safe_prompts", "unsafe_contrasts") for end in ("rate", "rate_low", "rate_high", "n")
]


def test_older_records_have_rows_without_the_section_s_columns(tmp_path: Path) -> None:
    add_record(tmp_path, make_record_of_0_1())
    for row in read_jsonl(tmp_path):
        assert {row[name] for name in (*APART, "over_refusal_version")} == {None}
        assert row["baseline_harmless_rate"] is not None
    assert {row[name] for row in read_csv(tmp_path) for name in APART} == {""}


def test_safe_prompts_and_unsafe_contrasts_stand_on_every_row_of_a_run() -> None:
    data = record_dict()
    refusal = data["results"]["over_refusal"]["refusal"]
    refusal["baseline_harmless"] = condition("RRRCCCCCCCCC?U?", [0.0] * 15)
    refusal["baseline_harmful"] = condition("R" * 9 + "C", [0.0] * 10)
    for row in rows_of(Record.model_validate(data)):
        for name, refused, n in (("safe_prompts", 3, 12), ("unsafe_contrasts", 9, 10)):
            wilson = stats.binomtest(refused, n).proportion_ci(method="wilson")
            ends = (row[f"{name}_rate_low"], row[f"{name}_rate_high"])
            assert (row[f"{name}_rate"], row[f"{name}_n"]) == (refused / n, n)
            assert ends == pytest.approx((wilson.low, wilson.high))
        assert row["over_refusal_version"] == "0.1"


def test_the_rows_hold_what_is_one_for_the_run() -> None:
    data = record_dict(n=10)
    for name, harmful, harmless in (("fraud", 9, 2), ("privacy", 6, 0), ("weapons", 6, 1)):
        refusal = data["results"]["tasks"][name]["refusal"]
        refusal["baseline_harmful"] = condition("R" * harmful + "C" * (10 - harmful), [0.0] * 10)
        refusal["baseline_harmless"] = condition("R" * harmless + "C" * (10 - harmless), [0.0] * 10)
    data["results"]["tasks"]["privacy"]["damage"] |= {"kl_harmless": 0.5, "loss_delta": 0.07}
    data["results"]["geometry"]["ceiling"] = [[None, 0.9, 0.8], [0.9, None, 0.7], [0.8, 0.7, None]]
    data["results"]["cross_domain"] |= {
        "transfer": [[1.0, 0.8, None], [0.6, 1.0, None], [0.1, 0.1, None]],  # weapons has no effect at home
        "transfer_ci95": [[None, (0.7, 0.9), None], [(0.5, 0.7), None, None], [None, None, None]],
    }
    data["config"]["judge"] = "opener"
    data["model"]["source_quantization"] = "gguf Q4_1"
    record = Record.model_validate(data)
    rows = rows_of(record)
    assert [row["damage_kl"] for row in rows] == [0.021, 0.5, 0.021]
    assert [row["damage_loss"] for row in rows] == [0.004, 0.07, 0.004]
    assert [row["mean_ceiling"] for row in rows] == pytest.approx([0.85, 0.8, 0.75])
    cosine = data["results"]["geometry"]["cosine"]
    low, high = data["results"]["geometry"]["pca"]["uncentred"]["ci95"][0]
    wilson = stats.binomtest(6, 10).proportion_ci(method="wilson")
    expected = {
        **{"worst_harmful_rate": 0.6, "worst_harmful_rate_low": wilson.low, "worst_harmful_rate_high": wilson.high},
        **{"worst_harmful_n": 10, "worst_harmful_domains": "privacy, weapons"},
        **{"worst_harmless_rate": 0.2, "worst_harmless_n": 10, "worst_harmless_domains": "fraud"},
        **{"dimensions": 2, "all_mean_cosine": (cosine[0][1] + cosine[0][2] + cosine[1][2]) / 3},
        **{"all_mean_ceiling": 0.8, "pc1_uncentred_low": low, "pc1_uncentred_high": high},
        **{"all_mean_transfer": 0.7, "least_transfer": 0.6, "least_transfer_low": 0.5, "least_transfer_high": 0.7},
        **{"least_transfer_pair": "privacy → fraud", "worst_damage_kl": 0.5},
        **{"judge": "opener", "judge_version": None, "source_quantization": "gguf Q4_1"},
        **{"n_layers": 10, "d_model": 16, "tokens": 987654, "forward_passes": 4321, "device": "cpu"},
        **{"seconds": 3.2 + 61.0 + 12.5, "peak_memory_bytes": 2_100_000_000},
    }
    for row in rows:
        assert {name: row[name] for name in expected} == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in expected.items()
        }


def test_the_first_columns_keep_their_names_and_places() -> None:
    """Others read the tables by name and by place: a new column goes to the end."""
    conditions = ("baseline_harmful", "baseline_harmless", "ablated_harmful", "ablated_harmless", "added_harmless")
    assert list(COLUMNS)[:47] == [
        *("model", "revision", "weights_sha256", "adapter_sha256", "quantization", "dtype", "system_prompt_sha256"),
        *("run_id", "created", "tool_version", "status", "quick", "task", "task_version", "task_status"),
        *("layer", "position", "bypass", "induce", "kl", "n", "n_unscored"),
        *(f"{name}_{end}" for name in conditions for end in ("rate", "rate_low", "rate_high", "score")),
        *("reliability", "mean_cosine", "mean_transfer", "pc1_centred", "pc1_uncentred"),
    ]


def test_tables_do_not_depend_on_the_order_of_adding(tmp_path: Path) -> None:
    records = [make_record(model_id=f"org/m{i}", run_id=f"run-{j}") for i in range(2) for j in range(2)]
    for record in records:
        add_record(tmp_path / "a", record)
    for record in reversed(records):
        add_record(tmp_path / "b", record)
    for name in ("leaderboard.csv", "leaderboard.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_adding_again_replaces(tmp_path: Path) -> None:
    add_record(tmp_path, make_record(seed=1))
    add_record(tmp_path, make_record(seed=2))
    records, _ = load_records(tmp_path)
    assert list(records.values()) == [make_record(seed=2)]
    assert len(read_csv(tmp_path)) == len(DOMAINS)


def test_a_contradictory_record_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RefusalBenchError, match=re.escape("ablated_harmful.rate is 0.777")) as raised:
        add_record(tmp_path, contradictory())
    assert raised.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_record_is_reported_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "records" / "org--m" / "broken.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"run_id": 1}')
    with caplog.at_level(logging.WARNING):
        add_record(tmp_path, make_record())
    assert str(broken) in caplog.text
    records, unreadable = load_records(tmp_path)
    assert len(records) == 1
    assert len(unreadable) == 1
    assert str(broken) in unreadable[0]
    assert broken.exists()


def test_a_record_in_no_model_folder_is_not_overlooked(tmp_path: Path) -> None:
    (tmp_path / "records" / "a" / "b").mkdir(parents=True)
    for folder in ("", "a/b"):
        (tmp_path / "records" / folder / "r.json").write_text(make_record().to_json())
    assert len(load_records(tmp_path)[0]) == 2


def test_tables_that_were_edited_or_lost_are_noticed(tmp_path: Path) -> None:
    add_record(tmp_path, make_record())
    records, _ = load_records(tmp_path)
    assert table_faults(tmp_path, records) == []
    with (tmp_path / "leaderboard.csv").open("a") as file:
        file.write("x\n")
    (tmp_path / "leaderboard.jsonl").unlink()
    faults = table_faults(tmp_path, records)
    assert ["leaderboard.csv" in faults[0], "leaderboard.jsonl: is missing" in faults[1]] == [True, True]


def test_a_slow_writer_does_not_overwrite_a_newer_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_read, go_on = threading.Event(), threading.Event()

    def slow_load(leaderboard: Path) -> Any:
        found = load_records(leaderboard)
        if not has_read.is_set():  # the first writer stops between reading the records and writing the tables
            has_read.set()
            go_on.wait(30)
        return found

    monkeypatch.setattr(store, "load_records", slow_load)
    first, second = make_record(run_id="first"), make_record(run_id="second")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(add_record, tmp_path, first)
        assert has_read.wait(30)
        fast = pool.submit(add_record, tmp_path, second)
        wait([fast], timeout=0.5)
        go_on.set()
        slow.result(30)
        fast.result(30)
    assert {row["run_id"] for row in read_csv(tmp_path)} == {"first", "second"}


def write_many(leaderboard: Path, writer: int, start: Any) -> None:
    records = [make_record(("fraud",), sections=(), run_id=f"run-{writer}-{i}") for i in range(N_EACH)]
    start.wait(60)
    for record in records:
        add_record(leaderboard, record)


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(N_WRITERS + 1)
    writers = [context.Process(target=write_many, args=(tmp_path, i, start)) for i in range(N_WRITERS)]
    for writer in writers:
        writer.start()
    try:
        start.wait(60)
    except BrokenBarrierError:
        pytest.fail("a writer did not start")
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * N_WRITERS
    expected = {f"run-{writer}-{i}" for writer in range(N_WRITERS) for i in range(N_EACH)}
    assert {row["run_id"] for row in read_csv(tmp_path)} == expected
    assert {row["run_id"] for row in read_jsonl(tmp_path)} == expected
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_records_of_this_repository_are_sound_and_its_tables_theirs():
    leaderboard = Path(__file__).parent.parent / "leaderboards"
    records, faults = store.sound_records(leaderboard)
    assert records
    assert faults + table_faults(leaderboard, records) == []
