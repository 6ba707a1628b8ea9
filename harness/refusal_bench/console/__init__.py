"""What a person reads in the terminal."""

from refusal_bench.console.leaderboard import print_leaderboard
from refusal_bench.console.models import print_model, print_models
from refusal_bench.console.summary import print_summary

__all__ = ["print_leaderboard", "print_model", "print_models", "print_summary"]
