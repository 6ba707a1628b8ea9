"""Backends run a model: `hf.py` with hooks on the residual stream."""
