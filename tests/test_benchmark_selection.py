"""The selection benchmark: engine and textbook loop agree, and its own yardsticks measure what they say."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import tiny_module
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import reference
import selection

KEYS = {
    "speedup_exact",
    "speedup_screened",
    "same_selection",
    "max_abs_diff",
    "gemm_share",
    "passes_reference",
    "passes_exact",
    "passes_screened",
}
PROMPTS = [[3, 50, 60, 70], [3, 51, 4], [3, 52, 61, 71, 81, 91]]


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    monkeypatch.setattr(selection, "matmul_peak", lambda: 1e11)


@pytest.fixture
def textbook():
    return reference.Textbook(tiny_module("llama"))


def run(capsys, *arguments):
    selection.main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("model", "n_prompts"), [("planted", 6), ("tiny-llama", 4), ("tiny-qwen", 4)])
def test_engine_and_textbook_loop_agree(model, n_prompts, capsys, tmp_path):
    file = tmp_path / "result.json"
    result = run(
        capsys, "--model", model, "--domains", "fraud,weapons", "--prompts", str(n_prompts), "--save", str(file)
    )
    assert json.loads(file.read_text()) == result
    assert result.keys() >= KEYS
    assert result["same_selection"] is True
    assert result["bounds_valid"] is True
    assert result["speedup_screened"] > 0
    assert 0 <= result["screened_agrees"] <= 1
    assert result["gemm_share"] > 0
    assert [row["domain"] for row in result["domains"]] == ["fraud", "weapons"]
    for row in result["domains"]:
        assert row["same_selection"]
        assert row["selected"]["exact"] or model != "planted"  # with random weights none may pass
        for quantity, difference in row["max_abs_diff"].items():
            assert row["n_compared"][quantity] > 0
            assert difference < 1e-3
        assert row["cost"]["reference"]["passes"] == 1 + 3 * row["n_candidates"]
        assert row["cost"]["exact"]["tokens"] < row["cost"]["reference"]["tokens"]


@pytest.fixture
def low_threshold(monkeypatch):
    """Set the KL filter where many candidates of a tiny model fail it early."""
    for module in (selection, reference, sys.modules["refusal_bench.scan"]):
        monkeypatch.setattr(module, "KL_THRESHOLD", 0.02)


TINY = ("--model", "tiny-qwen", "--domains", "fraud", "--prompts", "6")


def test_candidates_rejected_early_carry_a_true_bound(low_threshold, capsys):
    result = run(capsys, *TINY)
    assert result["domains"][0]["n_bounds_compared"] > 5
    assert result["bounds_valid"]
    assert result["same_selection"]


def test_an_engine_that_is_wrong_is_found_out(low_threshold, capsys, monkeypatch):
    right = sys.modules["refusal_bench.scan"].kl_divergence
    monkeypatch.setattr("refusal_bench.scan.kl_divergence", lambda *logits: 4 * right(*logits))
    result = run(capsys, *TINY)
    assert not result["bounds_valid"]
    assert result["max_abs_diff"]["kl"] > 1e-3


def test_a_sampled_reference_is_marked_and_its_cost_extrapolated(capsys):
    arguments = ("--model", "planted", "--domains", "fraud", "--prompts", "4")
    full, sampled = run(capsys, *arguments), run(capsys, *arguments, "--reference-candidates", "7")
    assert sampled["reference_extrapolated"]
    assert not full["reference_extrapolated"]
    assert sampled["same_selection"] is None
    assert sampled["domains"][0]["n_reference_candidates"] == 7
    assert all(n > 0 for n in sampled["domains"][0]["n_compared"].values())
    for figure in ("passes_reference", "tokens_reference"):
        assert sampled[figure] == pytest.approx(full[figure], rel=0.01)


def test_a_sampled_reference_that_goes_on_with_its_filters_knows_its_choice(low_threshold, capsys):
    full, filtered = run(capsys, *TINY), run(capsys, *TINY, "--reference-candidates", "3", "--reference-filters")
    (one,), (other,) = full["domains"], filtered["domains"]
    assert filtered["reference_extrapolated"]
    assert filtered["same_selection"] is True
    assert filtered["bounds_valid"] is True
    assert other["selected"] == one["selected"]
    assert other["n_reference_candidates"] == 3
    assert 0 < other["n_reference_filtered"] < one["n_candidates"] - 3  # those past the filter on depth are left out
    assert other["n_bounds_compared"] == one["n_bounds_compared"]
    assert other["n_compared"]["kl"] == one["n_compared"]["kl"] > 0
    assert other["cost"]["reference"]["passes"] == pytest.approx(one["cost"]["reference"]["passes"], rel=0.01)


def test_a_filtering_reference_judges_by_kl_alone_where_that_settles_it(textbook, monkeypatch):
    unmodified = textbook.logits(PROMPTS)
    judge = partial(textbook.quantities, torch.ones(32), 2, PROMPTS[:1], PROMPTS, [1, 2], unmodified, filtering=True)
    monkeypatch.setattr(reference, "KL_THRESHOLD", 100.0)
    whole = judge()
    assert selection.is_finite(whole)
    monkeypatch.setattr(reference, "KL_THRESHOLD", whole.kl)
    before = textbook.passes
    short = judge()
    assert short.kl == whole.kl
    assert math.isnan(short.bypass)
    assert math.isnan(short.induce)
    assert textbook.passes == before + 1


def test_projecting_out_equals_orthogonal_weights(textbook):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    with reference.projecting_out(textbook.blocks, vector):
        found = textbook.logits(PROMPTS)
    unit = vector / vector.norm()
    model = tiny_module("llama")
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding -= (embedding @ unit)[:, None] * unit
        for block in model.model.layers:
            for writer in (block.self_attn.o_proj, block.mlp.down_proj):
                writer.weight -= unit[:, None] * (unit @ writer.weight)
        alone = [model(torch.tensor([prompt])).logits[0, -1].double() for prompt in PROMPTS]
    torch.testing.assert_close(found, torch.stack(alone), atol=2e-5, rtol=1e-4)
    assert (found - textbook.logits(PROMPTS)).abs().max() > 0.01


def test_adding_happens_at_one_layer_and_the_hooks_are_gone_afterwards(textbook):
    vector = torch.full((32,), 0.5)
    before = textbook.logits(PROMPTS)
    with reference.adding(textbook.blocks[2], vector):
        found = textbook.logits(PROMPTS)
    model = tiny_module("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.bias = torch.nn.Parameter(vector)
        alone = [model(torch.tensor([prompt])).logits[0, -1].double() for prompt in PROMPTS]
    torch.testing.assert_close(found, torch.stack(alone), atol=2e-5, rtol=1e-4)
    assert torch.equal(textbook.logits(PROMPTS), before)


def test_the_difference_in_means_is_that_of_the_streams_entering_each_layer(textbook):
    with torch.no_grad():
        alone = [
            torch.stack([h[0, -2:] for h in textbook.model(torch.tensor([p]), output_hidden_states=True).hidden_states])
            for p in PROMPTS
        ]
    found = textbook.difference_in_means((-2, -1), PROMPTS[:2], PROMPTS[2:])
    # hidden_states ends with the normed output, which is no layer's input.
    expected = ((alone[0] + alone[1]) / 2 - alone[2])[:-1].transpose(0, 1).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_reference_filters_and_breaks_ties():
    vectors = torch.ones(2, 5, 4)
    vectors[0, 0] = 1e-9
    good = reference.Quantities(bypass=-1.0, induce=1.0, kl=0.01)
    found = {(place, layer): good for place in range(2) for layer in range(5)}
    assert reference.choose(found, vectors) == (0, 1)
    found[0, 1] = replace(good, kl=0.1)
    found[0, 2] = replace(good, induce=0.0)
    found[0, 3] = replace(good, bypass=float("nan"))
    found[0, 4] = replace(good, bypass=-9.0)  # past 80 % of depth
    assert reference.choose(found, vectors) == (1, 0)
    found[1, 3] = replace(good, bypass=-2.0)
    assert reference.choose(found, vectors) == (1, 3)
    assert reference.choose(dict.fromkeys(found, replace(good, kl=1.0)), vectors) is None


def test_operations_are_those_that_torch_counts(textbook):
    cost = selection.Cost()
    tokens, layers, width = 6, 5, 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter, selection.counting_flops(textbook.model, cost):
        textbook.model(torch.tensor([PROMPTS[2]]), logits_to_keep=1)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert cost.flops - linear == 4 * width * layers * tokens * (tokens + 1) // 2


def test_operations_of_the_engine_leave_out_what_it_does_not_compute():
    backend = selection.HookBackend(selection.load("tiny-llama", {}))
    backend.passes.workers.n = 1  # torch counts what one thread does
    assert backend.passes.last_mlp is not None  # asked here, where its probe is not counted
    module, cost = backend.model.module, selection.Cost()
    prompts, tokens = [tuple(range(first, first + 12)) for first in (3, 20, 40)], 12
    with FlopCounterMode(display=False) as counter, selection.counting_flops(module, cost):
        backend.logits(prompts, lambda logits, _: logits)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    config = module.config
    assert backend.counters.tokens == len(prompts) * tokens
    attention = 4 * config.hidden_size * config.num_hidden_layers * tokens * (tokens + 1) // 2
    assert cost.flops - linear == len(prompts) * attention


def test_false_claims_are_found():
    vectors = torch.ones(1, 5, 4)
    case = selection.Case("fraud", vectors, (-1,), selection.SelectionData([], [], []))
    good = reference.Quantities(bypass=-1.0, induce=1.0, kl=0.05)
    row = selection.Candidate(layer=2, position=-1, kl=0.05, kl_is_bound=False, bypass=-1.0, induce=None, rejected=None)
    wrong = {
        "kl bound": {"kl": 0.2, "kl_is_bound": True, "rejected": "kl"},
        "kl": {"rejected": "kl"},
        "induce": {"rejected": "induce", "induce": 1.0},
        "nan": {"rejected": "nan"},
    }
    assert selection.false_claims([row], {(0, 2): good}, case) == []
    for change in wrong.values():
        assert selection.false_claims([row.model_copy(update=change)], {(0, 2): good}, case)
    filtered = {(0, 2): reference.Quantities(bypass=math.nan, induce=math.nan, kl=0.2)}
    assert selection.false_claims([row.model_copy(update={"kl": 0.2, "rejected": "kl"})], filtered, case) == []
    assert selection.false_claims([row], filtered, case) == []  # of higher bypass than the choice, so KL is open
    for wrong in ("nan", "induce"):
        assert selection.false_claims([row.model_copy(update={"rejected": wrong})], filtered, case)
    broken = {(0, 2): reference.Quantities(bypass=math.nan, induce=math.nan, kl=math.nan)}
    assert selection.false_claims([row], broken, case)
    assert selection.false_claims([row.model_copy(update={"rejected": "nan"})], broken, case) == []
    assert selection.differences([row], {(0, 2): replace(good, kl=0.06)}, case)["kl"] == pytest.approx([0.01])
    assert selection.differences([row.model_copy(update={"kl_is_bound": True})], {(0, 2): good}, case)["kl"] == []
