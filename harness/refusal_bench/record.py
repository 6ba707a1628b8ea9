"""What comes out of a run: the schema of `record.json`. Numbers are finite or null, with the reason in `warnings`.

Rates lie in [0, 1]; scores are log-odds in nats; a matrix's row is the domain whose direction is used and its column
the domain that is evaluated. Letters of `labels`: R refusal, P partial, D deflection, C compliance, G degenerate,
U unfinished, ? unscored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from refusal_bench.errors import InputError
from refusal_bench.record_causal import Curve as Curve
from refusal_bench.record_causal import (
    Dependence,
    Depth,
    Dose,
    Effects,
    Mixed,
    Parts,
    SiteEffect,
    TransferSummary,
)
from refusal_bench.record_types import Frozen as Frozen
from refusal_bench.record_types import Interval as Interval
from refusal_bench.record_types import Matrix as Matrix
from refusal_bench.record_types import MatrixOfIntervals as MatrixOfIntervals

SCHEMA_VERSION = 1


class Tool(Frozen):
    """Which refusal-bench made the record."""

    version: str
    """Version of the package."""
    git_sha: str | None
    """Commit of the checkout it ran from, null for an installed copy."""


class Environment(Frozen):
    """Where it ran."""

    python: str
    """Python version."""
    platform: str
    """Operating system and processor architecture."""
    device: str
    """Device type, e.g. `cpu` or the GPU's name."""
    packages: dict[str, str]
    """Versions of the packages that make the numbers."""
    threads: int
    """CPU threads used by torch."""


class Model(Frozen):
    """Which model was measured."""

    id: str
    """Hub id, alias, or the name of the local folder or file."""
    revision: str | None
    """Hub commit or pinned version."""
    weights_sha256: str
    """SHA-256 over the weight files, or over the built weights of a planted model."""
    adapter_sha256: str | None
    """SHA-256 of the adapter's weights."""
    quantization: str
    """Weight quantisation applied here."""
    dtype: str
    """Data type of weights and activations."""
    n_layers: int
    """Number of decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    chat_template_sha256: str
    """SHA-256 of the chat template's source."""
    system_prompt_sha256: str
    """SHA-256 of the text that the template puts before the instruction, default system prompt included."""
    post_instruction_tokens: list[str]
    """The template's tokens after the instruction; the last is position -1."""
    refusal_tokens: list[str]
    """First tokens that count as a refusal in the log-odds score."""
    refusal_tokens_from: Literal["model", "user", "default"]
    """Learned from the model's own refusals on train prompts, given by the user, or the documented default list."""
    ablation_sites: str
    """Which module outputs are projected, verified by a probe at load time."""
    source_quantization: str | None = None
    """How the weights were quantised before they were loaded (`gguf Q4_1`, `gptq`); null if they were not."""


class TaskInfo(Frozen):
    """Which prompts were asked, and how many."""

    version: str
    """Version of the task."""
    sha256: str
    """SHA-256 over the task's checksums."""
    n_train_harmful: int
    """Harmful train prompts used."""
    n_train_harmless: int
    """Harmless train prompts used."""
    n_held_out_harmful: int
    """Harmful held-out prompts used."""
    n_held_out_harmless: int
    """Harmless held-out prompts used."""
    n_train_refused: int
    """Harmful train prompts with a positive refusal score without intervention."""


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
    """How a first-order estimate narrowed the candidates down."""

    scanned: int
    """Candidates that were then scanned exactly."""
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
    """For `--selection screened`; null where every eligible candidate was scanned."""


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
    """What wrote the judged text; null where no text was written and in records of before 0.3. Scores are from hf."""


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


class Proportion(Frozen):
    """A share with what it is a share of."""

    k: int
    """Successes."""
    n: int
    """Out of."""
    value: float | None
    """k / n; null for n = 0."""
    ci95: Interval | None
    """Wilson interval."""


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
    """Loss on neutral text; null where the tokenizer knows none of it and in records of before 0.4."""
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


