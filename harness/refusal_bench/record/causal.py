"""The record's schema of what directions do beside the domains' own matrices: controls, parts, doses, mixtures.

All of it rests on the first answer token: scores are log-odds in nats, KL is in nats, and no text is generated.
"""

from __future__ import annotations

from refusal_bench.record.base import Frozen, Interval, Matrix, MatrixOfIntervals


class ScoredRows(Frozen):
    """Mean score and KL of every domain's held-out prompts (column) under one intervention a row."""

    rows: list[str]
    """`none`, the domains, then controls and parts of directions; docs/causal.md defines each."""
    n_directions: list[int]
    """Directions behind a row: more than one for `random` and `permuted`, whose cells are means over them."""
    score: Matrix
    """Mean log-odds refusal score; null where a row is not defined."""
    change: Matrix
    """Mean change of the score against the same prompts without intervention."""
    change_ci95: MatrixOfIntervals
    """Bootstrap over prompts, each drawn with its scores under every row; central 95 % over several directions."""
    share: Matrix | None
    """Drop as a share of the column's own drop; null where that is within noise, and for other prompts than harmful."""
    kl: Matrix | None
    """Mean KL of the unmodified from the changed first token; null on harmful prompts."""


class Effects(Frozen):
    """Every row's effect on every domain's prompts."""

    ablated_harmful: ScoredRows
    """Ablated everywhere, harmful prompts."""
    ablated_harmless: ScoredRows
    """The same on harmless prompts: what ablation breaks, and the refusal that it induces."""
    added_harmless: ScoredRows
    """Added at its layer, harmless prompts. Random and permuted directions have the domains' mean norm."""
    fragile: list[str]
    """Domains whose score random ablation moves beyond the interval of the unmodified score."""


class TransferSummary(Frozen):
    """What the table of transfer says as a whole."""

    within: float | None
    """Mean transfer between domains of one cluster; null without such a pair."""
    within_ci95: Interval | None
    """Bootstrap over prompts."""
    between: float | None
    """Mean transfer between domains of different clusters; null without such a pair."""
    between_ci95: Interval | None
    """Bootstrap over prompts."""
    n_domains: int
    """Domains that the correlation rests on: those whose own drop is beyond noise."""
    rank_correlation: float | None
    """Spearman's correlation of cosine (common site) and transfer over ordered pairs of domains; null below three."""
    mantel_p: float | None
    """Share of relabellings of the domains with at least this correlation (Mantel 1967), one-sided."""
    n_permutations: int
    """Relabellings: all of them for up to seven domains."""
    sentence: str
    """The finding in words."""


class Parts(Frozen):
    """Is a domain's specific part needed once the shared part is gone, and is the shared part enough? Own prompts."""

    score: Matrix
    """Mean score of harmful prompts. Rows: shared part kept, ablated; columns: specific part kept, ablated."""
    share: Matrix
    """Drop as a share of the drop when both parts are ablated; null where that is within noise."""
    share_ci95: MatrixOfIntervals
    """Bootstrap over prompts."""
    sentence: str
    """The finding in words."""


class Curve(Frozen):
    """Scores against the number of ablated components, all domains' held-out prompts together."""

    k: list[int]
    """Components ablated together; 0 is the unmodified model."""
    score: list[float | None]
    """Mean score of harmful prompts."""
    score_ci95: list[Interval | None]
    """Bootstrap over prompts; for random components central 95 % over draws."""
    share: list[float | None]
    """Drop as a share of the drop when the whole span is ablated; null where that is within noise."""
    kl: list[float | None]
    """Mean KL on harmless prompts."""
    k_for_50: int | None
    """Fewest components that reach half of the full effect; null if none does."""
    k_for_90: int | None
    """Fewest components that reach 90 % of it; null if none does."""


