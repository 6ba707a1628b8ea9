"""What a planted world holds, and what must come out of it: the closed forms of docs/planted-model.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STUDY_DOMAINS = ("weapons", "cybercrime", "self_harm", "privacy", "fraud")
STUDY_COSINES: Array = np.array(
    [
        [1.0, 0.6332, 0.3515, 0.3214, 0.3504],
        [0.6332, 1.0, 0.3472, 0.3390, 0.3667],
        [0.3515, 0.3472, 1.0, 0.7098, 0.7885],
        [0.3214, 0.3390, 0.7098, 1.0, 0.7626],
        [0.3504, 0.3667, 0.7885, 0.7626, 1.0],
    ]
)
"""Published cosines between the five domains' refusal directions, in the order of STUDY_DOMAINS."""


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """What is planted. Lengths are in units of the stream; scores are in nats."""

    name: str
    domains: tuple[str, ...] = STUDY_DOMAINS
    gram: Array = field(default_factory=STUDY_COSINES.copy)
    """Cosines between the domains' refusal directions: positive semidefinite with unit diagonal."""
    n_layers: int = 10
    d_model: int = 256
    """Width of the stream, a power of two."""
    write_layer: int = 4
    """Block that writes refusal: the stream entering the next one is the first to carry it."""
    strength: float = 1.0
    """a: length of the difference in means between harmful and harmless prompts."""
    strength_spread: float = 0.12
    """Relative standard deviation of a prompt's strength, which is cut at two of them."""
    noise: float = 0.45
    """Root mean square length, at the end, of what a prompt adds to the stream beside refusal."""
    norm: float = 4.0
    """N: length of every token's embedding. Large against a, it keeps the RMSNorms nearly linear."""
    gain: float = 8.0
    """g: nats of score for a unit of refusal; 0 plants a model that sees harm and never refuses."""
    bias: float = 4.0
    """b: nats by which compliance leads where there is no refusal."""
    score_spread: float = 0.4
    """Standard deviation (nats) of the part of the score that no refusal direction carries."""


WORLDS: dict[str, PlantedWorld] = {
    world.name: world
    for world in (
        PlantedWorld("study"),
        PlantedWorld("single", gram=np.ones((5, 5))),
        PlantedWorld("no_refusal", gain=0.0),
        PlantedWorld("late", write_layer=8),
    )
}
"""`study`: the published geometry. `single`: one direction for every domain. `no_refusal`: directions without effect.
`late`: refusal is written past 80 % of depth, where no candidate is eligible."""


class ExpectedScores(TypedDict):
    """Mean refusal scores, nats."""

    harmful: float
    """Harmful prompts of any domain."""
    harmless: float
    """Harmless prompts."""
    ablation: Array
    """Row's direction ablated everywhere, column's harmful prompts."""
    added: float
    """A domain's difference in means added to harmless prompts, at any layer after the write."""


def expected_scores(world: PlantedWorld) -> ExpectedScores:
    """Return the mean scores in closed form, the final norm's factor included."""
    directions, readout = refusal_vectors(world)
    harmful = world.strength * directions
    ablated = harmful - world.strength * world.gram[:, :, None] * directions[:, None, :]

    def score(vectors: Array) -> Array:
        length = np.sqrt(world.norm**2 + world.noise**2 + np.square(vectors).sum(-1))
        scores: Array = (world.gain * vectors @ readout - world.bias) * world.norm / length
        return scores

    return {
        "harmful": float(score(harmful[0])),
        "harmless": float(score(0 * harmful[0])),
        "ablation": score(ablated),
        "added": float(score(harmful[0])),
    }


def refusal_vectors(world: PlantedWorld) -> tuple[Array, Array]:
    """Return the unit directions r_j (rows) in coordinates of their own span, and w with w·r_j = 1 for all j."""
    values, vectors = np.linalg.eigh(world.gram)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # the one symmetric root, also of a singular matrix
    return root, np.linalg.pinv(root, rcond=1e-6) @ np.ones(len(root))
