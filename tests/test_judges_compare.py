"""`judges compare`: judges on a run's saved completions, against a folder made by hand and a planted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from record_factory import condition, make_record, record_dict, wilson
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.evaluation import CHECK_EVERY, Evaluator
from refusal_bench.judges import load_judge
from refusal_bench.judges.compare import agreement, compare
from refusal_bench.judges.saved import read_run
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from refusal_bench.record import Record
from refusal_bench.tasks import load_tasks
from sklearn.metrics import cohen_kappa_score
from test_judges_classifier import classifier  # noqa: F401

NAMES = ("fraud", "privacy")
SAID = {
    "I can't help with that.": "RR",
    "I must refuse.": "RC",
    "I cannot stress enough how good bread is.": "CR",
    "Bread needs flour, water and salt.": "CC",
    "<think>hm": "UC",
}
"""Completions with the letters of opener and substring."""

ABLATED = [*NAMES, "random.0", "random.1", "random.2", "shared", "subspace.1", "subspace.2"]
ADDED = [*NAMES, "random.0", "random.1", "random.2", "shared"]


def call(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "refusal_bench", "judges", "compare", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def made_rows(record):
    """Rows of the completions files of a made-up record, by file, and {(task, condition, direction): texts}."""
    rng, files, cells = np.random.default_rng(0), {}, {}
    for task in (*NAMES, "over_refusal"):
        apart = task == "over_refusal"
        ids = (record["results"]["over_refusal"] if apart else record["results"]["tasks"][task])["held_out_ids"]
        plan = {
            "baseline_harmful": ["none"],
            "baseline_harmless": ["none"],
            "ablated_harmful": ["own"] if apart else ABLATED,
            "ablated_harmless": ["own"],
            "added_harmless": ["own"] if apart else ADDED,
        }
        rows = []
        for name, directions in plan.items():
            of = ids[name.partition("_")[2]]
            for variant, direction in enumerate(directions):
                texts = rng.choice(list(SAID), size=len(of)).tolist()
                own = direction in ("none", "own", task)
                cells[task, name, None if own else direction] = texts
                rows += [
                    {"id": prompt, "stage": f"{task}.{name}", "variant": variant, "completion": text}
                    for prompt, text in zip(of, texts, strict=True)
                ]
        rng.shuffle(rows)  # a row is found by what it says of itself
        files[f"completions.{task}.jsonl"] = rows
    return files, cells


def write(folder, files, record):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "record.json").write_text(Record.model_validate(record).to_json())
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder made by hand, its record, and the texts by condition."""
    record = record_dict(NAMES)
    files, cells = made_rows(record)
    return write(tmp_path_factory.mktemp("made") / "run", files, record), record, cells


def labels_of(record, task, name, direction):
    """The run's own labels, from wherever a record keeps them."""
    results = record["results"]
    if direction is None:
        return (results["over_refusal"] if task == "over_refusal" else results["tasks"][task])["refusal"][name][
            "labels"
        ]
    what, column = "ablation" if name.startswith("ablated") else "addition", NAMES.index(task)
    kind, _, place = direction.partition(".")
    if kind == "subspace":
        n = len(results["tasks"][task]["held_out_ids"]["harmful"])
        return results["subspace"]["labels"][int(place)][column * n : (column + 1) * n]
    if kind in ("random", "shared"):
        return results["cross_domain"]["controls"][kind][what]["labels"][int(place or 0)][column]
    return results["cross_domain"][what]["labels"][NAMES.index(direction)][column]


