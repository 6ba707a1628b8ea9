"""Causal tests on held-out prompts.

1. `rows`: what is done to the model; `orderings`: in which order components are ablated together.
2. `column`: one domain's prompts under every row; `dependence` reads the stream besides.
3. `matrices`, `transfer`, `effects`, `parts`, `curves`, `dose`: tables assembled from columns, no model involved.
4. `depth`, `sites`: geometry of all layers, from cached residuals; `mixed`: prompts of two domains.
"""

from refusal_bench.causal.column import Column, Observation, measure_column, n_completed, n_rows
from refusal_bench.causal.curves import subspace
from refusal_bench.causal.depth import depth
from refusal_bench.causal.matrices import cross_domain
from refusal_bench.causal.rows import Interventions, orderings, plan
from refusal_bench.causal.sites import site_effect
from refusal_bench.causal.transfer import ONE_IN_EFFECT

__all__ = [
    "ONE_IN_EFFECT",
    "Column",
    "Interventions",
    "Observation",
    "cross_domain",
    "depth",
    "measure_column",
    "n_completed",
    "n_rows",
    "orderings",
    "plan",
    "site_effect",
    "subspace",
]
