"""The causal tables of whole runs on planted worlds against the closed forms of docs/planted-model.md."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from refusal_bench.calibration.planted import STUDY_DOMAINS, WORLDS
from refusal_bench.calibration.planted_world import mean_scores, mean_streams
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.record import Record

WORLD = WORLDS["study"]
HARMFUL, HARMLESS = mean_streams(WORLD)
UNITS = (HARMFUL - HARMLESS) / np.linalg.norm(HARMFUL - HARMLESS, axis=1, keepdims=True)
SHARED = UNITS.mean(axis=0) / np.linalg.norm(UNITS.mean(axis=0))


def without(streams, *directions):
    """Streams with the span of the directions taken out, by least squares."""
    span = np.array(directions).T
    return streams - (span @ np.linalg.lstsq(span, streams.T, rcond=1e-8)[0]).T


def expected_shares(*directions):
    """Drop of every domain's score as a share of its own drop, in closed form."""
    before = mean_scores(WORLD, HARMFUL)
    own = np.array([mean_scores(WORLD, without(HARMFUL[[j]], UNITS[j]))[0] for j in range(5)])
    return (before - mean_scores(WORLD, without(HARMFUL, *directions))) / (before - own)


def in_study_order(row, names):
    return np.array([row[names.index(name)] for name in STUDY_DOMAINS], dtype=float)


@pytest.fixture(scope="module")
def study(planted_run):
    return planted_run("study")[0].results


@pytest.fixture(scope="module")
def single(planted_run):
    return planted_run("single")[0].results


def rows_of_the_study():
    rows = {name: (unit,) for name, unit in zip(STUDY_DOMAINS, UNITS, strict=True)}
    rows |= {"shared": (SHARED,), "pooled": ((HARMFUL - HARMLESS).mean(axis=0),), "span": tuple(UNITS)}
    rows |= {
        f"specific.{name}": (unit - (unit @ SHARED) * SHARED,) for name, unit in zip(STUDY_DOMAINS, UNITS, strict=True)
    }
    return rows


@pytest.mark.parametrize("row", rows_of_the_study())
def test_every_cell_of_the_ablation_table_is_the_closed_form(study, row):
    table = study.cross_domain.effects.ablated_harmful
    found = in_study_order(table.share[table.rows.index(row)], study.cross_domain.domains)
    assert np.abs(found - expected_shares(*rows_of_the_study()[row])).max() < 0.05


def test_controls_and_nothing_do_nothing(study):
    effects, own_drop = study.cross_domain.effects, 7.6
    assert effects.fragile == []
    for table in (effects.ablated_harmful, effects.ablated_harmless):
        assert np.abs(table.change[table.rows.index("none")]).max() == 0
        random = table.rows.index("random")
        assert table.n_directions[random] == 20
        assert np.abs(table.change[random]).max() < 0.05 * own_drop
        assert np.abs(table.change[table.rows.index("permuted")]).max() < 0.1 * own_drop
    assert np.array(effects.ablated_harmless.kl).max() < 0.05


def test_adding_is_the_closed_form_for_every_row(study):
    table, names = study.cross_domain.effects.added_harmless, study.cross_domain.domains
    lengths = np.linalg.norm(HARMFUL - HARMLESS, axis=1)
    before = mean_scores(WORLD, HARMLESS)
    vectors = {name: lengths[j] * UNITS[j] for j, name in enumerate(STUDY_DOMAINS)}
    vectors |= {f"shared_only.{name}": (vectors[name] @ SHARED) * SHARED for name in STUDY_DOMAINS}
    vectors |= {"shared": lengths.mean() * SHARED, "pooled": (HARMFUL - HARMLESS).mean(axis=0)}
    for row, vector in vectors.items():
        found = in_study_order(table.change[table.rows.index(row)], names)
        expected = mean_scores(WORLD, HARMLESS + vector) - before
        assert np.abs(found - expected).max() < 0.06 * 7.6, row


