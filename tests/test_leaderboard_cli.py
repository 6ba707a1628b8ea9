from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from record_factory import DOMAINS, make_record, record_dict
from refusal_bench.cli.leaderboard import app
from refusal_bench.errors import InputError, RefusalBenchError
from refusal_bench.leaderboard import add_record
from refusal_bench.leaderboard.rows import COLUMNS
from refusal_bench.record import Record
from typer.testing import CliRunner, Result


def call(*args: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(args), env=env)


@pytest.fixture
def leaderboard(tmp_path: Path) -> Path:
    folder = tmp_path / "leaderboards"
    add_record(folder, make_record())
    return folder


def test_ls_prints_rows(leaderboard: Path) -> None:
    done = call("ls", "--leaderboard", str(leaderboard))
    assert done.exit_code == 0
    assert all(name in done.stdout for name in DOMAINS)


def test_ls_json_prints_only_json(leaderboard: Path) -> None:
    (leaderboard / "records" / "broken.json").write_text("{")
    done = call("ls", "--json", REFUSAL_BENCH_LEADERBOARD=str(leaderboard))
    rows = json.loads(done.stdout)
    assert [row["task"] for row in rows] == list(DOMAINS)
    assert list(rows[0]) == list(COLUMNS)
    assert "broken.json:1" in done.stderr


def test_add_stores_a_record(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(make_record(run_id="other").to_json())
    done = call("add", str(file), "--leaderboard", str(tmp_path / "new"))
    assert done.exit_code == 0
    assert Path(done.stdout.strip()).is_file()


def test_add_refuses_a_contradiction(tmp_path: Path, leaderboard: Path) -> None:
    data = record_dict(run_id="forged")
    data["results"]["geometry"]["effective_rank"] = 1.0
    file = tmp_path / "record.json"
    file.write_text(Record.model_validate(data).to_json())
    done = call("add", str(file), "--leaderboard", str(leaderboard))
    assert isinstance(done.exception, RefusalBenchError)
    assert done.exception.exit_code == 1
    assert "effective_rank" in str(done.exception)


def test_add_refuses_what_validate_would_refuse(leaderboard: Path, tmp_path: Path) -> None:
    data = record_dict(run_id="other")
    data["config"]["model"] = "another-org/Model"
    file = tmp_path / "record.json"
    file.write_text(Record.model_validate(data).to_json())
    done = call("add", str(file), "--leaderboard", str(leaderboard))
    assert isinstance(done.exception, RefusalBenchError)
    assert "config.model is 'another-org/Model'" in str(done.exception)
    assert call("validate", "--leaderboard", str(leaderboard)).exit_code == 0


def test_validate_passes_a_sound_leaderboard(leaderboard: Path) -> None:
    done = call("validate", "--leaderboard", str(leaderboard))
    assert (done.exit_code, done.stdout) == (0, "1 record and both tables are sound\n")


def test_validate_prints_every_problem_with_its_file(leaderboard: Path) -> None:
    (sound,) = leaderboard.rglob("records/*/*.json")
    text = sound.read_text()
    (sound.parent / "renamed.json").write_text(text)
    (sound.parent / "broken.json").write_text(text[:-10])
    data = json.loads(text)
    data["results"]["tasks"]["fraud"]["refusal"]["ablated_harmful"]["n"] = 99
    sound.write_text(json.dumps(data))
    (leaderboard / "leaderboard.csv").unlink()
    done = call("validate", "--leaderboard", str(leaderboard))
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any("broken.json" in line and "is not JSON" in line for line in lines)
    assert any("renamed.json: belongs at" in line for line in lines)
    assert any(line.startswith(f"{sound}: results.tasks.fraud.refusal.ablated_harmful.n is 99") for line in lines)
    assert any("leaderboard.csv: is missing" in line for line in lines)
    assert any("leaderboard.jsonl: is not what the records give" in line for line in lines)


@pytest.mark.parametrize("command", ["ls", "validate", "build", "serve"])
def test_a_missing_leaderboard_is_bad_input(command: str, tmp_path: Path) -> None:
    done = call(command, "--leaderboard", str(tmp_path / "nowhere"))
    assert isinstance(done.exception, InputError)
    assert "nowhere" in str(done.exception)


def test_build_writes_a_site_and_prints_its_first_page(leaderboard: Path, tmp_path: Path) -> None:
    done = call("build", "--leaderboard", str(leaderboard))
    assert (done.exit_code, done.stdout.strip()) == (0, str(leaderboard / "site" / "index.html"))
    assert (leaderboard / "site" / "index.html").is_file()
    assert call("validate", "--leaderboard", str(leaderboard)).exit_code == 0  # the site is in no one's way
    done = call("build", "--leaderboard", str(leaderboard), "--out", str(tmp_path / "other"))
    assert (tmp_path / "other" / "site.js").is_file()


def test_serve_prints_its_address_and_ends_with_the_interrupt(leaderboard: Path) -> None:
    command = [sys.executable, "-m", "refusal_bench", "leaderboard", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--leaderboard", str(leaderboard)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore the interrupt, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address + "compare.html", timeout=60) as answer:
                assert b"Side by side" in answer.read()
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 130
            assert "interrupted" not in server.stderr.read()  # there is nothing to go on with
        finally:
            server.kill()


@pytest.mark.parametrize("file", ["leaderboards/README.md", "docs/examples/leaderboard-submission.yml"])
def test_what_contributors_are_told_to_run_exists(file: str) -> None:
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    if file.endswith(".yml"):
        assert yaml.safe_load(text)["jobs"]["validate"]["steps"]
    named = set(re.findall(r"(?:refusal-bench |`)leaderboard ([a-z]+)", text))
    assert {"validate", "build"} <= named <= {command.name for command in app.registered_commands}


def test_none_is_no_place_to_add_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record.json").write_text(make_record().to_json())
    done = call("add", "record.json", REFUSAL_BENCH_LEADERBOARD="none")
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "none").exists()


def test_nothing_that_people_look_at_needs_torch() -> None:
    code = (
        "import sys, refusal_bench.leaderboard, refusal_bench.report, refusal_bench.console;"
        "import refusal_bench.cli.leaderboard, refusal_bench.cli.report, refusal_bench.leaderboard.site;"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