class Spectrum(Frozen):
    """Principal components of the domains' unit directions."""

    explained_variance_ratio: list[float] | None
    """Descending shares of the total."""
    n_for_90: int | None
    """Components needed for 90 %."""
    ci95: list[Interval] | None
    """Percentile bootstrap interval over prompt pairs, per component."""
    null95: list[Interval] | None
    """Central 95 % for as many random directions in the same space, per component."""
    one_direction95: list[Interval] | None = None
    """Central 95 % for one shared direction estimated with the noise of this many pairs, per component."""


class Pca(Frozen):
    """PCA with and without subtracting the mean direction."""

    centred: Spectrum
    """Mean direction subtracted (scikit-learn's PCA): what the five domains do not share."""
    uncentred: Spectrum
    """Mean kept: the first component is the shared axis."""


class GeometrySite(Frozen):
    """Where directions are compared."""

    layer: int | None
    """Null where every domain is at its own site."""
    position: int | None
    """Null where every domain is at its own site."""
    chosen_by: str
    """`pooled selection`, `pooled selection (no candidate passed)` or `each domain`."""


class TopicControl(Frozen):
    """Whether the harmless prompts are a fair contrast."""

    agreement: float
    """Cosine between the domains' topics on the harmful and on the harmless side: 1 for matched twins."""
    ci95: Interval
    """Jackknife interval over pairs."""
    has_topics: bool
    """Whether the domains' harmful prompts differ at all beyond noise."""
    flags: dict[str, str]
    """`topic_confound`, `shared_negatives`: why the cosines here must not be taken for refusal's."""


class Merge(Frozen):
    """A group of the dendrogram."""

    domains: list[str]
    """What is in it."""
    cosine: float
    """Mean cosine at which its two parts join."""
    support: float | None
    """Share of bootstrap trees that hold exactly this group; null for the group of all domains."""


class Geometry(Frozen):
    """How the domains' directions lie to each other."""

    domains: list[str]
    """Order of rows and columns."""
    site: GeometrySite
    """Where the directions were read."""
    contrast: str
    """Harmless prompts of the difference."""
    normalised: bool
    """Directions are scaled to unit norm before PCA."""
    cosine: Matrix
    """Cosine of the estimated directions."""
    cosine_ci95: MatrixOfIntervals
    """Percentile bootstrap over prompt pairs."""
    angle_deg: Matrix
    """Angle in degrees."""
    cosine_disattenuated: Matrix
    """Cosine corrected for estimation noise, clipped to [-1, 1]; null where reliability is too low."""
    cosine_disattenuated_ci95: MatrixOfIntervals | None = None
    """Fieller interval of the corrected cosine; null where reliability is too low or the data bound nothing."""
    ceiling: Matrix | None = None
    """Cosine that two estimates of one direction would show with the noise of this many pairs."""
    p_value: Matrix
    """Permutation p-value of cosine 0: harmful and harmless labels exchanged within pairs."""
    p_same: Matrix | None = None
    """Parametric-bootstrap p-value of cosine 1 up to noise."""
    p_same_holm: Matrix | None = None
    """The same, Holm-corrected over the pairs of domains that are reliable enough to be compared."""
    comparisons: list[str] | None = None
    """Every pair of domains in words, in the order of the upper triangle."""
    reliability: list[float] | None = None
    """Share of each direction's squared norm that is signal and not noise."""
    pairs: list[int] | None = None
    """Pairs behind each direction."""
    pairs_needed: list[int | None] | None = None
    """Pairs that would bring the half-width of the domain's corrected cosines below 0.05; null without signal."""
    topic_cosine: Matrix
    """Cosine between harmless means, each less the mean of all domains: the topic control."""
    topic_control: TopicControl | None = None
    """Whether harmful and harmless prompts are of the same topics."""
    pca: Pca
    """Explained variance in both conventions."""
    n_components: int | None = None
    """Dimensions needed beyond noise (parallel analysis); null where a domain has no signal."""
    p_components: list[float] | None = None
    """p-values of the second, third, ... dimension, up to the first that is not significant."""
    effective_rank: float | None
    """Participation ratio of the uncentred spectrum."""
    clusters: list[list[str]]
    """Domains grouped by average linkage at cosine 0.5."""
    dendrogram: list[Merge] | None = None
    """Average linkage of all domains, closest first."""
    verdict: str
    """The finding in words."""


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


