"""How rows are put into batches, and what happens when memory runs out."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_bench.backends.batches import SMALLEST_BATCH, Room, plan_batches
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.errors import IncompleteRunError
from refusal_bench.interventions import Ablate
from refusal_bench.models.loading import load_model


def cost(lengths, bounds, pass_tokens, at_once):
    """Tokens a variant of batches that end at `bounds`, each padded to its longest prompt."""
    return sum(
        (stop - start) * lengths[stop - 1] + pass_tokens / at_once
        for start, stop in zip((0, *bounds[:-1]), bounds, strict=True)
    )


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7).map(sorted),
    n_variants=st.integers(1, 9),
    rows=st.integers(1, 30),
    tokens=st.integers(40, 300),
    pass_tokens=st.sampled_from([0, 32, 1000]),
    workers=st.integers(1, 3),
)
def test_batches_are_the_cheapest_of_all_that_fit(lengths, n_variants, rows, tokens, pass_tokens, workers):
    groups, batches = plan_batches(
        lengths, 5, n_variants, rows, tokens, padded=True, pass_tokens=pass_tokens, workers=workers
    )
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    assert [variant for group in groups for variant in group] == list(range(n_variants))
    at_once = max(map(len, groups))
    assert at_once <= rows
    assert at_once * max(5, lengths[-1]) <= tokens

    def fits(start, stop):
        n = stop - start
        alone = len(groups) == 1  # then the workers share its prompts
        return n == 1 or (
            n * at_once <= rows
            and n * at_once * lengths[stop - 1] <= tokens
            and (not alone or n <= math.ceil(len(lengths) / workers))
        )

    allowed = []
    for n_cuts in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), n_cuts):
            bounds = (*cuts, len(lengths))
            if all(fits(start, stop) for start, stop in zip((0, *cuts), bounds, strict=True)):
                allowed.append(cost(lengths, bounds, pass_tokens, at_once))
    found = cost(lengths, tuple(batch.stop for batch in batches), pass_tokens, at_once)
    assert found == pytest.approx(min(allowed))


def test_without_padding_only_prompts_of_equal_length_share_a_batch():
    _, batches = plan_batches([3, 3, 4, 6, 6, 6], 0, 1, 96, 2048, padded=False, pass_tokens=1000, workers=1)
    assert [list(batch) for batch in batches] == [[0, 1], [2], [3, 4, 5]]


@pytest.fixture
def backend(planted):
    return HookBackend(planted)


@pytest.fixture
def prompts(planted):
    return [tuple(planted.template.render(text)) for text in ("rivers", "old cities", "bread", "clouds", "tea")]


def test_on_a_cpu_a_batch_takes_no_more_memory_in_wider_numbers():
    narrow, wide = (
        Room.of(load_model(RunConfig(model="planted", device="cpu", dtype=dtype)), workers=2)
        for dtype in ("bfloat16", "float32")
    )
    assert narrow == Room(rows=128, tokens=2048, decoding_tokens=8192)
    assert wide == narrow.halved()


def test_the_shared_prefix_runs_once_a_group_of_variants(backend, prompts):
    prefix = backend.passes.prefix_length(prompts, max(map(len, prompts)))
    assert prefix > 0
    directions = torch.randn(4, backend.model.d_model, generator=torch.Generator().manual_seed(0))
    backend.passes.room = Room(rows=4, tokens=2048, decoding_tokens=2048)  # one prompt a batch
    backend.logits(prompts, lambda logits, rows: logits[:, 0], Ablate.each(directions))
    assert backend.counters.tokens == 4 * (prefix + sum(len(prompt) - prefix for prompt in prompts))


@pytest.fixture
def small_memory(backend, monkeypatch):
    """Memory for 300 tokens in one pass; the error is a GPU's or a CPU's."""

    def limit(error, most=300):
        forward = backend.passes.forward

        def refusing(ids, *args, **options):
            if ids.numel() > most:
                raise error
            return forward(ids, *args, **options)

        monkeypatch.setattr(backend.passes, "forward", refusing)

    return limit


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_out_of_memory_halves_the_batches_and_changes_nothing(backend, prompts, small_memory, error):
    directions = Ablate.each(torch.randn(12, backend.model.d_model, generator=torch.Generator().manual_seed(0)))
    keep = lambda logits, rows: logits  # noqa: E731
    expected = backend.logits(prompts, keep, directions)
    texts = [[c.tokens for c in row] for row in backend.complete(prompts, 5, keep, directions)]
    before = backend.passes.room
    small_memory(error)
    torch.testing.assert_close(backend.logits(prompts, keep, directions), expected, atol=1e-5, rtol=1e-5)
    assert [[c.tokens for c in row] for row in backend.complete(prompts, 5, keep, directions)] == texts
    assert backend.passes.room.tokens < before.tokens
    assert backend.passes.room.tokens >= SMALLEST_BATCH


def test_out_of_memory_with_the_smallest_batch_is_final_and_says_what_to_do(backend, prompts, small_memory):
    small_memory(torch.OutOfMemoryError("CUDA"), most=0)
    with pytest.raises(IncompleteRunError, match="out of memory with batches of 256 tokens; free memory"):
        backend.logits(prompts, lambda logits, rows: logits)


def test_other_runtime_errors_are_not_taken_for_memory(backend, prompts, small_memory):
    small_memory(RuntimeError("shapes do not fit"), most=0)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        backend.logits(prompts, lambda logits, rows: logits)
