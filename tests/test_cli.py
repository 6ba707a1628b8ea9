"""The command line: help in under a second, bad input in one sentence with exit code 2 and nothing written."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from task_folder import TaskFolder
from tiny import save_tiny

RUN = ("run", "--leaderboard", "none")


def call(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "refusal_bench", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


@pytest.fixture
def broken_task(tmp_path):
    """A copy of a bundled task; the test breaks it."""
    (tmp_path / "datasets" / "copy").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    for split in ("train", "held_out"):
        rows = Path(f"datasets/fraud/{split}.jsonl").read_text().replace("fraud-", "copy-")
        (tmp_path / "datasets" / "copy" / f"{split}.jsonl").write_text(rows)
    manifest = Path("tasks/fraud.yaml").read_text().replace("datasets/fraud", "datasets/copy")
    (tmp_path / "tasks" / "copy.yaml").write_text(manifest.replace("name: fraud", "name: copy"))
    return tmp_path


def one_sentence(done, *parts):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("refusal-bench: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


def test_help_answers_within_a_second():
    assert min(_processor_seconds("--help") for _ in range(3)) < 1.0


def _processor_seconds(*arguments):
    """What a command takes alone, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert call(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "command",
    [
        (), ("run",), ("tasks",), ("tasks", "ls"), ("tasks", "show"), ("tasks", "validate"), ("tasks", "new"),
        ("tasks", "stats"), ("models",), ("models", "ls"), ("models", "show"), ("leaderboard",), ("leaderboard", "ls"),
        ("leaderboard", "add"), ("leaderboard", "validate"), ("report",), ("compare",), ("judges",), ("judges", "ls"),
        ("judges", "show"), ("judges", "check"), ("judges", "compare"),
    ],
)  # fmt: skip
def test_every_command_has_help_and_leaf_commands_an_example(command):
    done = call(*command, "--help", COLUMNS="200")
    assert done.returncode == 0
    if command not in {("tasks",), ("models",), ("leaderboard",), ("judges",)}:
        assert "Example: refusal-bench" in done.stdout


def test_every_run_option_has_an_environment_twin():
    text = call("run", "--help", COLUMNS="300").stdout
    options = set(re.findall(r"--(?!no-)([a-z-]+)", text)) - {"help"}
    for option in options:
        assert f"REFUSAL_BENCH_{option.upper().replace('-', '_')}" in text
    assert len(options) > 20


def test_light_commands_import_neither_torch_nor_transformers():
    code = (
        "import sys; from refusal_bench.cli import app; from typer.testing import CliRunner\n"
        "for command in (['--help'], ['tasks', 'ls'], ['tasks', 'show', 'fraud'], ['tasks', 'validate'],"
        " ['models', 'ls'], ['models', 'ls', '--json'], ['judges', 'ls'], ['judges', 'show', 'llm'],"
        " ['leaderboard', 'ls']):\n"
        "    result = CliRunner().invoke(app, command); assert result.exit_code == 0, (command, result.output)\n"
        "for wrong in (['--model', 'plantet'], ['--model', 'planted', '--tasks', 'frauds'], ['--judge', 'nobody']):\n"
        "    result = CliRunner().invoke(app, ['run', '--model', 'planted', *wrong]); assert result.exit_code, wrong\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--model", "plantet"), ("unknown model 'plantet'", "Did you mean 'planted'")),
        (("--model", "missing.gguf"), ("missing.gguf", "no such file")),
        (("--model", "nobody/nothing"), ("nobody/nothing", "cannot be reached")),
        (("--model", "planted", "--tasks", "frauds"), ("'frauds'", "Did you mean 'fraud'")),
        (("--model", "planted", "--tasks", "tag:none"), ("no task has the tag 'none'",)),
        (("--model", "planted", "--tasks-path", "nowhere"), ("nowhere", "not a folder")),
        (("--model", "planted", "--sections", "geometri"), ("unknown section 'geometri'",)),
        (("--model", "planted", "--device", "abacus"), ("device 'abacus'",)),
        (("--model", "planted", "--seed", "99999999999"), ("seed",)),
        (("--model", "planted", "--out", "/dev/null/runs"), ("/dev/null/runs", "cannot be written")),
    ],
)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(tmp_path, arguments, parts):
    one_sentence(call(*RUN, *arguments, cwd=tmp_path), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_without_tokenizer_or_template_is_named(tmp_path):
    save_tiny(tmp_path / "models" / "bare", tokenizer=False)
    one_sentence(call(*RUN, "--model", "models/bare", cwd=tmp_path), "bare", "has no tokenizer")
    save_tiny(tmp_path / "models" / "plain", template=None)
    one_sentence(call(*RUN, "--model", "models/plain", cwd=tmp_path), "plain", "no chat template")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_broken_line_is_named_with_its_number(broken_task):
    file = broken_task / "datasets" / "copy" / "train.jsonl"
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:-3]
    file.write_text("\n".join(lines) + "\n")
    done = call(*RUN, "--model", "planted", "--tasks", "copy", "--tasks-path", "tasks", cwd=broken_task)
    one_sentence(done, "datasets/copy/train.jsonl:7:", "JSON")
    assert {path.name for path in broken_task.iterdir()} == {"datasets", "tasks"}


def test_a_task_without_held_out_rows_is_named(tmp_path):
    folder = TaskFolder(tmp_path, "copy")
    folder.rows["held_out"] = []
    folder.write()
    done = call(*RUN, "--model", "planted", "--tasks", "copy", "--tasks-path", "tasks", cwd=tmp_path)
    one_sentence(done, "datasets/copy/held_out.jsonl", "has no rows")
    assert {path.name for path in tmp_path.iterdir()} == {"datasets", "tasks"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("run", "--model", "planted", "--method", "magic"), ("--method", "'magic' is not one of 'dim'")),
        (("run", "--model", "planted", "--seed", "one"), ("--seed", "valid integer")),
        (("run", "--modle", "planted"), ("--modle", "--model")),
        (("tasks", "show"), ("Missing argument 'name'",)),
        (("tasks", "validat"), ("'validat'", "'validate'?")),
    ],
)
def test_arguments_that_cannot_be_parsed_are_one_sentence(arguments, parts, tmp_path):
    one_sentence(call(*arguments, cwd=tmp_path), *parts, "see --help.")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_wants_more_shows_its_help():
    for arguments in ((), ("tasks",)):
        done = call(*arguments)
        assert done.returncode == 2
        assert "Usage:" in done.stdout
        assert done.stderr == ""


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "refusal_bench", *RUN, "--model", "planted", "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore the interrupt, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        lines = iter(run.stderr.readline, "")
        next(line for line in lines if line.startswith("refusal tokens"))
        run.send_signal(signal.SIGINT)
        said = list(lines)
    assert said[-1] == "refusal-bench: interrupted; the same command goes on from the last finished stage.\n"
    assert run.returncode == 130


def test_several_models_fail_together_with_the_worst_code_and_the_good_one_is_kept(tmp_path):
    save_tiny(tmp_path / "plain", template=None)
    done = call(
        *RUN, "--model", "plain", "--model", "planted", "--quick", "--tasks", "fraud,weapons", "--json", cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "no chat template" in done.stderr


def test_the_version_is_printed():
    from refusal_bench import __version__

    assert call("--version").stdout.strip() == f"refusal-bench {__version__}"