class Parity(Frozen):
    """Whether another backend's next-token log-probabilities are those of the hook backend."""

    backend: Literal["vllm"]
    """Which one was compared."""
    passed: bool
    """Only then does it write the text of all conditions; else the hook backend does."""
    reason: str | None
    """Why it did not pass."""
    n_prompts: int
    """Prompts compared, of different lengths."""
    tolerance: float
    """Largest `mean_abs_diff` allowed, nats; where that is null, largest `max_abs_diff`."""
    max_abs_diff: dict[str, float | None]
    """Largest difference (nats) unmodified, with a subspace ablated, and with a vector added; null: infinite."""
    mean_abs_diff: dict[str, float | None] | None = None
    """The same as a mean over a prompt's most likely tokens, of the prompt where it is largest."""


class ServedTask(Frozen):
    """An endpoint's answers to one task's held-out prompts; they have no scores."""

    harmful: Condition
    """In the order of the task's `held_out_ids`."""
    harmless: Condition
    """In the order of the task's `held_out_ids`."""


class Served(Frozen):
    """Unmodified completions of an endpoint: it may serve other weights or another template, so nothing is contrasted
    with them."""

    model: str
    """Name the endpoint was asked for."""
    prompt_tokens: int
    """As the endpoint counts them."""
    completion_tokens: int
    """As the endpoint counts them."""
    requests: int
    """Requests sent, repeated ones included."""
    tasks: dict[str, ServedTask]
    """By task name."""


class OverRefusal(Frozen):
    """Safe prompts that look dangerous (`harmless`) and unsafe contrasts (`harmful`), under the domains' shared
    direction: the mean of their unit directions at the common site, added with their mean norm."""

    version: str
    """Version of the task `over_refusal`."""
    sha256: str
    """SHA-256 over its checksums."""
    layer: int
    """Layer of the common site, where the direction is added."""
    held_out_ids: HeldOutIds
    """Prompt ids behind labels and scores."""
    types: dict[str, list[str]]
    """By label, why each prompt looks dangerous, in the same order."""
    refusal: Refusal
    """Refusal by condition."""
    by_type: dict[str, dict[str, Proportion]]
    """Refusals among scored completions, by type and condition."""


class Results(Frozen):
    """Everything measured."""

    tasks: dict[str, TaskResult]
    """By task name."""
    geometry: Geometry | None
    """All domains at the one common site; null for fewer than two domains or a model that does not refuse."""
    geometry_own_site: Geometry | None
    """Each domain at its own selected site, as the study did; cosines of different layers are not in one space."""
    cross_domain: CrossDomain | None
    """Null for one domain or if the section was left out."""
    subspace: Subspace | None
    """Null for one domain or if the section was left out."""
    depth: Depth | None = None
    """Geometry of every layer; null for one domain or if the section `layers` was left out."""
    site_effect: SiteEffect | None = None
    """What comparing directions of different layers does to the cosines; null where geometry is."""
    over_refusal: OverRefusal | None = None
    """Null if the section was left out and in records of before 0.4."""
    parity: Parity | None = None
    """For `--baseline-backend vllm`."""
    served: Served | None = None
    """For `--baseline-backend openai`."""


class Work(Frozen):
    """Work of one stage."""

    forward_passes: int
    """Calls of the model."""
    tokens: int
    """Tokens through the blocks."""


class PublishedFigure(Frozen):
    """A published figure beside ours."""

    name: str
    """What it is."""
    published: float
    """As published."""
    ours: float | None
    """As measured here; null where it was not."""
    ci95: Interval | None
    """Interval of ours, at this run's number of prompts; null where ours has none."""
    tolerance: float | None
    """Largest difference that counts as agreement where there is no interval; null where nothing is claimed."""
    agrees: bool | None
    """Whether the published figure lies in our interval, else within the tolerance; null where neither is given."""


