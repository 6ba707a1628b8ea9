"""Packed linear layers against those that they take the place of."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.models import packing
from refusal_bench.models.loading import load_model
from refusal_bench.models.packing import PackedLinear, pack
from refusal_bench.screening import write_products
from safetensors.torch import load_file
from tiny import save_tiny
from torch import nn

pytestmark = pytest.mark.skipif(
    not packing.can_pack(), reason="weights are packed on x86 processors with oneDNN's bfloat16 only"
)

INPUTS, OUTPUTS = 96, 160


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer(*, bias=False, inputs=INPUTS, outputs=OUTPUTS):
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def packed(plain):
    twin = nn.Linear(plain.in_features, plain.out_features, plain.bias is not None, dtype=torch.bfloat16)
    twin.load_state_dict(plain.state_dict())
    pack(twin.requires_grad_(False))
    assert type(twin) is PackedLinear
    return twin


def of_bfloat16(tmp_path, architecture="llama"):
    return load_model(RunConfig(model=str(save_tiny(tmp_path / "m", architecture)), dtype="bfloat16"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [INPUTS, 97])
@pytest.mark.parametrize("rows", [(1, 1), (3, 7), (64, 1), (16, 27), (0, 5)])
def test_products_are_the_same_to_the_last_bit(bias, inputs, rows):
    plain = layer(bias=bias, inputs=inputs)
    x = torch.randn(*rows, inputs, dtype=torch.bfloat16)
    assert torch.equal(packed(plain)(x), plain(x))
    turned = x.transpose(0, 1)
    if bias and not turned.is_contiguous():
        torch.testing.assert_close(packed(plain)(turned), plain(turned), rtol=0.02, atol=0.02)
    else:
        assert torch.equal(packed(plain)(turned), plain(turned))


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_ordinary_layer(bias):
    plain = layer(bias=bias)
    gradients = []
    for which in (plain, packed(plain)):
        x = torch.linspace(-1, 1, 5 * INPUTS).view(5, INPUTS).bfloat16().requires_grad_()
        gradients.append(torch.autograd.grad(which(x).float().square().sum(), x)[0])
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0.02)


def test_the_weight_is_there_for_what_reads_saves_or_converts_it():
    plain = layer(bias=True)
    twin = packed(plain)
    assert torch.equal(twin.weight, plain.weight)
    assert twin.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(twin.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    converted = twin.float()
    assert type(converted) is nn.Linear
    assert torch.equal(converted.weight, plain.weight.float())
    assert dict(converted.named_parameters()).keys() == {"weight", "bias"}
    with pytest.raises(KeyError, match="weight"):  # not forgotten at the next product
        packed(plain).weight = nn.Parameter(plain.weight)


def test_layers_stay_as_they_are_where_products_would_differ(monkeypatch):
    monkeypatch.setattr(packing, "_product", lambda x, packed, bias: packing.linear(x, packed.to_dense(), bias) + 1e-3)
    plain = layer()
    pack(plain)
    assert type(plain) is nn.Linear


def test_layers_of_another_precision_stay_as_they_are():
    plain = layer().float()
    pack(plain)
    assert type(plain) is nn.Linear


@pytest.mark.parametrize(("free", "expected"), [(1e9, PackedLinear), (1e5, nn.Linear)])
def test_a_head_that_is_the_embedding_is_packed_where_there_is_memory_for_both(monkeypatch, free, expected):
    monkeypatch.setattr(packing, "free_bytes", lambda device: free)
    model = nn.ModuleDict({"embedding": nn.Embedding(OUTPUTS, INPUTS, dtype=torch.bfloat16), "head": layer()})
    model["head"].weight = model["embedding"].weight
    pack(model)
    assert type(model["head"]) is expected
    assert torch.equal(model["head"].weight, model["embedding"].weight)


def test_a_models_logits_and_write_products_are_those_of_before(tmp_path, monkeypatch):
    found = HookBackend(of_bfloat16(tmp_path))
    assert any(type(part) is PackedLinear for part in found.model.module.modules())
    monkeypatch.setattr("refusal_bench.models.packing.can_pack", lambda: False)
    usual = HookBackend(of_bfloat16(tmp_path))
    assert not any(type(part) is PackedLinear for part in usual.model.module.modules())
    prompts = [tuple(found.model.template.render(text)) for text in ("Tell me about rivers", "And about the seas")]
    logits = [backend.logits(prompts, lambda x, _: x) for backend in (found, usual)]
    assert torch.equal(*logits)
    products = [write_products(backend, prompts, [1, 2]) for backend in (found, usual)]
    assert (products[0] - products[1]).norm() < 0.02 * products[1].norm()


@pytest.mark.parametrize("architecture", ["llama", "llama-tied"])
def test_a_saved_model_has_its_weights(tmp_path, architecture):
    model = of_bfloat16(tmp_path, architecture)
    assert type(model.module.lm_head) is PackedLinear
    model.module.save_pretrained(tmp_path / "saved")
    original, saved = (load_file(tmp_path / folder / "model.safetensors") for folder in ("m", "saved"))
    assert saved.keys() == original.keys()
    assert all(torch.equal(tensor, original[name].bfloat16()) for name, tensor in saved.items())
    model.template.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(RunConfig(model=str(tmp_path / "saved"), dtype="bfloat16"))
    ids = torch.tensor([model.template.render("Tell me about rivers")])
    assert torch.equal(again.module(input_ids=ids).logits, model.module(input_ids=ids).logits)
