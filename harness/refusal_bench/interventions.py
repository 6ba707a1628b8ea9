"""Interventions on the residual stream, as values: what is changed, not how a model is hooked.

Both carry a leading `variant` axis: one forward pass can evaluate several directions side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ablate:
    """Directional ablation: x - Bᵀ B x for orthonormal rows B, at every layer and token (Arditi et al. 2024, eq. 4)."""

    basis: Float[Tensor, "variant k d_model"]

    @staticmethod
    def each(directions: Float[Tensor, "variant d_model"]) -> Ablate:
        """Ablate one direction per variant; ValueError for a zero or non-finite direction."""
        return Ablate(_checked(directions)[:, None, :])

    @staticmethod
    def span(directions: Float[Tensor, "k d_model"]) -> Ablate:
        """Ablate the whole span of the directions, as one variant; independent of the basis that spans it."""
        unit = _checked(directions).double()
        _, singular, right = torch.linalg.svd(unit, full_matrices=False)
        # Directions that are linearly dependent span fewer dimensions; 1e-6 is far above float32 rounding.
        return Ablate(right[singular > 1e-6 * singular[0]][None].to(directions.dtype))

    def __len__(self) -> int:
        return self.basis.shape[0]

    def take(self, start: int, stop: int) -> Ablate:
        """Return the variants from `start` up to `stop`."""
        return Ablate(self.basis[start:stop])

    def apply(self, x: Float[Tensor, "row token d_model"], variant: Tensor) -> Float[Tensor, "row token d_model"]:
        """Return x without its component in the span; row i uses variant[i]. Out of place."""
        basis = self.basis.to(x)[variant.to(x.device)]
        return x - (x @ basis.mT) @ basis


@dataclass(frozen=True)
class Add:
    """Activation addition: x_l + v at the stream entering block `layer`, at every token (Arditi et al. 2024, eq. 3)."""

    vectors: Float[Tensor, "variant d_model"]
    layer: int

    def __post_init__(self) -> None:
        if not torch.isfinite(self.vectors).all():
            raise ValueError("cannot add a vector that holds NaN or infinity")

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def take(self, start: int, stop: int) -> Add:
        """Return the variants from `start` up to `stop`."""
        return Add(self.vectors[start:stop], self.layer)

    def apply(self, x: Float[Tensor, "row token d_model"], variant: Tensor) -> Float[Tensor, "row token d_model"]:
        """Return x plus the vector of each row's variant. Out of place."""
        return x + self.vectors.to(x)[variant.to(x.device)][:, None, :]


Intervention = Ablate | Add


def _checked(directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    # float64: the square of a small or large float32 would round to zero or infinity.
    norms = directions.double().norm(dim=-1, keepdim=True)
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise ValueError("cannot ablate a direction that is zero or holds NaN or infinity")
    unit: Tensor = (directions.double() / norms).to(directions.dtype)
    return unit
