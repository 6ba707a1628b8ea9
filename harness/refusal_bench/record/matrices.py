"""The record's schema of one domain's direction on another's prompts, and of several components together."""

from __future__ import annotations

from refusal_bench.record.base import Frozen, Interval, Matrix, MatrixOfIntervals
from refusal_bench.record.causal import Curve, Dependence, Dose, Effects, Mixed, Parts, TransferSummary


class CausalMatrix(Frozen):
    """One intervention a row, one domain a column, held-out prompts only."""

    refusal_rate: Matrix
    """Share of refusals among scored completions."""
    ci95: list[list[Interval | None]]
    """Wilson interval of each cell."""
    score: Matrix
    """Mean log-odds refusal score."""
    n: list[list[int]]
    """Scored completions."""
    labels: list[list[str]]
    """One letter a prompt."""
    scores: list[list[list[float | None]]]
    """Log-odds a prompt."""
    p_value: Matrix | None = None
    """Exact McNemar p-value of each cell's refusals against the unmodified ones; null where labels are missing."""
    p_holm: Matrix | None = None
    """The same, Holm-corrected over all cells of the matrix."""


class Control(Frozen):
    """Rows of a causal matrix that should do nothing (random) or everything (shared)."""

    n_directions: int
    """Directions behind it."""
    refusal_rate: list[float | None]
    """Mean over directions, per domain evaluated."""
    band95: list[Interval | None]
    """Central 95 % over directions of the rate."""
    score: list[float | None]
    """Mean score over directions."""
    score_band95: list[Interval | None]
    """Central 95 % over directions of the score."""
    labels: list[list[str]]
    """Labels by direction and domain evaluated."""


class ControlPair(Frozen):
    """A control, under both interventions."""

    ablation: Control
    """Ablated everywhere, harmful prompts."""
    addition: Control
    """Added at the common site's layer with the domains' mean norm, harmless prompts."""


class Controls(Frozen):
    """Controls of both matrices."""

    random: ControlPair
    """Random unit directions: an effect here is damage, not refusal."""
    shared: ControlPair
    """The mean of the domains' unit directions at the common site."""


class CrossDomain(Frozen):
    """Does one domain's direction carry another domain's refusal?"""

    domains: list[str]
    """Order of rows and columns."""
    baseline: CausalMatrix
    """Two rows, without intervention: harmful prompts, harmless prompts."""
    ablation: CausalMatrix
    """Row's direction ablated everywhere, column's harmful prompts."""
    addition: CausalMatrix
    """Row's difference in means added at its layer, column's harmless prompts."""
    controls: Controls
    """What random and shared directions do."""
    transfer: Matrix
    """Drop of the score under ablation as a share of the column's own drop; null when that is within noise."""
    transfer_ci95: MatrixOfIntervals | None = None
    """Bootstrap over the column's prompts; null on the diagonal and where transfer is null."""
    verdict: str | None = None
    """Whether the directions act alike, in words."""
    summary: TransferSummary | None = None
    """Transfer within and between clusters, and how far cosines foretell it."""
    effects: Effects | None = None
    """Scores of all rows: domains, controls, shared and specific parts."""
    parts: dict[str, Parts] | None = None
    """Necessity and sufficiency of each domain's shared and specific part."""
    dose: dict[str, Dose] | None = None
    """Dose response of each domain's own direction."""
    dependence: Dependence | None = None
    """Representational dependence at the common site."""
    mixed: Mixed | None = None
    """Prompts that belong to two of the domains; null where there are none."""


class Subspace(Frozen):
    """Refusal against the number of ablated components."""

    k: list[int]
    """Leading uncentred principal components of the directions at the common site, ablated together."""
    refusal_rate: list[float | None]
    """All domains' harmful held-out prompts together."""
    ci95: list[Interval | None]
    """Wilson interval."""
    score: list[float | None]
    """Mean log-odds refusal score."""
    kl: list[float | None]
    """KL on all harmless held-out prompts, nats."""
    labels: list[str]
    """Labels of all harmful held-out prompts in task order."""
    curves: dict[str, Curve] | None = None
    """Scores by ordering: `uncentred` and `centred` principal components, `mincos`, `greedy`, `random` components."""
    order: dict[str, list[str]] | None = None
    """Domains in the order in which `mincos` and `greedy` take their directions."""
