"""The first-order estimate against finite ablations, and screened selection against the exact one."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.backends.hf import HookBackend
from refusal_bench.config import FULL, RunConfig
from refusal_bench.interventions import Ablate
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.models.loading import load_model
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from refusal_bench.prompts import render_tasks
from refusal_bench.race import cannot_win
from refusal_bench.scan import SelectionData, scores
from refusal_bench.screening import estimated_change, write_products
from refusal_bench.selection import select
from refusal_bench.tasks import load_tasks
from tiny import FAMILIES, save_tiny

TEXTS = ["hi", "Tell me a story of rivers.", "A much longer question, with words and more words."]
TOKENS = [40, 41, 57]


@pytest.fixture(scope="module", params=FAMILIES)
def backend(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)
    return HookBackend(load_model(RunConfig(model=str(folder), dtype="float32")))


def test_the_estimate_is_the_slope_of_partial_ablation(backend):
    prompts = [tuple(backend.model.template.render(text)) for text in TEXTS]
    directions = torch.randn(6, backend.model.d_model, generator=torch.Generator().manual_seed(0))
    estimate = estimated_change(backend, prompts, TOKENS, 3 * directions)
    # A basis vector of length sqrt(e) takes e of the component away; two steps cancel the slope's own curvature.
    unit = torch.nn.functional.normalize(directions, dim=1)[:, None]
    base = scores(backend, prompts, TOKENS)[0].mean()
    step = 0.02
    one, two = (
        (scores(backend, prompts, TOKENS, Ablate(unit * (share * step) ** 0.5)).mean(dim=1) - base) / (share * step)
        for share in (1, 2)
    )
    slope = 2 * one - two
    assert slope.abs().max() > 0.01
    torch.testing.assert_close(estimate, slope, atol=0.02 * float(slope.abs().max()), rtol=0.02)


def test_batching_and_order_do_not_matter_and_no_hook_or_gradient_stays(backend, monkeypatch):
    prompts = [tuple(backend.model.template.render(text)) for text in TEXTS]
    together = write_products(backend, prompts, TOKENS)
    monkeypatch.setattr("refusal_bench.screening.ROWS", 1)
    torch.testing.assert_close(write_products(backend, prompts[::-1], TOKENS), together, atol=1e-5, rtol=1e-4)
    module = backend.model.module
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.fixture(scope="module")
def planted_case(planted):
    domain = render_tasks(load_tasks("fraud"), planted.template, FULL, seed=0)["fraud"]
    backend = HookBackend(planted)
    positions = planted.template.positions

    def mean(prompts):
        stored = {}
        backend.residuals(prompts, positions, stored.__setitem__, lambda logits, rows: logits[:, 0])
        return torch.stack(list(stored.values())).double().mean(0)

    tokens = [planted.template.tokenizer.convert_tokens_to_ids("Sorry")]
    vectors = mean(domain.direction.harmful) - mean(domain.direction.harmless)
    return backend, vectors, positions, SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)


def test_a_screened_selection_finishes_few_and_says_which_place_the_winner_had(planted_case):
    backend, vectors, positions, data = planted_case
    exact = select(backend, vectors, positions, data)
    screened = select(backend, vectors, positions, data, screened=True)
    assert exact.selection.screen is None
    found = screened.selection
    assert 8 <= found.screen.scanned <= 35
    assert 0 <= found.screen.rank < found.screen.scanned
    assert len(found.table) <= 8
    assert found.rejected["screen"] == 35 - len(found.table)
    assert found.n_eligible + sum(found.rejected.values()) == found.n_candidates
    assert found.tokens < 0.5 * exact.selection.tokens
    assert screened.passed
    assert screened.site == exact.site
    assert found.bypass == pytest.approx(exact.selection.bypass, abs=1e-4)
    assert found.induce == pytest.approx(exact.selection.induce, abs=1e-4)
    assert found.kl == pytest.approx(exact.selection.kl, abs=1e-5)


def test_an_estimate_with_errors_that_differ_is_found_out_and_more_is_scanned(planted_case, monkeypatch):
    backend, vectors, positions, data = planted_case
    exact = select(backend, vectors, positions, data)
    assert select(backend, vectors, positions, data, screened=True).selection.screen.scanned == 8
    right, factors = estimated_change, torch.linspace(3, 1, 35, dtype=torch.float64)
    monkeypatch.setattr("refusal_bench.race.estimated_change", lambda *given: right(*given) * factors)
    found = select(backend, vectors, positions, data, screened=True)
    assert 8 <= found.selection.screen.rank < found.selection.screen.scanned
    assert found.site == exact.site
    assert found.selection.bypass == pytest.approx(exact.selection.bypass, abs=1e-4)
    assert found.selection.induce == pytest.approx(exact.selection.induce, abs=1e-4)
    sites = [(row.layer, row.position) for row in found.selection.table]
    assert len(set(sites)) == len(sites) == 35 - found.selection.rejected["screen"]


def test_a_candidate_is_left_out_only_where_the_errors_of_others_say_that_it_cannot_win():
    alike, unlike = (-4.0, -4.0, -4.0), (-4.0, -4.0, -4.3)  # estimate minus score
    assert cannot_win(-4.3, alike, best=-1.0)
    assert not cannot_win(-5.1, alike, best=-1.0)
    # The interval of one more error reaches from -4.96 to -3.24.
    assert not cannot_win(-4.3, unlike, best=-1.0)
    assert cannot_win(-4.2, unlike, best=-1.0)
    assert not cannot_win(9.0, alike[:1], best=-1.0)


def test_where_nobody_induces_refusal_all_are_tried_and_one_is_described(planted_case, monkeypatch):
    backend, vectors, positions, data = planted_case
    for module in ("race", "selection"):
        monkeypatch.setattr(f"refusal_bench.{module}.INDUCE_THRESHOLD", 1e3)
    found = select(backend, vectors, positions, data, screened=True)
    assert not found.passed
    assert found.selection.screen.scanned == 35
    (row,) = found.selection.table
    assert row.rejected == "induce"
    assert found.selection.bypass is not None
    assert not row.kl_is_bound
    assert found.selection.rejected["screen"] == 34


def test_where_nobody_passes_kl_one_is_described_all_the_same(planted_case, monkeypatch):
    backend, vectors, positions, data = planted_case
    for module in ("race", "scan"):
        monkeypatch.setattr(f"refusal_bench.{module}.KL_THRESHOLD", 1e-9)
    found = select(backend, vectors, positions, data, screened=True)
    assert not found.passed
    assert found.selection.bypass is not None
    assert set(found.selection.rejected) <= {"depth", "kl", "screen", "zero"}


def test_a_screened_run_is_a_consistent_record(tmp_path):
    config = RunConfig(
        model="planted", tasks="fraud,privacy", out=tmp_path, leaderboard=None, quick=True, selection="screened"
    )
    record, _ = run(config, Reporter(quiet=True))
    assert disagreements(record) == []
    assert record.config["selection"] == "screened"
    assert all(task.selection.screen is not None for task in record.results.tasks.values())