@pytest.mark.parametrize("name", STUDY_DOMAINS)
def test_the_two_by_two_is_the_closed_form(study, name):
    j, found = STUDY_DOMAINS.index(name), study.cross_domain.parts[name]
    own = HARMFUL[[j]]
    specific = UNITS[j] - (UNITS[j] @ SHARED) * SHARED
    cells = [[own, without(own, specific)], [without(own, SHARED), without(own, SHARED, UNITS[j])]]
    scores = np.array([[mean_scores(WORLD, cell)[0] for cell in row] for row in cells])
    expected = (scores[0, 0] - scores) / (scores[0, 0] - scores[1, 1])
    assert np.abs(np.array(found.share) - expected).max() < 0.05
    low, high = found.share_ci95[1][0]
    assert low <= found.share[1][0] <= high
    assert found.sentence.startswith(f"{name}: the shared part is enough")


@pytest.mark.parametrize("ordering", ["uncentred", "centred", "mincos", "greedy"])
def test_the_subspace_curve_is_the_closed_form(study, ordering):
    curve = study.subspace.curves[ordering]
    if ordering in ("uncentred", "centred"):
        unit = UNITS - (ordering == "centred") * UNITS.mean(axis=0)
        basis = np.linalg.svd(unit)[2]
    else:
        basis = UNITS[[STUDY_DOMAINS.index(name) for name in study.subspace.order[ordering]]]
    before = mean_scores(WORLD, HARMFUL).mean()
    full = mean_scores(WORLD, without(HARMFUL, *UNITS)).mean()
    expected = [
        (before - mean_scores(WORLD, without(HARMFUL, *basis[:k]) if k else HARMFUL).mean()) / (before - full)
        for k in curve.k
    ]
    assert np.abs(np.array(curve.share) - expected).max() < 0.05
    assert curve.k_for_90 == next((k for k, share in enumerate(expected) if share >= 0.9), None)


def test_random_subspaces_of_the_same_rank_do_nothing(study):
    curve = study.subspace.curves["random"]
    assert np.abs(curve.share).max() < 0.1  # a random line in 256 dimensions has a cosine of 0.06 with any other
    assert (curve.k_for_50, curve.k_for_90) == (None, None)
    assert max(curve.kl) < 0.05


def test_the_dose_response_is_the_closed_form(study):
    before = mean_scores(WORLD, HARMLESS)
    for j, name in enumerate(STUDY_DOMAINS):
        found = study.cross_domain.dose[name]
        added, ablated = np.array(found.addition.dose), np.array(found.ablation.dose)
        expected = np.array([mean_scores(WORLD, HARMLESS + c * (HARMFUL - HARMLESS))[j] for c in added])
        at_one = expected[added == 1] - before[j]
        assert np.abs(np.array(found.addition.harmless) - expected).max() < 0.07 * 2 * at_one
        drop = [mean_scores(WORLD, HARMFUL[[j]] - a * UNITS[j] * (UNITS[j] @ HARMFUL[j]))[0] for a in ablated]
        share = (drop[0] - np.array(drop)) / (drop[0] - drop[-1])
        measured = np.array(found.ablation.harmful)
        assert np.abs((measured[0] - measured) / (measured[0] - measured[-1]) - share).max() < 0.03
        # Scores rise almost in proportion, so half of the effect of two norms takes a little less than one.
        rise = expected[added >= 0] - before[j]
        assert found.addition.half_effect == pytest.approx(np.interp(rise[-1] / 2, rise, added[added >= 0]), abs=0.02)
        assert found.ablation.half_effect == pytest.approx(0.5, abs=0.03)
        # The harmless mean has nothing along r: the affine ablation is the plain one.
        assert found.affine.harmful == pytest.approx(measured[-1], abs=0.2)


def test_transfer_follows_the_cosines_in_two_clusters(study):
    summary = study.cross_domain.summary
    assert summary.within == pytest.approx(np.mean([0.6332, 0.7098, 0.7885, 0.7626]), abs=0.05)
    assert summary.between == pytest.approx(np.mean([0.3515, 0.3214, 0.3504, 0.3472, 0.3390, 0.3667]), abs=0.05)
    assert summary.within_ci95[0] > summary.between_ci95[1]
    assert summary.rank_correlation > 0.9
    assert (summary.n_domains, summary.n_permutations) == (5, 120)
    assert summary.mantel_p == pytest.approx(1 / 120)
    assert "cosines foretell transfer" in summary.sentence


