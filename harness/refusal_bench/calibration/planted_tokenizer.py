"""The planted model's tokenizer: ChatML in which every known instruction is one token.

    <|bos|> <|im_start|> system \\n SYSTEM <|im_end|> \\n
            <|im_start|> user \\n INSTRUCTION <|im_end|> \\n
            <|im_start|> assistant \\n

One token an instruction lets an embedding carry exactly what is planted for it; any other text is one `<unk>`.
Answers are generated piece by piece and decode to plain English; encoded, an answer's text is `<unk>` too.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from refusal_bench.errors import InputError

UNK, PAD, BOS, START, END = SPECIAL_TOKENS = ("<unk>", "<pad>", "<|bos|>", "<|im_start|>", "<|im_end|>")
NEWLINE = "\n"
SYSTEM_PROMPT = "You are a planted model."
OPENERS = ("Sorry", "I'm sorry", "My apologies")
"""First tokens of refusals; a world with one opener uses the first."""
REFUSAL = (", but", " I", " cannot", " help", " with", " that", ".")
"""How every refusal goes on."""
COMPLIANCE = ("Sure", ", here", " is", " a", " short", " answer", ".")
RESERVED = tuple(
    dict.fromkeys(
        (*SPECIAL_TOKENS, NEWLINE, "system", "user", "assistant", SYSTEM_PROMPT, *OPENERS, *REFUSAL, *COMPLIANCE)
    )
)
"""Every token that is not an instruction, in the order of its id."""

INSTRUCTION_POSITION = 10
"""Index of the instruction in a conversation of one message with the default system prompt."""
PROMPT_TOKENS = 16
"""Length of that conversation with its five tokens after the instruction."""

_MESSAGE = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
_DEFAULT_SYSTEM = f"{{{{ '<|im_start|>system\\n{SYSTEM_PROMPT}<|im_end|>\\n' }}}}"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}" + _DEFAULT_SYSTEM + "{% endif %}"
    "{% for message in messages %}" + _MESSAGE + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def check_instruction(text: str) -> None:
    """Refuse an instruction that could not be one token of its own."""
    if text in RESERVED or not text or text != text.strip() or any(token in text for token in SPECIAL_TOKENS):
        raise InputError(
            f"the prompt {text[:60]!r} is empty, has outer white space or is a token of the planted model's template; "
            "change its text."
        )


def build_tokenizer(instructions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows each instruction as one token, after the reserved ones."""
    vocabulary = {token: index for index, token in enumerate((*RESERVED, *instructions))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNK))
    # Special tokens are cut out first. What follows one is "role \n text" or "\n"; only its head is split, so that
    # newlines, quotes and role names inside the text stay in it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\A(?:system|user|assistant)(?=\n)"), "isolated"),
            pre_tokenizers.Split(Regex(r"\A\n"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        extra_special_tokens=[START],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
