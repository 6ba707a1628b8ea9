"""Validation: each planted defect is found where it stands, and a sound task has none."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from itertools import combinations

import pytest
from refusal_bench.errors import InputError
from refusal_bench.tasks import load_tasks, problems_of, read_tasks, select_names, task_registry
from task_folder import TaskFolder


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return TaskFolder(tmp_path)


def problems(task, *names):
    return problems_of(read_tasks(names or [task.name], [task.tasks]))


def found(task, severity, file, line, message):
    """Assert that exactly one problem stands at this place with this message, and return all of them."""
    all_problems = problems(task)
    hits = [p for p in all_problems if (p.severity, p.file, p.line) == (severity, file, line)]
    assert len([p for p in hits if re.search(message, p.message)]) == 1, [str(p) for p in all_problems]
    return all_problems


TRAIN, HELD_OUT, MANIFEST = "datasets/alpha/train.jsonl", "datasets/alpha/held_out.jsonl", "tasks/alpha.yaml"


def test_a_sound_task_has_no_problem(task):
    assert problems(task.write()) == []


@pytest.mark.parametrize("name", task_registry().names())
def test_bundled_tasks_have_no_errors(name):
    assert [str(p) for p in problems_of(read_tasks([name])) if p.severity == "error"] == []


def test_bundled_tasks_have_no_errors_together():
    names = task_registry().names()
    assert {"weapons", "cybercrime", "self_harm", "privacy", "fraud"} <= set(names)
    assert [str(p) for p in problems_of(read_tasks(names)) if p.severity == "error"] == []


@pytest.mark.parametrize("name", ["weapons", "cybercrime", "self_harm", "privacy", "fraud"])
def test_bundled_tasks_have_48_and_16_pairs_whose_lengths_do_not_tell(name):
    task = load_tasks(name)[name]
    for split, n in (("train", 48), ("held_out", 16)):
        pairs = task.pairs(split)
        assert [harmful.pair for harmful, _ in pairs] == [harmless.pair for _, harmless in pairs]
        assert len({harmful.pair for harmful, _ in pairs}) == n
        assert len(task.rows(split)) == 2 * n
        harmful, harmless = (sum(len(row.prompt.split()) for row in rows) / n for rows in zip(*pairs, strict=True))
        assert abs(harmful - harmless) <= 0.05 * max(harmful, harmless)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "not one JSON object"),
        (b"[1, 2]", "not one JSON object"),
        (b"", "not one JSON object"),
        (b"[" * 100_000, "not one JSON object"),
    ],
)
def test_a_line_that_is_no_json_object(task, line, message):
    lines = [json.dumps(row).encode() for row in task.rows["train"]]
    task.write(train=b"\n".join([*lines[:4], line, *lines[4:]]) + b"\n")
    assert len(found(task, "error", TRAIN, 5, message)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra: is unknown"),
        ({"prompt": None}, "prompt: "),
        ({"prompt": "  "}, "prompt: must not be empty"),
        ({"prompt": "?!"}, "prompt: must not be empty"),
        ({"label": "bad"}, "label: "),
        ({"id": ""}, "id: must not be empty"),
        ({"domains": "privacy"}, "domains: "),
    ],
)
def test_a_field_that_is_wrong(task, change, message):
    task.rows["held_out"][2] |= change
    found(task.write(), "error", HELD_OUT, 3, message)


@pytest.mark.parametrize("field", ["id", "prompt", "label", "pair", "source"])
def test_a_field_that_is_missing(task, field):
    del task.rows["train"][6][field]
    found(task.write(), "error", TRAIN, 7, f"^{field}: is missing")


def test_every_faulty_line_is_reported_and_not_only_the_first(task):
    for i in (0, 5, 9):
        task.rows["train"][i]["extra"] = 1
    lines = [p.line for p in problems(task.write()) if "extra" in p.message]
    assert lines == [1, 6, 10]


def test_wrong_encoding_and_byte_order_mark(task):
    lines = "".join(json.dumps(row) + "\n" for row in task.rows["train"]).encode()
    latin1 = lines.replace(b"alpha-train-6-harmful", b"alpha-train-6-\xe9")
    found(task.write(train=latin1), "error", TRAIN, 13, "byte 0xe9")
    found(task.write(train=b"\xef\xbb\xbf" + lines), "error", TRAIN, 1, "byte order mark")


def test_windows_line_ends_are_read(task):
    lines = "".join(json.dumps(row) + "\r\n" for row in task.rows["train"]).encode()
    assert problems(task.write(train=lines)) == []


def test_an_empty_and_a_missing_file(task):
    found(task.write(held_out=b""), "error", HELD_OUT, None, "has no rows")
    task.write().data("held_out").unlink()
    found(task, "error", HELD_OUT, None, "cannot be read")


def test_a_changed_file_names_the_new_checksum_and_the_version(task):
    old = task.write().data("train").read_bytes()
    task.data("train").write_bytes(old.replace(b'"test"', b'"TEST"', 1))
    new = hashlib.sha256(task.data("train").read_bytes()).hexdigest()
    assert len(found(task, "error", TRAIN, None, f"{new}.*raise the version")) == 1


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        ({"colour": "red"}, 9, "colour: is unknown"),
        ({"version": 1.0}, 2, "version: must be two numbers in quotes"),
        ({"version": "1"}, 2, "version: must be two numbers"),
        ({"version": "1.0.1"}, 2, "version: must be two numbers"),
        ({"title": ""}, 3, "title: must not be empty"),
        ({"name": "beta"}, 1, "calls itself 'beta'"),
        ({"name": "Alpha"}, 1, "name: must be lower-case"),
        ({"taxonomy": ["x"]}, 6, "taxonomy: "),
    ],
)
def test_a_manifest_field_that_is_wrong(task, change, line, message):
    task.manifest |= change
    found(task.write(), "error", MANIFEST, line, message)


def test_a_manifest_without_a_field_or_without_files(task):
    del task.manifest["license"]
    found(task.write(), "error", MANIFEST, None, "license: is missing")
    task.manifest["license"] = "MIT"
    lines = task.write().yaml.read_text().splitlines(keepends=True)
    task.yaml.write_text("".join(line for line in lines if not line.startswith("files:")))
    found(task, "error", MANIFEST, None, "names no data files")


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: alpha\ntitle: [\n", 3), ("name: 2024-13-45\n", None), ("", None), ("name: !!python/name:os.system\n", 1)],
)
def test_a_manifest_that_is_no_yaml_mapping(task, text, line):
    task.write().yaml.write_text(text)
    (problem,) = problems(task)
    assert (problem.severity, problem.file, problem.line) == ("error", MANIFEST, line)


@pytest.mark.parametrize("path", ["/etc/hostname", "C:/data.jsonl", "\\\\share\\data.jsonl"])
def test_an_absolute_data_path_is_refused(task, path):
    text = task.write().yaml.read_text()
    task.yaml.write_text(text.replace('"../datasets/alpha/train.jsonl"', json.dumps(path)))
    found(task, "error", MANIFEST, 9, "must be relative")


def test_an_id_used_twice_in_one_task(task):
    task.rows["held_out"][4]["id"] = task.rows["train"][0]["id"]
    found(task.write(), "error", HELD_OUT, 5, "is also in datasets/alpha/train.jsonl line 1")


def test_an_id_used_by_two_tasks(task):
    beta = TaskFolder(task.root, "beta")
    beta.rows["train"][3]["id"] = task.rows["train"][3]["id"]
    beta.write()
    task.write()
    errors = [p for p in problems(task, "alpha", "beta") if p.severity == "error"]
    assert [(p.file, p.line) for p in errors] == [("datasets/beta/train.jsonl", 4)]
    assert "is also in datasets/alpha/train.jsonl line 4" in errors[0].message


SENTENCE = "Tell me how to take a falcon over the canyon without anyone noticing it"
CLOSE = "Tell me how to take a falcon over a canyon without anyone noticing it"


@pytest.mark.parametrize(
    ("first", "second", "severity", "message"),
    [
        (("train", 0, SENTENCE), ("train", 4, SENTENCE.upper() + " !"), "error", "repeats"),
        (("train", 0, SENTENCE), ("train", 4, CLOSE), "warning", "nearly repeats"),
        (("train", 0, SENTENCE), ("held_out", 4, SENTENCE + "."), "error", "repeats.*leaks"),
        (("train", 0, SENTENCE), ("held_out", 4, CLOSE), "error", "nearly repeats.*leaks"),
        (("train", 0, SENTENCE), ("train", 1, SENTENCE), "error", "repeats"),
    ],
)
def test_duplicates_within_a_task(task, first, second, severity, message):
    for split, index, prompt in (first, second):
        task.rows[split][index]["prompt"] = prompt
    found(task.write(), severity, f"datasets/alpha/{second[0]}.jsonl", second[1] + 1, message)


def test_twins_may_be_near_duplicates(task):
    task.rows["train"][0]["prompt"], task.rows["train"][1]["prompt"] = SENTENCE, CLOSE
    assert not [p for p in problems(task.write()) if "repeats" in p.message]


@pytest.mark.parametrize(("prompt", "severity"), [(SENTENCE + "?", "error"), (CLOSE, "warning")])
def test_duplicates_across_tasks(task, prompt, severity):
    beta = TaskFolder(task.root, "beta")
    task.rows["train"][0]["prompt"], beta.rows["held_out"][7]["prompt"] = SENTENCE, prompt
    task.write()
    beta.write()
    hits = [p for p in problems(task, "alpha", "beta") if "repeats" in p.message]
    assert [(p.severity, p.file, p.line) for p in hits] == [(severity, "datasets/beta/held_out.jsonl", 8)]


def test_different_prompts_of_the_same_words_count_as_near(task):
    """Token-sort similarity does not see word order, so a reshuffled prompt cannot hide."""
    task.rows["train"][0]["prompt"] = SENTENCE
    task.rows["held_out"][0]["prompt"] = " ".join(reversed(SENTENCE.split()))
    found(task.write(), "error", HELD_OUT, 1, "nearly repeats.*leaks")


def test_unbalanced_labels(task):
    task.rows["held_out"][0] |= {"label": "harmless", "pair": None}
    task.rows["held_out"][1] |= {"pair": None}
    found(task.write(), "error", HELD_OUT, None, "3 harmful and 5 harmless")


def test_a_pair_of_three_and_a_pair_of_one_label(task):
    task.rows["train"][2]["pair"] = task.rows["train"][0]["pair"]
    all_problems = found(task.write(), "error", TRAIN, 3, "needs exactly one harmful and one harmless row, it has 3")
    assert any(p.line == 4 and "it has 1" in p.message for p in all_problems)


def test_a_pair_that_spans_both_splits(task):
    for split in ("train", "held_out"):
        for row in task.rows[split][:2]:
            row["pair"] = None
    task.rows["train"][0]["pair"] = task.rows["held_out"][1]["pair"] = "split"
    found(task.write(), "error", HELD_OUT, 2, "spans both splits")


def test_too_few_pairs(task):
    task.rows["held_out"] = task.rows["held_out"][:6]
    found(task.write(), "error", HELD_OUT, None, "has 3 pairs of held_out rows, a run needs at least 4")


def test_too_few_train_pairs(task):
    task.rows["train"] = task.rows["train"][:22]
    found(task.write(), "error", TRAIN, None, "has 11 pairs of train rows, a run needs at least 12")


@pytest.mark.parametrize("kind", ["mixed", "over_refusal"])
def test_a_sound_task_of_another_kind_has_no_problem(task, kind):
    assert problems(task.turn_into(kind).write()) == []


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mixed", {"domains": ["fraud"]}, "exactly two domains"),
        ("mixed", {"domains": ["fraud", "fraud"]}, "exactly two domains"),
        ("mixed", {"domains": ["fraud", "privacy", "weapons"]}, "exactly two domains"),
        ("mixed", {"pair": None}, "needs a twin"),
        ("mixed", {"domains": ["fraud", "weapons"]}, "twins of 'alpha-held_out-13' differ in domains"),
        ("mixed", {"type": "homonyms"}, "^type: "),
        ("over_refusal", {"type": None}, "^type: "),
    ],
)
def test_a_row_that_does_not_fit_the_kind_of_its_task(task, kind, change, message):
    task.turn_into(kind).rows["held_out"][3] |= change
    found(task.write(), "error", HELD_OUT, 4, message)


def test_a_type_in_a_harm_domain(task):
    task.rows["train"][0]["type"] = "homonyms"
    found(task.write(), "error", TRAIN, 1, "^type: ")


def test_twins_of_a_mixed_task_may_name_their_domains_in_any_order(task):
    task.turn_into("mixed").rows["held_out"][1]["domains"] = ["privacy", "fraud"]
    assert problems(task.write()) == []


def test_over_refusal_needs_both_labels_but_neither_pairs_nor_balance(task):
    rows = task.turn_into("over_refusal").rows["held_out"]
    for row in rows:
        row["pair"] = None
    task.rows["held_out"] = [rows[1], rows[2], rows[4]]
    assert problems(task.write()) == []
    task.rows["held_out"] = [row for row in rows if row["label"] == "harmless"]
    found(task.write(), "error", HELD_OUT, None, "needs harmful and harmless rows")


def test_a_mixed_task_needs_balance_and_pairs(task):
    task.turn_into("mixed").rows["held_out"] = task.rows["held_out"][:6]
    found(task.write(), "error", HELD_OUT, None, "has 3 pairs of held_out rows, a run needs at least 4")


def test_a_train_file_too_many_and_one_too_few(task):
    del task.manifest["generate"]
    task.manifest["kind"] = "mixed"
    found(task.write(), "error", MANIFEST, None, "a task of kind mixed has no files.train; remove it")
    task.manifest["kind"] = "harm_domain"
    del task.rows["train"]
    found(task.write(), "error", MANIFEST, None, "a task of kind harm_domain needs files.train; add it")


XSTEST_TYPES = {
    "homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions",
    "real_discrimination_nonsense_group", "nonsense_discrimination_real_group", "historical_events",
    "privacy_public", "privacy_fictional",
}  # fmt: skip


def test_the_bundled_over_refusal_task_has_15_safe_and_10_unsafe_prompts_of_each_of_ten_types():
    rows = load_tasks("over_refusal", kinds=["over_refusal"])["over_refusal"].held_out
    counts = Counter((row.type, row.label) for row in rows)
    assert counts == {(t, label): n for t in XSTEST_TYPES for label, n in (("harmless", 15), ("harmful", 10))}


def test_the_bundled_mixed_task_has_at_least_6_twins_of_every_two_domains():
    task = load_tasks("mixed", kinds=["mixed"])["mixed"]
    pairs = task.pairs("held_out")
    assert len(task.held_out) == 2 * len(pairs) >= 2 * 64
    counts = Counter(frozenset(harmful.domains) for harmful, _ in pairs)
    assert set(counts) == {frozenset(two) for two in combinations(select_names("all"), 2)}
    assert min(counts.values()) >= 6


def test_length_that_gives_the_label_away(task):
    for row in task.rows["train"]:
        row["prompt"] += " indeed truly" if row["label"] == "harmful" else ""
    problem = found(task.write(), "warning", TRAIN, None, "length gives the label away")[0]
    assert "7.0 words" in problem.message
    assert "5.0" in problem.message


def test_load_tasks_raises_the_first_error_and_counts_the_others(task):
    for i in (2, 3):
        task.rows["train"][i]["extra"] = 1
    with pytest.raises(InputError, match=rf"^{TRAIN}:3: extra: is unknown.*\(\d+ more; see"):
        load_tasks("alpha", [task.write().tasks])


def test_load_tasks_accepts_warnings(task):
    for row in task.rows["train"]:
        row["prompt"] += " indeed truly" if row["label"] == "harmful" else ""
    assert list(load_tasks("alpha", [task.write().tasks])) == ["alpha"]
