"""The domains' directions as the causal tests use them, with their shared and specific parts, read from residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import normalize

from refusal_bench.observation import Residuals
from refusal_bench.prompts import name_seed
from refusal_bench.record import Site

N_PERMUTED = 3
"""Directions of permuted labels behind that control."""

NOTHING_LEFT = 1e-4
"""A part of a direction shorter than this share of it is rounding, not a direction."""


@dataclass(frozen=True)
class Directions:
    """Everything that is known of the domains' directions; `common` is at the common site, `own` at each one's own."""

    own: Mapping[str, tuple[Float[Tensor, " d_model"], int]]
    """Domain: its difference in means and the layer it is added at."""
    own_harmless: Mapping[str, Float[Tensor, "layer d_model"]]
    """Mean stream of the domain's harmless prompts at its own position, entering every layer."""
    common: Float[Tensor, "domain d_model"]
    """Differences in means at the common site."""
    permuted: Float[Tensor, "draw d_model"]
    """Differences in means of all prompts together, harmful and harmless exchanged in a random half of the pairs."""
    layer: int
    """Layer of the common site."""

    @property
    def shared(self) -> Float[Tensor, " d_model"]:
        """Mean of the domains' unit directions, as a unit vector."""
        return normalize(normalize(self.common, dim=1).mean(dim=0), dim=0)

    @property
    def norm(self) -> float:
        """Mean norm of the domains' differences in means at the common site."""
        return float(self.common.norm(dim=1).mean())

    def shared_part(self, domain: int) -> Float[Tensor, " d_model"]:
        """The domain's difference in means projected on the shared direction."""
        return (self.common[domain] @ self.shared) * self.shared

    def specific_part(self, domain: int) -> Float[Tensor, " d_model"] | None:
        """What is left of it, at right angles to the shared direction; None where nothing is."""
        rest = self.common[domain] - self.shared_part(domain)
        return rest if rest.norm() > NOTHING_LEFT * self.common[domain].norm() else None


def read_directions(residuals: Residuals, own: Mapping[str, Site], common: Site, seed: int) -> Directions:
    """Compute all directions from the direction split's residuals; `own` holds each domain's selected site."""

    def harmless(name: str, site: Site) -> Float[ndarray, "layer d_model"]:
        stream = residuals.of(name, "direction", "harmless")[:, residuals.positions.index(site.position)]
        mean: ndarray = stream.mean(axis=0, dtype=float)
        return mean

    differences = [np.subtract(*residuals.pairs_at(name, common)) for name in own]
    return Directions(
        own={name: (_tensor(residuals.vector_at(name, site)), site.layer) for name, site in own.items()},
        own_harmless={name: _tensor(harmless(name, site)) for name, site in own.items()},
        common=_tensor(np.stack([residuals.vector_at(name, common) for name in own])),
        permuted=_tensor(permuted_means(differences, N_PERMUTED, seed)),
        layer=common.layer,
    )


def permuted_means(
    differences: Sequence[Float[ndarray, "pair d_model"]], n_draws: int, seed: int
) -> Float[ndarray, "draw d_model"]:
    """Mean over domains of the difference in means with the labels of a random half of the pairs exchanged.

    Of an odd number one pair is left out. With exactly half, what all pairs differ by cancels; drawn freely, a share of
    1 / sqrt(pairs) of it would be left, which outweighs the noise of a clear direction.
    """
    rng = name_seed(seed, "permuted labels")
    draws = [
        np.mean([_balanced_signs(len(pairs), rng) @ pairs / len(pairs) for pairs in differences], axis=0)
        for _ in range(n_draws)
    ]
    return np.stack(draws)


def _balanced_signs(n: int, rng: np.random.Generator) -> Float[ndarray, " n"]:
    half = np.ones(n // 2)
    signs: ndarray = rng.permutation(np.concatenate([half, -half, np.zeros(n % 2)]))
    return signs


def _tensor(array: ndarray) -> Tensor:
    return torch.from_numpy(array).float()
