from __future__ import annotations

from typing import Any

import pytest
from record_factory import condition, make_record, record_dict
from refusal_bench.leaderboard.provenance import provenance_faults
from refusal_bench.record import Record
from refusal_bench.tasks import Manifest, Row, Task


def fraud(n: int = 30) -> Task:
    """A task whose held-out ids are those of the made-up record."""
    manifest = Manifest(
        name="fraud", version="0.1", title="t", definition="d", out_of_scope="o", taxonomy={}, license="CC0-1.0"
    )

    def rows(split: str, count: int) -> tuple[Row, ...]:
        return tuple(
            Row(id=f"fraud-{split}-{i:03d}-{label}", prompt=f"{label} {i}", label=label, pair=str(i), source="s")
            for i in range(count)
            for label in ("harmful", "harmless")
        )

    return Task.from_rows(manifest, rows("train", n), rows("held_out", 12))


def of_task(task: Task, **options: Any) -> dict[str, Any]:
    data = record_dict(("fraud",), sections=(), **options)
    data["tasks"]["fraud"]["sha256"] = task.sha256
    return data


def faults(data: dict[str, Any], task: Task | None = None) -> list[str]:
    installed = {} if task is None else {"fraud": task}
    return list(provenance_faults(Record.model_validate(data), installed))


def test_a_sound_record_has_no_fault() -> None:
    assert list(provenance_faults(make_record(), {})) == []
    assert faults(of_task(fraud()), fraud()) == []


@pytest.mark.parametrize(
    ("section", "field"),
    [("model", "weights_sha256"), ("model", "adapter_sha256"), ("model", "chat_template_sha256"), ("tasks", "fraud")],
)
def test_a_checksum_is_64_hexadecimal_digits(section: str, field: str) -> None:
    data = record_dict(("fraud",))
    if section == "tasks":
        data["tasks"]["fraud"]["sha256"] = "AB" * 32
    else:
        data["model"][field] = "ab" * 31
    (fault,) = faults(data)
    assert fault.startswith(f"{section}.{field}")
    assert "SHA-256" in fault


def test_another_checksum_of_the_same_version_is_found() -> None:
    (fault,) = faults(record_dict(("fraud",)), fraud())
    assert fault == "tasks.fraud.sha256 is not that of version 0.1 of the task"


def test_another_version_is_not_checked() -> None:
    data = record_dict(("fraud",))
    data["tasks"]["fraud"]["version"] = "0.2"
    assert faults(data, fraud()) == []


def test_prompts_that_the_task_has_not_are_found() -> None:
    data = of_task(fraud())
    data["results"]["tasks"]["fraud"]["held_out_ids"]["harmful"][0] = "fraud-held_out-099-harmful"
    (fault,) = faults(data, fraud())
    assert "held_out_ids.harmful has 'fraud-held_out-099-harmful'" in fault


def test_more_train_prompts_than_the_task_has_are_found() -> None:
    data = of_task(fraud(29))
    assert [fault.split(" is ")[0] for fault in faults(data, fraud(29))] == [
        "tasks.fraud.n_train_harmful",
        "tasks.fraud.n_train_harmless",
    ]


@pytest.mark.parametrize(("unscored", "sound"), [(2, True), (3, False)])
def test_a_complete_run_has_at_most_a_twentieth_unscored(unscored: int, sound: bool) -> None:
    data = record_dict(("fraud",), n=10, sections=())
    refusal = data["results"]["tasks"]["fraud"]["refusal"]
    for name in refusal:
        refusal[name] = condition("C" * 10, [0.0] * 10)
    refusal["baseline_harmful"] = condition("U" * unscored + "R" * (10 - unscored), [0.0] * 10)
    assert (faults(data) == []) is sound
    data["status"] = "incomplete"
    assert faults(data) == []


@pytest.mark.parametrize(("unscored", "sound"), [(5, True), (6, False)])
def test_unscored_safe_prompts_and_contrasts_count_too(unscored: int, sound: bool) -> None:
    """As in a run: of 5 x 10 completions of the domain and 65 of the section, 5 are below a twentieth."""
    data = record_dict(("fraud",), n=10)
    task, apart = data["results"]["tasks"]["fraud"]["refusal"], data["results"]["over_refusal"]["refusal"]
    for refusal in (task, apart):
        for name, measured in refusal.items():
            refusal[name] = condition("C" * measured["n"], [0.0] * measured["n"])
    # More than a twentieth of the domain's completions alone, and of the section's.
    task["baseline_harmful"] = condition("U" * 3 + "R" * 7, [0.0] * 10)
    apart["baseline_harmless"] = condition("U" * (unscored - 3) + "C" * (18 - unscored), [0.0] * 15)
    assert (faults(data) == []) is sound


def apart_task() -> Task:
    """The task `over_refusal` with the ids and types of the made-up record."""
    words = {"title": "t", "definition": "d", "out_of_scope": "o", "taxonomy": {}, "license": "CC0-1.0"}
    manifest = Manifest(name="over_refusal", version="0.1", kind="over_refusal", **words)
    section = record_dict(("fraud",))["results"]["over_refusal"]
    rows = [
        Row(id=prompt, prompt=f"{label} {prompt}", label=label, pair=None, type=kind, source="s")
        for label in ("harmful", "harmless")
        for prompt, kind in zip(section["held_out_ids"][label], section["types"][label], strict=True)
    ]
    return Task.from_rows(manifest, (), tuple(rows))


def apart_faults(**changes: Any) -> list[str]:
    data, task = record_dict(("fraud",)), apart_task()
    data["results"]["over_refusal"] |= {"sha256": task.sha256} | changes
    return list(provenance_faults(Record.model_validate(data), {"over_refusal": task}))


def test_safe_prompts_are_checked_against_the_installed_task() -> None:
    assert apart_faults() == []
    assert apart_faults(version="0.2", sha256="03" * 32) == []  # not at hand
    assert apart_faults(sha256="03" * 32) == ["results.over_refusal.sha256 is not that of version 0.1 of the task"]
    assert "results.over_refusal.sha256 is 'xy', not a SHA-256" in apart_faults(version="0.2", sha256="xy")[0]
    section = record_dict(("fraud",))["results"]["over_refusal"]
    ids, types = section["held_out_ids"], section["types"]
    strange = {**ids, "harmless": ["apart-099-harmless", *ids["harmless"][1:]]}
    assert apart_faults(held_out_ids=strange) == [
        "results.over_refusal.held_out_ids.harmless has 'apart-099-harmless', which the task has not"
    ]
    swapped = {**types, "harmless": [types["harmless"][1], *types["harmless"][1:]]}
    assert apart_faults(types=swapped) == [
        "results.over_refusal.types.harmless has 'safe_targets' for apart-000-harmless, the task 'homonyms'"
    ]


def test_the_bundled_task_is_among_those_that_are_checked() -> None:
    from refusal_bench.leaderboard.store import _installed

    assert _installed()["over_refusal"].manifest.kind == "over_refusal"


def test_the_limit_is_the_run_s_own() -> None:
    from refusal_bench import assembly
    from refusal_bench.leaderboard import provenance

    assert provenance.MAX_UNSCORED_SHARE == assembly.MAX_UNSCORED_SHARE


@pytest.mark.parametrize(("place", "value"), [("tool", "latest"), ("config", "org/other")])
def test_version_and_model_name_are_checked(place: str, value: str) -> None:
    data = record_dict(("fraud",))
    data[place]["version" if place == "tool" else "model"] = value
    (fault,) = faults(data)
    assert value in fault
