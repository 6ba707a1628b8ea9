"""`refusal-bench tasks`: exit codes, one JSON object on standard output, and the walk in docs/adding-a-task.md."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from refusal_bench.cli import app as whole_app
from refusal_bench.cli.tasks import app
from refusal_bench.errors import InputError
from refusal_bench.tasks import content_folder, load_tasks, select_names
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


def test_every_command_handles_a_task_without_a_train_split(task):
    task.turn_into("over_refusal").write()
    of_it = ("alpha", "--json", "--tasks-path", task.tasks)
    assert json.loads(call("ls", *of_it[1:]).stdout)["alpha"]["kind"] == "over_refusal"
    shown = json.loads(call("show", *of_it).stdout)
    assert (shown["kind"], shown["n_train"], shown["n_held_out"]) == ("over_refusal", 0, 8)
    assert shown["example"]["harmless"] == task.rows["held_out"][1]["prompt"]
    assert list(json.loads(call("stats", *of_it).stdout)["alpha"]) == ["held_out"]
    assert json.loads(call("validate", *of_it).stdout) == {"errors": 0, "problems": []}


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


@pytest.mark.parametrize("name", ["no", "yes", "on", "true", "null"])
def test_new_accepts_names_that_yaml_takes_for_something_else(task, name):
    call("new", name)
    assert call("validate", name, "--tasks-path", "tasks").stdout == "1 task: 0 errors, 0 warnings\n"


def test_no_command_imports_torch(task):
    """In one fresh interpreter, command after command; asserts inside it name the guilty one."""
    code = (
        "import sys; from refusal_bench.cli import app; from typer.testing import CliRunner\n"
        "for command in ('new one', 'ls', 'show one', 'validate one', 'stats one'):\n"
        "    extra = [] if command == 'new one' else ['--tasks-path', 'tasks']\n"
        "    result = CliRunner().invoke(app, ['tasks', *command.split(), *extra])\n"
        "    assert result.exit_code == 0, (command, result.output)\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules), command\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_broken_task_is_listed_as_such_and_is_one_sentence_where_it_is_needed(task, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # or the cell is wrapped
    task.write(train=b"{broken\n")
    assert "cannot be read; see `tasks validate`" in call("ls", "--tasks-path", task.tasks).stdout
    for command in ("show", "stats"):
        done = subprocess.run(
            [sys.executable, "-m", "refusal_bench", "tasks", command, "alpha", "--tasks-path", "tasks"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("refusal-bench: datasets/alpha/train.jsonl:1: is not one JSON object")


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


def test_the_guides_run_ends_as_it_says(task):
    (command,) = re.findall(r"^refusal-bench (run .+)$", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    call("new", "my_domain")
    result = CliRunner().invoke(whole_app, [*command.split(), "--sections", "none", "--leaderboard", "none", "--json"])
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(result.stdout)["results"]["tasks"].values()
    assert outcome["status"] == "no_direction"
    assert outcome["refusal"]["baseline_harmful"]["rate"] == 0


def test_the_guides_plugin_is_a_task(task, monkeypatch):
    blocks = dict(re.findall(r"```(toml|python)\n(.+?)```", DOC.read_text(encoding="utf-8"), re.DOTALL))
    group, points = tomllib.loads(blocks["toml"])["project"]["entry-points"].popitem()
    Path("my_package.py").write_text(blocks["python"])
    info = Path("my_package-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    monkeypatch.syspath_prepend(Path.cwd())
    assert call("validate", "my_domain").stdout == "1 task: 0 errors, 0 warnings\n"
    assert json.loads(call("ls", "--json").stdout)["my_domain"]["origin"] == "package my_package"
    assert "my_domain" in select_names("all")


def test_the_guide_shows_a_manifest_and_a_row_with_every_field(task):
    text = DOC.read_text(encoding="utf-8")
    for field in (
        "name", "version", "title", "definition", "out_of_scope", "taxonomy", "license", "generate", "tags", "kind",
    ):  # fmt: skip
        assert f"\n| `{field}` |" in text
    for field in ("id", "prompt", "label", "pair", "domains", "type", "source"):
        assert f"\n| `{field}` |" in text


def test_validate_accepts_the_bundled_folder_named_again():
    result = call("validate", "fraud", "--tasks-path", content_folder() / "tasks")
    assert result.exit_code == 0
