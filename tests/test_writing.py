"""Who writes the text: the parity check and the evaluation with another writer, without an engine."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch
from record_factory import condition, record_dict
from refusal_bench.backends.availability import ENGINE_ARGUMENTS, check_baseline_backend, engine_arguments
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.parity import check_parity
from refusal_bench.config import RunConfig
from refusal_bench.console import print_summary
from refusal_bench.errors import InputError
from refusal_bench.evaluation import Evaluator
from refusal_bench.interventions import Ablate, Add
from refusal_bench.judges import load_judge
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.models.loading import load_model
from refusal_bench.record import Record
from refusal_bench.report.html import render
from rich.console import Console
from tiny import save_tiny

TEXTS = [f"Tell me {'more ' * n}of rivers." for n in range(12)]
KEEP = lambda logits, rows: logits  # noqa: E731


class Engine:
    """The hook backend in the place of vLLM; `altered` changes what it is told to do."""

    def __init__(self, hf, altered=lambda what: what, off=0.0):
        self.hf, self.altered, self.off = hf, altered, off
        self.asked = []

    def next_log_probabilities(self, prompts, intervention=None):
        self.asked.append(prompts)
        logits = self.hf.logits(prompts, KEEP, self.altered(intervention))[0]
        top = torch.log_softmax(logits, dim=-1).topk(20)
        return [
            {int(token): float(value) + self.off for token, value in zip(ids, values, strict=True)}
            for ids, values in zip(top.indices, top.values, strict=True)
        ]


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return HookBackend(load_model(RunConfig(model=str(save_tiny(tmp_path_factory.mktemp("models") / "m")))))


@pytest.fixture(scope="module")
def prompts(hf):
    return [tuple(hf.model.template.render(text)) for text in TEXTS]


def test_the_same_backend_passes_on_prompts_of_all_lengths(hf, prompts):
    engine = Engine(hf)
    found = check_parity(hf, engine, prompts)
    assert found.passed
    assert found.reason is None
    assert found.n_prompts == 8
    assert set(found.max_abs_diff) == {"baseline", "ablated", "added"}
    assert max(found.max_abs_diff.values()) < 1e-5
    lengths = [len(prompt) for prompt in engine.asked[0]]
    assert (lengths[0], lengths[-1]) == (min(map(len, prompts)), max(map(len, prompts)))
    assert len(set(lengths)) == 8


def _one_later(add):
    return Add(add.vectors, tuple(layer + 1 for layer in add.layers))


@pytest.mark.parametrize(
    ("altered", "reason"),
    [
        (lambda what: None if isinstance(what, Ablate) else what, "ablated: log-probabilities differ"),
        (lambda what: Ablate(what.basis[:, 1:]) if isinstance(what, Ablate) else what, "ablated: log-prob"),
        (lambda what: None if isinstance(what, Add) else what, "added: log-probabilities differ"),
        (lambda what: _one_later(what) if isinstance(what, Add) else what, "added: log-prob"),
    ],
    ids=["no ablation", "one direction missing", "no addition", "another layer"],
)
def test_hooks_that_do_something_else_fail(hf, prompts, altered, reason):
    found = check_parity(hf, Engine(hf, altered), prompts)
    assert not found.passed
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(("off", "passed"), [(0.009, True), (0.011, False), (float("nan"), False)])
def test_the_tolerance_is_a_hundredth_of_a_nat_in_single_precision(hf, prompts, off, passed):
    found = check_parity(hf, Engine(hf, off=off), prompts)
    assert found.passed is passed
    assert found.max_abs_diff["baseline"] == (pytest.approx(off, abs=1e-5) if off == off else None)


def test_a_model_that_nothing_changes_proves_nothing(hf, prompts, monkeypatch):
    logits = torch.linspace(0, 1, 120)
    monkeypatch.setattr(hf, "logits", lambda prompts, reduce, *_: torch.stack([logits] * len(prompts))[None])
    monkeypatch.setattr(
        hf, "residuals", lambda prompts, at, store, _: [store(i, torch.randn(1, 5, 32)) for i in range(len(prompts))]
    )
    found = check_parity(hf, Engine(hf), prompts)
    assert not found.passed
    assert "ablated: the intervention changes too little" in found.reason


def test_a_module_tree_without_places_for_hooks_is_a_reason_not_an_error(hf, prompts):
    def unknown(what):
        if what is not None:
            raise InputError("no hidden_states to change.")

    found = check_parity(hf, Engine(hf, unknown), prompts)
    assert not found.passed
    assert found.reason == "no hidden_states to change."


class Writer:
    def __init__(self, answers):
        self.answers = answers

    def complete(self, prompts, max_new_tokens, intervention, decided, on_progress):
        return [[self.answers[len(prompt) % 2] for prompt in prompts] for _ in range(len(intervention or [0]))]


def test_another_writer_gives_the_text_of_every_variant_and_the_hook_backend_the_scores(hf, prompts):
    encode = lambda text: tuple(hf.model.template.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    refusal, answer = encode("I cannot help with that."), encode("Rivers run to the sea.")
    judge = load_judge("opener")
    what = Ablate.each(torch.randn(2, hf.model.d_model, generator=torch.Generator().manual_seed(1)))
    by_hooks = Evaluator(hf, (40, 41), 6, judge).evaluate("s", prompts, what)
    found = Evaluator(hf, (40, 41), 6, judge, writer=Writer([refusal, answer])).evaluate("s", prompts, what)
    expected = "".join("C" if len(prompt) % 2 else "R" for prompt in prompts)
    assert {"R", "C"} <= set(expected)
    for hooks, row in zip(by_hooks, found, strict=True):
        assert row["labels"] == expected
        assert (hooks["backend"], row["backend"]) == ("hf", "vllm")
        assert row["scores"] == pytest.approx(hooks["scores"], abs=1e-4)
        assert tuple(row["tokens"][0]) in (refusal, answer)


def test_a_record_that_contrasts_two_writers_is_refused():
    data = record_dict()
    refusal = data["results"]["tasks"]["fraud"]["refusal"]
    for row in refusal.values():
        row["backend"] = "vllm"
    assert disagreements(Record.model_validate(data)) == []
    refusal["baseline_harmful"]["backend"] = "hf"
    (fault,) = disagreements(Record.model_validate(data))
    assert fault == "results.tasks.fraud.refusal contrasts the text of different backends"


def test_the_block_of_an_endpoint_is_derived_again():
    data = record_dict()
    tasks = {}
    for name, task in data["results"]["tasks"].items():
        n = {label: len(ids) for label, ids in task["held_out_ids"].items()}
        tasks[name] = {label: condition("R" * k, [None] * k) | {"backend": "openai"} for label, k in n.items()}
    data["results"]["served"] = {
        "model": "m",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "requests": 1,
        "tasks": tasks,
    }
    assert disagreements(Record.model_validate(data)) == []
    tasks["fraud"]["harmful"]["rate"] = 0.5
    (fault,) = disagreements(Record.model_validate(data))
    assert fault.startswith("results.served.tasks.fraud.harmful.rate is 0.5")
    del tasks["fraud"]
    (fault,) = disagreements(Record.model_validate(data))
    assert "name different tasks" in fault


def test_vllm_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"refusal-bench\[vllm\]"):
        check_baseline_backend("vllm", "demo")
    check_baseline_backend("hf", "demo")


@pytest.mark.parametrize("text", ["[1]", "{", "2"])
def test_engine_arguments_are_a_json_object(monkeypatch, text):
    monkeypatch.setenv(ENGINE_ARGUMENTS, '{"tensor_parallel_size": 2}')
    assert engine_arguments() == {"tensor_parallel_size": 2}
    monkeypatch.setenv(ENGINE_ARGUMENTS, text)
    with pytest.raises(InputError, match="JSON object"):
        engine_arguments()


def with_endpoint_and_parity() -> Record:
    data = record_dict()
    served = condition("RRRC", [None] * 4) | {"backend": "openai"}
    data["results"]["served"] = {
        "model": "<b>other</b>",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "requests": 1,
        "tasks": {name: {"harmful": served, "harmless": served} for name in data["results"]["tasks"]},
    }
    data["results"]["parity"] = {
        "backend": "vllm",
        "passed": True,
        "reason": None,
        "n_prompts": 8,
        "tolerance": 0.01,
        "max_abs_diff": {"baseline": 1e-5, "ablated": 1e-5, "added": None},
    }
    return Record.model_validate(data)


def test_summary_and_report_show_the_endpoint_apart_and_who_wrote_the_text():
    record, file = with_endpoint_and_parity(), io.StringIO()
    print_summary(record, Console(file=file, width=120))
    shown = file.getvalue()
    table = shown.split("the endpoint's <b>other</b>, to be contrasted with nothing")[1]
    row = next(line for line in table.splitlines() if line.startswith("fraud"))
    assert row.split() == ["fraud", "75", "[30–95]", "75", "[30–95]", "4", "0"]
    assert any(line.split() == ["text", "by", "vLLM"] for line in shown.splitlines())
    page = render(record)
    assert "Refused at the endpoint" in page
    assert "&lt;b&gt;other&lt;/b&gt;" in page
    assert "<b>other</b>" not in page
