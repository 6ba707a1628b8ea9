"""Every architecture, tiny and random: the stream is found, ablated, added to and cached right, in both data types.

The references are built without the package's hooks: weights projected by hand, single uncached passes.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
import transformers
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.hooks import intervening, reading
from refusal_bench.backends.passes import BRANCHED
from refusal_bench.config import RunConfig
from refusal_bench.errors import IncompleteRunError, InputError
from refusal_bench.interventions import Ablate, Add
from refusal_bench.models.loading import load_model
from refusal_bench.models.structure import LAYOUTS, find_structure, search
from refusal_bench.models.writes import watch
from refusal_bench.scan import scores
from refusal_bench.screening import estimated_change
from tiny import ARCHITECTURES, SHAPE, UNLISTED, save_tiny, tiny_module

TEXTS = ["hi", "Tell me a story of rivers.", "What?", "A longer question, with more words.", "abcde"]
KEEP = lambda logits, rows: logits  # noqa: E731
RECURRENT = ("qwen3-next", "lfm2", "mamba")
WINDOWS = {"mistral": 6, "gemma2": 4, "gemma3": 6, "olmo3": 6, "cohere2": 6, "gpt-oss": 128}
LAST_LINEAR = re.compile(
    r"(o_proj|out_proj|dense|down_proj|dense_4h_to_h|fc2|c_proj|output_linear|w2)(\.weight|\.bias|_bias)?$"
)


@pytest.fixture(scope="module", params=(*ARCHITECTURES, *UNLISTED))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / name, name))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(RunConfig(model=folder, dtype="float32"))


@pytest.fixture(scope="module")
def backend(model):
    return HookBackend(model)


@pytest.fixture(scope="module")
def prompts(model):
    return [tuple(model.template.render(text)) for text in TEXTS]


def direction(model, seed=1, n=1):
    return torch.nn.functional.normalize(
        torch.randn(n, model.d_model, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def last_logits(module, prompt):
    with torch.inference_mode():
        return module(torch.tensor([prompt]), use_cache=False).logits[0, -1]


def test_the_table_and_the_search_by_structure_agree(name, model):
    kind = model.module.config.get_text_config().model_type
    assert (kind in LAYOUTS) == (name in ARCHITECTURES)
    assert ("found by structure" in model.structure.description) == (name in UNLISTED)
    if name in ARCHITECTURES:
        passes = watch(model.module, model.structure.blocks)
        found = search(passes, depth=1)
        assert len(found) == len(LAYOUTS[kind]) == 2
        for block in passes:  # a dropout that returns its input is as good a name for the write
            for listed, searched in zip(LAYOUTS[kind], found, strict=True):
                assert torch.equal(block.outputs[listed], block.outputs[searched])


def test_the_lookback_is_the_window_or_nothing_for_recurrent_states(name, model):
    expected = 0.0 if name in RECURRENT else WINDOWS.get(name, float("inf"))
    assert model.structure.lookback == expected


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("bfloat16", 0.03)])
def test_nothing_of_an_ablated_direction_enters_a_layer_or_a_norm(name, folder, dtype, limit):
    model = load_model(RunConfig(model=folder, dtype=dtype))
    (unit,) = direction(model, seed=7)
    shares = []

    def look(_, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).float()
        shares.append(float(((stream @ unit).abs() / stream.norm(dim=-1)).max()))

    decoder = model.module.get_decoder()
    norms = [
        part
        for parent in (decoder, *model.structure.blocks)
        for part in parent.children()
        if "norm" in type(part).__name__.lower() and part not in model.structure.writers
    ]
    readers = [*model.structure.blocks, *(norm for norm in norms if norm is not _embedding_norm(decoder))]
    assert len(readers) > model.n_layers
    ids = torch.tensor([model.template.render("Tell me about rivers.")])
    with torch.inference_mode(), intervening(model.structure, Ablate.each(unit[None])) as rows:
        rows.variant = torch.zeros(1, dtype=torch.long)
        handles = [reader.register_forward_pre_hook(look, with_kwargs=True) for reader in readers]
        model.module(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    assert len(shares) == len(readers)
    assert max(shares) < limit


def _embedding_norm(decoder):
    return getattr(decoder, "word_embeddings_layernorm", None)


def test_ablating_equals_weights_that_cannot_write_the_direction(model, backend, prompts):
    """Projects the last linear maps (or the norms behind them) and the embedded prompt, instead of any output."""
    (unit,) = direction(model)
    reference = copy.deepcopy(model.module)
    structure = find_structure(reference)
    with torch.no_grad():
        _project_weights(structure, unit)
    structure.blocks[0].register_forward_pre_hook(
        lambda _, a, k: (
            ((_without(a[0], unit), *a[1:]), k) if a else (a, k | {"hidden_states": _without(k["hidden_states"], unit)})
        ),
        with_kwargs=True,
    )
    expected = torch.stack([last_logits(reference, prompt) for prompt in prompts])
    found = backend.logits(prompts, KEEP, Ablate.each(unit[None]))[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert (found - backend.logits(prompts, KEEP)[0]).abs().max() > 0.01


class _Projected(torch.nn.Module):
    def __init__(self, inner, unit):
        super().__init__()
        self.inner, self.unit = inner, unit

    def forward(self, x):
        return _without(self.inner(x), self.unit)


def _without(x, unit):
    return x - (x @ unit)[..., None] * unit


def _project_weights(structure, unit):
    for block in structure.blocks:
        normed = [
            n
            for n in (
                "post_attention_layernorm",
                "post_self_attn_layernorm",
                "post_feedforward_layernorm",
                "post_mlp_layernorm",
            )
            if getattr(block, n, None) in structure.writers
        ]
        for child in normed:
            setattr(block, child, _Projected(getattr(block, child), unit))
        for parameter_name, parameter in block.named_parameters():
            if normed or not LAST_LINEAR.search(parameter_name):
                continue
            # Linear weights are [d_model, inner], those of GPT-2 and of some experts [.., inner, d_model].
            if parameter.dim() > 1 and parameter.shape[-2] == len(unit) and "c_proj" not in parameter_name:
                parameter.copy_(_without(parameter.mT, unit).mT)
            else:
                parameter.copy_(_without(parameter, unit))


def test_addition_is_exact_and_leaves_the_layers_before_alone(model, backend, prompts):
    vector, layer = 3 * direction(model, seed=2)[0], 2
    block = model.structure.blocks[layer - 1]

    def add(_, args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    found = backend.logits(prompts, KEEP, Add.at(vector[None], layer))[0]
    handle = block.register_forward_hook(add)
    expected = torch.stack([last_logits(model.module, prompt) for prompt in prompts])
    handle.remove()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    shares = torch.linspace(0, 1, BRANCHED)
    branched = backend.logits(prompts, KEEP, Add.at(shares[:, None] * vector, layer))
    torch.testing.assert_close(branched[-1], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(branched[0], backend.logits(prompts, KEEP)[0], atol=1e-4, rtol=1e-3)
    n_layers = len(model.structure.blocks)
    layers = tuple(place % n_layers for place in range(3, 3 + BRANCHED))  # neither sorted nor each one once
    branched = backend.logits(prompts, KEEP, Add(shares[:, None] * vector, layers))
    for one in range(BRANCHED):
        alone = backend.logits(prompts, KEEP, Add.at(shares[one] * vector[None], layers[one]))[0]
        torch.testing.assert_close(branched[one], alone, atol=1e-4, rtol=1e-3)
    streams = []
    for intervention in (None, Add.at(vector[None], layer)):
        with torch.inference_mode(), intervening(model.structure, intervention) as rows:
            rows.variant = torch.zeros(1, dtype=torch.long)
            with reading(model.structure) as stream:
                model.module(torch.tensor([prompts[1]]), use_cache=False)
            streams.append(stream.entering)
    plain, added = streams
    assert all(torch.equal(a, b) for a, b in zip(plain[:layer], added[:layer], strict=True))
    assert torch.equal(added[layer], plain[layer] + vector)


def test_batches_of_unequal_length_equal_each_prompt_alone(model, backend, prompts):
    expected = torch.stack([last_logits(model.module, prompt) for prompt in prompts])
    before = backend.logits(prompts, KEEP)[0]
    torch.testing.assert_close(before, expected, atol=1e-4, rtol=1e-3)
    backend.logits(prompts, KEEP, Ablate.each(direction(model)))
    assert torch.equal(backend.logits(prompts, KEEP)[0], before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_the_last_mlp_is_given_one_place_a_row_unless_its_output_is_added_to_in_place(name, model, backend, prompts):
    mlp = model.structure.last_mlp
    if mlp is None:
        assert name in UNLISTED
        return
    assert (backend.passes.last_mlp is mlp) == (name not in ("falcon-7b", "falcon-40b"))
    widths = []
    handle = mlp.register_forward_hook(lambda _, args, output: widths.append(args[0].shape[1]))
    try:
        backend.logits(prompts, KEEP)
    finally:
        handle.remove()
    assert (1 in widths) == (backend.passes.last_mlp is not None)  # the shared prefix has all of its places


@pytest.mark.parametrize("part", ["self_attn", "input_layernorm"])
def test_a_part_that_cannot_be_given_one_place_a_row_is_given_all(part, tmp_path):
    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "tiny")), dtype="float32"))
    other = getattr(model.structure.blocks[-1], part)
    backend = HookBackend(replace(model, structure=replace(model.structure, last_mlp=other)))
    assert HookBackend(model).passes.last_mlp is model.structure.last_mlp
    assert backend.passes.last_mlp is None
    prompt = tuple(model.template.render("hi"))
    torch.testing.assert_close(backend.logits([prompt], KEEP)[0, 0], last_logits(model.module, prompt))


def test_cached_completions_equal_uncached_ones_under_ablation(model, backend, prompts):
    unit = direction(model, seed=4)
    found = backend.complete(prompts, 5, KEEP, Ablate.each(unit))[0]
    for prompt, completion in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(5):
            with torch.inference_mode(), intervening(model.structure, Ablate.each(unit)) as rows:
                rows.variant = torch.zeros(1, dtype=torch.long)
                token = int(model.module(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token == 2:
                break
            ids.append(token)
        assert completion.tokens == tuple(ids[len(prompt) :])


def test_bfloat16_batches_equal_each_prompt_alone(name, folder, prompts):
    model = load_model(RunConfig(model=folder, dtype="bfloat16"))
    expected = torch.stack([last_logits(model.module, prompt) for prompt in prompts]).float()
    found = HookBackend(model).logits(prompts, KEEP)[0]
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_the_screening_estimate_is_the_slope_of_partial_ablation(name, backend, prompts, tmp_path):
    if name == "phimoe":
        pytest.skip("its router always drops experts, so partial ablation moves in steps")
    if "num_experts_per_tok" in (ARCHITECTURES | UNLISTED)[name][1]:
        # A token that changes its expert is a step, not a slope; where all experts are asked there is none.
        smooth = save_tiny(tmp_path / name, name, num_experts_per_tok=4)
        backend = HookBackend(load_model(RunConfig(model=str(smooth), dtype="float32")))
    tokens = [40, 41, 57]
    step = 3e-4 if name == "qwen3-next" else 2e-3  # its gated recurrence curves strongly
    units = direction(backend.model, seed=0, n=6)
    estimate = estimated_change(backend, prompts, tokens, units)
    base = scores(backend, prompts, tokens)[0].mean()
    one, two = (
        (scores(backend, prompts, tokens, Ablate(units[:, None] * (k * step) ** 0.5)).mean(dim=1) - base) / (k * step)
        for k in (1, 2)
    )
    slope = 2 * one - two
    assert slope.abs().max() > 0.01
    torch.testing.assert_close(estimate, slope, atol=0.03 * float(slope.abs().max()), rtol=0.03)


def test_a_block_that_writes_in_an_unknown_way_is_refused():
    module = tiny_module("llama")
    block = module.model.layers[1]
    plain = block.forward
    block.forward = lambda hidden_states, **more: plain(hidden_states, **more).tanh()
    with pytest.raises(InputError, match="cannot find which modules of a LlamaForCausalLM"):
        find_structure(module)


def test_a_table_that_names_the_wrong_module_is_corrected_by_structure(monkeypatch):
    monkeypatch.setitem(LAYOUTS, "llama", ("self_attn", "post_attention_layernorm"))
    structure = find_structure(tiny_module("llama"))
    assert structure.description == "embedding, outputs of self_attn, mlp (found by structure)"


def test_an_architecture_whose_writes_cannot_be_hooked_is_refused():
    """OPT flattens the batch before its last linear map."""
    config = transformers.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32)
    with pytest.raises(InputError, match="cannot find which modules of a OPTForCausalLM"):
        find_structure(transformers.OPTForCausalLM(config).eval())


def test_a_model_that_produces_nan_says_so():
    module = tiny_module("llama")
    torch.nn.init.constant_(module.model.layers[2].mlp.down_proj.weight, float("inf"))
    with pytest.raises(IncompleteRunError, match="produced NaN or infinity without any intervention"):
        find_structure(module)