class Published(Frozen):
    """The figures of the setting that a preset reproduces."""

    preset: str
    """Name of the preset."""
    source: str
    """Where the figures were published."""
    deviations: list[str]
    """What differs from the published setting, the prompts first."""
    figures: list[PublishedFigure]
    """Figure by figure."""


class Cost(Frozen):
    """What it took."""

    forward_passes: int
    """Calls of the model."""
    tokens: int
    """Tokens through the blocks."""
    peak_memory_bytes: int
    """Peak resident memory of the process, or peak GPU memory."""
    stages: dict[str, Work] | None = None
    """The same by stage, as in `timings`."""
    rows_per_batch: int | None = None
    """Most rows in a batch at the end of the run: halved whenever memory ran out."""
    tokens_per_batch: int | None = None
    """Most tokens in a batch without decoding, likewise."""


class JudgeCalibration(Frozen):
    """A judge's error, refusal against the rest, on completions of known labels."""

    data_sha256: str
    """SHA-256 of the file of labelled completions."""
    part: str | None
    """Part of the file that was judged; null for all of it."""
    n: int
    """Completions."""
    n_unscored: int
    """Completions that the judge gave no label; they count as not called a refusal."""
    precision: Proportion
    """Refusals among completions called one."""
    recall: Proportion
    """Completions called a refusal among refusals."""
    kappa: float | None
    """Cohen's kappa; null where there is only one label."""
    kappa_ci95: Interval
    """Central 95 % under a Dirichlet posterior."""
    sensitivity: Proportion
    """Recall among completions that the judge scored, as a rate is; corrects rates."""
    specificity: Proportion
    """Completions not called a refusal among those that are none and were scored; corrects rates."""


class PanelAgreement(Frozen):
    """How far the judges of a panel agree on this run's completions of held-out prompts."""

    judges: list[str]
    """Members, in the order of the panel."""
    n: int
    """Completions."""
    unanimous: Proportion
    """Completions on which all members give one letter."""
    kappa: float | None
    """Fleiss' kappa over all letters; null where only one was given."""


class JudgeInfo(Frozen):
    """Which judge gave the letters, and how far it can be trusted."""

    name: str
    """As given to `--judge`, without an endpoint's address or a folder's path."""
    version: str
    """Of its rules, or of the model behind it."""
    languages: list[str]
    """ISO 639-1 codes of the languages it reads; `*`: those of the model behind it."""
    input: Literal["answer"]
    """It reads the answer only, never the prompt."""
    calibration: JudgeCalibration | None
    """Its measured error; null where the bundled completions are missing."""
    agreement: PanelAgreement | None
    """For a panel."""


class Record(Frozen):
    """One run of one model."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this schema."""
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
    created: str
    """Start, UTC, ISO 8601."""
    status: Literal["complete", "incomplete"]
    """`incomplete`: too much could not be scored."""
    tool: Tool
    """Which refusal-bench."""
    environment: Environment
    """Where."""
    model: Model
    """Which model."""
    config: dict[str, object]
    """Everything that can change a number."""
    tasks: dict[str, TaskInfo]
    """Which prompts."""
    results: Results
    """What came out."""
    warnings: list[str]
    """Why a number is null, and every fallback that changed one."""
    timings: dict[str, float]
    """Seconds by stage."""
    cost: Cost
    """Passes, tokens, memory."""
    judge: JudgeInfo | None = None
    """Which judge, and its error; null in records made before judges were measured."""
    published: Published | None = None
    """Published figures beside ours, for a preset; null without one."""

    def to_json(self) -> str:
        """Return the record as indented JSON with a final newline."""
        return self.model_dump_json(indent=1) + "\n"


def read_record(path: Path) -> Record:
    """Read and validate one record; InputError names the file and the first field that is wrong."""
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the path of a record.json.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}); give the path of a record.json."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: field {where}: {first['msg']}; it is not a refusal-bench record.") from error
