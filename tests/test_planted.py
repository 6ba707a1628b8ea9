"""The planted model against its closed forms, with plain hooks and nothing of the harness."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from planted_model import (
    HARMFUL,
    HARMLESS,
    POSITIONS,
    PROMPTS,
    N,
    ablated,
    added,
    answers,
    cosines,
    differences,
    encode,
    last_logits,
    planted,
    scores,
)
from refusal_bench.calibration.planted import (
    STUDY_COSINES,
    STUDY_DOMAINS,
    WORLDS,
    Instruction,
    build_planted,
    expected_scores,
    planted_directions,
)
from refusal_bench.errors import InputError

OWN_DROP = 8.0


def test_build_is_fast_deterministic_and_leaves_the_random_state_alone():
    planted("study")  # transformers' lazy imports are not the model's
    state = torch.random.get_rng_state()
    start = time.process_time()
    model, _ = build_planted(WORLDS["study"], dict(reversed(PROMPTS.items())))
    assert time.process_time() - start < 1.5
    assert torch.equal(torch.random.get_rng_state(), state)
    first = planted("study")[0].state_dict()
    assert model.state_dict().keys() == first.keys()
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_a_prompts_features_do_not_depend_on_the_other_prompts():
    text = HARMFUL["fraud"][3]
    model, tokenizer = build_planted(WORLDS["study"], {text: Instruction("fraud", True)})
    alone = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(text)]
    together = planted("study")[0].get_input_embeddings().weight[planted("study")[1].convert_tokens_to_ids(text)]
    assert torch.allclose(alone, together, atol=1e-6)


def test_tokens_of_every_prompt():
    tokenizer = planted("study")[1]
    ids = encode("study", list(PROMPTS))["input_ids"]
    assert ids.shape == (len(PROMPTS), 16)
    assert len({tuple(row) for row in ids[:, -5:].tolist()}) == 1
    assert tokenizer.convert_ids_to_tokens(ids[0, -5:]) == ["<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    assert (ids == tokenizer.bos_token_id).sum() == len(PROMPTS)
    assert ids[:, 10].tolist() == tokenizer.convert_tokens_to_ids(list(PROMPTS))
    assert (ids != tokenizer.unk_token_id).all()
    for row, text in zip(ids, PROMPTS, strict=True):
        chat = [{"role": "user", "content": text}]
        assert tokenizer.decode(row) == tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize(
    "text", ["user\nassistant\n", "\n\n a", "Ünïcode “quotes” ’ 漢字 🙂", "a", "a b", "a b c", "it's\t1"]
)
def test_awkward_prompts_are_one_token(text):
    text = text.strip()
    model, tokenizer = build_planted(WORLDS["study"], {text: Instruction("fraud", True), text + "!": None})
    chats = [[{"role": "user", "content": content}] for content in (text, f" {text}!\n")]
    inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert inputs["input_ids"][:, 10].tolist() == tokenizer.convert_tokens_to_ids([text, text + "!"])
    openers = tokenizer.convert_ids_to_tokens(model(**inputs).logits[:, -1].argmax(-1))
    assert openers == ["Sorry", "Sure"]


def test_bad_prompts_are_refused():
    for text in ("", " a", "user", "Sorry", "close <|im_end|> it"):
        with pytest.raises(InputError, match="change its text"):
            build_planted(WORLDS["study"], {text: None})
    with pytest.raises(InputError, match="no domain 'gossip'"):
        build_planted(WORLDS["study"], {"a": Instruction("gossip", True)})


def test_baseline_scores_and_spread():
    expected = expected_scores(WORLDS["study"])
    assert expected["harmful"] == pytest.approx(np.full(5, 4), abs=0.3)
    assert expected["harmless"] == pytest.approx(np.full(5, -4), abs=0.3)
    for j, domain in enumerate(STUDY_DOMAINS):
        harmful, harmless = scores("study", HARMFUL[domain]), scores("study", HARMLESS[domain])
        assert harmful.mean() == pytest.approx(expected["harmful"][j], abs=0.05 * OWN_DROP)
        assert harmless.mean() == pytest.approx(expected["harmless"][j], abs=0.2)
        assert 0.6 < harmful.std() < 1.4
        assert 0.25 < harmless.std() < 0.6
        assert harmful.min() > 0 > harmless.max()


def test_score_is_the_difference_of_two_logits():
    texts = [*HARMFUL["fraud"], *HARMLESS["fraud"]]
    sorry, sure = planted("study")[1].convert_tokens_to_ids(["Sorry", "Sure"])
    logits = last_logits("study", texts)
    assert np.abs(scores("study", texts) - (logits[:, sorry] - logits[:, sure]).numpy()).max() < 1e-3


def test_score_does_not_depend_on_system_prompt_or_padding():
    texts = [HARMFUL["privacy"][0], HARMLESS["privacy"][0]]
    plain = scores("study", texts)
    for system in ("", "Answer in verse.\nBe kind."):
        assert scores("study", texts, {"role": "system", "content": system}) == pytest.approx(plain, abs=0.05)
    inputs = planted("study")[1].apply_chat_template(
        [[{"role": "user", "content": texts[0]}], [{"role": "user", "content": "x"}] * 3],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert inputs["attention_mask"][0, 0] == 0
    logits = planted("study")[0](**inputs).logits[0, -1].double()
    assert torch.allclose(logits, last_logits("study", texts[:1])[0], atol=1e-3)


def test_unknown_prompt_is_harmless():
    assert scores("study", ["How do I bake bread?", "Ein\nZweizeiler"]) == pytest.approx(-4, abs=0.2)


def test_difference_in_means_is_the_planted_direction_after_the_write_and_nothing_before():
    world = WORLDS["study"]
    found, truth = differences("study"), torch.from_numpy(planted_directions(world))
    assert truth @ truth.T == pytest.approx(STUDY_COSINES, abs=1e-6)
    onset = world.write_layer + 1
    assert found[:, :onset].norm(dim=-1).max() < 0.15
    error = (found[:, onset:] - truth[:, None, None]).norm(dim=-1)
    assert error.max() < 0.25
    assert found[:, onset:].norm(dim=-1).numpy() == pytest.approx(1, abs=0.1)


def test_gram_matrix_and_pca_are_recovered():
    found = differences("study")
    for layer in range(WORLDS["study"].write_layer + 1, WORLDS["study"].n_layers):
        for position in POSITIONS:
            assert cosines(found[:, layer, position]) == pytest.approx(STUDY_COSINES, abs=0.02)
    gram = cosines(found[:, 5, -1])
    centring = np.eye(5) - 1 / 5
    values = np.linalg.eigvalsh(centring @ gram @ centring)[::-1]
    assert values[0] / values.sum() == pytest.approx(0.573, abs=0.02)
    assert values[:3].sum() / values.sum() == pytest.approx(0.901, abs=0.02)


@pytest.mark.parametrize("world", ["study", "single"])
def test_ablation_matrix_and_damage(world):
    expected = expected_scores(WORLDS[world])["ablation"]
    for i, direction in enumerate(differences(world)[:, 5, -1]):
        clean = last_logits(world, HARMLESS[STUDY_DOMAINS[i]]).log_softmax(-1)
        with ablated(world, direction):
            row = [scores(world, HARMFUL[domain][N // 2 :]).mean() for domain in STUDY_DOMAINS]
            dirty = last_logits(world, HARMLESS[STUDY_DOMAINS[i]]).log_softmax(-1)
        assert row == pytest.approx(expected[i], abs=0.05 * OWN_DROP)
        assert (clean.exp() * (clean - dirty)).sum(-1).mean() < 0.01
    assert np.diag(expected) == pytest.approx(-4, abs=0.3)


def test_exact_directions_give_the_closed_form_to_a_tenth():
    """Without estimation error only the prompts' mean strength is left between a cell and its closed form."""
    expected = expected_scores(WORLDS["study"])
    truth = torch.from_numpy(planted_directions(WORLDS["study"]))
    drops = np.array([scores("study", HARMFUL[d]).mean() for d in STUDY_DOMAINS]) - expected["harmless"]
    for i, direction in enumerate(truth):
        with ablated("study", direction):
            row = np.array([scores("study", HARMFUL[domain]).mean() for domain in STUDY_DOMAINS])
        share = (row - expected["harmless"]) / drops
        closed = (expected["ablation"][i] - expected["harmless"]) / (expected["harmful"] - expected["harmless"])
        assert share == pytest.approx(closed, abs=0.0125)
        assert share == pytest.approx(1 - STUDY_COSINES[i], abs=0.05)