def test_every_rate_is_that_of_the_letters(made):
    folder, record, cells = made
    done = call(folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["conditions"] + found["further_directions"]
    assert len(found["conditions"]) == 5 * 3
    assert [row["direction"] for row in found["conditions"]] == [None] * 15
    assert {(row["task"], row["condition"], row["direction"]) for row in rows} == set(cells)
    assert len(rows) == len(cells) == 5 * 3 + 2 * (7 + 5)
    for row in rows:
        key = (row["task"], row["condition"], row["direction"])
        opener, substring = ("".join(SAID[text][i] for text in cells[key]) for i in (0, 1))
        for name, letters in {"record": labels_of(record, *key), "opener": opener, "substring": substring}.items():
            expected = condition(letters, [])
            assert row["n"] == expected["n"]
            assert row["judges"][name]["n_unscored"] == expected["n_unscored"]
            assert row["judges"][name]["rate"] == pytest.approx(expected["rate"])
            assert row["judges"][name]["rate_ci95"] == pytest.approx(expected["ci95"])


def test_agreement_is_that_of_sklearn_where_both_scored(made):
    folder, record, cells = made
    texts = [text for row in cells.values() for text in row]
    said = {name: [SAID[text][i] for text in texts] for i, name in enumerate(("opener", "substring"))}
    said["record"] = [letter for key in cells for letter in labels_of(record, *key)]
    found = json.loads(call(folder, "--json").stdout)
    assert {name: row["n_unscored"] for name, row in found["judges"].items()} == {
        name: sum(letter in "U?" for letter in letters) for name, letters in said.items()
    }
    assert [row["judges"] for row in found["agreement"]] == [
        ["record", "opener"],
        ["record", "substring"],
        ["opener", "substring"],
    ]
    for row in found["agreement"]:
        pairs = [pair for pair in zip(*(said[name] for name in row["judges"]), strict=True) if not {*"U?"} & {*pair}]
        first, second = ([pair[i] == "R" for pair in pairs] for i in (0, 1))
        assert (row["n"], row["n_unscored"]) == (len(pairs), len(texts) - len(pairs))
        assert row["n_unscored"] > 0
        assert row["kappa"] == pytest.approx(cohen_kappa_score(first, second))
        assert row["agreement"] == pytest.approx(np.mean(np.equal(first, second)))
        assert row["agreement_ci95"] == pytest.approx(wilson(int(np.equal(first, second).sum()), len(pairs)))
        assert row["kappa_ci95"][0] < row["kappa"] < row["kappa_ci95"][1]
        assert row["only_first"] == np.greater(first, second).sum()
        assert row["both_refusal"] + row["only_first"] + row["only_second"] + row["neither"] == row["n"]


def test_judges_that_share_no_scored_completion_agree_on_nothing():
    found = agreement("RU?", "UCR")
    assert (found["n"], found["n_unscored"]) == (0, 3)
    assert found["agreement"] is found["agreement_ci95"] is found["kappa"] is found["kappa_ci95"] is None
    assert agreement("RRC", "RRR")["kappa"] == 0
    assert agreement("RR", "RR")["kappa"] is None


def test_no_completion_and_no_prompt_is_printed_and_torch_is_not_needed(made):
    folder, *_ = made
    done = call(folder, "--judge", "panel:opener+substring")
    assert done.returncode == 0, done.stderr
    for part in ("ablated harmful", "panel:opener+substring", "over_refusal", "kappa"):
        assert part in done.stdout
    printed = done.stdout + call(folder, "--json").stdout
    assert not [text for text in (*SAID, "held_out-000") if text in printed]
    code = (
        "import sys; from refusal_bench.cli import app; from typer.testing import CliRunner\n"
        f"done = CliRunner().invoke(app, ['judges', 'compare', {str(folder)!r}]); assert done.exit_code == 0\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'sklearn') if name in sys.modules])"
    )
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert light.stdout.strip() == "[]", light.stdout + light.stderr


def test_a_classifier_from_a_folder_is_one_more_column(made, classifier):  # noqa: F811
    folder, _, cells = made
    judge = load_judge(f"classifier:{classifier}")
    found = compare(*read_run(folder), [judge, load_judge("opener")])
    letters = judge.judge(cells["fraud", "ablated_harmful", "privacy"])
    (row,) = (
        row
        for row in found["further_directions"]
        if (row["task"], row["condition"], row["direction"]) == ("fraud", "ablated_harmful", "privacy")
    )
    assert row["judges"]["classifier:bouncer"]["rate"] == pytest.approx(condition("".join(letters), [])["rate"])
    assert found["judges"]["classifier:bouncer"]["version"] == judge.version
    with pytest.raises(InputError, match=r"two judges are called classifier:bouncer; name each once\."):
        compare(*read_run(folder), [judge, judge])


def test_what_an_endpoint_withheld_is_unscored_and_what_a_task_forbade_is_left_out(tmp_path):
    record = record_dict(("fraud",), sections=())
    task = record["results"]["tasks"]["fraud"]
    ids, n = task["held_out_ids"], len(task["held_out_ids"]["harmful"])
    for name in ("ablated_harmful", "ablated_harmless", "added_harmless"):
        task["refusal"][name] = condition("?" * n, [0.0] * n)
    served = {label: condition("?" + "C" * (n - 1), [None] * n) for label in ids}
    record["results"]["served"] = {"model": "m", "prompt_tokens": 1, "completion_tokens": 1, "requests": 1}
    record["results"]["served"]["tasks"] = {"fraud": served}
    files = {
        "completions.fraud.jsonl": [
            {"id": prompt, "stage": f"fraud.baseline_{label}", "variant": 0, "completion": "I must refuse."}
            for label, of in ids.items()
            for prompt in of
        ],
        "completions.served.fraud.jsonl": [
            {"id": prompt, "stage": "fraud.served", "completion": None if place == 0 else "I can't help with that."}
            for of in ids.values()
            for place, prompt in enumerate(of)
        ],
    }
    found = compare(*read_run(write(tmp_path / "run", files, record)), [load_judge("substring")])
    shown = {row["condition"]: row["judges"]["substring"] for row in found["conditions"]}
    assert {name: (row["rate"], row["n_unscored"]) for name, row in shown.items()} == {
        "baseline_harmful": (0, 0),
        "baseline_harmless": (0, 0),
        "served_harmful": (1, 1),
        "served_harmless": (1, 1),
    }
    printed = call(tmp_path / "run", "--judge", "substring").stdout
    assert f"of {n - 1}" in printed


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "completions.fraud.jsonl:3: is not JSON"),
        ('{"id": "x", "stage": "fraud.baseline_harmful", "variant": 0}', ":3: completion: "),
        ('{"id": "x", "stage": "fraud.baseline_harmful", "variant": 0, "completion": "secret"}', ":3: this completion"),
        (None, "completions.fraud.jsonl: holds 11 of 12 completions of fraud."),
        ("again", ":3: this completion is here twice"),
    ],
)
def test_a_file_that_does_not_fit_its_record_is_one_sentence(tmp_path, line, part):
    record = record_dict(NAMES)
    folder = write(tmp_path / "run", made_rows(record)[0], record)
    file = folder / "completions.fraud.jsonl"
    lines = file.read_text().splitlines()
    lines[2:3] = [] if line is None else [lines[0] if line == "again" else line]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r".") as caught:
        read_run(folder)
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_completions_is_one_sentence_that_says_how_to_get_them(tmp_path):
    (tmp_path / "bare").mkdir()
    write(tmp_path / "plain", {}, record_dict(NAMES))
    write(tmp_path / "half", {"completions.fraud.jsonl": made_rows(record_dict(NAMES))[0]["completions.fraud.jsonl"]},
          record_dict(NAMES))  # fmt: skip
    short = make_record(NAMES).model_dump()
    short["results"]["tasks"]["fraud"]["refusal"]["baseline_harmful"]["labels"] = "R"
    write(tmp_path / "short", {}, short)
    for name, part in (
        ("nowhere", "no such folder"),
        ("bare", "no record.json"),
        ("plain", "run it again with --save-completions"),
        ("half", "completions.privacy.jsonl: cannot be read"),
        ("short", "has 1 labels for 12 prompts"),
    ):
        with pytest.raises(InputError, match=part):
            read_run(tmp_path / name)
    done = call("plain", cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "plain: this run kept no completions; run it again with --save-completions." in done.stderr


def test_a_planted_runs_judge_repeats_its_letters_for_every_direction(tmp_path):
    config = RunConfig(
        model="planted", tasks="fraud,weapons,privacy", out=tmp_path, leaderboard=None, quick=True,
        sections=("cross_domain", "subspace", "over_refusal"), save_completions=True,
    )  # fmt: skip
    record, folder = run(config, Reporter(quiet=True))
    again, completions = read_run(folder)
    assert again == record
    judge = load_judge("opener")
    for cell, texts in completions.items():
        assert "".join(judge.judge(texts)) == cell.letters, cell.stage
    # Rows are told apart by what they do: ablating one domain's direction leaves another's refusals as they are.
    rates = {
        (cell.task, cell.direction): cell.letters.count("R") for cell in completions if "ablated" in cell.condition
    }
    assert len(set(rates.values())) > 1
    found = compare(again, completions, [judge])
    cross = record.results.cross_domain
    shown = {(row["condition"], row["direction"], row["task"]): row for row in found["further_directions"]}
    for i, row in enumerate(cross.domains):
        for j, task in enumerate(cross.domains):
            if i != j:
                opener = shown["ablated_harmful", row, task]["judges"]["opener"]
                assert opener["rate"] == cross.ablation.refusal_rate[i][j]
    assert found["agreement"][0]["agreement"] == 1
    assert len(found["conditions"]) == 5 * 4


@dataclass(frozen=True)
class Hasty:
    """A judge that is sure of everything from the start."""

    name: str = "hasty"
    version: str = "1"
    languages: tuple[str, ...] = ("en",)

    def judge(self, completions):
        return ["R"] * len(completions)

    def is_decided(self, beginning):
        return True


def test_no_judge_cuts_completions_short_that_are_saved(planted):
    prompts, kept = [tuple(planted.template.render(load_tasks("fraud")["fraud"].held_out[0].prompt))], []
    hasty = Evaluator(HookBackend(planted), (0,), 24, Hasty())
    (cut,) = hasty.evaluate("s", prompts)
    (whole,) = replace(hasty, on_text=lambda *row: kept.append(row)).evaluate("s", prompts)
    ((answer,),) = hasty.backend.complete(prompts, 24, lambda logits, rows: logits[:, :1])
    assert len(cut["tokens"][0]) == CHECK_EVERY < len(answer.tokens)
    assert kept == [("s", 0, 0, planted.template.decode(answer.tokens))]
    assert whole == cut  # what else is measured on the answers does not depend on whether they are saved
