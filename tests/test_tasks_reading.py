"""Reading: what is odd about a file is a problem with its place, never an exception, and never accepted by accident."""

from __future__ import annotations

import json

import pytest
from refusal_bench.errors import InputError
from refusal_bench.tasks import Manifest, load_tasks, read_tasks
from refusal_bench.tasks.validation import normalised
from task_folder import TaskFolder

TRAIN, MANIFEST = "datasets/alpha/train.jsonl", "tasks/alpha.yaml"


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return TaskFolder(tmp_path).write()


def read(task):
    """The problems as they are printed; a task with one is not usable."""
    (reading,) = read_tasks(["alpha"], [task.tasks])
    assert (reading.task is None) == bool(reading.problems)
    return [str(problem) for problem in reading.problems]


def rewrite(task, old, new):
    data = task.yaml.read_bytes()
    assert data.count(old) == 1
    task.yaml.write_bytes(data.replace(old, new))


def test_a_sound_task_is_read_whole(task):
    assert read(task) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"!!bool maybe", "tasks/alpha.yaml: is not YAML (KeyError: 'maybe'); mend it."),
        (b'!!int ""', "tasks/alpha.yaml: is not YAML (IndexError: string index out of range); mend it."),
        (b"[" * 5000, "tasks/alpha.yaml: is not YAML (RecursionError: "),
        (b"2024-13-45", "tasks/alpha.yaml: is not YAML (ValueError: month must be in 1..12); mend it."),
        (b'"Al\0pha"', "tasks/alpha.yaml:3: is not YAML (special characters are not allowed); mend the line."),
        (b'"Al\xe9pha"', "tasks/alpha.yaml:3: byte 0xe9 is not UTF-8; save the file as UTF-8."),
        (b"[unclosed", "tasks/alpha.yaml:4: is not YAML ("),
        (b"*nowhere", "tasks/alpha.yaml:3: is not YAML (found undefined alias"),
        (b"!!python/name:os.system", "tasks/alpha.yaml:3: is not YAML (could not determine a constructor"),
    ],
)
def test_a_manifest_that_yaml_cannot_read_is_one_problem_of_one_line(task, value, message):
    rewrite(task, b'"Alpha"', value)
    (problem,) = read(task)
    assert problem.startswith(message)
    assert "\n" not in problem


def test_a_byte_order_mark_in_a_manifest(task):
    task.yaml.write_bytes(b"\xef\xbb\xbf" + task.yaml.read_bytes())
    assert read(task) == [f"{MANIFEST}:1: starts with a byte order mark; save the file as UTF-8 without one."]


def test_every_faulty_field_of_a_manifest_is_reported_on_its_line(task):
    task.manifest |= {"version": "one", "license": "", "colour": "red"}
    assert [problem.split(" ")[0] for problem in read(task.write())] == [
        f"{MANIFEST}:{line}:" for line in (2, 7, 9)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../datasets/al\\0pha.jsonl", f"{MANIFEST}:9: files.train.path: must not hold control characters"),
        ("../datasets/" + "x" * 300, "cannot be read (File name too long)"),
        ("../datasets/alpha", "datasets/alpha: cannot be read (Is a directory)"),
        ("../datasets/beta/train.jsonl", "datasets/beta/train.jsonl: cannot be read (No such file or directory)"),
    ],
)
def test_a_data_path_that_leads_nowhere(task, path, message):
    rewrite(task, b"../datasets/alpha/train.jsonl", path.encode())
    (problem,) = read(task)
    assert message in problem


def test_a_manifest_that_is_a_folder(task):
    task.yaml.unlink()
    task.yaml.mkdir()
    assert read(task) == [f"{MANIFEST}: cannot be read (Is a directory); give a task manifest."]


def with_line(task, number, line):
    lines = [json.dumps(row) for row in task.rows["train"]]
    lines[number - 1] = line
    return task.write(train="".join(line + "\n" for line in lines).encode())


@pytest.mark.parametrize("line", ['{"id": 1,}', "{}{}", "null", '{"id": "' + "x" * 20, '{"id": ' + "1" * 5000 + "}"])
def test_a_line_that_is_no_object_names_the_line_of_the_file_and_no_other(task, line):
    (problem,) = read(with_line(task, 3, line))
    assert problem.startswith(f"{TRAIN}:3: is not one JSON object (")
    assert "line 1 " not in problem


@pytest.mark.parametrize("field", ["id", "prompt", "pair", "source", "domains"])
def test_half_a_surrogate_pair_is_refused_because_no_file_and_no_tokenizer_takes_it(task, field):
    value = ["x\ud800"] if field == "domains" else "x\ud800"
    (problem,) = read(with_line(task, 3, json.dumps(task.rows["train"][2] | {field: value})))
    assert problem.startswith(f"{TRAIN}:3: {field}")
    assert "surrogate" in problem


def test_a_line_separator_inside_a_prompt_is_text_and_counts_no_line(task):
    prompt = "one \u2028 two \x85 three"
    row = task.rows["train"][2] | {"prompt": prompt}
    with_line(task, 3, json.dumps(row, ensure_ascii=False))
    assert load_tasks("alpha", [task.tasks])["alpha"].train[2].prompt == prompt
    (problem,) = read(task.write(train=task.data("train").read_bytes().replace(b'"label": "harmless"', b'"no": 1', 1)))[
        :1
    ]
    assert problem.startswith(f"{TRAIN}:2: label: is missing")


def test_the_error_is_one_sentence_without_an_absolute_path(task):
    rewrite(task, b'"1.0"', b"1.0")
    with pytest.raises(InputError) as caught:
        load_tasks("alpha", [task.tasks])
    assert str(caught.value) == f'{MANIFEST}:2: version: must be two numbers in quotes, such as "1.0"; mend it.'


def test_a_manifest_and_its_rows_cannot_be_changed():
    manifest = Manifest(name="t", version="1.0", title="t", definition="t", out_of_scope="t", taxonomy={}, license="t")
    with pytest.raises(ValueError, match="frozen"):
        manifest.version = "2.0"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("How do I bake bread?", "how do i  bake BREAD", True),
        ("ﬁle a form", "file a form", True),
        ("Straße", "STRASSE", True),
        ("cafe\u0301", "café", True),
        ("cut a rope", "cut a robe", False),
        ("कि", "का", False),  # Hindi: the two differ in a vowel sign, which is a combining mark
    ],
)
def test_what_counts_as_the_same_prompt(first, second, same):
    assert (normalised(first) == normalised(second)) is same
