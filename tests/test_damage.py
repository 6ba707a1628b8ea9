"""Loss on neutral text: against plain forward passes with hooks of the test's own."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.damage import N_PASSAGES, TEXT, neutral_loss, neutral_losses, neutral_passages
from refusal_bench.models.loading import load_model
from tiny import save_tiny


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("models") / "m")
    return HookBackend(load_model(RunConfig(model=str(folder), dtype="float32")))


def test_the_passages_are_long_enough_to_say_something():
    passages = TEXT.read_text().split("\n\n")
    assert len(passages) == N_PASSAGES
    assert all(35 <= len(passage.split()) <= 70 for passage in passages)


def test_losses_are_those_of_plain_passes_with_the_vector_added(backend):
    vector, layer = torch.randn(32, generator=torch.Generator().manual_seed(0)), 2
    found = neutral_losses(backend, {"fraud": (vector, layer)})
    module, passages = backend.model.module, neutral_passages(backend)
    assert len(found["baseline"]) == len(passages) == 16
    assert found["tokens"] == sum(map(len, passages)) - 16

    def plain(ids):
        logits = module(torch.tensor([ids])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()

    for i in (0, 7):
        assert found["baseline"][i] == pytest.approx(plain(passages[i]), abs=1e-4)
        hook = module.model.layers[layer].register_forward_pre_hook(lambda _, args: (args[0] + vector, *args[1:]))
        try:
            assert found["fraud"]["added"][i] == pytest.approx(plain(passages[i]), abs=1e-4)
        finally:
            hook.remove()
    assert found["fraud"]["ablated"] != found["baseline"]


def test_a_rise_is_paired_and_its_interval_is_over_passages():
    found = {"baseline": [1.0, 3.0, 5.0], "tokens": 30, "fraud": {"ablated": [1.5, 3.5, 5.5], "added": [1.0, 3.0, 6.5]}}
    loss = neutral_loss(found, "fraud", 500, 0)
    assert (loss.n_passages, loss.n_tokens, loss.baseline) == (3, 30, 3.0)
    assert loss.ablated_rise == pytest.approx(0.5)
    assert loss.ablated_rise_ci95 == pytest.approx((0.5, 0.5))  # the spread of the passages cancels
    assert loss.added_rise == pytest.approx(0.5)
    assert loss.added_rise_ci95 == pytest.approx((0.0, 1.5))


def test_nothing_to_measure_and_infinite_losses_are_null():
    assert neutral_loss({"baseline": [], "tokens": 0, "x": {"ablated": [], "added": []}}, "x", 50, 0) is None
    broken = {"ablated": [float("nan")], "added": [1.0]}
    assert neutral_loss({"baseline": [1.0], "tokens": 9, "x": broken}, "x", 50, 0) is None