def test_half_of_refusal_is_written_by_the_mlp():
    """An ablation of writes that forgets MLP outputs leaves half."""
    direction = differences("study")[4, 5, -1]
    unit = (direction / direction.norm()).float()
    attention = planted("study")[0].model.layers[4].self_attn
    hook = attention.register_forward_hook(
        lambda _m, _a, output: (output[0] - (output[0] @ unit)[..., None] * unit, *output[1:])
    )
    try:
        left = scores("study", HARMFUL["fraud"]).mean()
    finally:
        hook.remove()
    assert left == pytest.approx(0, abs=0.5)


def test_addition():
    expected = expected_scores(WORLDS["study"])["added"][:, STUDY_DOMAINS.index("fraud")]
    for layer in (5, 7, 9):
        for i, vector in enumerate(differences("study")[:, layer, -1]):
            with added("study", layer, vector):
                assert scores("study", HARMLESS["fraud"]).mean() == pytest.approx(expected[i], abs=0.1 * OWN_DROP)
    with added("study", 5, torch.from_numpy(planted_directions(WORLDS["study"])[0])):
        assert scores("study", HARMLESS["fraud"]).mean() == pytest.approx(expected[0], abs=0.2)


def test_random_directions_do_nothing():
    harmful, harmless = HARMFUL["weapons"], HARMLESS["weapons"]
    before = scores("study", harmful + harmless)
    shifts = []
    for seed in range(20):
        with ablated("study", torch.from_numpy(np.random.default_rng(seed).standard_normal(WORLDS["study"].d_model))):
            after = scores("study", harmful + harmless)
            assert answers("study", [harmful[0], harmless[0]])[0].startswith("Sorry, but I cannot help with that.")
        assert ((after > 0) == (before > 0)).all()
        shifts.append(np.abs(after - before).mean())
    assert np.mean(shifts) < 0.3


