"""Quantised weights: bitsandbytes in both widths, streamed or in memory, hooks unchanged, adapters merged before."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.hooks import ablation_leak
from refusal_bench.config import RunConfig
from refusal_bench.interventions import Ablate, Add
from refusal_bench.models import quantization
from refusal_bench.models.aliases import resolve
from refusal_bench.models.checkpoint import find_files, read_config, shape_of
from refusal_bench.models.loading import load_model
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from tiny import save_tiny, tiny_module

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quantization` is not installed")

BITS = ("4bit", "8bit")
PROMPTS = [(5, 9, 11, 20), (30, 44, 8, 9, 61, 7, 11, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", params=BITS)
def quantised(request, folder):
    return load_model(RunConfig(model=str(folder), quantization=request.param))


def stored_bytes(module):
    """What weights and the statistics of their quantisation really take."""
    total = sum(p.numel() * p.element_size() for p in module.parameters())
    for layer in module.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None:
            total += sum(t.numel() * t.element_size() for t in (state.absmax, state.state2.absmax))
    return total


def test_the_matrices_of_the_blocks_are_quantised_and_nothing_else(quantised):
    kinds = {name: type(m).__name__ for name, m in quantised.module.named_modules() if isinstance(m, torch.nn.Linear)}
    assert kinds.pop("lm_head") == "Linear"
    assert len(kinds) == 5 * 7
    assert len(set(kinds.values())) == 1
    assert set(kinds.values()) <= {"Linear4bit", "Linear8bitLt"}
    assert quantised.module.model.embed_tokens.weight.dtype == torch.float32


def test_ablation_leaves_nothing_in_a_quantised_model(quantised):
    assert ablation_leak(quantised, list(PROMPTS[1])) < 1e-5


def test_addition_adds_exactly_the_vector(quantised):
    """The stream entering the layer is the unmodified one plus the vector, to the last bit."""
    backend = HookBackend(quantised)
    vector = torch.linspace(-1, 1, 32)[None]
    seen = []
    block = quantised.structure.blocks[2]
    handle = block.input_layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        for intervention in (None, Add.at(vector, 2)):
            backend.logits([PROMPTS[1]], lambda logits, _: logits, intervention)
    finally:
        handle.remove()
    torch.testing.assert_close(seen[1], seen[0] + vector, rtol=0, atol=0)


def test_a_batch_gives_what_single_prompts_give(quantised):
    """In 8 bits up to a few steps of the activations, which are quantised from inputs that differ in the last digit."""
    backend = HookBackend(quantised)
    intervention = Ablate.each(torch.linspace(-1, 1, 32)[None])
    tolerance = 1e-4 if "nf4" in str(quantised.module.config.quantization_config.quantization_method()) else 0.05
    for change in (None, intervention):
        together = backend.logits(PROMPTS, lambda logits, _: logits, change)
        alone = torch.cat([backend.logits([p], lambda logits, _: logits, change) for p in PROMPTS], dim=1)
        assert (together - alone).abs().max() < tolerance


def test_4_bits_are_the_nf4_code_book():
    """Dettmers et al. 2023, appendix E: every weight becomes one of 16 levels, scaled by its block's largest."""
    levels = torch.tensor(
        [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
         0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    )  # fmt: skip
    layer = torch.nn.Linear(64, 2, bias=False).requires_grad_(False)
    blocks = layer.weight.clone()
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    nearest = (scaled[..., None] - levels).abs().argmin(-1)
    expected = levels[nearest] * blocks.abs().amax(1, keepdim=True)
    made = quantization._four_bit(layer, torch.float32).to("cpu")
    made = quantization.exact_products(made).eval()
    torch.testing.assert_close(made(torch.eye(64)).T, expected, atol=0.02 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("bits", BITS)
def test_in_memory_and_while_reading_are_the_same(folder, bits):
    read = load_model(RunConfig(model=str(folder), quantization=bits))
    made = quantization.quantize(tiny_module("llama"), bits, torch.float32, torch.device("cpu")).eval()
    ids = torch.tensor([PROMPTS[1]])
    with torch.inference_mode():
        assert torch.equal(made(ids).logits, read.module(ids).logits)


@pytest.mark.parametrize("bits", BITS)
def test_an_adapter_is_merged_before_quantisation(folder, tmp_path, bits):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        tiny_module("llama"), LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    merged = adapted.merge_and_unload()
    expected = quantization.quantize(merged, bits, torch.float32, torch.device("cpu")).eval()
    model = load_model(RunConfig(model=str(folder), quantization=bits, adapter=str(tmp_path)))
    ids = torch.tensor([PROMPTS[1]])
    with torch.inference_mode():
        torch.testing.assert_close(model.module(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)
    assert ablation_leak(model, list(PROMPTS[1])) < 1e-5


@pytest.mark.parametrize("bits", BITS)
def test_the_memory_estimate_is_what_is_stored(tmp_path, bits):
    """Without double quantisation, or with the embedding quantised, it would be off by far more."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 120, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    path = save_tiny(tmp_path / "wide")
    LlamaForCausalLM(LlamaConfig(**shape, **heads, pad_token_id=0)).save_pretrained(path)
    config = RunConfig(model=str(path), quantization=bits)
    files = find_files(resolve(str(path)), config, weights=False)
    estimated = shape_of(files.id, read_config(files)).weight_bytes("float32", bits)
    assert estimated == pytest.approx(stored_bytes(load_model(config).module), rel=0.01)


@pytest.mark.parametrize("bits", BITS)
def test_a_run_says_its_quantisation_and_finds_the_planted_directions(tmp_path, bits):
    config = RunConfig(
        model="planted",
        tasks="fraud,weapons",
        quick=True,
        quantization=bits,
        out=tmp_path,
        leaderboard=None,
        sections=(),
    )
    record, _ = run(config, Reporter(quiet=True))
    assert record.model.quantization == bits
    assert record.model.source_quantization is None
    assert "bitsandbytes" in record.environment.packages
    assert {task.status for task in record.results.tasks.values()} == {"ok"}
    assert min(task.refusal.baseline_harmful.rate for task in record.results.tasks.values()) > 0.9
    assert max(task.refusal.ablated_harmful.rate for task in record.results.tasks.values()) < 0.1


def test_bfloat16_is_the_compute_type(folder):
    model = load_model(RunConfig(model=str(folder), quantization="4bit", dtype="bfloat16"))
    assert model.dtype == "bfloat16"
    assert model.module.model.layers[0].mlp.up_proj.compute_dtype == torch.bfloat16
    assert ablation_leak(model, list(PROMPTS[1])) < 0.05