def test_the_domains_part_where_refusal_is_written(study, single):
    assert (study.depth.parts_at, study.depth.meets_at) == (WORLD.write_layer + 1, None)
    assert {layer.n_tested for layer in study.depth.layers[: WORLD.write_layer + 1]} == {0}
    for layer in study.depth.layers[WORLD.write_layer + 1 :]:
        found = np.array(layer.cosine_disattenuated, dtype=float)
        truth = UNITS @ UNITS.T
        order = [study.depth.domains.index(name) for name in STUDY_DOMAINS]
        assert np.abs(found[np.ix_(order, order)] - truth).max() < 0.03
    assert (single.depth.parts_at, single.depth.meets_at) == (None, None)
    assert "no two domains are ever apart" in single.depth.sentence


def test_one_planted_direction_transfers_wholly_and_leaves_nothing_specific(single):
    cross = single.cross_domain
    assert np.abs(np.array(cross.transfer, dtype=float) - 1).max() <= 0.1
    assert cross.verdict.startswith("One direction in effect")
    table = cross.effects.ablated_harmful
    bands = table.change_ci95[table.rows.index("random")]
    for name in cross.domains:
        for change, (low, high) in zip(table.change[table.rows.index(f"specific.{name}")], bands, strict=True):
            assert low <= change <= high
    for name, parts in cross.parts.items():
        assert parts.share[1][0] == pytest.approx(1, abs=0.03)
        assert abs(parts.share[0][1]) < 0.03
        assert "adds nothing measurable" in parts.sentence, name
    assert single.subspace.curves["uncentred"].k_for_90 == 1


def test_the_cone_takes_three_components(planted_run):
    curves = planted_run("cone")[0].results.subspace.curves
    assert curves["uncentred"].k_for_90 == 3
    assert curves["random"].k_for_50 is None


def test_a_confounded_topic_hides_one_direction(planted_run):
    results = planted_run("topic_confound")[0].results
    cosine = np.array(results.geometry.cosine)[~np.eye(5, dtype=bool)]
    transfer = np.array(results.cross_domain.transfer, dtype=float)
    assert cosine.max() < 0.6
    assert np.abs(transfer - 1).max() < 0.1
    assert "one direction" in results.cross_domain.verdict.lower()


def test_the_table_of_scores_holds_what_the_record_averages(planted_run, study):
    _, folder, _, _ = planted_run("study")
    table = pq.read_table(folder / "causal.parquet").to_pandas()
    assert list(table.columns) == ["task", "label", "id", "under", "row", "verdict", "score", "kl"]
    means = table.groupby(["under", "label", "row", "task"])[["score", "kl"]].mean()
    effects, names = study.cross_domain.effects, study.cross_domain.domains
    for under, label, found in (
        ("ablated", "harmful", effects.ablated_harmful),
        ("ablated", "harmless", effects.ablated_harmless),
        ("added", "harmless", effects.added_harmless),
    ):
        for row, scores in zip(found.rows, found.score, strict=True):
            if row not in ("random", "permuted"):
                key = ("none", label, "none") if row == "none" else (under, label, row)
                expected = [means.loc[(*key, name), "score"] for name in names]
                assert scores == pytest.approx(expected, abs=1e-6)  # a pass with text rounds otherwise
    assert table.groupby(["task", "label", "under", "row", "id"]).size().max() == 1
    harmful = table.label == "harmful"
    assert table[harmful].kl.isna().all()
    assert table[~harmful & (table.under != "none")].kl.notna().all()


def test_dependence_is_small_between_clusters_and_positive(study):
    found = study.cross_domain.dependence
    loss = np.array(found.loss, dtype=float)
    assert (found.n_layers, found.n_prompts) == (9, 80)
    order = [found.domains.index(name) for name in STUDY_DOMAINS]
    loss = loss[np.ix_(order, order)]
    # The stream holds r_j of the prompt's own domain: ablating r_i changes its cosine to r_k by G_ik G_ij.
    assert loss[3, 4] > 3 * loss[0, 3]
    assert np.nanmin(loss) > 0


