"""What a planted world holds, and what must come out of it: the closed forms of docs/planted-model.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

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


CONE_MIXTURES: Array = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.8, 0.6, 0], [0, 0.8, 0.6]])
"""The world `cone`: each domain's direction (row) as a mixture of three axes, one for each opener (column)."""


class Instruction(NamedTuple):
    """What a planted model is told about a prompt."""

    task: str
    harmful: bool
    also: str | None = None
    """A second task whose harm the prompt carries as well."""


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """What is planted. Lengths are in units of the stream; scores are in nats."""

    name: str
    domains: tuple[str, ...] = STUDY_DOMAINS
    gram: Array = field(default_factory=STUDY_COSINES.copy)
    """Cosines between the domains' refusal directions: positive semidefinite with unit diagonal."""
    openers: Array = field(default_factory=lambda: np.ones((len(STUDY_DOMAINS), 1)))
    """What a unit of a domain's direction (row) counts for each opener (column); linear in the directions."""
    n_layers: int = 10
    d_model: int = 256
    """Width of the stream, a power of two."""
    write_layer: int = 4
    """Block that writes refusal: the stream entering the next one is the first to carry it."""
    strength: float = 1.0
    """a: length of the difference in means between harmful and harmless prompts."""
    strength_spread: float = 0.12
    """Relative standard deviation of a prompt's strength, which is cut at two of them."""
    shared_harm: bool = False
    """Whether instructions of all domains carry the same harm; their refusal directions must then be one."""
    topic: float = 1.0
    """Length of a task's topic, which harmful and harmless twins share."""
    harmless_topic: float = 0.0
    """c: length of a second topic, which only the task's harmless prompts have."""
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
    draw: int = 1
    """Number of the random draw: another one has other tokens, strengths and noise."""


WORLDS: dict[str, PlantedWorld] = {
    world.name: world
    for world in (
        PlantedWorld("study"),
        PlantedWorld("single", gram=np.ones((5, 5))),
        PlantedWorld("cone", gram=CONE_MIXTURES @ CONE_MIXTURES.T, openers=CONE_MIXTURES, gain=12.0, bias=5.0),
        # An ablation here takes less than half of refusal; gain and bias put the half that is left below zero.
        PlantedWorld(
            "topic_confound", gram=np.ones((5, 5)), harmless_topic=1.1, gain=16.0, bias=12.0, strength_spread=0.06
        ),
        PlantedWorld("harm_vs_refusal", gram=np.ones((5, 5)), shared_harm=True),
        PlantedWorld("no_refusal", gain=0.0),
        PlantedWorld("late", write_layer=8),
    )
}
"""`study`: the published geometry. `single`: one direction for every domain. `cone`: three openers, each read from an
axis of its own; domains are mixtures of the three. `topic_confound`: one direction, but harmless prompts are of other
topics than harmful ones. `harm_vs_refusal`: one harm at the instruction, one other direction for refusal after it.
`no_refusal`: directions without effect. `late`: refusal is written past 80 % of depth, where no candidate is eligible.
"""


class ExpectedScores(TypedDict):
    """Mean refusal scores, nats. Directions are differences in means at any layer after the write."""

    harmful: Array
    """Each domain's harmful prompts."""
    harmless: Array
    """Each domain's harmless prompts."""
    ablation: Array
    """Row's direction ablated everywhere, column's harmful prompts."""
    added: Array
    """Row's difference in means added to column's harmless prompts."""
    subspace: Array
    """Harmful prompts of all domains, the first k uncentred principal components ablated; from k = 0 to the rank."""


def expected_scores(world: PlantedWorld) -> ExpectedScores:
    """Return the mean scores in closed form, the final norm's factor included."""
    harmful, harmless = mean_streams(world)
    differences = harmful - harmless
    units = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    components = np.linalg.svd(units)[2][: np.linalg.matrix_rank(units, tol=1e-6)]

    def without(basis: Array) -> Array:
        return harmful - harmful @ basis.T @ basis

    return {
        "harmful": mean_scores(world, harmful),
        "harmless": mean_scores(world, harmless),
        "ablation": np.stack([mean_scores(world, without(unit[None])) for unit in units]),
        "added": mean_scores(world, harmless + differences[:, None]),
        "subspace": np.array([mean_scores(world, without(components[:k])).mean() for k in range(len(components) + 1)]),
    }


def mean_scores(world: PlantedWorld, streams: Array) -> Array:
    """Return the score of streams in the coordinates of `mean_streams`, the final norm's factor included."""
    _, readouts = refusal_vectors(world)
    length = np.sqrt(world.norm**2 + world.noise**2 + np.square(streams).sum(-1, keepdims=True))
    logits = (world.gain * streams[..., : len(readouts)] @ readouts - world.bias) * world.norm / length
    scores: Array = np.logaddexp.reduce(logits, axis=-1)
    return scores


def mean_streams(world: PlantedWorld) -> tuple[Array, Array]:
    """Return what each domain's harmful and harmless prompts mean after the write: refusal's span, then topics."""
    refusal = world.strength * refusal_vectors(world)[0]
    return (
        np.hstack([refusal, topic_vectors(world, harmful=True)]),
        np.hstack([0 * refusal, topic_vectors(world, harmful=False)]),
    )


def topic_vectors(world: PlantedWorld, *, harmful: bool) -> Array:
    """Return each domain's topic: an axis for what twins share, another for what only its harmless prompts have."""
    axes = np.eye(len(world.domains))
    return np.hstack([world.topic * axes, (0.0 if harmful else world.harmless_topic) * axes])


def refusal_vectors(world: PlantedWorld) -> tuple[Array, Array]:
    """Return the unit directions r_j (rows) in coordinates of their own span, and w_o (columns): w_o·r_j = openers."""
    root = symmetric_root(world.gram)
    return root, np.linalg.pinv(root, rcond=1e-6) @ world.openers


def symmetric_root(gram: Array) -> Array:
    """Return the one symmetric root of a Gram matrix, which may be singular: its rows have these inner products."""
    values, vectors = np.linalg.eigh(gram)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
