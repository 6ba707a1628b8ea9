"""refusal-bench, the geometry of refusal: refusal directions per harm domain, measured and causally checked."""

from refusal_bench.version import __version__

__all__ = ["__version__"]