class DoseCurve(Frozen):
    """Scores of a domain's held-out prompts against the dose of its own direction."""

    dose: list[float]
    """Ascending; 0 is the unmodified model. Addition: multiples of the difference in means; ablation: share removed."""
    harmful: list[float | None]
    """Mean score of harmful prompts."""
    harmful_ci95: list[Interval | None]
    """Bootstrap over prompts."""
    harmless: list[float | None]
    """Mean score of harmless prompts."""
    harmless_ci95: list[Interval | None]
    """Bootstrap over prompts."""
    kl: list[float | None]
    """Mean KL on harmless prompts."""
    half_effect: float | None
    """Dose at half of the full effect: of addition on harmless, of ablation on harmful prompts; null without effect."""
    half_effect_ci95: Interval | None
    """Bootstrap over prompts."""


class Affine(Frozen):
    """Ablation to the harmless mean instead of to zero (affine concept editing, arXiv 2411.09003)."""

    harmful: float | None
    """Mean score of harmful prompts."""
    harmful_ci95: Interval | None
    """Bootstrap over prompts."""
    harmless: float | None
    """Mean score of harmless prompts."""
    harmless_ci95: Interval | None
    """Bootstrap over prompts."""
    kl: float | None
    """Mean KL on harmless prompts."""


class Dose(Frozen):
    """How a domain's refusal follows the dose of its own direction."""

    addition: DoseCurve
    """Multiples of the difference in means added at its layer."""
    ablation: DoseCurve
    """Share of the direction removed from every write to the stream."""
    affine: Affine
    """All of it removed, and the harmless prompts' mean put in its place at every layer."""


class Dependence(Frozen):
    """Representational dependence (Wollschläger et al. 2025): orthogonal directions may still not be independent."""

    domains: list[str]
    """Order of rows and columns."""
    loss: Matrix
    """Mean over prompts and layers of the squared change of cos(stream, one) when the other is ablated, both ways."""
    loss_ci95: MatrixOfIntervals
    """Bootstrap over prompts."""
    n_layers: int
    """Layers averaged over: the first 90 %."""
    n_prompts: int
    """Harmful held-out prompts of all domains."""


class MixtureModel(Frozen):
    """How well single-domain scores predict the scores of prompts of two domains, without anything fitted."""

    name: str
    """`additive`, `maximum` or `shared`; docs/causal.md defines each."""
    mean_abs_error: float
    """Mean over prompts and rows, nats."""
    mean_abs_error_ci95: Interval | None
    """Bootstrap over prompts."""
    r2: float | None
    """Explained share of the scores' variance over prompts and rows; null without variance."""


class MixedPair(Frozen):
    """Harmful held-out prompts that belong to the same two domains."""

    domains: tuple[str, str]
    """Which two."""
    n: int
    """Prompts."""
    n_refused: int
    """Prompts with a positive score without intervention."""
    score: list[float | None]
    """Mean score, one a row of `Mixed.rows`."""
    score_ci95: list[Interval | None]
    """Bootstrap over prompts."""
    opened: list[float | None]
    """Share of the refused prompts whose score the row takes to 0 or below; null where none is refused."""


class Mixed(Frozen):
    """Prompts of two domains: which ablations open them, and what single domains foretell of them."""

    task: str
    """Task of the prompts."""
    version: str
    """Its version."""
    sha256: str
    """SHA-256 over its checksums."""
    rows: list[str]
    """`none`, every domain's direction, `both` (the span of the prompt's two), `shared`."""
    n: int
    """Harmful prompts both of whose domains are in the run, and as many harmless twins."""
    n_refused: int
    """Harmful ones with a positive score without intervention."""
    harmless_score: float | None
    """Mean score of the harmless twins without intervention."""
    pairs: list[MixedPair]
    """By pair of domains."""
    opened_by_one: float | None
    """Share of refused prompts that the direction of one of their two domains opens alone."""
    opened_by_one_ci95: Interval | None
    """Wilson interval."""
    both_needed: float | None
    """Share of refused prompts that neither opens alone and both together do."""
    both_needed_ci95: Interval | None
    """Wilson interval."""
    models: list[MixtureModel]
    """Smallest error first; empty where no prompt is refused."""
    sentence: str
    """The finding in words."""
