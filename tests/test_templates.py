"""Chat templates of real families (written for these tests): positions, system prompts, start tokens, thinking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.judges import load_judge
from refusal_bench.models.loading import load_model
from refusal_bench.models.show import describe
from refusal_bench.models.template import ChatTemplate
from tiny import save_tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "data" / "templates"
PROMPTS = ("Tell me a story", "What?", "two\nlines", "List 3.", "<b>tag</b>", "7")
LLAMA2 = (
    "You are a helpful, respectful and honest assistant. Answer as helpfully as possible while being safe.\n\n"
    "If a question makes no sense, explain why. If you do not know the answer, say so."
)
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
KNOWLEDGE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
GRANITE = "Knowledge Cutoff Date: April 2024.\nToday's Date: July 26, 2024.\nYou are Granite, a helpful assistant."
THOUGHTLESS = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Family:
    """What a family's template should give; `{}` in a head stands for the system prompt."""

    head: str
    suffix: str
    with_system: str | None
    """Text before the instruction with a system prompt; None for a family that takes none."""
    without: str | None = None
    """The same with `none`, where it differs from the default."""
    bos: str | None = "<s>"
    eos: str = "</s>"
    special: tuple[str, ...] = ()


IM = {"bos": None, "eos": "<|im_end|>", "special": ("<|im_start|>", "<|im_end|>")}
HEADERS = {
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "special": ("<|start_header_id|>", "<|end_header_id|>"),
}
TURNS = {"bos": "<bos>", "eos": "<eos>", "special": ("<start_of_turn>", "<end_of_turn>")}
ROLES = {"eos": "<|endoftext|>", "bos": None}
INST = {"special": ("[INST]", "[/INST]")}
IM_USER, IM_END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
LLAMA3_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
LLAMA3_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
LLAMA3_END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
SMOL = "<|im_start|>system\n## Metadata\n\nReasoning Mode: {}\n\n## Custom Instructions\n\n{}<|im_end|>\n" + IM_USER
GRANITE_ROLE = "<|start_of_role|>{}<|end_of_role|>"
GRANITE_USER = "<|end_of_text|>\n" + GRANITE_ROLE.format("user")
OSS = "<|start|>system<|message|>You are a large language model.\nReasoning: medium<|end|>"

