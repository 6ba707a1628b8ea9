"""A second real family: Gemma-3-270m, whose blocks have norms behind attention and MLP and windows of 512 tokens.

Needs its weights in the cache (240 MB; docs/models.md says how they get there). No test fetches them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.hooks import LEAK_LIMIT, ablation_leak, intervening
from refusal_bench.backends.passes import BRANCHED
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of
from refusal_bench.interventions import Ablate, Add
from refusal_bench.models import loading
from refusal_bench.models.demo import GEMMA
from refusal_bench.models.loading import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GEMMA.target.is_file(), reason="Gemma's weights are not in the cache (docs/models.md)"),
]

TEMPLATE = Path(__file__).resolve().parent.parent / "demo" / "gemma_chat_template.jinja"
TEXTS = ("Hi", "What is the capital of France?", "Write two sentences about rivers, mountains and the sea.", "2 + 2?")
KEEP = lambda logits, rows: logits  # noqa: E731


@pytest.fixture(scope="module")
def model():
    """The base weights under Gemma's turns: a base model has no template of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "chat_template_of", lambda adapter: TEMPLATE.read_text(encoding="utf-8"))
        return load_model(RunConfig(model="gemma-3-270m", dtype="float32"))


@pytest.fixture(scope="module")
def backend(model):
    return HookBackend(model)


@pytest.fixture(scope="module")
def prompts(model):
    return [tuple(model.template.render(text)) for text in TEXTS]


def unit_rows(model, n, seed=1):
    rows = torch.randn(n, model.d_model, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


@torch.inference_mode()
def plain(model, ids):
    """One uncached pass without hooks of ours: logits of the last token."""
    return model.module(torch.tensor([ids]), use_cache=False).logits[0, -1]


def close(found, expected):
    assert float((found - expected).norm()) < 1e-4 * float(expected.norm())


def test_the_file_is_the_pinned_one_and_the_model_what_it_says(model):
    assert sha256_of(GEMMA.cached()) == model.weights_sha256 == GEMMA.sha256
    assert type(model.module).__name__ == "Gemma3ForCausalLM"
    assert (model.n_layers, model.d_model, model.structure.lookback) == (18, 640, 512)
    assert model.source_quantization.startswith("gguf Q")


def test_a_base_model_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"gemma-3-270m.*no chat template.*--adapter"):
        load_model(RunConfig(model="gemma-3-270m"))


def test_the_base_weights_continue_in_english(model):
    """As every decoding of these weights should: facts and words, not the noise of a wrong scale or norm."""
    tokenizer = model.template.tokenizer
    ids = tokenizer("The capital of France is")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    likely = plain(model, ids).topk(10).indices
    assert "▁Paris" in tokenizer.convert_ids_to_tokens(likely.tolist())
    for _ in range(12):
        ids.append(int(plain(model, ids).argmax()))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert "France" in text.removeprefix("The capital of France is")
    assert text.isascii()


def test_ablation_is_complete(model, prompts):
    assert max(ablation_leak(model, list(prompt), seed) for seed, prompt in enumerate(prompts)) < LEAK_LIMIT


def test_an_ablated_model_has_nothing_of_the_direction_left_in_its_logits(model, backend, prompts):
    """Projected by hand wherever the stream is read (all reads go through a norm), not where it is written."""
    (unit,) = unit_rows(model, 1)
    reads = [model.module.model.norm]
    for block in model.structure.blocks:
        reads += [block.input_layernorm, block.pre_feedforward_layernorm]
    handles = [
        norm.register_forward_pre_hook(lambda _, args: (args[0] - (args[0] @ unit)[..., None] * unit,))
        for norm in reads
    ]
    expected = [plain(model, prompt) for prompt in prompts]
    for handle in handles:
        handle.remove()
    found = backend.logits(prompts, KEEP, Ablate.each(unit[None]))[0]
    for prompt, ours, by_hand in zip(prompts, found, expected, strict=True):
        close(ours, by_hand)
        assert float((by_hand - plain(model, prompt)).norm()) > 1e-3 * float(by_hand.norm())


def test_batches_a_shared_prefix_and_several_variants_equal_plain_passes(model, backend, prompts):
    assert backend.passes.prefix_length(prompts, max(map(len, prompts))) > 2
    for found, prompt in zip(backend.logits(prompts, KEEP)[0], prompts, strict=True):
        close(found, plain(model, prompt))
    directions = unit_rows(model, 2)
    together = backend.logits(prompts, KEEP, Ablate.each(directions))
    for row, direction in zip(together, directions, strict=True):
        for found, prompt in zip(row, prompts, strict=True):
            with intervening(model.structure, Ablate.each(direction[None])) as rows:
                rows.variant = torch.zeros(1, dtype=torch.long)
                expected = plain(model, prompt)
            close(found, expected)


def test_a_pass_that_branches_in_mid_model_equals_whole_passes(model, backend, prompts):
    """One row up to the layer, then one a vector, against a vector added by hand behind the block before."""
    layer, vectors = 9, 30 * unit_rows(model, BRANCHED)
    assert backend.passes.can_branch
    found = backend.logits(prompts[:2], KEEP, Add.at(vectors, layer))
    for vector, row in zip(vectors, found, strict=True):
        handle = model.structure.blocks[layer - 1].register_forward_hook(
            lambda _, args, output, vector=vector: (
                (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector
            )
        )
        expected = [plain(model, prompt) for prompt in prompts[:2]]
        handle.remove()
        for one, other in zip(row, expected, strict=True):
            close(one, other)


def test_cached_completions_equal_uncached_ones(model, backend, prompts):
    (completions,) = backend.complete(prompts[:2], 6, KEEP)
    for prompt, completion in zip(prompts[:2], completions, strict=True):
        ids = list(prompt)
        for token in completion.tokens:
            assert int(plain(model, ids).argmax()) == token
            ids.append(token)
        assert completion.tokens


def test_hooks_are_gone_and_the_model_as_before(model, backend, prompts):
    before = backend.logits(prompts, KEEP)
    backend.logits(prompts, KEEP, Ablate.each(unit_rows(model, 1)))
    backend.logits(prompts, KEEP, Add.at(unit_rows(model, 1), 4))
    assert torch.equal(backend.logits(prompts, KEEP), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
