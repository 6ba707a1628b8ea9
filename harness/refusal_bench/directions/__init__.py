"""Direction methods: residuals of harmful and harmless prompts in, one vector a (position, layer) out."""

from refusal_bench.directions.difference_in_means import difference_in_means

__all__ = ["difference_in_means"]
