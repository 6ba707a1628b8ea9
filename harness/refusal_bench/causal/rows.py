"""Which interventions a run tries on held-out prompts: the rows of every causal table.

With text: the domains' own directions, random ones, the shared one, leading principal components. By score and KL alone
(`Batch`): everything else, since a row without text costs a thirtieth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from refusal_bench.causal.directions import Directions
from refusal_bench.causal.orderings import mincos, orthonormal
from refusal_bench.config import Sizes
from refusal_bench.interventions import Ablate, Add, stacked_ablation
from refusal_bench.metrics.cosines import principal_components
from refusal_bench.prompts import name_seed

N_RANDOM_SUBSPACES = 2
"""Random bases whose first k vectors are the control of the subspace curve's k-th point; the first is a random row."""

COEFFICIENTS = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
"""Multiples of the difference in means that the dose response adds, beside 0."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the direction that the dose response ablates, beside 0."""


@dataclass(frozen=True)
class Batch:
    """Rows that one pass measures side by side, by score and KL alone."""

    name: str
    """Under which the column keeps them."""
    prompts: Literal["harmful", "harmless"]
    rows: tuple[str, ...]
    what: Ablate | Add


@dataclass(frozen=True)
class Interventions:
    """Everything that is done to the model on held-out prompts, by row name."""

    own: Mapping[str, tuple[Float[Tensor, " d_model"], int]]
    """Domain: its difference in means and the layer it is added at."""
    ablate: Mapping[str, Float[Tensor, "k d_model"]]
    """Further rows that are ablated, with text: random directions, shared direction, principal components."""
    add: Mapping[str, Float[Tensor, " d_model"]]
    """Further rows that are added at `layer`, with text."""
    layer: int
    """Layer of the common site."""
    cross: bool
    """Whether every domain's direction is tried on every other domain."""
    shared_batches: tuple[Batch, ...] = ()
    """Measured on every domain's prompts."""
    own_batches: Mapping[str, tuple[Batch, ...]] = field(default_factory=dict)
    """Measured on one domain's prompts only."""
    independent: Float[Tensor, "domain d_model"] | None = None
    """Directions whose representational dependence is measured."""

    def batches(self, name: str) -> tuple[Batch, ...]:
        """Rows without text of one domain's column."""
        return (*self.shared_batches, *self.own_batches.get(name, ()))


def plan(
    directions: Directions, greedy: Sequence[int], sizes: Sizes, seed: int, *, cross: bool, subspace: bool
) -> Interventions:
    """Lay out all rows; `greedy` is the order in which that ordering takes the domains' directions."""
    names = list(directions.own)
    ablate, scored = dict[str, Tensor](), dict[str, Tensor]()
    add, added = dict[str, Tensor](), dict[str, Tensor]()
    n_random = sizes.n_scored_random_directions
    noise = _random(max(n_random, N_RANDOM_SUBSPACES * len(names)), directions, seed)
    if cross:
        norm = directions.common.norm(dim=1).mean()
        random = {f"random.{i}": direction for i, direction in enumerate(normalize(noise[:n_random], dim=1))}
        drawn = {f"permuted.{i}": vector for i, vector in enumerate(normalize(directions.permuted, dim=1))}
        pooled = directions.common.mean(dim=0)
        specific = {name: directions.specific_part(i) for i, name in enumerate(names)}
        parts = {f"specific.{name}": part for name, part in specific.items() if part is not None}
        with_text = list(random)[: sizes.n_random_directions]
        once = {name: random[name] for name in with_text} | {"shared": directions.shared}
        ablate |= {name: direction[None] for name, direction in once.items()}
        add |= {name: norm * direction for name, direction in once.items()}
        rest = {name: direction for name, direction in random.items() if name not in with_text} | drawn
        scored |= {name: x[None] for name, x in (rest | {"pooled": pooled} | parts).items()}
        scored |= {"span": directions.common}
        added |= {name: norm * direction for name, direction in rest.items()} | {"pooled": pooled} | parts
        added |= {f"shared_only.{name}": directions.shared_part(i) for i, name in enumerate(names)}
    if subspace:
        common = directions.common
        ablate |= _prefixes("subspace", torch.from_numpy(principal_components(common.numpy())))
        scored |= _prefixes("centred", torch.from_numpy(principal_components(common.numpy(), centred=True)))
        for name, order in orderings(directions, greedy).items():
            scored |= _prefixes(name, common[order[:-1]])  # all of them span what all principal components span
        for draw in range(N_RANDOM_SUBSPACES):
            some = noise[draw * len(common) : (draw + 1) * len(common)]
            scored |= _prefixes(f"random_subspace.{draw}", torch.from_numpy(orthonormal(some.numpy())))
    batches = []
    if scored:
        batches.append(Batch("ablated_harmful", "harmful", tuple(scored), stacked_ablation(list(scored.values()))))
        own = {name: vector[None] for name, (vector, _) in directions.own.items()} if cross else {}
        everything = own | ablate | scored
        what = stacked_ablation(list(everything.values()))
        batches.append(Batch("ablated_harmless", "harmless", tuple(everything), what))
    if added:
        adding = Add.at(torch.stack(list(added.values())), directions.layer)
        batches.append(Batch("added_harmless", "harmless", tuple(added), adding))
    own_batches = {name: _own_batches(directions, i, name) for i, name in enumerate(names)} if cross else {}
    return Interventions(
        own=directions.own,
        ablate=ablate,
        add=add,
        layer=directions.layer,
        cross=cross,
        shared_batches=tuple(batches),
        own_batches=own_batches,
        independent=directions.common if cross else None,
    )


def orderings(directions: Directions, greedy: Sequence[int]) -> dict[str, list[int]]:
    """Orders in which the domains' own directions are ablated together."""
    return {"mincos": mincos(directions.common.numpy()), "greedy": list(greedy)}


def _own_batches(directions: Directions, domain: int, name: str) -> tuple[Batch, ...]:
    """Rows that only the domain's own prompts are measured under: both parts together, and doses."""
    vector, layer = directions.own[name]
    both = stacked_ablation([torch.stack([directions.shared, directions.common[domain]])])
    doses = torch.tensor(COEFFICIENTS, dtype=vector.dtype)
    adding = Add.at(doses[:, None] * vector, layer)
    ablating, affine = Ablate.partly(vector, SHARES), Ablate.to_mean(vector, directions.own_harmless[name])
    added, ablated = tuple(map(str, COEFFICIENTS)), tuple(map(str, SHARES))
    labels: tuple[Literal["harmful", "harmless"], ...] = ("harmful", "harmless")
    return (
        Batch("parts", "harmful", ("both",), both),
        *(Batch(f"dose_added_{label}", label, added, adding) for label in labels),
        *(Batch(f"dose_ablated_{label}", label, ablated, ablating) for label in labels),
        *(Batch(f"affine_{label}", label, ("affine",), affine) for label in labels),
    )


def _prefixes(name: str, basis: Float[Tensor, "k d_model"]) -> dict[str, Float[Tensor, "k d_model"]]:
    return {f"{name}.{k}": basis[:k].float() for k in range(1, len(basis) + 1)}


def _random(n: int, directions: Directions, seed: int) -> Float[Tensor, "n d_model"]:
    noise = name_seed(seed, "random directions").standard_normal((n, directions.common.shape[1]))
    return torch.as_tensor(noise, dtype=directions.common.dtype)
