"""What the data say about each pair of domains, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.moments import Moments
from refusal_bench.metrics.noise import Disattenuated
from refusal_bench.record import TopicControl

MIN_RELIABILITY = 0.5
"""Below this reliability a cosine cannot be corrected for noise; it is null with a warning."""

SIGNIFICANT = 0.03
"""Holm-corrected level of "different directions". With noise as skewed as residual streams have, the bootstrap's tails
are a little light: at this level one direction is called several in less than 5 % of samples (docs/calibration.md)."""

SEVERAL = "More than one direction"
"""How a verdict begins that tells domains apart."""


@dataclass(frozen=True)
class Comparisons:
    """Which pairs of domains the data tell apart, in words."""

    names: list[str]
    cosine: Float[ndarray, "n n"]
    found: Moments
    corrected: Disattenuated
    p_adjusted: Float[ndarray, "n n"]
    good: ndarray

    def differ(self, i: int, j: int) -> bool:
        """Whether two domains' directions differ by more than noise, all pairs considered."""
        return bool(self.p_adjusted[i, j] < SIGNIFICANT)

    def say(self, i: int, j: int) -> str:
        """One pair in a sentence, never a bare cosine."""
        pair = f"{self.names[i]} and {self.names[j]}"
        for d in (i, j):
            if not self.good[d]:
                return f"{pair}: too few prompts of {self.names[d]} ({self._too_few(d)})"
        ceiling = np.sqrt(self.found.reliability[i] * self.found.reliability[j])
        low, high = self.corrected.low[i, j], self.corrected.high[i, j]
        interval = "interval unbounded" if np.isnan(low) else f"[{max(low, -1):.2f}, {min(high, 1):.2f}]"
        return (
            f"{pair}: {'different directions' if self.differ(i, j) else 'not told apart'}, cosine "
            f"{np.clip(self.corrected.cosine[i, j], -1, 1):.2f} {interval} corrected for noise, "
            f"{self.cosine[i, j]:.2f} as measured where one direction would give {ceiling:.2f}"
        )

    def verdict(self, dimensions: int | None, control: TopicControl) -> str:
        """The finding in words; the first sentence says whether there is more than one direction."""
        pairs = list(combinations(range(len(self.names)), 2))
        tested = [pair for pair in pairs if not np.isnan(self.p_adjusted[pair])]
        apart = [pair for pair in tested if self.differ(*pair)]
        if not tested:
            return f"Too few prompts to say whether there is more than one direction. {self.say(*pairs[0])}."
        if apart:
            first = f"{SEVERAL}: {len(apart)} of {len(pairs)} pairs of domains differ by more than noise"
        else:
            none = "the pair tested does not differ" if len(tested) == 1 else f"none of {len(tested)} pairs differs"
            first = f"No sign of more than one direction: {none} beyond noise"
        if len(tested) < len(pairs):
            first += f", {len(pairs) - len(tested)} could not be tested"
        closest, farthest = (choose(tested, key=lambda p: self.corrected.cosine[p]) for choose in (max, min))
        parts = [first, f"Closest: {self.say(*closest)}"]
        if farthest != closest:
            parts.append(f"Farthest: {self.say(*farthest)}")
        if dimensions is not None:
            parts.append(f"Dimensions needed beyond noise: {dimensions}")
        parts += [text[0].upper() + text[1:] for text in control.flags.values()]
        parts.append("Whether they also act differently is for the cross-domain ablation matrix to say")
        return ". ".join(parts) + "."

    def warnings(self) -> list[str]:
        """Why corrected cosines are null."""
        return [
            f"geometry: too few prompts to correct the cosines of {name} for noise ({self._too_few(d)})"
            for d, name in enumerate(self.names)
            if not self.good[d]
        ]

    def _too_few(self, d: int) -> str:
        share, squared = self.found.reliability[d], self.found.squared_norms[d]
        text = f"reliability {share:.2f}, needs {MIN_RELIABILITY}"
        return f"{text}: about {math.ceil(self.found.trace[d] / squared)} pairs" if squared > 0 else text
