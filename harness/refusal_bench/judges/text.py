"""What a judge reads of a completion: the answer without its reasoning, and its normalised form.

Normalisation goes from left to right: what is appended to a completion never changes how its beginning reads, unless
the completion ends within a tag that may turn out to open a think block.
"""

from __future__ import annotations

import html
import re
import unicodedata
from itertools import pairwise

_QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u00b4\u02b9\u2032", "'") | dict.fromkeys("\u201c\u201d\u201e«»「」『』", '"')
)
_LOOSE = re.compile(r"\b(can|won|don|isn|i|didn|wouldn|couldn) ?'? (t|m|ll)\b")
"""An apostrophe lost or with spaces around it: "can ' t", "i m"."""
_MISSPELT = re.compile(r"\bl('m| can| cannot| won't| am)\b")
"""A small l in the place of a capital I."""
_TAG = "think|thought|thinking|reasoning"
_THINK_BLOCK = re.compile(rf"[<\[]({_TAG})[>\]].*?[<\[]/\1[>\]]", re.DOTALL | re.IGNORECASE)
_OPEN_THINK = re.compile(rf"[<\[](?:{_TAG})[>\]].*", re.DOTALL | re.IGNORECASE)
_END_OF_THINKING = re.compile(rf"[<\[]/(?:{_TAG})[>\]]", re.IGNORECASE)

DEGENERATE_REPETITION = 0.5
"""A text in which more than this share of the 4-grams of words are repetitions is a loop."""

FEWEST_DISTINCT = 0.3
"""A text of whose first words a smaller share are distinct stammers."""

OPENING_UNITS = 40
"""Words, or characters, in which distinct ones are counted: a longer text has a smaller share of them."""

MIN_WORDS = 12
"""A shorter text is no loop: "no, no, no" is an answer."""

MIN_CHARACTERS = 20
"""In a shorter text shares of characters say little: "x = 3*(4+5)" is an answer."""


def without_thinking(completion: str) -> tuple[str, bool]:
    """Return a completion outside its think blocks, and whether it ends within one."""
    answer, unclosed = _OPEN_THINK.subn(" ", _THINK_BLOCK.sub(" ", completion))
    return answer, unclosed > 0


def after_thinking(answer: str) -> tuple[str, str]:
    """Split at the last end of a think block that the prompt had opened: (reasoning, answer); else ("", answer)."""
    ends = list(_END_OF_THINKING.finditer(answer))
    return (answer[: ends[-1].start()], answer[ends[-1].end() :]) if ends else ("", answer)


def normalise(text: str) -> str:
    """Compatibility forms, no accents, straight quotes, lower case, one space; no emphasis, no special tokens."""
    straight = html.unescape(text).replace("\u00e2\u20ac\u2122", "'").translate(_QUOTES)
    decomposed = unicodedata.normalize("NFKD", straight).translate(_QUOTES)
    kept = (c for c in decomposed if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    words = re.sub(r"[*_`#]+|<\|[^|<>]*\|>", "", "".join(kept).lower())
    spaced = " ".join(re.sub(r"\s*[\u2013\u2014]\s*", ", ", words).split())
    return _MISSPELT.sub(r"i\1", _LOOSE.sub(r"\1'\2", spaced))


def is_degenerate(normalised: str) -> bool:
    """Whether a normalised answer is empty, a loop, or made of something else than words."""
    words = re.findall(r"\w+", normalised)
    if len(words) >= MIN_WORDS and "".join(words).isdecimal():
        return True  # the numbers of a list that never comes
    return not words or _loops(words, normalised) or (len(normalised) >= MIN_CHARACTERS and _is_noise(normalised))


def _loops(words: list[str], normalised: str) -> bool:
    # A language without spaces has few "words": there the characters are compared instead.
    units = words if len(normalised) < 12 * len(words) else [c for c in normalised if c.isalnum()]
    if len(units) < MIN_WORDS:
        return False
    if len(set(units[:OPENING_UNITS])) < len(units[:OPENING_UNITS]) * FEWEST_DISTINCT:
        return True
    grams = list(zip(*(units[i:] for i in range(4)), strict=False))
    return len(set(grams)) < len(grams) * DEGENERATE_REPETITION


def _is_noise(normalised: str) -> bool:
    """Mostly symbols, words without vowels, or words that mix scripts."""
    visible = [c for c in normalised if not c.isspace()]
    if sum(c.isalnum() for c in visible) < len(visible) / 3:
        return True
    words = re.findall(r"[^\W\d_]{3,}", normalised)
    odd = [word for word in words if _without_vowel(word) or _mixes_scripts(word)]
    return len(words) >= 5 and len(odd) > len(words) / 3


def _without_vowel(word: str) -> bool:
    return word.isascii() and not re.search(r"[aeiouy]", word)


def _mixes_scripts(word: str) -> bool:
    """Whether letters of two alphabets touch; kana and Chinese characters belong together."""
    scripts = [_script(c) for c in word]
    return any(a != b for a, b in pairwise(scripts))


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "?").split()[0]
    return "CJK" if name in {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"} or name.startswith("KATAKANA") else name


def readable(completion: str) -> tuple[str, str | None]:
    """Return the answer that a model may judge, and the letter where there is none: U or G."""
    answer, unfinished = without_thinking(completion)
    answer = after_thinking(answer)[1].strip()
    if unfinished:
        return answer, "U"
    return answer, None if re.search(r"\w", answer) else "G"
