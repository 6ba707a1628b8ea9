"""`refusal-bench tasks`: exit codes, one JSON object on standard output, and the walk in docs/adding-a-task.md."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from refusal_bench.cli.tasks import app
from refusal_bench.errors import InputError
from refusal_bench.tasks import content_folder, load_tasks
from task_folder import TaskFolder
from typer.testing import CliRunner

DOC = Path(__file__).parents[1] / "docs" / "adding-a-task.md"


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return TaskFolder(tmp_path)


def test_ls_shows_bundled_and_extra_tasks(task):
    listed = json.loads(call("ls", "--json", "--tasks-path", task.write().tasks).stdout)
    assert set(listed) > {"weapons", "alpha"}
    assert (listed["alpha"]["version"], listed["alpha"]["train"], listed["alpha"]["held_out"]) == ("1.0", 24, 8)
    assert "alpha" in call("ls", "--tasks-path", task.tasks).stdout


def test_show_describes_one_task(task):
    shown = json.loads(call("show", "alpha", "--json", "--tasks-path", task.write().tasks).stdout)
    assert (shown["definition"], shown["n_train"], shown["n_held_out"]) == ("A test.", 24, 8)
    assert shown["example"]["harmful"] == task.rows["train"][0]["prompt"]
    assert shown["sha256"] in call("show", "alpha", "--tasks-path", task.tasks).stdout


@pytest.mark.parametrize("name", ["wepons", "all", "weapons,fraud", "tag:x"])
@pytest.mark.parametrize("command", ["show", "validate"])
def test_what_names_no_task_is_bad_input(command, name):
    with pytest.raises(InputError):
        call(command, name)


def test_validate_is_silent_about_a_sound_task_and_exits_0(task):
    result = call("validate", "alpha", "--tasks-path", task.write().tasks)
    assert (result.exit_code, result.stdout) == (0, "1 task: 0 errors, 0 warnings\n")


def test_validate_prints_every_problem_with_file_and_line_and_exits_1(task):
    task.rows["train"][3]["extra"] = task.rows["held_out"][1]["extra"] = 1
    task.write()
    result = call("validate", "alpha", "--tasks-path", task.tasks)
    assert result.exit_code == 1
    assert "datasets/alpha/train.jsonl:4: extra: is unknown" in result.stdout
    assert "datasets/alpha/held_out.jsonl:2: extra: is unknown" in result.stdout
    as_json = call("validate", "alpha", "--tasks-path", task.tasks, "--json")
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    places = [(p["severity"], p["file"], p["line"]) for p in report["problems"]]
    assert ("error", "datasets/alpha/train.jsonl", 4) in places
    assert report["errors"] == len([p for p in places if p[0] == "error"])


def test_validate_exits_0_on_warnings(task):
    for entry in task.rows["train"]:
        entry["prompt"] += " indeed truly" if entry["label"] == "harmful" else ""
    result = call("validate", "alpha", "--tasks-path", task.write().tasks)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "1 task: 0 errors, 1 warnings")


def test_validate_of_one_task_compares_it_with_the_others(task):
    bundled = load_tasks("fraud")["fraud"].train[0].prompt
    task.rows["train"][8]["prompt"] = bundled.upper()
    result = call("validate", "alpha", "--tasks-path", task.write().tasks)
    assert result.exit_code == 1
    assert re.search(r"datasets/alpha/train\.jsonl:9: .* repeats fraud-train-001-harmful", result.stdout)


def test_stats_count_words_by_hand(task):
    task.write()
    counted = json.loads(call("stats", "alpha", "--json", "--tasks-path", task.tasks).stdout)["alpha"]
    assert counted["held_out"] == {"rows": 8, "pairs": 4, "mean_words": {"harmful": 5.0, "harmless": 5.0}}
    assert "alpha" in call("stats", "alpha", "--tasks-path", task.tasks).stdout


def test_new_writes_a_task_that_validates_and_never_overwrites(task):
    assert call("new", "my_domain").exit_code == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {path.as_posix() for path in before} == {
        "tasks/my_domain.yaml", "datasets/my_domain/train.jsonl", "datasets/my_domain/held_out.jsonl",
        "datasets/my_domain/README.md",
    }  # fmt: skip
    assert call("validate", "my_domain", "--tasks-path", "tasks").stdout == "1 task: 0 errors, 0 warnings\n"
    with pytest.raises(InputError, match="exists already"):
        call("new", "my_domain")
    Path("tasks/my_domain.yaml").unlink()
    with pytest.raises(InputError, match="exists already"):
        call("new", "my_domain")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == {
        path: data for path, data in before.items() if path.name != "my_domain.yaml"
    }


@pytest.mark.parametrize("name", ["MyDomain", "1st", "a-b", "../up", "a b", "", "all"])
def test_new_refuses_a_bad_name_and_writes_nothing(task, name):
    with pytest.raises(InputError, match="task name"):
        call("new", name)
    assert list(Path().iterdir()) == []


def test_new_accepts_a_long_name(task):
    name = "critical_infrastructure_sabotage_and_supply_chain_interference"
    call("new", name)
    assert call("validate", name, "--tasks-path", "tasks").exit_code == 0


def test_the_guide_works_as_written(task):
    """Run the guide's commands in order, and make the edits that it asks for between them."""
    text = DOC.read_text(encoding="utf-8")
    commands = re.findall(r"^refusal-bench tasks (.+?)\s*(?:#.*)?$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["new", "validate", "stats", "validate"]
    new, validate, stats, validate_all = (command.split() for command in commands)
    assert call(*new).exit_code == 0
    name = new[1]
    assert call(*validate).exit_code == 0
    data = Path(f"datasets/{name}/train.jsonl")
    data.write_text(data.read_text().replace("Placeholder, harmful", "Explain to me, harmful", 1))
    changed = call(*validate)
    assert changed.exit_code == 1
    new_sum = hashlib.sha256(data.read_bytes()).hexdigest()
    assert new_sum in changed.stdout
    manifest = Path(f"tasks/{name}.yaml")
    manifest.write_text(re.sub(r"(train\.jsonl, sha256: )\w+", rf"\g<1>{new_sum}", manifest.read_text()))
    assert call(*validate).exit_code == 0
    assert call(*stats).exit_code == 0
    assert call(*validate_all).exit_code == 0


def test_the_guide_shows_a_manifest_and_a_row_with_every_field(task):
    text = DOC.read_text(encoding="utf-8")
    for field in ("name", "version", "title", "definition", "out_of_scope", "taxonomy", "license", "generate", "tags"):
        assert f"\n| `{field}` |" in text
    for field in ("id", "prompt", "label", "pair", "domains", "source"):
        assert f"\n| `{field}` |" in text


def test_validate_accepts_the_bundled_folder_named_again():
    result = call("validate", "fraud", "--tasks-path", content_folder() / "tasks")
    assert result.exit_code == 0
