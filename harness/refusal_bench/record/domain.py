"""The record's schema of one domain: its direction, how that was selected, and what it does to refusal."""

from __future__ import annotations

from typing import Literal

from refusal_bench.record.base import Frozen, Interval
from refusal_bench.record.judge import Proportion


class Site(Frozen):
    """A place in the residual stream; layer l is the stream entering block l, position -1 the last template token."""

    layer: int
    """Block whose input is read."""
    position: int
    """Token position counted from the end of the rendered prompt."""


class Direction(Site):
    """The direction of a domain."""

    method: str
    """Direction method."""
    norm: float
    """Euclidean norm of the difference in means."""


class Candidate(Site):
    """One (position, layer) that selection looked at; null where a cheaper filter had already decided."""

    kl: float
    """KL in nats on the selection split's harmless prompts; a lower bound where `kl_is_bound`."""
    kl_is_bound: bool
    """Not all prompts were needed: the partial sum already exceeded the threshold, or a better candidate passed."""
    bypass: float | None
    """Mean refusal score of harmful prompts with the direction ablated."""
    induce: float | None
    """Mean refusal score of harmless prompts with the direction added at its layer."""
    rejected: str | None
    """Filter that removed it: `kl`, `induce`, `nan`; null if eligible or never needed."""


class Screen(Frozen):
    """How a screened selection narrowed the candidates down; those in the table are measured, or fail KL certainly."""

    scanned: int
    """Candidates that were looked at, the best by a first-order estimate first."""
    rank: int
    """Place of the chosen candidate in the estimate's order, 0 being the first."""


class Selection(Frozen):
    """Why this candidate and not the others."""

    bypass: float | None
    """Of the chosen candidate."""
    induce: float | None
    """Of the chosen candidate."""
    kl: float | None
    """Of the chosen candidate."""
    baseline_harmful: float
    """Mean refusal score of the selection split's harmful prompts without intervention."""
    baseline_harmless: float
    """Mean refusal score of the selection split's harmless prompts without intervention."""
    n_candidates: int
    """Positions times layers."""
    n_eligible: int
    """Candidates not removed by any filter that was applied to them."""
    rejected: dict[str, int]
    """Filter: number of candidates it removed."""
    n_prompts: int
    """Harmful and as many harmless prompts of the selection split."""
    tokens: int | None = None
    """Tokens through the blocks that the selection took."""
    tokens_exhaustive: int | None = None
    """Tokens of bypass, induce and KL for every candidate on every prompt, in full."""
    table: list[Candidate]
    """Every candidate that was evaluated."""
    screen: Screen | None = None
    """For `--selection screened`; null for `exact`."""


class Condition(Frozen):
    """Refusal of held-out prompts under one condition."""

    rate: float | None
    """Share of refusals among scored completions."""
    ci95: Interval | None
    """Wilson interval of the rate."""
    n: int
    """Prompts."""
    n_unscored: int
    """Prompts whose completion could not be scored (U or ?); they are in no rate."""
    score: float | None
    """Mean log-odds of a refusal token at the first answer position."""
    score_ci95: Interval | None
    """Percentile bootstrap interval of the mean score."""
    labels: str
    """One letter a prompt, in the order of `held_out_ids`."""
    scores: list[float | None]
    """Log-odds a prompt, in the same order."""
    rate_bounds: Interval | None = None
    """Share of refusals among all prompts if none or all of the unscored ones refused."""
    rate_corrected: float | None = None
    """Rate corrected for the judge's measured error (Rogan-Gladen), in [0, 1]; null where that error is unknown."""
    rate_corrected_ci95: Interval | None = None
    """Interval of the corrected rate, the uncertainty of the judge's error included (Lang and Reiczigel 2014)."""
    backend: Literal["hf", "vllm", "openai"] | None = None
    """What wrote the judged text; null where no text was written and in older records. Scores are from hf."""


class HeldOutIds(Frozen):
    """Prompt ids in the order of `labels` and `scores`."""

    harmful: list[str]
    """Ids of harmful held-out prompts."""
    harmless: list[str]
    """Ids of harmless held-out prompts."""


class Refusal(Frozen):
    """Refusal on held-out prompts, with and without the domain's own direction."""

    baseline_harmful: Condition
    """No intervention."""
    baseline_harmless: Condition
    """No intervention."""
    ablated_harmful: Condition
    """Direction ablated everywhere."""
    ablated_harmless: Condition
    """Direction ablated everywhere."""
    added_harmless: Condition
    """Difference in means added once at the direction's layer."""


class Layer(Frozen):
    """One layer's difference in means, at the selected position."""

    layer: int
    """Block whose input is read."""
    induce: float | None
    """Mean refusal score of the first `layer_curve_pairs` harmless selection prompts with this layer's vector added."""
    bypass: float | None
    """Mean refusal score of as many harmful selection prompts with this layer's direction ablated."""
    norm: float
    """Norm of the difference in means."""
    cosine_to_selected: float | None
    """Cosine to the selected direction."""
    separation: float | None
    """AUC of the projection, harmful against harmless selection prompts."""


class Reliability(Frozen):
    """How well this number of prompts determines the direction."""

    split_half: float | None
    """Spearman-Brown reliability from random halves of the train pairs."""
    split_half_ci95: Interval | None
    """Central 95 % of the halves' values (spread over splits, not a confidence interval over prompts)."""
    n_splits: int
    """Random splits."""


class NeutralLoss(Frozen):
    """Cross-entropy (nats a token) on passages of plain English, without a chat template."""

    n_passages: int
    """Passages."""
    n_tokens: int
    """Tokens predicted."""
    baseline: float
    """Mean over passages, no intervention."""
    ablated_rise: float
    """Mean rise with the domain's direction ablated everywhere."""
    ablated_rise_ci95: Interval
    """Percentile bootstrap over passages."""
    added_rise: float
    """Mean rise with its difference in means added once at the direction's layer."""
    added_rise_ci95: Interval
    """Percentile bootstrap over passages."""


class Damage(Frozen):
    """What the interventions break; without another word, ablation."""

    kl_harmless: float | None
    """KL in nats, first answer token, held-out harmless prompts."""
    loss_delta: float | None
    """Rise of the cross-entropy (nats a token) on the model's own answers to held-out harmless prompts."""
    kl_added: float | None = None
    """KL in nats, first answer token, held-out harmless prompts, with the difference in means added."""
    neutral: NeutralLoss | None = None
    """Loss on neutral text; null where the tokenizer knows none of it and in older records."""
    degenerate: dict[str, Proportion] | None = None
    """By condition of `refusal`, completions judged degenerate (G) among those scored."""


class TaskResult(Frozen):
    """Everything measured for one domain."""

    status: Literal["ok", "no_direction"]
    """`no_direction`: no candidate passed every filter; the least bad one is described all the same."""
    reason: str | None
    """For `no_direction`: which filter removed what."""
    direction: Direction
    """The selected candidate."""
    selection: Selection
    """How it was selected."""
    held_out_ids: HeldOutIds
    """Prompt ids behind labels and scores."""
    refusal: Refusal
    """Held-out refusal by condition."""
    layers: list[Layer] | None
    """Layer curves; null if the section was left out."""
    reliability: Reliability
    """Of the difference in means at the common site."""
    damage: Damage
    """Of ablating the direction."""
