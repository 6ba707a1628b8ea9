"""Pure functions on arrays: refusal scores, statistics, geometry, causal summaries."""
