"""Batches side by side: the same numbers as one after the other, and what happens when one of them fails."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from refusal_bench.backends.batches import SMALLEST_BATCH
from refusal_bench.backends.cache import ROOM, RoomyLayer
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.workers import MOST, Workers
from refusal_bench.config import RunConfig
from refusal_bench.interventions import Ablate, Add
from refusal_bench.models.loading import load_model
from refusal_bench.models.memory import MIN_TOKENS
from tiny import save_tiny
from transformers.cache_utils import DynamicLayer

TEXTS = ["hi", "Tell me a story of rivers.", "What?", "A much longer question, with words.", "abcde", "fghij", "k"]
KEEP = lambda logits, rows: logits  # noqa: E731


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(RunConfig(model=str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))))


@pytest.fixture(scope="module")
def prompts(model):
    return [tuple(model.template.render(text)) for text in TEXTS]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backends(model, two_threads):
    one, two = HookBackend(model), HookBackend(model)
    one.passes.workers.n = 1
    assert two.passes.workers.n == 2
    return one, two


def test_as_many_batches_at_once_as_there_are_threads_up_to_a_few(model, two_threads):
    found = []
    for threads in (1, 2, 64):
        torch.set_num_threads(threads)
        found.append(Workers(model).n)
    assert found == [1, 2, MOST]


@pytest.mark.parametrize(("n_tokens", "expected"), [(MIN_TOKENS // 2, 1), (MIN_TOKENS, 1), (2 * MIN_TOKENS, 2)])
def test_no_more_batches_at_once_than_memory_has_room_for(model, two_threads, n_tokens, expected):
    assert Workers(replace(model, batch_tokens=n_tokens)).n == expected


def test_the_smallest_batches_run_alone_before_memory_is_said_to_have_run_out(model, backends, prompts, monkeypatch):
    one, two = backends
    forward = two.passes.forward

    def beside(*args, **options):
        if threading.current_thread() is not threading.main_thread():
            raise torch.OutOfMemoryError("too many at once")
        return forward(*args, **options)

    monkeypatch.setattr(two.passes, "forward", beside)
    torch.testing.assert_close(two.logits(prompts, KEEP), one.logits(prompts, KEEP), atol=2e-5, rtol=1e-4)
    assert (two.passes.workers.n, two.passes.room.tokens) == (1, SMALLEST_BATCH)


def test_weights_that_are_packed_in_integers_run_alone(model, two_threads):
    packed = torch.nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)
    model.module.register_parameter("packed", packed)
    try:
        assert Workers(model).n == 1
    finally:
        del model.module.packed


WHAT = {
    "nothing": None,
    "one ablation": lambda d: Ablate.each(d[:1]),
    "ablations": lambda d: Ablate.each(d),
    "additions": lambda d: Add(3 * d[:3], (2, 0, 1)),
    "additions that branch": lambda d: Add.at(3 * d, 1),
}


@pytest.mark.parametrize("what", WHAT)
def test_batches_side_by_side_equal_those_one_after_the_other(model, backends, prompts, what):
    directions = torch.randn(9, model.d_model, generator=torch.Generator().manual_seed(3))
    intervention = WHAT[what] and WHAT[what](directions)
    one, two = backends
    progress = []
    alone = one.logits(prompts, KEEP, intervention)
    together = two.logits(prompts, KEEP, intervention, progress.append)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    assert sum(progress) == alone.shape[0] * len(prompts)
    assert torch.equal(two.logits(prompts, KEEP, intervention), together)
    texts = [[[c.tokens for c in row] for row in b.complete(prompts, 6, KEEP, intervention)] for b in backends]
    assert texts[0] == texts[1]
    answers = [prompt[1:4] for prompt in prompts]
    losses = [backend.answer_loss(prompts, answers, intervention) for backend in backends]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)


def test_residuals_of_batches_side_by_side_are_each_prompts_own(model, backends, prompts):
    stored = []
    for backend in backends:
        kept = {}
        backend.residuals(prompts, model.template.positions, kept.__setitem__, KEEP)
        stored.append(torch.stack([kept[i] for i in range(len(prompts))]))
    torch.testing.assert_close(stored[1], stored[0], atol=1e-5, rtol=1e-4)


def test_each_batch_has_its_share_of_the_threads_and_the_others_keep_theirs(backends, prompts):
    seen = []

    def look(logits, rows):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return logits

    backends[1].logits(prompts, look)
    assert len(seen) > 1
    assert set(seen) == {(False, 1)}
    assert torch.get_num_threads() == 2


def test_an_error_in_one_batch_ends_all_and_leaves_the_model_as_it_was(model, backends, prompts):
    _, backend = backends
    before = backend.logits(prompts, KEEP)
    entered = []

    def fail(logits, rows):
        entered.append(1)
        if len(entered) == 2:
            raise KeyError("in the middle")
        return logits

    directions = torch.randn(40, model.d_model, generator=torch.Generator().manual_seed(3))
    backend.passes.room = type(backend.passes.room)(rows=2, tokens=2048, decoding_tokens=2048)
    with pytest.raises(KeyError, match="in the middle"):
        backend.logits(prompts, fail, Ablate.each(directions))
    assert len(entered) < 70  # of 20 groups of 7 batches
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    torch.testing.assert_close(backend.logits(prompts, KEEP), before, atol=2e-5, rtol=1e-4)


def test_a_layer_with_room_holds_what_one_without_does():
    draw = torch.Generator().manual_seed(0)
    layers = [DynamicLayer(), RoomyLayer()]

    def append(rows, n_tokens):
        new = torch.randn(2, rows, 3, n_tokens, 4, generator=draw)
        found = [layer.update(*new) for layer in layers]
        for plain, roomy in zip(*found, strict=True):
            assert torch.equal(plain, roomy)

    append(2, 5)
    for layer in layers:
        layer.batch_repeat_interleave(2)
    for step in range(2 * ROOM + 3):
        append(4 if step < ROOM + 2 else 2, 1)
        if step == ROOM + 1:
            for layer in layers:
                layer.reorder_cache(torch.tensor([3, 1]))
    assert layers[1].get_seq_length() == layers[0].get_seq_length() == 5 + 2 * ROOM + 3


def test_room_is_made_once_for_many_tokens():
    layer, places = RoomyLayer(), set()
    layer.update(*torch.randn(2, 1, 1, 3, 4))
    for _ in range(ROOM):
        layer.update(*torch.randn(2, 1, 1, 1, 4))
        places.add(layer.keys.data_ptr())
    assert len(places) == 1
