"""Which tasks are found and in what order; what a task is made of; plugins of other packages."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from refusal_bench.errors import InputError
from refusal_bench.tasks import Manifest, Row, Task, content_folder, load_tasks, select_names, task_registry
from task_folder import TaskFolder

ALL_KINDS = sorted(path.stem for path in (content_folder() / "tasks").glob("*.yaml"))
BUNDLED = ["cybercrime", "fraud", "privacy", "self_harm", "weapons"]
"""The harm domains: what `all` selects."""


@pytest.fixture
def alpha(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return TaskFolder(tmp_path).write()


_numbers = itertools.count()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package whose module has `make`, under the entry-point name `toy`."""

    def install(body, point="toy"):
        module = f"toy_plugin_{next(_numbers)}"  # a fresh name: Python keeps imported modules
        (tmp_path / f"{module}.py").write_text(PLUGIN + body)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[refusal_bench.tasks]\n{point} = {module}:make\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


PLUGIN = """
from pathlib import Path
from refusal_bench.tasks import Manifest, Row, Task

WORDS = ["lantern", "orchard", "violin", "harbour", "glacier", "saddle", "pepper", "meadow",
         "copper", "ribbon", "canyon", "falcon", "walnut", "marble", "thunder", "velvet"]
MANIFEST = Manifest(
    name="toy", version="1.0", title="Toy", definition="d", out_of_scope="o", taxonomy={}, license="MIT"
)

def row(split, i, label):
    return Row(
        id=f"toy-{split}-{i}-{label}", prompt=f"Toy {label} {WORDS[i]}", label=label, pair=f"{split}-{i}", source="toy"
    )

def rows(split, first, last):
    return tuple(row(split, i, label) for i in range(first, last) for label in ("harmful", "harmless"))
"""
SOUND = "def make():\n    return Task.from_rows(MANIFEST, rows('t', 0, 12), rows('h', 12, 16))\n"


def test_specs_choose_and_order(alpha):
    extra = [alpha.tasks]
    assert select_names("all") == BUNDLED
    assert select_names("all", extra) == sorted([*BUNDLED, "alpha"])
    assert select_names("weapons, fraud,weapons") == ["weapons", "fraud"]
    assert select_names("weapons,all")[0] == "weapons"
    assert sorted(select_names("weapons,all")) == BUNDLED
    assert list(load_tasks("weapons,alpha", extra)) == ["weapons", "alpha"]


def test_all_means_the_harm_domains_and_a_task_of_another_kind_is_asked_for_by_kind(alpha):
    alpha.turn_into("over_refusal").write()
    extra = [alpha.tasks]
    assert select_names("all", extra) == BUNDLED
    assert select_names("all", extra, ["over_refusal"]) == ["alpha", "over_refusal"]
    task = load_tasks("alpha", extra, ["over_refusal"])["alpha"]
    assert (task.train, len(task.held_out), task.manifest.splits) == ((), 8, ("held_out",))
    with pytest.raises(InputError, match="task 'alpha' is of kind over_refusal, which cannot be chosen here"):
        load_tasks("fraud,alpha", extra)


def test_a_task_of_unknown_kind_is_not_left_out_of_all_silently(alpha):
    alpha.manifest["kind"] = "domain"
    alpha.write()
    assert "alpha" in select_names("all", [alpha.tasks])
    with pytest.raises(InputError, match=r"tasks/alpha\.yaml:9: kind: Input should be 'harm_domain', 'mixed' or"):
        load_tasks("all", [alpha.tasks])


def test_the_checksum_of_a_task_without_train_rows_is_that_of_the_rows(alpha):
    task = load_tasks("alpha", [alpha.turn_into("mixed").write().tasks], ["mixed"])["alpha"]
    lines = "".join(json.dumps(row) + "\n" for row in alpha.rows["held_out"]).encode()
    parts = ("alpha", "1.0", hashlib.sha256(b"").hexdigest(), hashlib.sha256(lines).hexdigest())
    assert task.sha256 == hashlib.sha256("\n".join(parts).encode()).hexdigest()


