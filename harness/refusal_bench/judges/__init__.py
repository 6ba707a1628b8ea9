"""Judges: the text of a completion in, one letter out (see `record.py` for the letters)."""

from refusal_bench.judges.substring import is_decided, judge_substring

__all__ = ["is_decided", "judge_substring"]
