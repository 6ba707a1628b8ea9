"""Judges: the text of a completion in, one letter out (see `protocol.py` for the letters)."""

from refusal_bench.judges.load import DEFAULT, check_spec, judge_registry, load_judge
from refusal_bench.judges.protocol import LABELS, EarlyJudge, Judge, Kind

__all__ = ["DEFAULT", "LABELS", "EarlyJudge", "Judge", "Kind", "check_spec", "judge_registry", "load_judge"]