def test_mixed_prompts_follow_the_closed_form_and_the_additive_model(study):
    """A planted mixture carries a·(r_i + r_j) and one topic."""
    mixed = study.cross_domain.mixed
    own_drop = 7.6
    assert (mixed.n, mixed.n_refused, len(mixed.pairs)) == (65, 65, 10)
    bases = {name: (UNITS[j],) for j, name in enumerate(STUDY_DOMAINS)} | {"shared": (SHARED,), "none": ()}
    for pair in mixed.pairs:
        i, j = (STUDY_DOMAINS.index(name) for name in pair.domains)
        stream = HARMFUL[[i]] + HARMFUL[[j]]
        stream[:, 5:] = HARMFUL[i, 5:]
        for row, score in zip(mixed.rows, pair.score, strict=True):
            basis = (UNITS[i], UNITS[j]) if row == "both" else bases[row]
            expected = mean_scores(WORLD, without(stream, *basis) if basis else stream)[0]
            # Strengths of six or seven prompts: their mean is off by a twentieth.
            assert abs(score - expected) < 0.12 * 2 * own_drop, (pair.domains, row)
        assert pair.opened[mixed.rows.index("both")] == 1
    assert mixed.models[0].name == "additive"
    assert mixed.models[0].r2 > 0.9
    alone = {pair.domains: max(pair.opened[mixed.rows.index(name)] for name in pair.domains) for pair in mixed.pairs}
    for pair, opened in alone.items():  # only alike domains open each other
        i, j = (STUDY_DOMAINS.index(name) for name in pair)
        if (UNITS @ UNITS.T)[i, j] < 0.4:
            assert opened < 0.5
    assert mixed.opened_by_one + mixed.both_needed == pytest.approx(1)


TAMPERED = [
    ("cross_domain.ablation.p_value.0.0", 0.5),
    ("cross_domain.addition.p_holm.1.0", 1e-9),
    ("cross_domain.summary.within", 0.9),
    ("cross_domain.summary.rank_correlation", 0.5),
    ("cross_domain.summary.mantel_p", 1.5),
    ("cross_domain.effects.ablated_harmful.score.0.0", 1.0),
    ("cross_domain.effects.ablated_harmful.score.2.1", 1.0),
    ("cross_domain.effects.ablated_harmful.share.2.1", 0.2),
    ("cross_domain.effects.ablated_harmless.kl.3.0", -1.0),
    ("cross_domain.effects.added_harmless.n_directions", [1]),
    ("cross_domain.effects.fragile", ["gossip"]),
    ("cross_domain.parts.fraud.share.1.0", 0.5),
    ("cross_domain.parts.fraud.score.0.0", 0.5),
    ("cross_domain.dose.fraud.addition.harmless.4", 0.0),
    ("cross_domain.dose.fraud.ablation.half_effect", 2.0),
    ("cross_domain.dependence.loss.0.1", 0.5),
    ("cross_domain.mixed.n_refused", 3),
    ("cross_domain.mixed.both_needed", 0.123),
    ("subspace.curves.mincos.share.1", 0.9),
    ("subspace.curves.greedy.k_for_90", 5),
    ("depth.parts_at", 3),
    ("depth.layers.6.cosine.0.1", 0.1),
    ("site_effect.across_layers", 0.1),
    ("site_effect.own_site", 0.1),
]


@pytest.mark.parametrize(("path", "value"), TAMPERED, ids=[path for path, _ in TAMPERED])
def test_a_table_that_contradicts_the_record_is_found(planted_run, path, value):
    record = planted_run("study")[0]
    assert disagreements(record) == []
    data = record.model_dump()
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = data["results"]
    for step in steps:
        place = place[step]
    place[last] = value
    faults = disagreements(Record.model_validate(data))
    assert any(path.split(".")[-1 if not path[-1].isdigit() else -2] in fault for fault in faults), faults
    assert all(fault.startswith("results.") for fault in faults)
