"""Chat templates: prompts to token ids, and the positions after the instruction, found from the template itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from refusal_bench.errors import InputError

_MARK = "refusalbenchinstruction"
_PROBES = ("Tell me about rivers", "What is two plus two?", "List three cities.", "hello world 7")


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with one system prompt, fixed for a whole run."""

    tokenizer: Any
    system: str | None
    """System message that is passed; None to pass none."""
    suffix: tuple[int, ...]
    """Token ids after the instruction, the same for every prompt; positions -len(suffix) .. -1."""
    head: str
    """Text before the instruction, a default system prompt included."""

    @staticmethod
    def of(tokenizer: Any, system_prompt: str) -> ChatTemplate:
        """Resolve `default`, `none` or a text; InputError if the template cannot do that."""
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template; use a chat or instruct model, or add a chat_template to it."
            )
        system = _system_message(tokenizer, system_prompt)
        rendered = [_ids(tokenizer, probe, system) for probe in _PROBES]
        after = min(_tokens_after(tokenizer, probe, system) for probe in _PROBES)
        suffix = _common_suffix(rendered, after)
        if not suffix:
            raise InputError("the chat template puts no token after the instruction, so there is no position to read.")
        bos = tokenizer.bos_token_id
        if bos is not None and rendered[0][:2] == [bos, bos]:
            raise InputError("the chat template renders the start token twice; mend the template.")
        head = _text(tokenizer, _MARK, system).split(_MARK)[0]
        return ChatTemplate(tokenizer, system, suffix, head)

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions after the instruction, counted from the end of the prompt."""
        return tuple(range(-len(self.suffix), 0))

    @property
    def suffix_tokens(self) -> list[str]:
        """The post-instruction tokens as text."""
        return [self.tokenizer.decode([token]) for token in self.suffix]

    @property
    def head_sha256(self) -> str:
        """SHA-256 of the text before the instruction."""
        return hashlib.sha256(self.head.encode()).hexdigest()

    def render(self, prompt: str) -> list[int]:
        """Return the token ids of one prompt up to the place where the answer starts."""
        ids = _ids(self.tokenizer, prompt, self.system)
        if tuple(ids[-len(self.suffix) :]) != self.suffix:
            raise InputError(
                f"the prompt {prompt[:60]!r} changes the template's tokens after it; reword the end of the prompt."
            )
        return ids


def _system_message(tokenizer: Any, system_prompt: str) -> str | None:
    if system_prompt == "default":
        return None
    if system_prompt == "none":
        # A template that inserts a default system prompt keeps quiet only when it is given an empty one.
        bare = _text(tokenizer, _MARK, None).split(_MARK)[0]
        try:
            emptied = _text(tokenizer, _MARK, "").split(_MARK)[0]
        except InputError:
            return None
        return "" if len(emptied) < len(bare) else None
    if system_prompt not in _text(tokenizer, _MARK, system_prompt):
        raise InputError("this model's chat template drops the system prompt; use --system-prompt default or none.")
    return system_prompt


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": prompt}]


def _text(tokenizer: Any, prompt: str, system: str | None) -> str:
    try:
        return str(tokenizer.apply_chat_template(_messages(prompt, system), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # jinja2 errors and the template's own raise_exception share no base class
        raise InputError(f"the chat template fails: {error}; check the tokenizer or --system-prompt.") from error


def _ids(tokenizer: Any, prompt: str, system: str | None) -> list[int]:
    # The rendered text already holds every special token, so none may be added again.
    return list(tokenizer(_text(tokenizer, prompt, system), add_special_tokens=False)["input_ids"])


def _tokens_after(tokenizer: Any, prompt: str, system: str | None) -> int:
    """Tokens that begin after the instruction's last character; a large number where the tokenizer has no offsets."""
    text = _text(tokenizer, prompt, system)
    if not tokenizer.is_fast:
        return len(text)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    end = text.rindex(prompt) + len(prompt)
    return sum(start >= end for start, _ in offsets)


def _common_suffix(sequences: list[list[int]], longest: int) -> tuple[int, ...]:
    length = 0
    while length < min(longest, *map(len, sequences)) and len({s[-1 - length] for s in sequences}) == 1:
        length += 1
    return tuple(sequences[0][len(sequences[0]) - length :])
