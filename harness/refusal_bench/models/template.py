"""Chat templates: prompts to token ids, and the positions after the instruction, found from the template itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from refusal_bench.errors import InputError
from refusal_bench.models.thinking import Marks, is_open, marks_of, plain_thoughts, switch

TODAY = datetime(2024, 7, 26)
"""What templates that write the date (Llama 3, Granite) take for today, so that a prompt is the same on every day."""

_CODES = ("%d", "%-d", "%m", "%b", "%B", "%y", "%Y", "%a", "%A", "%H", "%M", "%S")
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{TODAY.strftime(code)}')" for code in _CODES)
    + " }}{% endmacro %}"
)

_MARK = "refusalbenchinstruction"
_PROBES = ("Tell me about rivers", "What is two plus two?", "List three cities.", "hello world 7")


@dataclass(frozen=True)
class Rendering:
    """How a tokenizer's chat template is called: everything but the prompt."""

    tokenizer: Any
    system: str | None = None
    """System message that is passed; None to pass none."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Variables passed to the template."""
    ending: str = ""
    """Text appended to every rendered prompt."""

    def text(self, prompt: str) -> str:
        """Return one prompt as text up to the place where the answer starts."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [*system, {"role": "user", "content": prompt}]
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                chat_template=self._dated_template(),
                **self.variables,
            )
        except Exception as error:  # jinja2 errors and the template's own raise_exception share no base class
            raise InputError(f"the chat template fails: {error}; check the tokenizer or --system-prompt.") from error
        return f"{rendered}{self.ending}"

    def _dated_template(self) -> str | None:
        """The template with a clock that stands still; None where it asks for no date."""
        source = self.tokenizer.chat_template
        # A macro of the same name hides transformers' function, which cannot be replaced from outside.
        return _FIXED_DATE + source if isinstance(source, str) and "strftime_now" in source else None

    def ids(self, prompt: str) -> list[int]:
        """Return the token ids of one prompt, with the start token once where the tokenizer sets one."""
        # The rendered text already holds every special token but, in some families, the start token.
        ids = list(self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        sets_it = bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]
        return [bos, *ids] if sets_it and ids[:1] != [bos] else ids

    def head(self) -> str:
        """Return the text before the instruction."""
        return self.text(_MARK).split(_MARK)[0]

    def n_after(self, prompt: str) -> int:
        """Tokens that begin after the instruction's last character; many where the tokenizer has no offsets."""
        text = self.text(prompt)
        if not self.tokenizer.is_fast:
            return len(text)
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        end = text.rindex(prompt) + len(prompt)
        return sum(start >= end for start, _ in offsets)


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with one system prompt and one way of thinking, fixed for a whole run."""

    tokenizer: Any
    rendering: Rendering
    suffix: tuple[int, ...]
    """Token ids after the instruction, the same for every prompt; positions -len(suffix) .. -1."""
    head: str
    """Text before the instruction, a default system prompt included."""
    marks: Marks | None
    """How the model marks its thoughts."""

    @staticmethod
    def of(tokenizer: Any, system_prompt: str, thinking: str = "default") -> ChatTemplate:
        """Resolve the system prompt (`default`, `none` or a text) and thinking (`default`, `on`, `off`).

        InputError if the template cannot do that.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template; use a chat or instruct model, or add a chat_template to it."
            )
        system, marks = _system_message(tokenizer, system_prompt), marks_of(tokenizer)
        variables, ending = switch(
            thinking, marks, lambda variables: Rendering(tokenizer, system, variables).text(_MARK)
        )
        rendering = Rendering(tokenizer, system, variables, ending)
        rendered = [rendering.ids(probe) for probe in _PROBES]
        suffix = _common_suffix(rendered, min(rendering.n_after(probe) for probe in _PROBES))
        if not suffix:
            raise InputError("the chat template puts no token after the instruction, so there is no position to read.")
        bos = tokenizer.bos_token_id
        if bos is not None and rendered[0][:2] == [bos, bos]:
            raise InputError("the chat template renders the start token twice; mend the template.")
        return ChatTemplate(tokenizer, rendering, suffix, rendering.head(), marks)

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions after the instruction, counted from the end of the prompt."""
        return tuple(range(-len(self.suffix), 0))

    @property
    def t_inst(self) -> int:
        """Position of the token that ends the instruction, counted from the end of the prompt."""
        return -len(self.suffix) - 1

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
        ids = self.rendering.ids(prompt)
        if tuple(ids[-len(self.suffix) :]) != self.suffix:
            raise InputError(
                f"the prompt {prompt[:60]!r} changes the template's tokens after it; reword the end of the prompt."
            )
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return a completion as text: no special tokens, thoughts within <think> and </think>.

        A thought that the prompt opens is opened here again, so that whoever reads the text can tell it apart.
        """
        if self._unspoken is None:
            return self._opening + str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        spoken = [token for token in tokens if token not in self._unspoken]
        return self._opening + plain_thoughts(self.tokenizer.decode(spoken))

    @cached_property
    def _opening(self) -> str:
        return "<think>" if is_open(self.rendering.text(_MARK), self.marks) else ""

    @cached_property
    def _unspoken(self) -> set[int] | None:
        """Special tokens that mark no thoughts; None where no special token does."""
        special = set(self.tokenizer.all_special_tokens)
        marking = special & set(self.marks.tokens) if self.marks else set()
        return set(self.tokenizer.convert_tokens_to_ids(sorted(special - marking))) if marking else None


def _system_message(tokenizer: Any, system_prompt: str) -> str | None:
    if system_prompt == "default":
        return None
    if system_prompt == "none":
        # A template that inserts a default system prompt keeps quiet only when it is given an empty one.
        bare = Rendering(tokenizer).head()
        try:
            emptied = Rendering(tokenizer, "").head()
        except InputError:
            return None
        return "" if len(emptied) < len(bare) else None
    try:
        text = Rendering(tokenizer, system_prompt).text(_MARK)
    except InputError as error:
        raise InputError(
            f"this model's chat template takes no system prompt ({error.__cause__}); "
            "use --system-prompt default or none."
        ) from error
    if system_prompt not in text:
        raise InputError("this model's chat template drops the system prompt; use --system-prompt default or none.")
    return system_prompt


def _common_suffix(sequences: list[list[int]], longest: int) -> tuple[int, ...]:
    length = 0
    while length < min(longest, *map(len, sequences)) and len({s[-1 - length] for s in sequences}) == 1:
        length += 1
    return tuple(sequences[0][len(sequences[0]) - length :])