FAMILIES = {
    "chatml": Family(
        f"<|im_start|>system\nYou are a small assistant.<|im_end|>\n{IM_USER}",
        IM_END,
        "<|im_start|>system\n{}<|im_end|>\n" + IM_USER,
        "<|im_start|>system\n<|im_end|>\n" + IM_USER,
        **IM,
    ),
    "llama-2": Family(
        f"<s>[INST] <<SYS>>\n{LLAMA2}\n<</SYS>>\n\n", " [/INST]", "<s>[INST] <<SYS>>\n{}\n<</SYS>>\n\n", "<s>[INST] "
    ),
    "llama-3": Family(
        f"<|begin_of_text|>{LLAMA3_USER}",
        LLAMA3_END,
        LLAMA3_SYSTEM + "{}<|eot_id|>" + LLAMA3_USER,
        **HEADERS,
    ),
    "llama-3.1": Family(
        f"{LLAMA3_SYSTEM}{KNOWLEDGE}<|eot_id|>{LLAMA3_USER}",
        LLAMA3_END,
        LLAMA3_SYSTEM + KNOWLEDGE + "{}<|eot_id|>" + LLAMA3_USER,
        **HEADERS,
    ),
    "gemma": Family("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", None, **TURNS),
    "gemma-3": Family(
        "<bos><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\n{}\n\n",
        **TURNS,
    ),
    "mistral": Family("<s>[INST] ", "[/INST]", "<s>[INST] {}\n\n", **INST),
    "mistral-v0.1": Family("<s>[INST] ", " [/INST]", None),
    "magistral": Family(
        "<s>[INST]",
        "[/INST]",
        "<s>[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT][INST]",
        special=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
    ),
    "phi-3": Family(
        "<|user|>\n",
        "<|end|>\n<|assistant|>\n",
        "<|system|>\n{}<|end|>\n<|user|>\n",
        **ROLES,
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "zephyr": Family("<|user|>\n", "</s>\n<|assistant|>\n", "<|system|>\n{}</s>\n<|user|>\n", bos=None),
    "deepseek-r1": Family(
        "<｜begin▁of▁sentence｜><｜User｜>",
        "<｜Assistant｜><think>\n",
        "<｜begin▁of▁sentence｜>{}<｜User｜>",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        special=("<｜User｜>", "<｜Assistant｜>"),
    ),
    "qwen-2.5": Family(
        f"<|im_start|>system\n{QWEN}<|im_end|>\n{IM_USER}",
        IM_END,
        "<|im_start|>system\n{}<|im_end|>\n" + IM_USER,
        "<|im_start|>system\n<|im_end|>\n" + IM_USER,
        **IM,
    ),
    "qwen3": Family(IM_USER, IM_END, "<|im_start|>system\n{}<|im_end|>\n" + IM_USER, **IM),
    "olmo": Family(
        "<|endoftext|><|user|>\n",
        "\n<|assistant|>\n",
        "<|endoftext|><|system|>\n{}\n<|user|>\n",
        bos="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    "granite": Family(
        GRANITE_ROLE.format("system") + GRANITE + GRANITE_USER,
        "<|end_of_text|>\n" + GRANITE_ROLE.format("assistant"),
        GRANITE_ROLE.format("system") + "{}" + GRANITE_USER,
        GRANITE_ROLE.format("system") + GRANITE_USER,
        bos=None,
        eos="<|end_of_text|>",
        special=("<|start_of_role|>", "<|end_of_role|>"),
    ),
    "falcon": Family("User: ", "\nFalcon:", "System: {}\nUser: ", **ROLES),
    "stablelm": Family(
        "<|user|>\n", "<|endoftext|>\n<|assistant|>\n", "<|system|>\n{}<|endoftext|>\n<|user|>\n", **ROLES
    ),
    "gpt-oss": Family(
        OSS + "<|start|>user<|message|>",
        "<|end|><|start|>assistant",
        OSS + "<|start|>developer<|message|># Instructions\n\n{}<|end|><|start|>user<|message|>",
        bos=None,
        eos="<|return|>",
        special=("<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
    ),
    "smollm3": Family(
        SMOL.format("/think", "You are a helpful AI assistant named SmolLM."),
        IM_END,
        SMOL.format("/think", "{}"),
        SMOL.format("/think", ""),
        **IM,
    ),
    "cohere": Family(
        "<bos><|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<bos><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        bos="<bos>",
        eos="<|END_OF_TURN_TOKEN|>",
        special=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    ),
}


def family_tokenizer(name, *, adds_bos=False, merges=(), plain=()):
    """One token a character, the family's special tokens, and `merges` and `plain` as ordinary tokens of their own."""
    family = FAMILIES[name]
    special = list(dict.fromkeys(t for t in (family.bos, family.eos, *family.special) if t))
    letters = ["<unk>", *map(chr, range(32, 127)), "\n"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(letters)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_tokens([AddedToken(text, special=False) for text in (*merges, *plain)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        unk_token="<unk>",
        additional_special_tokens=special,
    )
    if adds_bos:
        bos = (family.bos, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(f"{bos[0]} $A", None, [bos])
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def check(template, head, suffix):
    """The ids of every prompt are head, prompt and suffix, and the positions count from where the prompt ends."""
    tokenizer = template.tokenizer
    assert template.head == head
    assert "".join(template.suffix_tokens) == suffix
    assert template.positions == tuple(range(-len(template.suffix), 0))
    for prompt in PROMPTS:
        ids = template.render(prompt)
        assert tokenizer.decode(ids) == head + prompt + suffix
        if tokenizer.bos_token_id is not None:
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids[0] == tokenizer.bos_token_id
        offsets = tokenizer(head + prompt + suffix, add_special_tokens=False, return_offsets_mapping=True)
        (spot,) = [
            place - len(ids)
            for place, (start, end) in enumerate(offsets["offset_mapping"])
            if start < len(head + prompt) <= end
        ]
        assert template.t_inst == spot


def test_every_template_file_is_a_family_here():
    assert {path.stem for path in FOLDER.glob("*.jinja")} == set(FAMILIES)


def test_default_system_prompt(name):
    check(ChatTemplate.of(family_tokenizer(name), "default"), FAMILIES[name].head, FAMILIES[name].suffix)


def test_no_system_prompt(name):
    family = FAMILIES[name]
    head = family.head if family.without is None else family.without
    check(ChatTemplate.of(family_tokenizer(name), "none"), head, family.suffix)


def test_a_system_prompt_of_the_user(name):
    family = FAMILIES[name]
    if family.with_system is None:
        with pytest.raises(InputError, match=r"takes no system prompt \(.+\); use --system-prompt default or none"):
            ChatTemplate.of(family_tokenizer(name), "Be brief.")
    else:
        template = ChatTemplate.of(family_tokenizer(name), "Be brief.")
        check(template, family.with_system.format("Be brief."), family.suffix)


@pytest.mark.parametrize("system", ["default", "none"])
def test_a_tokenizer_that_sets_the_start_token_itself_leaves_exactly_one(name, system):
    if FAMILIES[name].bos is not None:
        check(
            ChatTemplate.of(family_tokenizer(name, adds_bos=True), system),
            (FAMILIES[name].without if system == "none" else None) or FAMILIES[name].head,
            FAMILIES[name].suffix,
        )


def test_a_template_without_the_start_token_gets_the_tokenizers_own():
    tokenizer = family_tokenizer("mistral", adds_bos=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    ids = ChatTemplate.of(tokenizer, "default").render("Hello")
    assert tokenizer.decode(ids) == "<s>[INST] Hello[/INST]"
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(("name", "merge"), [("falcon", ".\n"), ("olmo", ".\n"), ("mistral-v0.1", ". [")])
def test_positions_where_the_tokenizer_merges_the_instruction_with_what_follows(name, merge):
    """Only tokens that are the same behind every instruction are positions; the one before them ends it."""
    template = ChatTemplate.of(family_tokenizer(name, merges=[merge]), "default")
    rest = FAMILIES[name].suffix[len(merge) - 1 :]
    assert "".join(template.suffix_tokens) == rest
    for prompt in ("List three cities.", "Tell me about rivers"):
        ids = template.render(prompt)
        assert template.tokenizer.decode(ids[: template.t_inst + 1]) == FAMILIES[name].head + prompt + merge[1:]
    assert template.tokenizer.decode([template.render("List three cities.")[template.t_inst]]) == merge


@pytest.mark.parametrize(
    ("name", "thinking", "head", "suffix"),
    [
        ("qwen3", "on", None, IM_END),
        ("qwen3", "off", None, IM_END + THOUGHTLESS),
        ("smollm3", "on", None, IM_END),
        (
            "smollm3",
            "off",
            SMOL.format("/no_think", "You are a helpful AI assistant named SmolLM."),
            IM_END + THOUGHTLESS[:-1],
        ),
        ("granite", "off", None, FAMILIES["granite"].suffix),
        (
            "granite",
            "on",
            GRANITE_ROLE.format("system") + GRANITE + " Write your thoughts first." + GRANITE_USER,
            FAMILIES["granite"].suffix,
        ),
        ("deepseek-r1", "on", None, "<｜Assistant｜><think>\n"),
        ("deepseek-r1", "off", None, "<｜Assistant｜><think>\n\n</think>\n\n"),
        ("magistral", "off", None, "[/INST][THINK][/THINK]"),
        (
            "gpt-oss",
            "off",
            None,
            "<|end|><|start|>assistant<|channel|>analysis<|message|><|end|><|start|>assistant"
            "<|channel|>final<|message|>",
        ),
    ],
)
def test_thinking_is_switched_by_the_templates_flag_or_by_an_empty_thought(name, thinking, head, suffix):
    template = ChatTemplate.of(family_tokenizer(name), "default", thinking)
    check(template, head or FAMILIES[name].head, suffix)


def test_an_empty_thought_follows_a_template_that_opens_none_but_whose_tokenizer_knows_thoughts():
    template = ChatTemplate.of(family_tokenizer("qwen-2.5", plain=["<think>", "</think>"]), "default", "off")
    check(template, FAMILIES["qwen-2.5"].head, IM_END + THOUGHTLESS)


@pytest.mark.parametrize("thinking", ["on", "off"])
def test_a_model_that_does_not_think_has_no_thinking_to_switch(thinking):
    with pytest.raises(InputError, match="knows no thinking; use --thinking default"):
        ChatTemplate.of(family_tokenizer("llama-3"), "default", thinking)


@pytest.mark.parametrize(
    ("name", "thinking", "written", "text", "letter"),
    [
        (
            "qwen3",
            "default",
            "<think>\nI can't help?\n</think>\n\nSure, here",
            "<think>\nI can't help?\n</think>\n\nSure, here",
            "C",
        ),
        (
            "deepseek-r1",
            "default",
            "I can't help?\n</think>\n\nSure, here",
            "<think>I can't help?\n</think>\n\nSure, here",
            "C",
        ),
        ("deepseek-r1", "default", "I can't help? Wait", "<think>I can't help? Wait", "U"),
        ("deepseek-r1", "off", "I can't help with that.", "I can't help with that.", "R"),
        (
            "magistral",
            "default",
            "[THINK]I can't help?[/THINK]Sure, here</s>",
            "<think>I can't help?</think>Sure, here",
            "C",
        ),
        ("magistral", "default", "[THINK]I can't help? Wait", "<think>I can't help? Wait", "U"),
        (
            "gpt-oss",
            "default",
            "<|channel|>analysis<|message|>I can't help?<|end|><|start|>assistant<|channel|>final<|message|>Sure, here",
            "<think>I can't help?</think>Sure, here",
            "C",
        ),
        ("gpt-oss", "default", "<|channel|>analysis", "<think>", "U"),
        ("gpt-oss", "off", "I can't help with that.<|return|>", "I can't help with that.", "R"),
        ("llama-3", "default", "Sure, here<|eot_id|>", "Sure, here", "C"),
    ],
)
def test_completions_read_as_thought_and_answer_in_one_form_and_judges_see_the_answer(
    name, thinking, written, text, letter
):
    template = ChatTemplate.of(family_tokenizer(name), "default", thinking)
    tokens = template.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert template.decode(tokens) == text
    assert load_judge("opener").judge([text]) == [letter]


def test_thinking_reaches_the_model_and_is_described(tmp_path):
    save_tiny(tmp_path / "tiny", "qwen3", template=(FOLDER / "qwen3.jinja").read_text(encoding="utf-8"))
    folder = str(tmp_path / "tiny")
    found = {x: load_model(RunConfig(model=folder, thinking=x)).template for x in ("default", "on", "off")}
    assert found["default"].suffix == found["on"].suffix
    assert "".join(found["off"].suffix_tokens) == IM_END + THOUGHTLESS
    described = describe(folder, "default", "off")
    assert described["end_of_the_instruction"] == found["off"].t_inst == -len(found["off"].suffix) - 1
    assert RunConfig(model=folder).key() != RunConfig(model=folder, thinking="off").key()
    assert RunConfig(model=folder, thinking="off").measured()["thinking"] == "off"
