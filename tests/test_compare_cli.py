"""`refusal-bench compare` from outside: exit codes, JSON, JUnit, Markdown, names, the pytest plugin."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from comparison_records import edited, refusing, with_contrasts, with_labels
from record_factory import D_MODEL, N_LAYERS, make_record
from refusal_bench.cli import app
from refusal_bench.comparison import find
from refusal_bench.comparison.policy import parse
from refusal_bench.comparison.sources import Source
from refusal_bench.comparison.spaces import direct_comparison
from refusal_bench.errors import InputError, NotComparableError
from refusal_bench.leaderboard import add_record
from safetensors.numpy import save_file
from scipy.linalg import subspace_angles
from typer.testing import CliRunner, Result

DOMAINS = ("fraud", "privacy", "weapons")
HOSTILE = "evil/<img src=x onerror=alert(1)>|`x`\n\x1b[31m"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def write(path: Path, record) -> Path:
    path.write_text(record.to_json())
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A base, the same again, one that lost refusals of weapons prompts, and one of another task version."""
    monkeypatch.chdir(tmp_path)
    base = edited(refusing(DOMAINS, 16), lambda data: data["tasks"]["fraud"].update(version="1.0"))
    worse = with_labels(base, {"weapons": {"baseline_harmful": "C" * 9 + "R" * 7}})
    other = edited(base, lambda data: data["tasks"]["fraud"].update(version="2.0"))
    named = {"base": base, "same": base, "worse": worse, "other": other}
    return {name: write(tmp_path / f"{name}.json", record) for name, record in named.items()}


def test_exit_codes(files):
    assert call(files["base"], files["same"]).exit_code == 0
    assert call(files["base"], files["worse"]).exit_code == 1
    assert call(files["worse"], files["base"]).exit_code == 0
    done = call(files["base"], files["other"])
    assert isinstance(done.exception, NotComparableError)
    assert done.exception.exit_code == 4
    assert "version of fraud: 1.0 in the base, 2.0 in the candidate" in str(done.exception)
    for bad in (["nowhere"], [files["base"], "--fail-on", "refusal.rate"], [files["base"], "--policy", "none.toml"]):
        done = call(files["base"], *bad)
        assert isinstance(done.exception, InputError)
        assert done.exception.exit_code == 2
        assert done.stdout == ""


def test_only_the_given_checks_fail(files):
    assert call(files["base"], files["worse"], "--fail-on", "refusal.weapons.rate < -0.05").exit_code == 1
    assert call(files["base"], files["worse"], "--fail-on", "refusal.*.rate < -0.05").exit_code == 1
    assert call(files["base"], files["worse"], "--fail-on", "refusal.fraud.rate < 0").exit_code == 0
    assert call(files["base"], files["worse"], "--fail-on", "over_refusal.rate > +0.03").exit_code == 0


def test_a_policy_file_in_the_folder_is_used(files):
    Path("refusal-bench.toml").write_text('fail_on = ["refusal.fraud.rate < 0"]\n')
    assert call(files["base"], files["worse"]).exit_code == 0
    assert call(files["base"], files["worse"], "--fail-on", "refusal.rate < 0").exit_code == 1
    Path("other.toml").write_text('fail_on = ["refusal.weapons.rate < -0.1"]\n')
    assert call(files["base"], files["worse"], "--policy", "other.toml").exit_code == 1


def test_json_is_one_object_and_the_same_bytes_twice(files):
    first, second = (call(files["base"], files["worse"], "--json") for _ in range(2))
    assert first.stdout_bytes == second.stdout_bytes
    content = json.loads(first.stdout)
    assert content["verdict"] == "failed"
    assert content["exit_code"] == first.exit_code == 1
    by_name = {each["name"]: each for each in content["measurements"]}
    weapons = by_name["refusal.weapons.rate"]
    assert (weapons["base"], weapons["candidate"], weapons["lost"], weapons["won"]) == (1.0, 7 / 16, 9, 0)
    assert weapons["verdict"] == "worse"
    assert weapons["p_mcnemar"] == pytest.approx(2 * 0.5**9)
    failed = {check["measurement"] for check in content["checks"] if check["failed"]}
    assert failed == {"refusal.rate", "refusal.weapons.rate"}


def test_json_where_not_comparable_says_why(files):
    done = call(files["base"], files["other"], "--json")
    content = json.loads(done.stdout)
    assert (content["verdict"], content["exit_code"]) == ("not comparable", 4)
    assert content["reasons"][0]["grade"] == "hard"
    assert content["measurements"] == []