def test_a_tag_selects_and_mixes_with_names(alpha):
    alpha.manifest["tags"] = ["pilot"]
    extra = [alpha.write().tasks]
    assert select_names("tag:pilot", extra) == ["alpha"]
    assert select_names("fraud,tag:pilot", extra) == ["fraud", "alpha"]
    with pytest.raises(InputError, match="no task has the tag 'pilots'"):
        select_names("tag:pilots", extra)


def test_a_tagged_task_that_cannot_be_read_is_not_left_out_silently(alpha):
    alpha.manifest["tags"] = ["pilot"]
    alpha.write()
    beta = TaskFolder(alpha.root, "beta")
    beta.manifest["tags"] = ["pilot"]
    beta.write(train=b"{broken\n")
    with pytest.raises(InputError, match=r"datasets/beta/train\.jsonl:1:"):
        select_names("tag:pilot", [alpha.tasks])


@pytest.mark.parametrize("spec", ["", " ,", "frauds", "fraud,nothing"])
def test_a_spec_that_names_nothing_known_is_bad_input(spec):
    with pytest.raises(InputError):
        select_names(spec)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        InputError, match=rf"no task 'wepons'; there are: {', '.join(ALL_KINDS)}\. Did you mean 'weapons'"
    ):
        load_tasks("fraud,wepons")


def test_an_extra_folder_must_exist_and_hold_manifests(alpha):
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        task_registry([alpha.root / "nowhere"])
    (alpha.root / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no task manifest"):
        task_registry([alpha.root / "empty"])


def test_one_folder_given_twice_holds_one_task_and_two_folders_two(alpha):
    twice = [alpha.tasks, alpha.root / "datasets" / ".." / "tasks"]
    assert select_names("all", [*twice, content_folder() / "tasks"]) == sorted([*BUNDLED, "alpha"])
    other = TaskFolder(alpha.root / "other")
    other.root.mkdir()
    other.write()
    with pytest.raises(InputError, match="two entries for task 'alpha': tasks and other/tasks"):
        select_names("all", [alpha.tasks, other.tasks])


def test_rows_arrive_as_written_and_in_order(alpha):
    alpha.rows["train"][0]["domains"] = ["privacy"]
    task = load_tasks("alpha", [alpha.write().tasks])["alpha"]
    assert [row.id for row in task.train] == [row["id"] for row in alpha.rows["train"]]
    assert task.train[0].domains == ("privacy",)
    assert [row.prompt for row in task.held_out] == [row["prompt"] for row in alpha.rows["held_out"]]
    assert [(a.label, b.label, a.pair == b.pair) for a, b in task.pairs("train")] == [
        ("harmful", "harmless", True)
    ] * 12


def test_the_checksum_covers_name_version_and_every_row(alpha, tmp_path):
    def checksum():
        return load_tasks("alpha", [alpha.write().tasks])["alpha"].sha256

    seen = [checksum()]
    assert checksum() == seen[0]
    alpha.manifest["title"] = "Another title"
    assert checksum() == seen[0]
    alpha.manifest["version"] = "1.1"
    seen.append(checksum())
    for split in ("train", "held_out"):
        alpha.rows[split][-1]["prompt"] += " changed"
        seen.append(checksum())
    assert len(set(seen)) == 4


def row(number, label, pair):
    return Row(id=f"r{number}", prompt=f"p{number}", label=label, pair=pair, source="test")


def test_pairs_put_real_twins_first_and_then_match_the_rest_in_order():
    rows = (
        row(0, "harmless", None), row(1, "harmful", None), row(2, "harmless", "b"), row(3, "harmful", "a"),
        row(4, "harmful", "b"), row(5, "harmless", "a"), row(6, "harmful", None), row(7, "harmless", None),
    )  # fmt: skip
    manifest = Manifest(
        name="t", version="1.0", title="t", definition="t", out_of_scope="t", taxonomy={}, license="MIT"
    )
    task = Task.from_rows(manifest, rows, rows[:2])
    assert [(a.id, b.id) for a, b in task.pairs("train")] == [("r4", "r2"), ("r3", "r5"), ("r1", "r0"), ("r6", "r7")]
    assert [(a.id, b.id) for a, b in task.pairs("held_out")] == [("r1", "r0")]


def test_a_task_without_pairs_is_loaded(alpha):
    for rows in alpha.rows.values():
        for entry in rows:
            entry["pair"] = None
    task = load_tasks("alpha", [alpha.write().tasks])["alpha"]
    assert (len(task.pairs("train")), len(task.pairs("held_out"))) == (12, 4)


def test_a_plugin_that_builds_rows_is_a_task_like_the_others(plugin):
    plugin(SOUND)
    assert select_names("all") == sorted([*BUNDLED, "toy"])
    task = load_tasks("toy")["toy"]
    assert (len(task.pairs("train")), len(task.pairs("held_out"))) == (12, 4)


def test_a_plugin_may_return_the_path_of_a_manifest(plugin, alpha):
    plugin(f"def make():\n    return Path({str(alpha.yaml)!r})\n", point="alpha")
    assert load_tasks("alpha")["alpha"].train[0].id == "alpha-train-0-harmful"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def make():\n    raise KeyError('boom')\n", r"cannot be built \(KeyError: 'boom'\)"),
        ("def make():\n    return 'a string'\n", "neither a Task nor a path"),
        ("make = 3\n", "is a int"),
        (SOUND.replace("MANIFEST,", "MANIFEST.model_copy(update={'name': 'other'}),"), "calls itself 'other'"),
        (SOUND.replace("rows('h', 12, 16)", "()"), "held_out: has no rows"),
        (SOUND.replace("MANIFEST,", "MANIFEST.model_copy(update={'kind': 'mixed'}),"),
         "of kind mixed has no train rows"),
        (SOUND + "sound = make\ndef make():\n    return sound().model_copy(update={'train': rows('t', 1, 13)})\n",
         "not that of its rows"),
        (SOUND.replace("rows('h', 12, 16)", "rows('h', 0, 4)"), "toy-h-0-harmful repeats toy-t-0-harmful"),
    ],
)  # fmt: skip
def test_a_plugin_that_is_wrong_is_bad_input(plugin, body, message):
    plugin(body)
    with pytest.raises(InputError, match=message):
        load_tasks("toy")


