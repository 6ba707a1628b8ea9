"""The hook backend against plain forward passes, written here with hooks of their own."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from refusal_bench.backends.decoding import State, decode
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.hooks import ablation_leak, intervening
from refusal_bench.config import RunConfig
from refusal_bench.interventions import Ablate, Add, SideBySide, stacked_ablation
from refusal_bench.models.loading import load_model
from tiny import FAMILIES, save_tiny

TEXTS = [
    "hi",
    "Tell me a story of rivers.",
    "What?",
    "A much longer question, with words and more words.",
    "abcde",
    "fghij",
]
KEEP = lambda logits, rows: logits  # noqa: E731


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load_model(RunConfig(model=str(folder)))


@pytest.fixture(scope="module")
def backend(model):
    return HookBackend(model)


@pytest.fixture(scope="module")
def prompts(model):
    return [tuple(model.template.render(text)) for text in TEXTS]


def plain(model, prompt, hooks=()):
    """Last logits of one prompt alone, under (module, pre, function) hooks."""
    handles = []
    for module, pre, change in hooks:
        if pre:
            handles.append(
                module.register_forward_pre_hook(lambda m, a, k, f=change: ((f(a[0]), *a[1:]), k), with_kwargs=True)
            )
        else:
            handles.append(
                module.register_forward_hook(
                    lambda m, a, o, f=change: (f(o[0]), *o[1:]) if isinstance(o, tuple) else f(o)
                )
            )
    with torch.inference_mode():
        logits = model.module(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


def test_unmodified_logits_equal_those_of_each_prompt_alone(model, backend, prompts):
    expected = torch.stack([plain(model, prompt) for prompt in prompts])
    torch.testing.assert_close(backend.logits(prompts, KEEP)[0], expected, atol=2e-5, rtol=1e-4)


def test_every_row_has_logits_at_one_place_however_long_it_is(model, backend, prompts):
    sizes = []
    handle = model.module.get_output_embeddings().register_forward_hook(
        lambda _, args, output: sizes.append(tuple(output.shape[:2]))
    )
    try:
        backend.complete(prompts, 3, KEEP)
    finally:
        handle.remove()
    assert max(rows for rows, _ in sizes) > 1
    assert {places for _, places in sizes} == {1}


def test_a_head_that_is_not_reached_is_an_error(model, backend, prompts, monkeypatch):
    monkeypatch.setattr(model.module, "get_output_embeddings", lambda: torch.nn.Identity())
    with pytest.raises(RuntimeError, match="head was not reached"):
        backend.logits(prompts, KEEP)


def test_ablating_every_write_equals_ablating_every_read_and_write(model, backend, prompts):
    directions = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(1))
    found = backend.logits(prompts, KEEP, Ablate.each(directions))
    for variant, direction in enumerate(directions):
        unit = direction / direction.norm()
        project = lambda x, unit=unit: x - (x @ unit)[..., None] * unit  # noqa: E731
        sites = [(block, True, project) for block in model.structure.blocks]
        sites += [(writer, False, project) for writer in model.structure.writers]
        expected = torch.stack([plain(model, prompt, sites) for prompt in prompts])
        torch.testing.assert_close(found[variant], expected, atol=5e-5, rtol=1e-3)
    assert (found - backend.logits(prompts, KEEP)).abs().max() > 0.01


def test_ablation_removes_the_direction_from_the_whole_stream(model):
    assert ablation_leak(model, model.template.render("Tell me."), seed=3) < 1e-4


def test_addition_changes_the_stream_entering_its_layer_only(model, backend, prompts):
    vectors = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(2))
    found = backend.logits(prompts, KEEP, Add.at(vectors, layer=2))
    for variant, vector in enumerate(vectors):
        sites = [(model.structure.blocks[2], True, lambda x, v=vector: x + v)]
        expected = torch.stack([plain(model, prompt, sites) for prompt in prompts])
        torch.testing.assert_close(found[variant], expected, atol=5e-5, rtol=1e-3)


def test_residuals_are_the_input_of_every_block(model, backend, prompts):
    stored = {}
    backend.residuals(prompts, model.template.positions, lambda i, x: stored.__setitem__(i, x), KEEP)
    for index, prompt in enumerate(prompts):
        seen = []
        handles = [
            block.register_forward_pre_hook(
                lambda m, a, k, to=seen: to.append(a[0] if a else k["hidden_states"]), with_kwargs=True
            )
            for block in model.structure.blocks
        ]
        plain(model, prompt)
        for handle in handles:
            handle.remove()
        expected = torch.stack([x[0, list(model.template.positions)] for x in seen], dim=1)
        torch.testing.assert_close(stored[index], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["none", "ablate", "add"])
def test_completions_equal_uncached_greedy_decoding_with_the_intervention_at_every_token(model, backend, prompts, kind):
    direction = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(4))
    unit = direction[0] / direction[0].norm()
    project = lambda x: x - (x @ unit)[..., None] * unit  # noqa: E731
    what, sites = {
        "none": (None, []),
        "ablate": (
            Ablate.each(direction),
            [(block, True, project) for block in model.structure.blocks]
            + [(writer, False, project) for writer in model.structure.writers],
        ),
        "add": (Add.at(direction, 1), [(model.structure.blocks[1], True, lambda x: x + direction[0])]),
    }[kind]
    for prompt, completion in zip(prompts, backend.complete(prompts, 7, KEEP, what)[0], strict=True):
        ids = list(prompt)
        for _ in range(7):
            token = int(plain(model, ids, sites).argmax())
            if token == 2:
                break
            ids.append(token)
        assert completion.tokens == tuple(ids[len(prompt) :])


def test_a_completion_stops_where_it_is_decided(backend, prompts):
    full = backend.complete(prompts, 8, KEEP)[0]
    short = backend.complete(prompts, 8, KEEP, decided=lambda tokens: len(tokens) == 3)[0]
    assert [c.tokens for c in short] == [c.tokens[:3] for c in full]


@pytest.mark.parametrize("n_variants", [0, 3])
def test_answer_loss_is_the_cross_entropy_of_the_answer(model, backend, prompts, n_variants):
    add = Add.at(torch.randn(n_variants, model.d_model), 1) if n_variants else None
    answers = [(40, 41, 42), (40, 41), *[(43,)] * (len(prompts) - 2)]
    found = backend.answer_loss(prompts, answers, add)
    assert found.shape == (max(1, n_variants), len(prompts))
    for variant, (i, target) in itertools.product(range(len(found)), enumerate(answers)):
        what = add.take([variant]) if add else None
        with torch.inference_mode(), intervening(model.structure, what) as rows:
            rows.variant = torch.zeros(1, dtype=torch.long)
            logits = model.module(torch.tensor([[*prompts[i], *target]])).logits[0, -len(target) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
        assert found[variant, i] == pytest.approx(float(expected), abs=1e-4)


def test_an_ablation_and_an_addition_side_by_side_are_those_of_each_alone(model, backend, prompts):
    directions = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(6))
    ablate = stacked_ablation([directions[:0], directions[:1], directions[1:3]])
    add = Add(8 * directions[3:], (2, 0))
    both = SideBySide(ablate, add)
    alone = torch.cat([backend.logits(prompts, KEEP, what) for what in (ablate, add)])
    together = backend.logits(prompts, KEEP, both)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    assert (together[0] - together[1:]).abs().amax(dim=(1, 2)).min() > 0.01
    texts = [backend.complete(prompts, 4, KEEP, what) for what in (ablate, add)]
    expected = [[completion.tokens for completion in row] for rows in texts for row in rows]
    assert [[c.tokens for c in row] for row in backend.complete(prompts, 4, KEEP, both)] == expected
    for variant, row in enumerate(together):
        one = backend.logits(prompts, KEEP, both.take([variant]))[0]
        torch.testing.assert_close(row, one, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="not one kind"):
        both.take([0, 4])
    with pytest.raises(ValueError, match="offsets"):
        SideBySide(Ablate.to_mean(directions[0], directions[:1].expand(model.n_layers, -1)), add)


def test_completions_under_additions_at_several_layers_are_those_of_each_alone(model, backend, prompts):
    add = Add(8 * torch.randn(3, model.d_model), (2, 0, 1))
    together = backend.complete(prompts, 4, KEEP, add)
    for variant, found in enumerate(together):
        alone = backend.complete(prompts, 4, KEEP, add.take([variant]))[0]
        assert [c.tokens for c in found] == [c.tokens for c in alone]


def test_the_model_is_bit_identical_after_an_intervention_and_after_an_exception(model, backend, prompts):
    before = backend.logits(prompts, KEEP)
    weights = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    direction = torch.randn(1, model.d_model)
    backend.complete(prompts, 3, KEEP, Ablate.each(direction))

    def fail(logits, rows):
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        backend.logits(prompts, fail, Add.at(direction, 1))
    with pytest.raises(KeyError):
        backend.residuals(prompts, model.template.positions, lambda i, x: None, fail)
    assert torch.equal(backend.logits(prompts, KEEP), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())
    for module in model.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_hook_point_that_is_not_reached_is_an_error(model, prompts):
    unused = torch.nn.Identity()
    broken = dataclasses.replace(model.structure, writers=(*model.structure.writers, unused))
    with pytest.raises(RuntimeError, match="not reached"):
        _ablated_pass(model, broken, prompts[0])


def _ablated_pass(model, structure, prompt):
    with intervening(structure, Ablate.each(torch.ones(1, model.d_model))) as rows:
        rows.variant = torch.zeros(1, dtype=torch.long)
        model.module(torch.tensor([prompt]), use_cache=False)


def test_variants_do_not_influence_each_other(model, backend, prompts):
    directions = torch.randn(7, model.d_model, generator=torch.Generator().manual_seed(5))
    together = backend.logits(prompts, KEEP, Ablate.each(directions))
    for variant in (0, 6):
        alone = backend.logits(prompts, KEEP, Ablate.each(directions[variant : variant + 1]))[0]
        torch.testing.assert_close(together[variant], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu(tmp_path):
    folder = str(save_tiny(tmp_path / "tiny"))
    found = []
    for device in ("cpu", "cuda"):
        model = load_model(RunConfig(model=folder, device=device, dtype="float32"))
        prompts = [tuple(model.template.render(text)) for text in TEXTS]
        directions = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(1))
        found.append(HookBackend(model).logits(prompts, KEEP, Ablate.each(directions)))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-2)


def test_many_vectors_at_one_layer_share_the_layers_below_it_and_change_nothing(model, backend, prompts):
    vectors = torch.randn(7, model.d_model, generator=torch.Generator().manual_seed(6))
    before = backend.counters.tokens
    found = backend.logits(prompts, KEEP, Add.at(vectors, layer=2))
    spent = backend.counters.tokens - before
    one_by_one = torch.cat([backend.logits(prompts, KEEP, Add.at(vector[None], layer=2)) for vector in vectors])
    torch.testing.assert_close(found, one_by_one, atol=5e-5, rtol=1e-3)
    assert spent < len(vectors) * sum(map(len, prompts))
    for prompt, expected in zip(prompts, backend.logits(prompts, KEEP)[0], strict=True):
        torch.testing.assert_close(plain(model, prompt), expected, atol=5e-5, rtol=1e-3)  # nothing leaked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_logits_the_first_token_is_written(dtype):
    logits = torch.randint(0, 4, (50, 3000), generator=torch.Generator().manual_seed(0)).to(dtype)
    state = State(logits, None, torch.ones(50, 1), torch.ones(50), torch.zeros(50), None)
    written = decode(state, None, set(), 1, lambda tokens: False)
    assert written == [[row.index(max(row))] for row in logits.tolist()]