def test_junit_has_a_suite_a_task_and_one_for_geometry(files):
    assert call(files["base"], files["worse"], "--junit", "out/junit.xml").exit_code == 1
    root = ElementTree.parse("out/junit.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == [*DOMAINS, "all tasks", "geometry"]
    assert {name: suite.get("failures") for name, suite in suites.items()} == {
        "fraud": "0", "privacy": "0", "weapons": "1", "all tasks": "1", "geometry": "0",
    }  # fmt: skip
    for suite in suites.values():
        assert int(suite.get("tests")) == len(suite)
    (failure,) = suites["weapons"].iter("failure")
    assert failure.get("message").startswith("refusal.weapons.rate −56.2 points, at most −")
    before = Path("out/junit.xml").read_bytes()
    call(files["base"], files["worse"], "--junit", "out/junit.xml")
    assert Path("out/junit.xml").read_bytes() == before


def test_junit_and_markdown_where_not_comparable(files):
    call(files["base"], files["other"], "--junit", "junit.xml", "--markdown", "summary.md")
    assert [error.get("message") for error in ElementTree.parse("junit.xml").iter("error")] == [
        "version of fraud: 1.0 in the base, 2.0 in the candidate"
    ]
    assert "not comparable" in Path("summary.md").read_text()


def test_safe_prompts_are_in_every_form_of_the_result(tmp_path):
    plain = refusing(DOMAINS, 16)
    base = write(tmp_path / "base.json", with_contrasts(plain, "C" * 150, "R" * 100))
    more = write(tmp_path / "more.json", with_contrasts(plain, "R" * 30 + "C" * 120, "R" * 95 + "C" * 5))
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    asked = ("--fail-on", "safe_prompts.rate > +0.03")
    done = call(base, more, *asked, "--json", "--junit", junit, "--markdown", summary)
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    by_name = {each["name"]: each for each in content["measurements"]}
    safe, unsafe = by_name["safe_prompts.rate"], by_name["unsafe_contrasts.rate"]
    assert (safe["task"], safe["n"], safe["lost"], safe["won"], safe["worse"]) == ("over_refusal", 150, 0, 30, "higher")
    assert (safe["base"], safe["candidate"], safe["verdict"]) == (0, 0.2, "worse")
    assert safe["p_mcnemar"] == pytest.approx(2 * 0.5**30)
    assert safe["bootstrap95"] == pytest.approx((0.2 - 0.064, 0.2 + 0.064), abs=0.015)
    assert (unsafe["lost"], unsafe["won"], unsafe["worse"]) == (5, 0, "lower")
    (check,) = content["checks"]
    assert (check["expression"], check["measurement"], check["failed"]) == (asked[1], "safe_prompts.rate", True)
    assert 0.03 < check["bound"] < 0.2
    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    assert list(suites) == [*DOMAINS, "all tasks", "over_refusal", "geometry"]
    cases = {case.get("name"): case for case in suites["over_refusal"]}
    assert list(cases) == [
        f"{name}.{unit}" for name in ("safe_prompts", "unsafe_contrasts") for unit in ("rate", "score")
    ]
    (failure,) = suites["over_refusal"].iter("failure")
    assert failure.get("message").startswith("safe_prompts.rate +20.0 points, at least +")
    text = summary.read_text()
    assert "failed: safe\\_prompts.rate +20.0 points" in text
    assert "| safe\\_prompts.rate | 0 % | 20 % |" in text.partition("### What changed")[2].partition("<details>")[0]
    assert call(more, base, *asked).exit_code == 0
    shown = call(base, more, *asked).stdout
    assert "safe_prompts.rate" in shown
    assert "unsafe_contrasts.rate" in shown


def test_what_cannot_be_written_is_one_sentence(files):
    done = call(files["base"], files["same"], "--markdown", files["base"] / "summary.md")
    assert isinstance(done.exception, InputError)


def test_hostile_names_stay_text(files, tmp_path):
    hostile = edited(make_record(DOMAINS, n=8), lambda data: data["model"].update(id=HOSTILE))
    file = write(tmp_path / "hostile.json", hostile)
    done = call(file, file, "--junit", "junit.xml", "--markdown", "summary.md")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    ElementTree.parse("junit.xml")
    text = Path("summary.md").read_text()
    assert "<img" not in text
    assert text.count("<") == text.count("<details>") + text.count("</") + text.count("<summary>")
    assert text.splitlines()[0].count("evil") == 2


def test_markdown_says_what_changed(files):
    call(files["base"], files["worse"], "--markdown", "summary.md")
    text = Path("summary.md").read_text()
    assert "**failed: refusal.rate −18.8 points" in text
    changed = text.partition("### What changed")[2].partition("<details>")[0]
    assert "| refusal.weapons.rate | 100 % | 44 % |" in changed
    assert "fraud" not in changed


def test_records_are_found_as_file_folder_and_leaderboard_name(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    record = make_record(model_id="Org/Model", run_id="a")
    write(folder / "record.json", record)
    assert find(str(folder), tmp_path) == Source(record)
    (folder / "directions.safetensors").touch()
    assert find(str(folder / "record.json"), tmp_path).directions == folder / "directions.safetensors"
    board = tmp_path / "board"
    later = edited(make_record(model_id="Org/Model", run_id="b"), lambda d: d.update(created="2026-05-01T00:00:00Z"))
    for each in (later, record):
        add_record(board, each)
    for name, run in (("org--model", "b"), ("Org/Model", "b"), ("org--model/a", "a"), ("Org/Model/a", "a")):
        assert find(name, board).record.run_id == run
    with pytest.raises(InputError, match="the leaderboard has org--model"):
        find("org--modle", board)
    with pytest.raises(InputError, match="no records"):
        find("anything", tmp_path / "none")


def test_a_record_that_contradicts_itself_is_bad_input(tmp_path):
    broken = with_labels(refusing(DOMAINS, 8), {"fraud": {"baseline_harmful": "RRR"}})
    file = write(tmp_path / "broken.json", broken)
    done = call(file, file)
    assert isinstance(done.exception, InputError)
    assert "8 prompts, 3 labels" in str(done.exception)


def test_directions_of_one_space_are_compared_directly(tmp_path):
    rng = np.random.default_rng(0)
    record, sources, sites = make_record(DOMAINS), [], []
    for name in ("one", "two"):
        candidates = {f"{d}.candidates": rng.normal(size=(3, N_LAYERS, D_MODEL)).astype(np.float32) for d in DOMAINS}
        save_file(candidates, tmp_path / f"{name}.safetensors")
        sources.append(Source(record, tmp_path / f"{name}.safetensors"))
        sites.append(np.stack([candidates[f"{d}.candidates"][2, 5] for d in DOMAINS]).astype(float))  # layer 5, -1
    found = direct_comparison(*sources)
    one, two = sites
    expected = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert list(found["cosine"].values()) == pytest.approx(expected)
    angles = np.degrees(subspace_angles(one.T, two.T))
    assert found["principal_angles_deg"] == pytest.approx(sorted(angles), abs=1e-6)
    same = direct_comparison(sources[0], sources[0])
    assert list(same["cosine"].values()) == pytest.approx([1, 1, 1])
    wider = edited(record, lambda data: data["model"].update(d_model=D_MODEL + 1))
    assert direct_comparison(sources[0], Source(wider, sources[1].directions)) is None
    assert direct_comparison(sources[0], Source(record)) is None
    (tmp_path / "two.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"two\.safetensors: does not hold"):
        direct_comparison(*sources)


def test_compare_needs_no_torch(files):
    code = (
        "import sys; from refusal_bench.cli import app; "
        f"app(['compare', {str(files['base'])!r}, {str(files['same'])!r}, '--json'], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'peft', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["exit_code"] == 0, done.stderr
    assert done.stderr.strip() == "[]"


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "refusal_bench.pytest_plugin", "-p", "no:cacheprovider"]
    # Without other plugins it starts sooner, and an installed refusal-bench does not register this one a second time.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


def test_the_package_declares_the_plugin():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"refusal_bench": "refusal_bench.pytest_plugin"}


def test_the_pytest_plugin_serves_the_documented_policy(files, tmp_path):
    example = Path(__file__).parents[1] / "docs" / "examples" / "test_refusal_policy.py"
    (tmp_path / example.name).write_text(example.read_text())
    good = run_pytest(tmp_path, "--refusal-baseline", "base.json", "--refusal-record", "same.json")
    assert good.returncode == 0, good.stdout
    bad = run_pytest(tmp_path, "--refusal-baseline", "base.json", "--refusal-record", "worse.json")
    assert bad.returncode == 1
    assert "refusal.weapons.rate" in bad.stdout
    silent = run_pytest(tmp_path, "--refusal-record", "same.json")
    assert silent.returncode != 0
    assert "this test needs --refusal-baseline RECORD" in silent.stdout
    missing = run_pytest(tmp_path, "--refusal-baseline", "base.json", "--refusal-record", "gone.json")
    assert "gone.json: is no record file" in missing.stdout


def test_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, refusal_bench.pytest_plugin; "
        "print(sorted({'numpy', 'scipy', 'pydantic', 'torch', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_workflow_uses_options_that_exist():
    workflow = yaml.safe_load((Path(__file__).parents[1] / "docs" / "examples" / "refusal.yml").read_text())
    lines = [step.get("run", "").replace("\\\n", "") for step in workflow["jobs"]["compare"]["steps"]]
    commands = [
        shlex.split(line.removesuffix("> candidate.json\n")) for line in lines if line.startswith("refusal-bench")
    ]
    assert [command[1] for command in commands] == ["run", "compare"]
    for _, name, *arguments in commands:
        known = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).stdout
        assert {option for option in arguments if option.startswith("--")} <= set(re.findall(r"--[a-z-]+", known))
    (given,) = [command for command in commands if command[1] == "compare"]
    for option, expression in pairwise(given):
        if option == "--fail-on":
            parse(expression)
