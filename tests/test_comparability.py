"""What forbids a comparison, and what is only said."""

from __future__ import annotations

import pytest
from comparison_records import compared, edited, refusing, with_contrasts
from refusal_bench.comparison.comparability import reasons

DOMAINS = ("fraud", "privacy", "weapons")


@pytest.fixture(scope="module")
def base():
    judge = {"name": "opener", "version": "1", "languages": ["en"], "input": "answer"}
    judge |= {"calibration": None, "agreement": None}
    return edited(refusing(DOMAINS, 8), lambda data: data.update(judge=judge))


def fraud(data):
    return data["results"]["tasks"]["fraud"]


HARD = {
    "task version": (lambda d: d["tasks"]["fraud"].update(version="2.0"), "task fraud"),
    "task content": (lambda d: d["tasks"]["fraud"].update(sha256="ff" * 32), "task fraud"),
    "one other prompt": (lambda d: fraud(d)["held_out_ids"]["harmful"].__setitem__(0, "fraud-new"), "task fraud"),
    "judge": (lambda d: d["config"].update(judge="wildguard"), "judge"),
    "a judge's setting": (lambda d: d["config"].update(judge_url="elsewhere"), "judge"),
    "a judge's rules": (lambda d: d["judge"].update(version="2"), "judge"),
    "thinking": (lambda d: d["config"].update(thinking="off"), "thinking"),
    "system prompt": (lambda d: d["config"].update(system_prompt="none"), "system prompt"),
    "text before the instruction": (lambda d: d["model"].update(system_prompt_sha256="00" * 32), "system prompt"),
    "template of the same weights": (lambda d: d["model"].update(chat_template_sha256="00" * 32), "template"),
    "quick": (lambda d: d["config"].update(quick=True), "quick"),
    "answer length": (lambda d: d["config"].update(sizes={"max_new_tokens": 24}), "answer length"),
    "incomplete": (lambda d: d.update(status="incomplete"), "status"),
}

SOFT = {
    "dtype": (lambda d: d["model"].update(dtype="bfloat16"), "dtype"),
    "quantisation": (lambda d: d["model"].update(quantization="4bit"), "quantisation"),
    "model": (lambda d: d["model"].update(id="other/model"), "model"),
    "version": (lambda d: d["tool"].update(version="9.9"), "tool version"),
    "device": (lambda d: d["environment"].update(device="cuda"), "device"),
    "train prompts": (lambda d: d["tasks"]["fraud"].update(n_train_harmful=20), "n"),
    "method": (lambda d: d["config"].update(method="other"), "direction method"),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_differences_forbid_the_comparison(base, name):
    change, about = HARD[name]
    for pair in ((base, edited(base, change)), (edited(base, change), base)):
        comparison = compared(*pair)
        assert comparison.exit_code == 4
        assert {reason.about for reason in comparison.reasons if reason.grade == "hard"} == {about}
        assert comparison.verdicts == comparison.checks == []


@pytest.mark.parametrize("name", SOFT)
def test_soft_differences_are_said(base, name):
    change, about = SOFT[name]
    comparison = compared(base, edited(base, change))
    assert comparison.exit_code == 0
    assert [(reason.grade, reason.about) for reason in comparison.reasons] == [("soft", about)]
    assert comparison.verdicts


def test_a_record_compared_with_itself_has_no_reasons(base):
    assert reasons(base, base) == []
    assert compared(base, base).exit_code == 0


def test_another_models_template_and_its_default_system_prompt_are_only_said(base):
    def other_model(data):
        data["model"].update(weights_sha256="00" * 32, chat_template_sha256="11" * 32, system_prompt_sha256="22" * 32)

    assert [(r.grade, r.about) for r in reasons(base, edited(base, other_model))] == [("soft", "template")]


def test_fewer_of_the_same_prompts_are_compared_on_the_common_ones(base):
    def shorten(data):
        fraud(data)["held_out_ids"]["harmful"].pop()
        for condition in ("baseline_harmful", "ablated_harmful"):
            measured = fraud(data)["refusal"][condition]
            measured["labels"] = measured["labels"][:-1]
            measured["scores"].pop()

    comparison = compared(base, edited(base, shorten))
    assert [(reason.grade, reason.about) for reason in comparison.reasons] == [("soft", "n")]
    assert "7 common" in comparison.reasons[0].text
    sizes = {each.measurement.name: each.measurement.n for each in comparison.verdicts}
    assert (sizes["refusal.fraud.rate"], sizes["over_refusal.fraud.rate"], sizes["refusal.rate"]) == (7, 8, 23)


def test_tasks_of_one_record_only_are_left_out_and_said(base):
    fewer = refusing(DOMAINS[:2], 8)
    comparison = compared(base, fewer)
    assert any(r.grade == "soft" and "only in the base, left out: weapons" in r.text for r in comparison.reasons)
    assert not any("weapons" in each.measurement.name for each in comparison.verdicts)
    assert "geometry.dimensions" not in {each.measurement.name for each in comparison.verdicts}
    assert compared(base, refusing(("other",), 8)).obstacles == ["the records have no task in common"]


def apart(**about):
    return with_contrasts(refusing(DOMAINS, 8), "C" * 20, **about)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (apart(version="0.2"), "version of over_refusal: 0.1 in the base, 0.2 in the candidate"),
        (apart(sha256="03" * 32), f"prompts of over_refusal: {'02' * 6} in the base, {'03' * 6} in the candidate"),
        (
            edited(apart(), lambda d: d["results"]["over_refusal"]["held_out_ids"]["harmless"].__setitem__(0, "new")),
            "over_refusal: the harmless held-out prompts are not the same",
        ),
    ],
    ids=["version", "content", "one other prompt"],
)
def test_other_safe_prompts_forbid_the_comparison(other, text):
    comparison = compared(apart(), other)
    assert (comparison.exit_code, comparison.obstacles, comparison.verdicts) == (4, [text], [])


def test_safe_prompts_of_one_record_only_are_left_out_and_said():
    (reason,) = reasons(refusing(DOMAINS, 8), apart())
    assert (reason.grade, reason.text) == ("soft", "only in the candidate, left out: over_refusal")
    assert reasons(apart(), apart()) == []


def test_fewer_safe_prompts_are_compared_on_the_common_ones():
    fewer = with_contrasts(refusing(DOMAINS, 8), "C" * 12)
    (reason,) = reasons(apart(), fewer)
    assert reason.text.startswith("over_refusal: 20 and 12 harmless held-out prompts; the 12 common ones")
    assert {each.measurement.n for each in compared(apart(), fewer).verdicts if "safe_p" in each.measurement.name} == {
        12
    }


def test_many_unscored_safe_prompts_are_said():
    (reason,) = reasons(apart(), with_contrasts(refusing(DOMAINS, 8), "U" * 3 + "C" * 17))
    assert (
        reason.text == "over_refusal: 3 of 20 harmless answers of the candidate are unscored and left out of the pairs"
    )


def test_many_unscored_answers_are_said(base):
    def unscore(data):
        fraud(data)["refusal"]["baseline_harmful"].update(labels="UURRRRRR", n_unscored=2)

    (reason,) = reasons(base, edited(base, unscore))
    assert reason.text == ("fraud: 2 of 8 harmful answers of the candidate are unscored and left out of the pairs")
