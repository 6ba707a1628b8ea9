"""Worlds of activations: residuals of prompt pairs drawn from a planted model of the residual stream.

    harmless twin   x = topic_k + sub-topic_p + noise
    harmful prompt  x = topic_k + sub-topic_p + noise + strength · (1 + spread) · r_k

No model runs, so thousands of samples are cheap; what is tested is everything from residuals to the verdict in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.calibration.planted_world import (
    CONE_MIXTURES,
    STUDY_COSINES,
    STUDY_DOMAINS,
    symmetric_root,
)
from refusal_bench.metrics.geometry import PairResiduals


@dataclass(frozen=True, eq=False)
class ActivationWorld:
    """What is planted; lengths are in units of the mean refusal strength."""

    name: str
    gram: Float[ndarray, "k k"]
    """Cosines between the domains' refusal directions."""
    matched_topics: bool = True
    """Whether a harmless twin has its harmful prompt's topic."""
    shared_negatives: bool = False
    """Whether all domains are measured against the same harmless prompts."""
    d_model: int = 256
    strength_spread: float = 0.12
    """Relative standard deviation of a prompt's strength."""
    topic: float = 1.5
    """Length of a domain's topic."""
    noise: float = 2.0
    """Root mean square length of one prompt's own noise: with 48 pairs a direction's reliability is 0.86."""

    def draw(self, n_pairs: int, rng: np.random.Generator) -> dict[str, PairResiduals]:
        """Draw the residuals of `n_pairs` pairs of every domain, with directions and topics of their own."""
        k = len(self.gram)
        axes = np.linalg.qr(rng.standard_normal((self.d_model, 3 * k)))[0].T
        directions = symmetric_root(self.gram) @ axes[:k]
        topics, others = self.topic * axes[k : 2 * k], self.topic * axes[2 * k :]
        # A power law, as residual streams have: the strongest of d axes carries a fifth of the variance.
        scale = 1 / np.sqrt(np.arange(1, self.d_model + 1))
        scale *= self.noise / np.sqrt(np.square(scale).sum())

        def prompts(topic: Float[ndarray, " d_model"]) -> Float[ndarray, "pair d_model"]:
            return topic + scale * rng.standard_normal((n_pairs, self.d_model))

        pool = prompts(axes[-1])  # apart from every domain by as much as refusal is long
        found = {}
        for i in range(k):
            subtopics = 0.5 * scale * rng.standard_normal((n_pairs, self.d_model))
            strength = 1 + self.strength_spread * rng.standard_normal((n_pairs, 1))
            harmful = prompts(topics[i]) + subtopics + strength * directions[i]
            if self.shared_negatives:
                harmless = pool
            elif self.matched_topics:
                harmless = prompts(topics[i]) + subtopics
            else:
                harmless = prompts(others[i])
            found[STUDY_DOMAINS[i]] = PairResiduals(harmful, harmless)
        return found


WORLDS: Mapping[str, ActivationWorld] = {
    world.name: world
    for world in (
        ActivationWorld("single", np.ones((5, 5))),
        ActivationWorld("study", STUDY_COSINES),
        ActivationWorld("cone", CONE_MIXTURES @ CONE_MIXTURES.T),
        ActivationWorld("topic_confound", np.ones((5, 5)), matched_topics=False),
        ActivationWorld("shared_negatives", np.eye(5), shared_negatives=True, topic=0.0),
    )
}
"""`single`: one direction for every domain. `study`: the published geometry. `cone`: mixtures of three axes.
`topic_confound`: one direction, but harmless prompts of other topics, so that naive cosines are low.
`shared_negatives`: unrelated directions against the same harmless prompts, so that naive cosines are high."""

HARMFULNESS = replace(WORLDS["single"], name="harmfulness", gram=np.eye(5))
"""What `harm_vs_refusal` holds at the last instruction token: harm of each domain along an axis of its own."""


def two_directions(
    seeds: int,
    n_pairs: int,
    d_model: int,
    cosine: float,
    reliability: float,
    power_law: bool,
    rng: np.random.Generator,
    aligned: bool = False,
) -> Float[ndarray, "seed pair pair"]:
    """Gram matrices of the pair differences of two domains with that true cosine and reliability, for many seeds.

    reliability = ‖μ‖² / (‖μ‖² + tr Σ / n); noise is isotropic, or has variances 1/i along the axes. Each seed has
    directions of its own: anywhere, or aligned, with components as large as the noise's along each axis.
    """
    variances = 1 / np.arange(1, d_model + 1) if power_law else np.ones(d_model)
    scale = np.sqrt(variances * (1 - reliability) / reliability * n_pairs / variances.sum()).astype(np.float32)
    grams = np.empty((seeds, 2 * n_pairs, 2 * n_pairs))
    for gram in grams:
        first, second = rng.standard_normal((2, d_model)) * (np.sqrt(variances) if aligned else 1)
        first /= np.linalg.norm(first)
        second -= second @ first * first
        second /= np.linalg.norm(second)
        means = np.array([first, cosine * first + np.sqrt(1 - cosine**2) * second], dtype=np.float32)
        differences = scale * rng.standard_normal((2 * n_pairs, d_model), dtype=np.float32)
        differences += np.repeat(means, n_pairs, axis=0)
        gram[:] = differences @ differences.T
    return grams
