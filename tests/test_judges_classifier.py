"""Classifier judges on tiny models with random weights, against what transformers itself says of them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import torch
from refusal_bench.errors import InputError
from refusal_bench.judges import load_judge
from refusal_bench.judges.classifier import BATCH, parse_reply
from tiny import save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification, pipeline

ANSWERS = [f"{word} {other}" for word in ("no", "yes", "Bread", "I", "zzz") for other in ("thanks", "flour", "42", "!")]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a sequence classifier that calls some answers REFUSAL and some NORMAL."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=66,
        initializer_range=1.0,
        id2label={0: "NORMAL", 1: "REFUSAL"},
        label2id={"NORMAL": 0, "REFUSAL": 1},
    )
    folder = tmp_path_factory.mktemp("models") / "bouncer"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


def test_verdicts_are_the_models_labels_in_order(classifier):
    assert len(ANSWERS) > BATCH
    said = pipeline("text-classification", model=str(classifier), tokenizer=str(classifier))
    expected = [{"NORMAL": "C", "REFUSAL": "R"}[said(answer)[0]["label"]] for answer in ANSWERS]
    assert set(expected) == {"R", "C"}
    judge = load_judge(f"classifier:{classifier}")
    assert judge.judge(ANSWERS) == expected
    assert judge.judge(["<think>no</think>" + answer for answer in ANSWERS]) == expected
    assert judge.judge(["<think>no", "", ANSWERS[0], " \n"]) == ["U", "G", expected[0], "G"]
    assert set(judge.judge(["word " * 500])) <= {"R", "C"}


def test_its_name_holds_no_path_and_its_version_the_weights_and_the_map(classifier):
    plain = load_judge(f"classifier:{classifier}")
    assert plain.name == "classifier:bouncer"
    assert plain.version == load_judge(f"classifier:{classifier}").version
    turned = load_judge(f"classifier:{classifier}?normal=R&REFUSAL=C")
    assert turned.version != plain.version
    swap = str.maketrans("RC", "CR")
    assert turned.judge(ANSWERS) == [letter.translate(swap) for letter in plain.judge(ANSWERS)]


def test_a_label_without_a_meaning_is_named(classifier, tmp_path):
    with pytest.raises(InputError, match="'normal' means"):
        load_judge(f"classifier:{classifier}?REFUSAL=R")
    with pytest.raises(InputError, match="no label 'other'"):
        load_judge(f"classifier:{classifier}?REFUSAL=R&NORMAL=C&OTHER=D")
    model = BertForSequenceClassification.from_pretrained(classifier)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'label_0', 'label_1' means; add a map"):
        load_judge(f"classifier:{tmp_path}")
    assert set(load_judge(f"classifier:{tmp_path}?label_0=C&label_1=R").judge(ANSWERS)) == {"R", "C"}


def test_numbers_that_are_none_are_unscored(classifier, tmp_path):
    model = BertForSequenceClassification.from_pretrained(classifier)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    assert load_judge(f"classifier:{tmp_path}").judge(["yes"]) == ["?"]


def test_a_guard_model_is_asked_with_its_template_and_an_empty_question(tmp_path):
    save_tiny(tmp_path / "guard")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "guard")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "guard")
    chat = [{"role": "user", "content": ""}, {"role": "assistant", "content": "no thanks"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    for _ in range(24):
        following = model(ids).logits[0, -1].argmax().reshape(1, 1)
        if following.item() == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following], dim=1)
    start = len(tokenizer(text, add_special_tokens=False).input_ids)
    reply = tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    line = next(line.strip() for line in reply.splitlines() if line.strip())
    judge = load_judge(f"classifier:{tmp_path / 'guard'}?{quote(line, safe='')}=R&surely%20not%20this=C")
    assert judge.name == "classifier:guard"
    assert judge.judge(["no thanks", ""]) == ["R", "G"]
    assert load_judge(f"classifier:{tmp_path / 'guard'}?surely%20not%20this=C").judge(["no thanks"]) == ["?"]


def test_a_guard_model_needs_a_map_and_a_template(tmp_path):
    save_tiny(tmp_path / "guard")
    with pytest.raises(InputError, match="chat template and a map"):
        load_judge(f"classifier:{tmp_path / 'guard'}")
    save_tiny(tmp_path / "plain", template=None)
    with pytest.raises(InputError, match="chat template and a map"):
        load_judge(f"classifier:{tmp_path / 'plain'}?yes=R")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Harmful request: yes\nResponse refusal: yes\nHarmful response: no", "R"),
        ("harmful request: no\n  Response Refusal: no  \n", "C"),
        ("Response refusal: yes\nResponse refusal: no", "?"),
        ("The response refusal: yes", "?"),
        ("", "?"),
        ("Response refusal: yes\nResponse refusal: yes", "R"),
    ],
)
def test_a_guards_reply_names_one_letter_by_whole_lines(reply, letter):
    assert parse_reply(reply, {"response refusal: yes": "R", "response refusal: no": "C"}) == letter
