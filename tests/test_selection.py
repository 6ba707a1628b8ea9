"""The scan against the textbook loop: every candidate, all three quantities, on the planted model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import DEPTH_LIMIT, FULL, INDUCE_THRESHOLD, KL_THRESHOLD, RunConfig
from refusal_bench.interventions import Ablate, Add
from refusal_bench.metrics.refusal import kl_divergence, refusal_score
from refusal_bench.models.loading import load_model
from refusal_bench.prompts import render_tasks
from refusal_bench.scan import SelectionData
from refusal_bench.selection import Selected, select
from refusal_bench.tasks import load_tasks


@pytest.fixture(scope="module")
def backend(planted):
    return HookBackend(planted)


@pytest.fixture(scope="module")
def domain(planted):
    return render_tasks(load_tasks("fraud"), planted.template, FULL, seed=0)["fraud"]


@pytest.fixture(scope="module")
def tokens(planted):
    return [planted.template.tokenizer.convert_tokens_to_ids("Sorry")]


def vectors_of(backend, domain, positions):
    def mean(prompts):
        stored = {}
        backend.residuals(prompts, positions, stored.__setitem__, lambda logits, rows: logits[:, 0])
        return torch.stack(list(stored.values())).double().mean(0)

    return mean(domain.direction.harmful) - mean(domain.direction.harmless)


def textbook(backend, vectors, positions, data):
    """Evaluate bypass, induce and KL of every candidate, one at a time, and choose."""
    keep = lambda logits, rows: logits  # noqa: E731
    base = backend.logits(data.harmless, keep)[0]
    found = {}
    for place, position in enumerate(positions):
        for layer in range(int(DEPTH_LIMIT * vectors.shape[1])):
            vector = vectors[place, layer]
            if vector.norm() == 0:
                continue
            ablate, add = Ablate.each(vector[None]), Add.at(vector[None], layer)
            bypass = refusal_score(backend.logits(data.harmful, keep, ablate)[0], data.refusal_tokens).mean()
            induce = refusal_score(backend.logits(data.harmless, keep, add)[0], data.refusal_tokens).mean()
            kl = kl_divergence(base, backend.logits(data.harmless, keep, ablate)[0]).mean()
            found[layer, position] = tuple(map(float, (bypass, induce, kl)))
    passing = {site: v for site, v in found.items() if v[2] < KL_THRESHOLD and v[1] > INDUCE_THRESHOLD}
    return found, min(passing, key=lambda site: passing[site][0]) if passing else None


def test_the_scan_chooses_what_the_textbook_loop_chooses_and_agrees_in_every_number(backend, domain, planted, tokens):
    positions = planted.template.positions
    vectors = vectors_of(backend, domain, positions)
    data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
    selected = select(backend, vectors, positions, data)
    found, best = textbook(backend, vectors, positions, data)
    assert selected.passed
    assert (selected.site.layer, selected.site.position) == best
    compared = 0
    for row in selected.selection.table:
        bypass, induce, kl = found[row.layer, row.position]
        assert row.kl <= kl + 1e-4 if row.kl_is_bound else row.kl == pytest.approx(kl, abs=1e-4)
        assert (row.rejected == "kl") == (kl >= KL_THRESHOLD)
        if row.bypass is not None:
            assert row.bypass == pytest.approx(bypass, abs=1e-3)
            compared += 1
        if row.induce is not None:
            assert row.induce == pytest.approx(induce, abs=1e-3)
    assert compared > 5
    assert selected.selection.rejected["depth"] == len(positions) * (planted.n_layers - int(0.8 * planted.n_layers))
    assert selected.selection.n_eligible + sum(selected.selection.rejected.values()) == selected.selection.n_candidates


def test_candidates_leave_with_a_bound_that_is_true_and_only_if_they_fail(
    backend, domain, planted, tokens, monkeypatch
):
    positions = planted.template.positions
    vectors = vectors_of(backend, domain, positions)
    data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
    found, _ = textbook(backend, vectors, positions, data)
    # Ablation barely touches the planted model's harmless prompts, so the threshold is set where it divides them.
    threshold = sorted(kl for _, _, kl in found.values())[len(found) // 2]
    monkeypatch.setattr("refusal_bench.scan.KL_THRESHOLD", threshold)
    selected = select(backend, vectors, positions, data)
    early = [row for row in selected.selection.table if row.kl_is_bound]
    assert early
    assert any(row.rejected == "kl" for row in early)
    for row in early:
        assert row.kl <= found[row.layer, row.position][2] * 1.01
        if row.rejected == "kl":
            assert threshold <= row.kl
        else:  # its turn never came: a candidate of lower bypass passed
            assert row.bypass >= selected.selection.bypass
    passing = {site: v for site, v in found.items() if v[2] < threshold and v[1] > INDUCE_THRESHOLD}
    best = min(passing, key=lambda site: passing[site][0])
    assert (selected.site.layer, selected.site.position) == best


def test_without_a_passing_candidate_the_least_bad_one_is_described(backend, domain, planted, tokens):
    positions = planted.template.positions
    vectors = -vectors_of(backend, domain, positions)  # adding the opposite never induces refusal
    data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
    selected = select(backend, vectors, positions, data)
    _, best = textbook(backend, vectors, positions, data)
    assert best is None
    assert not selected.passed
    assert selected.selection.n_eligible == 0
    assert selected.selection.rejected["induce"] > 0
    assert selected.selection.bypass is not None
    assert selected.selection.induce is not None
    assert selected.selection.induce <= INDUCE_THRESHOLD


def test_not_a_number_is_rejected_and_named(backend, domain, planted, tokens):
    positions = planted.template.positions
    vectors = vectors_of(backend, domain, positions)
    vectors[1, 2] = np.nan
    data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
    assert select(backend, vectors, positions, data).selection.rejected["nan"] == 1


def test_a_selection_survives_json(backend, domain, planted, tokens):
    import json

    positions = planted.template.positions
    data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
    selected = select(backend, vectors_of(backend, domain, positions), positions, data)
    assert Selected.from_json(json.loads(json.dumps(selected.to_json()))) == selected


@pytest.mark.parametrize("world", ["no_refusal", "late"])
def test_worlds_without_an_eligible_direction_pass_no_candidate(world, domain, tokens):
    tasks = load_tasks("fraud")
    from refusal_bench.prompts import planted_prompts

    model = load_model(RunConfig(model=f"planted:{world}"), planted_prompts(tasks))
    backend = HookBackend(model)
    part = render_tasks(tasks, model.template, FULL, seed=0)["fraud"]
    data = SelectionData(part.selection.harmful, part.selection.harmless, tokens)
    vectors = vectors_of(backend, part, model.template.positions)
    assert not select(backend, vectors, model.template.positions, data).passed
