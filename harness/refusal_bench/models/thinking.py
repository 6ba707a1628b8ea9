"""Reasoning models: how a family marks its thoughts, how thinking is switched, and thoughts in one common form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from refusal_bench.errors import InputError

FLAGS = ("enable_thinking", "thinking")
"""Template variables that switch thinking: Qwen3 and SmolLM3; Granite and DeepSeek-V3.1."""


@dataclass(frozen=True)
class Marks:
    """What a family writes around its thoughts."""

    tokens: tuple[str, ...]
    """Tokens that the marks are made of; the first one tells the family."""
    open: str
    """Opens a thought."""
    close: str
    """Closes it."""
    empty: str
    """A closed thought without content, after which the answer starts."""


FAMILIES = (
    Marks(("<think>", "</think>"), "<think>", "</think>", "<think>\n\n</think>\n\n"),
    Marks(("[THINK]", "[/THINK]"), "[THINK]", "[/THINK]", "[THINK][/THINK]"),
    Marks(
        ("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)
"""DeepSeek-R1 and Qwen3, Magistral, gpt-oss."""


def marks_of(tokenizer: Any) -> Marks | None:
    """How a model marks its thoughts: by a token of its own, or else in its chat template; None if it does not."""
    vocabulary, source = tokenizer.get_vocab(), str(tokenizer.chat_template)
    for known in (vocabulary, source):
        found = next((marks for marks in FAMILIES if marks.tokens[0] in known), None)
        if found:
            return found
    return None


def switch(thinking: str, marks: Marks | None, text: Callable[[dict[str, Any]], str]) -> tuple[dict[str, Any], str]:
    """Return the template variables and the text after the rendered prompt that turn thinking on or off.

    `text` renders a prompt with variables. InputError for a model that does not think.
    """
    if thinking == "default":
        return {}, ""
    # A template says nothing about its variables, but only one that has the flag renders differently with it.
    flag = next((name for name in FLAGS if text({name: True}) != text({name: False})), None)
    if flag:
        return {flag: thinking == "on"}, ""
    if marks is None:
        raise InputError("this model's chat template knows no thinking; use --thinking default.")
    if thinking == "on":
        return {}, ""
    opened = is_open(text({}), marks)
    return {}, f"\n{marks.close}\n\n" if opened else marks.empty


def is_open(prompt: str, marks: Marks | None) -> bool:
    """Whether a rendered prompt ends within a thought that it opened itself."""
    return marks is not None and prompt.rstrip().endswith(marks.open)


def plain_thoughts(text: str) -> str:
    """Write the thoughts of any family as <think>...</think>, which is what judges skip."""
    text = text.replace("[THINK]", "<think>").replace("[/THINK]", "</think>")
    # A completion may be cut off within the mark itself.
    text = re.sub(r"<\|channel\|>analysis(?:<\|message\|>|$)(.*?)(<\|end\|>|$)", _as_think, text, flags=re.DOTALL)
    return re.sub(r"<\|start\|>assistant|<\|channel\|>\w*(?:<\|message\|>|$)", "", text)


def _as_think(block: re.Match[str]) -> str:
    return f"<think>{block[1]}" + ("</think>" if block[2] else "")