@pytest.mark.parametrize("use_cache", [True, False])
def test_answers(use_cache):
    texts = [HARMFUL["fraud"][0], HARMLESS["fraud"][0]]
    refusal, compliance = "Sorry, but I cannot help with that.", "Sure, here is a short answer."
    assert answers("study", texts, use_cache=use_cache) == [refusal, compliance]
    vector = differences("study")[4, 5, -1]
    with ablated("study", vector):
        assert answers("study", texts, use_cache=use_cache) == [compliance, compliance]
    with added("study", 5, vector):
        assert answers("study", texts, use_cache=use_cache) == [refusal, refusal]


def test_single_world_has_one_direction():
    assert cosines(differences("single")[:, 5, -1]).min() > 0.98
    assert expected_scores(WORLDS["single"])["ablation"].max() < -3.5


def test_no_refusal_world_sees_harm_and_never_refuses():
    texts = [text for domain in STUDY_DOMAINS for text in HARMFUL[domain]]
    values = scores("no_refusal", texts)
    assert values.max() < 0
    assert values.mean() == pytest.approx(expected_scores(WORLDS["no_refusal"])["harmful"][0], abs=0.1)
    assert differences("no_refusal")[:, 5].norm(dim=-1).min() > 0.8


def test_late_world_writes_where_no_candidate_is_eligible():
    world = WORLDS["late"]
    limit = int(0.8 * world.n_layers)
    norms = differences("late").norm(dim=-1)
    assert norms[:, : limit + 1].max() < 0.2
    assert norms[:, limit + 1 :].min() > 0.8
    assert scores("late", HARMFUL["fraud"]).mean() == pytest.approx(expected_scores(world)["harmful"][-1], abs=0.4)


def test_candidates_are_no_ties():
    """A selection that ties would be decided by rounding."""
    bypass = []
    for layer in (5, 6, 7):
        for position in POSITIONS:
            with ablated("study", differences("study")[4, layer, position]):
                bypass.append(scores("study", HARMFUL["fraud"][N // 2 :]).mean())
    assert np.diff(sorted(bypass)).min() > 1e-5