def test_a_plugin_whose_module_is_gone_breaks_only_the_runs_that_ask_for_it(plugin, tmp_path):
    plugin(SOUND)
    (module,) = tmp_path.glob("toy_plugin_*.py")
    module.unlink()
    with pytest.raises(
        InputError, match=r"task 'toy' of package toy_plugin_\d+ cannot be loaded \(ModuleNotFoundError"
    ):
        load_tasks("all")
    assert list(load_tasks("weapons")) == ["weapons"]


def test_two_plugins_of_one_name_are_refused(plugin):
    plugin(SOUND)
    plugin(SOUND)
    with pytest.raises(InputError, match=r"two entries for task 'toy': package toy_plugin_\d+ and package toy_plugin_"):
        load_tasks("toy")


def test_a_plugin_cannot_take_a_bundled_name(plugin):
    plugin(SOUND, point="fraud")
    with pytest.raises(InputError, match="two entries for task 'fraud': refusal-bench and package toy_plugin"):
        load_tasks("weapons")


def test_content_is_found_in_a_checkout_in_a_wheel_and_from_any_folder(tmp_path, monkeypatch):
    checkout, wheel = tmp_path / "repo" / "harness" / "refusal_bench", tmp_path / "site-packages" / "refusal_bench"
    for package, content in ((checkout, tmp_path / "repo"), (wheel, wheel / "content")):
        package.mkdir(parents=True)
        with pytest.raises(InputError, match="reinstall"):
            content_folder(package)
        for name in ("tasks", "datasets"):
            (content / name).mkdir(parents=True)
        assert content_folder(package) == content
    monkeypatch.chdir(tmp_path)
    assert sorted(load_tasks("all")) == BUNDLED
