"""Two records compared: is the candidate better, worse or the same, and does a policy fail?

`compare` is the main path; `find` reads a record by path or name, `read_policy` a policy.
"""

from refusal_bench.comparison.compare import Comparison, compare
from refusal_bench.comparison.policy import Policy, read_policy
from refusal_bench.comparison.sources import Source, find

__all__ = ["Comparison", "Policy", "Source", "compare", "find", "read_policy"]
