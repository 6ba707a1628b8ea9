"""What prompts begin with runs once an ablation while it is kept, and the numbers are those of running it each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusal_bench.backends import passes
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.interventions import Ablate, Add, stacked_ablation
from refusal_bench.models.loading import load_model
from tiny import save_tiny

TEXTS = ["hi", "Tell me a story of rivers.", "What?", "A much longer question, with words.", "abcde"]
KEEP = lambda logits, rows: logits  # noqa: E731


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(RunConfig(model=str(save_tiny(tmp_path_factory.mktemp("models") / "tiny")), dtype="float32"))


@pytest.fixture
def backend(model):
    return HookBackend(model)


@pytest.fixture(scope="module")
def prompts(model):
    return [tuple(model.template.render(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def units(model):
    return torch.randn(6, model.d_model, generator=torch.Generator().manual_seed(1))


def cost(backend, work):
    """Result and tokens of some work."""
    before = backend.counters.tokens
    found = work()
    return found, backend.counters.tokens - before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rows", [4, 256])
def test_ablations_that_were_seen_run_no_prefix_and_give_the_same_logits(backend, prompts, units, workers, rows):
    backend.passes.workers.n = workers
    backend.passes.room = replace(backend.passes.room, rows=rows)
    n = backend.passes.prefix_length(prompts, max(map(len, prompts)))
    assert n > 5
    ablate = Ablate.each(units)
    expected, plain = cost(backend, lambda: backend.logits(prompts, KEEP, ablate))
    some = [4, 0, 3]
    with backend.keeping_prefix(prompts):
        first, all_new = cost(backend, lambda: backend.logits(prompts, KEEP, ablate))
        again, all_known = cost(backend, lambda: backend.logits(prompts, KEEP, ablate))
        few, few_known = cost(backend, lambda: backend.logits(prompts[1:3], KEEP, ablate.take(some)))
    assert all_new == plain
    assert all_known == plain - len(ablate) * n
    for found in (first, again):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(few, expected[some][:, 1:3], atol=1e-5, rtol=1e-5)
    lengths = sorted(len(prompt) - n for prompt in prompts[1:3])
    assert few_known in (3 * sum(lengths), 3 * 2 * lengths[-1])  # in two batches, or padded in one
    assert cost(backend, lambda: backend.logits(prompts, KEEP, ablate))[1] == plain


def test_what_is_new_among_known_ablations_runs_alone(backend, prompts, units):
    n = backend.passes.prefix_length(prompts, max(map(len, prompts)))
    wide = stacked_ablation([units[:0], units[:1], units[1:4], units[4:5]])
    expected = backend.logits(prompts, KEEP, wide)
    with backend.keeping_prefix(prompts):
        _, first = cost(backend, lambda: backend.logits(prompts, KEEP, Ablate.each(units[[4, 0]])))
        found, tokens = cost(backend, lambda: backend.logits(prompts, KEEP, wide))
        _, again = cost(backend, lambda: backend.logits(prompts, KEEP, wide))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert tokens - again == 2 * n
    assert first > again / 2


def test_completions_take_up_what_is_kept(backend, prompts, units):
    ablate = stacked_ablation([units[:0], *units[:, None]])
    expected = backend.complete(prompts, 6, KEEP, ablate)
    with backend.keeping_prefix(prompts):
        backend.logits(prompts, KEEP, Ablate.each(units[:3]))
        found = backend.complete(prompts, 6, KEEP, ablate)
        again = backend.complete(prompts, 6, KEEP, ablate)
    for one in (found, again):
        assert [[row.tokens for row in rows] for rows in one] == [[row.tokens for row in rows] for rows in expected]


@pytest.mark.parametrize(
    "what", [None, "add", "offsets"], ids=["nothing", "an addition", "an ablation with something in its place"]
)
def test_what_is_no_plain_ablation_runs_as_ever(model, backend, prompts, units, what):
    means = torch.ones(model.n_layers, model.d_model)
    intervention = {None: None, "add": Add.at(units[:2], 2), "offsets": Ablate.to_mean(units[0], means)}[what]
    expected, plain = cost(backend, lambda: backend.logits(prompts, KEEP, intervention))
    with backend.keeping_prefix(prompts):
        backend.logits(prompts, KEEP, Ablate.each(units))
        for _ in range(2):
            found, tokens = cost(backend, lambda: backend.logits(prompts, KEEP, intervention))
            assert torch.equal(found, expected)
            assert tokens == plain


def test_prompts_that_begin_otherwise_run_as_ever(backend, prompts, units):
    others = [(*prompt[:3], prompt[4], prompt[3], *prompt[5:]) for prompt in prompts]
    expected, plain = cost(backend, lambda: backend.logits(others, KEEP, Ablate.each(units)))
    with backend.keeping_prefix(prompts):
        backend.logits(prompts, KEEP, Ablate.each(units))
        found, tokens = cost(backend, lambda: backend.logits(others, KEEP, Ablate.each(units)))
    assert torch.equal(found, expected)
    assert tokens == plain


def test_no_more_is_kept_than_there_is_room_for(model, monkeypatch, prompts, units):
    backend = HookBackend(model)
    n = backend.passes.prefix_length(prompts, max(map(len, prompts)))
    monkeypatch.setattr(passes, "KEPT_SHARE", 4.5 * n / model.batch_tokens)
    expected = backend.logits(prompts, KEEP, Ablate.each(units))
    with backend.keeping_prefix(prompts):
        for chosen, known in (([0, 1, 2], 0), ([0, 1, 2], 3), ([3, 4], 0), ([3, 4], 0), ([2, 5], 1), ([2, 5], 2)):
            ablate = Ablate.each(units[chosen])
            found, tokens = cost(backend, lambda: backend.logits(prompts, KEEP, ablate))  # noqa: B023
            torch.testing.assert_close(found, expected[chosen], atol=1e-5, rtol=1e-5)
            assert len(backend.passes.prefix.rows) <= 4
            assert tokens == plain_tokens(model, prompts, ablate) - known * n


def plain_tokens(model, prompts, ablate):
    """Tokens where nothing is kept."""
    backend = HookBackend(model)
    return cost(backend, lambda: backend.logits(prompts, KEEP, ablate))[1]


def test_memory_that_runs_out_ends_the_keeping(backend, monkeypatch, prompts, units):
    expected, plain = cost(backend, lambda: backend.logits(prompts, KEEP, Ablate.each(units)))
    forward, failures = backend.passes.forward, [torch.OutOfMemoryError("full")]

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return forward(*args, **options)

    with backend.keeping_prefix(prompts):
        backend.logits(prompts, KEEP, Ablate.each(units))
        monkeypatch.setattr(backend.passes, "forward", failing)
        found, tokens = cost(backend, lambda: backend.logits(prompts, KEEP, Ablate.each(units)))
        assert backend.passes.prefix is None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert tokens >= plain


@pytest.mark.parametrize("name", ["mistral", "qwen3-next", "mamba"])
def test_models_whose_caches_forget_keep_nothing(tmp_path, name):
    model = load_model(RunConfig(model=str(save_tiny(tmp_path / name, name)), dtype="float32"))
    backend, some = HookBackend(model), [tuple(model.template.render(text)) for text in TEXTS]
    ablate = Ablate.each(torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(1)))
    expected, plain = cost(backend, lambda: backend.logits(some, KEEP, ablate))
    with backend.keeping_prefix(some):
        for _ in range(2):
            found, tokens = cost(backend, lambda: backend.logits(some, KEEP, ablate))
            assert torch.equal(found, expected)
            assert tokens == plain
