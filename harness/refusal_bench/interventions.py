"""Interventions on the residual stream, as values: what is changed, not how a model is hooked.

Both carry a leading `variant` axis: one forward pass can evaluate several directions side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SAME = 1e-5
"""Relative difference up to which two marks are of one intervention: float32 rounding, not another direction."""


@dataclass(frozen=True)
class Ablate:
    """Directional ablation: x - Bᵀ B x for orthonormal rows B, at every layer and token (Arditi et al. 2024, eq. 4)."""

    basis: Float[Tensor, "variant k d_model"]
    offsets: Float[Tensor, "variant layer d_model"] | None = None
    """Added to the stream entering each block after the projection: what is put in the place of the removed part."""

    @staticmethod
    def partly(direction: Float[Tensor, " d_model"], shares: Sequence[float]) -> Ablate:
        """Remove a share in [0, 1] of the direction, one a variant: x - share * r (r x)."""
        root = torch.tensor(shares, dtype=direction.dtype).sqrt()
        return Ablate(root[:, None, None] * _checked(direction[None])[None])

    @staticmethod
    def to_mean(direction: Float[Tensor, " d_model"], means: Float[Tensor, "layer d_model"]) -> Ablate:
        """Give the stream entering each block the mean's component along the direction (arXiv 2411.09003)."""
        unit = _checked(direction[None])[0]
        wanted = means @ unit
        # The stream carries what was added before, so each block's input is given the difference.
        steps = torch.diff(wanted, prepend=wanted.new_zeros(1))
        return Ablate(unit[None, None], (steps[:, None] * unit)[None])

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

    @property
    def is_nothing(self) -> bool:
        """Whether it leaves the model as it is."""
        return self.offsets is None and not self.basis.any()

    def __len__(self) -> int:
        return self.basis.shape[0]

    def take(self, variants: Sequence[int]) -> Ablate:
        """Return some of the variants."""
        chosen = list(variants)
        return Ablate(self.basis[chosen], None if self.offsets is None else self.offsets[chosen])

    def marks(self) -> Float[Tensor, "variant n"]:
        """Return what a fixed random vector becomes: equal marks are equal projections, on whatever basis they rest."""
        probe = torch.randn(self.basis.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        basis = self.basis.double().cpu()
        marks = ((basis @ probe)[:, None] @ basis)[:, 0]
        return marks if self.offsets is None else torch.cat([marks, self.offsets.double().cpu().flatten(1)], dim=1)

    @property
    def table(self) -> Float[Tensor, "variant k d_model"]:
        """What `change` takes a row of for each row of the stream."""
        return self.basis

    @staticmethod
    def change(
        x: Float[Tensor, "row token d_model"], basis: Float[Tensor, "row k d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """Return x without its component in each row's span. Out of place."""
        return torch.baddbmm(x, x @ basis.mT, basis, alpha=-1)

    def apply(self, x: Float[Tensor, "row token d_model"], variant: Tensor) -> Float[Tensor, "row token d_model"]:
        """Return x changed; row i uses variant[i]."""
        return self.change(x, self.table.to(x)[variant.to(x.device)])


@dataclass(frozen=True)
class Add:
    """Activation addition: x_l + v at the stream entering block l, at every token (Arditi et al. 2024, eq. 3)."""

    vectors: Float[Tensor, "variant d_model"]
    layers: tuple[int, ...]
    """Block that each variant's vector is added before."""

    @staticmethod
    def at(vectors: Float[Tensor, "variant d_model"], layer: int) -> Add:
        """Add every variant's vector at the same layer."""
        return Add(vectors, (layer,) * len(vectors))

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.vectors):
            raise ValueError(f"{len(self.vectors)} vectors cannot be added at {len(self.layers)} layers")
        if not torch.isfinite(self.vectors).all():
            raise ValueError("cannot add a vector that holds NaN or infinity")

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def take(self, variants: Sequence[int]) -> Add:
        """Return some of the variants."""
        return Add(self.vectors[list(variants)], tuple(self.layers[variant] for variant in variants))

    def marks(self) -> Float[Tensor, "variant n"]:
        """Return the vector, and its layer in multiples of its length: equal marks add the same."""
        vectors, layers = self.vectors.double().cpu(), torch.tensor(self.layers, dtype=torch.float64)
        return torch.cat([vectors, layers[:, None] * vectors.norm(dim=1, keepdim=True)], dim=1)

    def entering(self, layer: int) -> Add:
        """Return what is added at one layer: nothing for the variants of other layers."""
        here = torch.tensor([own == layer for own in self.layers], device=self.vectors.device)
        return Add.at(self.vectors * here[:, None], layer)

    @property
    def table(self) -> Float[Tensor, "variant d_model"]:
        """What `change` takes a row of for each row of the stream."""
        return self.vectors

    @staticmethod
    def change(
        x: Float[Tensor, "row token d_model"], vectors: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """Return x plus each row's vector. Out of place."""
        return x + vectors[:, None, :]

    def apply(self, x: Float[Tensor, "row token d_model"], variant: Tensor) -> Float[Tensor, "row token d_model"]:
        """Return x changed; row i uses variant[i]."""
        return self.change(x, self.table.to(x)[variant.to(x.device)])


@dataclass(frozen=True)
class SideBySide:
    """An ablation, without offsets, and an addition in one pass, on variants of their own: first the ablation's."""

    ablate: Ablate
    add: Add

    def __post_init__(self) -> None:
        if self.ablate.offsets is not None:
            raise ValueError("an ablation with offsets cannot stand beside an addition")

    def __len__(self) -> int:
        return len(self.ablate) + len(self.add)

    def take(self, variants: Sequence[int]) -> Ablate | Add:
        """Return some of the variants, all of them of one kind; ValueError for others."""
        first = len(self.ablate)
        if all(variant < first for variant in variants):
            return self.ablate.take(variants)
        if any(variant < first for variant in variants):
            raise ValueError("variants of an ablation and of an addition are not one kind")
        return self.add.take([variant - first for variant in variants])

    def on_all(self) -> tuple[Ablate, Add]:
        """Both with every variant: zeros, which change nothing, in the place of the other's."""
        (n_ablated, *rest), d_model = self.ablate.basis.shape, self.add.vectors.shape[1]
        basis = torch.cat([self.ablate.basis, self.ablate.basis.new_zeros(len(self.add), *rest)])
        vectors = torch.cat([self.add.vectors.new_zeros(n_ablated, d_model), self.add.vectors])
        return Ablate(basis), Add(vectors, self.add.layers[:1] * n_ablated + self.add.layers)


Intervention = Ablate | Add | SideBySide


def place_of(mark: Float[Tensor, " n"], known: Sequence[Float[Tensor, " m"]]) -> int | None:
    """Where an equal mark is; None where there is none."""
    alike = [place for place, other in enumerate(known) if other.shape == mark.shape]
    if not alike:
        return None
    distances = (torch.stack([known[place] for place in alike]) - mark).norm(dim=1)
    same = (distances <= SAME * mark.norm()).nonzero()
    return alike[int(same[0])] if len(same) else None


def joined(interventions: Sequence[Ablate | Add]) -> list[tuple[list[int], Ablate | Add]]:
    """Put interventions that one pass can evaluate side by side together: additions, and ablations without offsets.

    Each of the results comes with the places of those that it holds, their variants in that order.
    """
    groups: dict[object, list[int]] = {}
    for place, what in enumerate(interventions):
        alone = isinstance(what, Ablate) and what.offsets is not None
        groups.setdefault(place if alone else type(what), []).append(place)
    return [(places, _join([interventions[place] for place in places])) for places in groups.values()]


def _join(alike: Sequence[Ablate | Add]) -> Ablate | Add:
    additions = [what for what in alike if isinstance(what, Add)]
    if additions:
        return Add(torch.cat([what.vectors for what in additions]), sum((what.layers for what in additions), ()))
    ablations = [what for what in alike if isinstance(what, Ablate)]
    if len(ablations) == 1:
        return ablations[0]
    return Ablate(_padded([basis for what in ablations for basis in what.basis]))


def stacked_ablation(bases: Sequence[Float[Tensor, "k d_model"]]) -> Ablate:
    """Ablate several spans side by side; smaller ones are filled up with zero rows, which project nothing.

    One without any vectors leaves the model as it is.
    """
    spans = [Ablate.span(basis).basis[0] if len(basis) else basis for basis in bases]
    return Ablate(_padded(spans))


def _padded(bases: Sequence[Float[Tensor, "k d_model"]]) -> Float[Tensor, "variant k d_model"]:
    widest = max(map(len, bases))
    return torch.stack([torch.nn.functional.pad(basis, (0, 0, 0, widest - len(basis))) for basis in bases])


def _checked(directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    # float64: the square of a small or large float32 would round to zero or infinity.
    norms = directions.double().norm(dim=-1, keepdim=True)
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise ValueError("cannot ablate a direction that is zero or holds NaN or infinity")
    unit: Tensor = (directions.double() / norms).to(directions.dtype)
    return unit
