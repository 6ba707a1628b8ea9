"""The hooks of the vLLM backend on decoders that pass the stream as vLLM's do: packed tokens, sum and last write apart.

The expected stream is summed up here, write by write; vLLM itself is not needed.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusal_bench.backends import vllm_hooks
from refusal_bench.backends.vllm import _variants
from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add, SideBySide
from torch import nn

WIDTH, LAYERS = 6, 3
PLAIN, NORMED = ("self_attn", "mlp"), ("post_attention_layernorm", "post_feedforward_layernorm")


class Block(nn.Module):
    """Two writes; `normed` puts a norm after each, as Gemma 2 does."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        if normed:
            self.post_attention_layernorm, self.post_feedforward_layernorm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def writes(self):
        if hasattr(self, "post_feedforward_layernorm"):
            return [
                lambda x: self.post_attention_layernorm(self.self_attn(x)),
                lambda x: self.post_feedforward_layernorm(self.mlp(x)),
            ]
        return [self.self_attn, self.mlp]

    def forward(self, positions, hidden_states, residual):
        attention, mlp = self.writes()
        residual = hidden_states if residual is None else residual + hidden_states
        hidden_states = attention(residual)
        residual = residual + hidden_states
        return mlp(residual), residual


class Decoder(nn.Module):
    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.names = NORMED if normed else PLAIN
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=LAYERS))
        self.layers = nn.ModuleList(Block(normed) for _ in range(LAYERS))

    @torch.inference_mode()
    def forward(self, embedded, by_name=False):
        hidden, residual = embedded, None
        for layer in self.layers:
            arguments = {"positions": None, "hidden_states": hidden, "residual": residual}
            hidden, residual = layer(**arguments) if by_name else layer(*arguments.values())
        return hidden + residual


@pytest.fixture(params=[False, True], ids=["plain", "normed"])
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Decoder(request.param)


EMBEDDED = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def expected(model, change_write=lambda x: x, enter=lambda layer, x: x):
    stream = change_write(EMBEDDED)
    for index, layer in enumerate(model.layers):
        stream = enter(index, stream)
        for write in layer.writes():
            stream = stream + change_write(write(stream))
    return stream


@pytest.mark.parametrize("by_name", [False, True])
def test_every_write_loses_the_subspace_and_nothing_else(model, by_name):
    ablation = Ablate.span(torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2)))
    basis = ablation.basis[0]
    vllm_hooks.install(model, ablation, model.names)
    found = model(EMBEDDED, by_name)
    assert vllm_hooks.remove(model) == [5] * (1 + 2 * LAYERS)
    torch.testing.assert_close(found, expected(model, lambda x: x - x @ basis.T @ basis))
    assert (found @ basis.T).abs().max() < 1e-5
    assert (found - expected(model)).abs().max() > 0.1


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_vector_is_added_once_to_the_stream_entering_its_layer(model, layer):
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    vllm_hooks.install(model, Add.at(vector[None], layer), model.names)
    found = model(EMBEDDED)
    assert vllm_hooks.remove(model) == [5]
    torch.testing.assert_close(found, expected(model, enter=lambda index, x: x + vector if index == layer else x))


def test_removal_is_exact_and_leaves_no_hook(model):
    before = model(EMBEDDED)
    vllm_hooks.install(model, Ablate.each(torch.ones(1, WIDTH)), model.names)
    assert not torch.equal(model(EMBEDDED), before)
    vllm_hooks.remove(model)
    assert torch.equal(model(EMBEDDED), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_unknown_layout_is_an_input_error(model):
    model.layers[0].forward = lambda x: x
    with pytest.raises(InputError, match="Block has no hidden_states"):
        vllm_hooks.install(model, Add.at(torch.ones(1, WIDTH), 0), model.names)


def test_blocks_without_the_writers_are_an_input_error(model):
    with pytest.raises(InputError, match="no blocks with attention and feed_forward"):
        vllm_hooks.install(model, Add.at(torch.ones(1, WIDTH), 0), ("attention", "feed_forward"))


def test_interventions_side_by_side_are_written_one_after_the_other():
    basis, vectors = torch.eye(WIDTH)[:1, None], torch.eye(WIDTH)[1:3]
    nothing = torch.zeros(1, 1, WIDTH)
    none, ablate, first, second = _variants(SideBySide(Ablate(torch.cat([nothing, basis])), Add(vectors, (0, 2))))
    assert none is None
    assert torch.equal(ablate.basis, basis)
    assert torch.equal(torch.cat([first.vectors, second.vectors]), vectors)
    assert (first.layers, second.layers) == ((0,), (2,))
