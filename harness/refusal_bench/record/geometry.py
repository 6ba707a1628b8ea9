"""The record's schema of how the domains' directions lie to each other, at one site and along the layers."""

from __future__ import annotations

from refusal_bench.record.base import Frozen, Interval, Matrix, MatrixOfIntervals


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
    """95 % interval of the corrected cosine; null where reliability is too low or a direction has no signal."""
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


class LayerGeometry(Frozen):
    """The domains' directions at one layer; domains in the order of `Depth.domains`."""

    layer: int
    """Block whose input is read."""
    cosine: Matrix
    """Cosine of the estimated directions; null where one is zero."""
    cosine_disattenuated: Matrix
    """Corrected for noise; null where a direction is too noisy."""
    mean_cosine: float | None
    """Mean corrected cosine over pairs."""
    n_tested: int
    """Pairs of domains that are reliable enough to compare."""
    n_apart: int
    """Pairs whose whole interval, corrected for the number of pairs, lies below the cosine of `Depth.apart_below`."""


class Depth(Frozen):
    """Where along the layers the domains' directions part and meet again; one position, that of the common site."""

    domains: list[str]
    """Order of rows and columns."""
    position: int
    """Token position."""
    apart_below: float
    """Two domains are apart where the data exclude this cosine and all above."""
    layers: list[LayerGeometry]
    """Every layer."""
    parts_at: int | None
    """First layer at which a pair of domains is apart; null if none ever is."""
    meets_at: int | None
    """First layer after the last one with a pair apart at which pairs are still tested; null if they never meet."""
    sentence: str
    """The finding in words."""


class SiteEffect(Frozen):
    """How much of the difference between both geometries comes from comparing different layers."""

    own_site: float
    """Mean cosine over pairs, each domain at its own site."""
    same_site: float
    """Mean cosine over pairs with both domains at the site of one of them, averaged over which one."""
    common_site: float
    """Mean cosine over pairs at the common site."""
    across_layers: float
    """Own less same site: what comparing different sites adds to the cosine."""
    across_layers_ci95: Interval
    """Bootstrap over prompt pairs."""
    choice_of_layer: float
    """Same less common site: what choosing other sites adds."""
    share: float | None
    """Share of `own_site - common_site` that comes from comparing different sites; null where both are equal."""
    n_pairs: int
    """Pairs of domains."""
    n_pairs_across: int
    """Pairs of domains with different sites of their own."""
    sentence: str
    """The finding in words."""
