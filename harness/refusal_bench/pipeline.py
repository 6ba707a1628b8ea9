"""The benchmark, top to bottom. The stages are those of the README:

1. Load the tasks and the model; render every prompt once.
2. Find the model's refusal tokens and read the residual stream on train prompts.
3. Compute a direction for every (position, layer), select one a domain causally, and one common site on pooled data.
4. Measure held-out prompts: without intervention, with directions ablated and added, with controls.
5. Describe the geometry of the directions; write record, report and leaderboard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench import causal, outputs, published
from refusal_bench.assembly import build_record, direction_status, judge_info, task_result
from refusal_bench.backends.availability import check_baseline_backend
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.openai import Endpoint
from refusal_bench.causal.directions import Directions, read_directions
from refusal_bench.causal.mixed import measure_mixed, mixed_task, planted_mixtures, render_mixed
from refusal_bench.causal.mixed import mixed as summarise_mixed
from refusal_bench.causal.orderings import greedy_order
from refusal_bench.config import RunConfig
from refusal_bench.damage import neutral_losses
from refusal_bench.evaluation import Evaluator
from refusal_bench.job import HeldOut, Job, Sites
from refusal_bench.judges import Judge, load_judge
from refusal_bench.judges.check import measured_error
from refusal_bench.layers import layer_curves, separations
from refusal_bench.leaderboard.store import add_record
from refusal_bench.metrics.geometry import PairResiduals, geometry
from refusal_bench.models.aliases import resolve
from refusal_bench.models.loading import ChatModel, load_model
from refusal_bench.observation import Residuals, find_refusal_tokens, read_residuals, size_of_residuals
from refusal_bench.over_refusal import (
    measure_over_refusal,
    over_refusal,
    over_refusal_task,
    planted_contrasts,
    render_over_refusal,
)
from refusal_bench.progress import Reporter
from refusal_bench.prompts import Rendered, planted_prompts, pooled, render_tasks
from refusal_bench.record import (
    Geometry,
    GeometrySite,
    JudgeCalibration,
    Layer,
    Mixed,
    OverRefusal,
    Record,
    Results,
)
from refusal_bench.run_folder import check_room, check_writable, open_run
from refusal_bench.scan import SelectionData
from refusal_bench.selection import Selected, select
from refusal_bench.served import find_endpoint, serve
from refusal_bench.slug import model_slug
from refusal_bench.tasks import Task, load_tasks
from refusal_bench.tasks.schema import LABELS, Label
from refusal_bench.writing import compare_backends, vllm_engine


def run(config: RunConfig, reporter: Reporter) -> tuple[Record, Path]:
    """Measure one model; return its record and the run's folder.

    InputError for bad input, before anything is written. IncompleteRunError if the run cannot go on; what is done is
    kept, and the same command resumes.
    """
    with prepare(config, reporter) as job:
        judged = measure_judge(job)

        found = refusal_tokens(job)
        tokens = found["tokens"]
        train_scores, residuals = observe(job, tokens)

        sites = select_sites(job, tokens, residuals)
        curves = describe_layers(job, tokens, residuals, sites)

        directions = read_directions(residuals, sites.of_domains, sites.common.site, config.seed)
        held_out = measure(job, tokens, directions)
        safe = measure_refusal_of_safe(job, tokens, directions, judged)
        neutral = measure_neutral(job, directions)

        status = {name: direction_status(sites.own[name], train_scores, name) for name in job.domains}
        common, own_site, warnings = describe_geometry(job, residuals, sites, status)
        results = Results(
            tasks={
                name: task_result(job, name, status[name], sites, residuals, column, curves.get(name), judged, neutral)
                for name, column in held_out.columns.items()
            },
            geometry=common,
            geometry_own_site=own_site,
            **describe_causes(job, residuals, sites, held_out, common),
            over_refusal=safe,
            parity=job.parity,
            served=serve(job),
        )
        known_judge = judge_info(job.judge, judged, held_out.columns)
        beside_ours = published.beside(config, results, sites.common)
        record = build_record(job, found, train_scores, results, warnings, known_judge, beside_ours)
        outputs.write(record, job, residuals, train_scores, held_out.columns)
        if config.leaderboard is not None:
            add_record(config.leaderboard, record)
        job.folder.finish()
    return record, job.folder.path


@contextmanager
def prepare(config: RunConfig, reporter: Reporter) -> Iterator[Job]:
    """Stage 1: load tasks, judge and model, render every prompt once, open the run's folder, and start vLLM if asked.

    InputError for bad input, before anything is written.
    """
    for place in (config.out, config.leaderboard):
        if place is not None:
            check_writable(place)
    tasks, judge = load_tasks(config.tasks, config.tasks_path), load_judge(config.judge)
    reporter.note(f"loading {config.model} ...")
    check_baseline_backend(config.baseline_backend, resolve(config.model).id)
    endpoint = find_endpoint(config)
    both, contrasts = mixed_task(config, tasks), over_refusal_task(config)
    planted = planted_prompts(tasks) | planted_mixtures(both, tasks) | planted_contrasts(contrasts, list(tasks))
    model = load_model(config, planted)
    domains = render_tasks(tasks, model.template, config.sizes, config.seed)
    mixed = None if both is None else render_mixed(both, list(domains), model.template.render, config.sizes)
    apart = None if contrasts is None else render_over_refusal(contrasts, model.template.render, config.sizes)
    known = [*tasks.values(), *(prompts.task for prompts in (mixed, apart) if prompts)]
    check_room(config.out, size_of_residuals(model, domains))
    backend, runs = HookBackend(model), config.out / model_slug(model.id)
    with (
        vllm_engine(config, backend, domains, apart, reporter) as engine,
        open_run(runs, _run_key(config, model, known, judge, endpoint), resume=config.resume) as folder,
    ):
        folder.log(f"first prompt's token ids: {list(next(iter(domains.values())).direction.harmful[0])}")
        parity = compare_backends(folder, backend, engine, domains, reporter) if engine is not None else None
        writer = engine if parity is not None and parity.passed else None
        yield Job(config, tasks, domains, mixed, apart, backend, judge, folder, reporter, parity, writer, endpoint)


def measure_judge(job: Job) -> JudgeCalibration | None:
    """Stage 1b: the judge's error on completions of known labels."""

    def compute() -> dict[str, Any] | None:
        error = measured_error(job.judge)
        return None if error is None else error.model_dump()

    found = job.folder.stage("judge", compute)
    return None if found is None else JudgeCalibration.model_validate(found)


def refusal_tokens(job: Job) -> dict[str, Any]:
    """Stage 2a: which first tokens count as a refusal, as {tokens, from}."""
    given = job.config.refusal_tokens

    def compute(advance: Callable[[int], None]) -> dict[str, Any]:
        return find_refusal_tokens(job.backend, job.domains, given, job.judge, advance, writer=job.writer)

    total = sum(2 * len(domain.direction) for domain in job.domains.values())
    found: dict[str, Any] = job.stage("refusal_tokens", "refusal tokens", total, compute)
    return found


def observe(job: Job, tokens: list[int]) -> tuple[dict[str, list[float]], Residuals]:
    """Stage 2b: residuals and refusal scores of all train prompts, from one unmodified pass."""
    file = job.folder.stages / "residuals.npy"
    total = sum(2 * (len(domain.direction) + len(domain.selection)) for domain in job.domains.values())
    scores = job.stage(
        "residuals",
        "residual stream",
        total,
        lambda advance: read_residuals(job.backend, job.domains, tokens, file, advance),
    )
    return scores, Residuals.open(file, job.domains, job.positions)


def select_sites(job: Job, tokens: list[int], residuals: Residuals) -> Sites:
    """Stage 3a: one candidate a domain on its own selection split, and the common site on all of them together."""
    screened = job.config.selection == "screened"

    def selected(name: str, vectors: Float[Tensor, "position layer d_model"], split: Rendered) -> Selected:
        data = SelectionData(split.harmful, split.harmless, tokens)

        def compute(advance: Callable[[int], None]) -> dict[str, Any]:
            return select(job.backend, vectors, job.positions, data, advance, screened=screened).to_json()

        n_candidates = vectors.shape[0] * vectors.shape[1]
        return Selected.from_json(job.stage(f"selection.{name}", f"selection: {name}", n_candidates, compute))

    own = {
        name: selected(name, torch.from_numpy(residuals.vectors(name)), domain.selection)
        for name, domain in job.domains.items()
    }
    # With equally many pairs a domain this is the difference in means of all prompts together; with unequal numbers
    # every domain still counts the same.
    together = torch.from_numpy(np.mean([residuals.vectors(name) for name in job.domains], axis=0))
    return Sites(own, selected("all domains", together, pooled(job.domains, job.config.sizes.pooled_selection_pairs)))


def describe_layers(job: Job, tokens: list[int], residuals: Residuals, sites: Sites) -> dict[str, list[Layer]]:
    """Stage 3b: curves over all layers at each domain's selected position; empty where they are left out."""

    def curves(name: str) -> list[Layer]:
        """Every layer of one domain."""
        site, split, n = sites.own[name].site, job.domains[name].selection, job.config.sizes.layer_curve_pairs
        place = job.positions.index(site.position)
        vectors = residuals.vectors(name)[place]
        data = SelectionData(split.harmful[:n], split.harmless[:n], tokens)

        def compute(advance: Callable[[int], None]) -> list[dict[str, Any]]:
            groups = (residuals.of(name, "selection", label)[:, place] for label in LABELS)
            separation = separations(vectors, *groups)
            layers = layer_curves(job.backend, torch.from_numpy(vectors), site.layer, data, separation, advance)
            return [layer.model_dump() for layer in layers]

        found = job.stage(f"layers.{name}", f"layers: {name}", len(vectors), compute)
        return [Layer.model_validate(layer) for layer in found]

    return {name: curves(name) for name in job.domains} if job.has("layers") else {}


def measure(job: Job, tokens: list[int], directions: Directions) -> HeldOut:
    """Stage 4a: every intervention on every domain's held-out prompts, a column of all matrices at a time."""
    subspace, prompts = job.has("subspace"), pooled(job.domains, job.config.sizes.pooled_selection_pairs).harmful
    greedy: list[int] = []
    if subspace:
        greedy = job.stage(
            "held_out.order",
            "subspace order",
            len(prompts),
            lambda advance: greedy_order(job.backend, prompts, tokens, directions.common),
        )
    interventions = causal.plan(
        directions, greedy, job.config.sizes, job.config.seed, cross=job.has("cross_domain"), subspace=subspace
    )

    def column(name: str) -> causal.Column:
        domain = job.domains[name]

        def compute(advance: Callable[[int], None]) -> causal.Column:
            evaluator = _evaluator(job, tokens, name, domain.held_out.ids)
            return causal.measure_column(evaluator, name, domain, interventions, advance)

        total = causal.n_rows(interventions, len(domain.held_out), name)
        found: causal.Column = job.stage(f"held_out.{name}", f"held-out: {name}", total, compute)
        return found

    columns = {name: column(name) for name in job.domains}
    return HeldOut(columns, causal.orderings(directions, greedy), measure_mixtures(job, tokens, interventions, columns))


def measure_mixtures(
    job: Job, tokens: list[int], interventions: causal.Interventions, columns: Mapping[str, causal.Column]
) -> Mixed | None:
    """Stage 4b: prompts of two domains under the domains' ablations; None where there are none."""
    prompts, sizes = job.mixed, job.config.sizes
    if prompts is None:
        return None
    evaluator = Evaluator(job.backend, tuple(tokens), sizes.max_new_tokens, job.judge)
    found = job.stage(
        "held_out.mixed",
        "held-out: mixed",
        prompts.n_rows(len(job.domains)),
        lambda advance: measure_mixed(evaluator, prompts, interventions, advance),
    )
    return summarise_mixed(found, prompts, interventions, columns, sizes.n_bootstrap, job.config.seed)


def measure_refusal_of_safe(
    job: Job, tokens: list[int], directions: Directions, judged: JudgeCalibration | None
) -> OverRefusal | None:
    """Stage 4c: safe prompts that look dangerous under the shared direction; None where they are left out."""
    prompts = job.over_refusal
    if prompts is None:
        return None

    def compute(advance: Callable[[int], None]) -> dict[str, causal.Observation]:
        return measure_over_refusal(_evaluator(job, tokens, "over_refusal", prompts.ids), prompts, directions, advance)

    found = job.stage("held_out.over_refusal", "held-out: over-refusal", prompts.n_rows, compute)
    return over_refusal(found, prompts, directions.layer, judged, job.config.sizes.n_bootstrap, job.config.seed)


def measure_neutral(job: Job, directions: Directions) -> dict[str, Any]:
    """Stage 4d: loss on neutral text with each domain's direction ablated and added."""
    found: dict[str, Any] = job.stage(
        "damage", "neutral text", 1, lambda advance: neutral_losses(job.backend, directions.own)
    )
    return found


def describe_geometry(
    job: Job, residuals: Residuals, sites: Sites, status: Mapping[str, str | None]
) -> tuple[Geometry | None, Geometry | None, list[str]]:
    """Stage 5a: geometry at the common site and at each domain's own; null, with the reason, where there is none."""
    if len(job.domains) < 2:
        return None, None, ["geometry: null, it needs at least two tasks"]
    if sum(reason is None for reason in status.values()) < 2:
        return None, None, ["geometry: null, fewer than two domains have a direction that passes every filter"]
    sizes, seed, site = job.config.sizes, job.config.seed, sites.common.site
    chosen_by = "pooled selection" if sites.common.passed else "pooled selection (no candidate passed)"
    common, warnings = geometry(
        {name: PairResiduals(*residuals.pairs_at(name, site)) for name in job.domains},
        GeometrySite(layer=site.layer, position=site.position, chosen_by=chosen_by),
        n_bootstrap=sizes.n_bootstrap,
        seed=seed,
    )
    own, own_warnings = geometry(
        {name: PairResiduals(*residuals.pairs_at(name, own)) for name, own in sites.of_domains.items()},
        GeometrySite(layer=None, position=None, chosen_by="each domain"),
        n_bootstrap=sizes.n_bootstrap,
        seed=seed,
    )
    if not sites.common.passed:
        warnings.append("geometry: no candidate passed on pooled data; the common site is the least bad candidate")
    return common, own, warnings + [f"own site {warning}" for warning in own_warnings]


def describe_causes(
    job: Job, residuals: Residuals, sites: Sites, held_out: HeldOut, common: Geometry | None
) -> dict[str, Any]:
    """Stage 5b: the causal tables by their name in `Results`, without those that were left out."""
    sizes, seed, found = job.config.sizes, job.config.seed, dict[str, Any]()
    if job.has("cross_domain"):
        n_layers = job.backend.model.n_layers
        found["cross_domain"] = causal.cross_domain(held_out.columns, common, held_out.mixed, n_layers, sizes, seed)
    if job.has("subspace"):
        found["subspace"] = causal.subspace(held_out.columns, held_out.orders, sizes.n_bootstrap, seed)
    if job.has("layers") and len(job.domains) > 1:
        found["depth"] = causal.depth(residuals, list(job.domains), sites.common.site.position)
    if common is not None:
        # How much of the difference between both geometries comes from comparing different layers.
        found["site_effect"] = causal.site_effect(
            residuals, sites.of_domains, sites.common.site, sizes.n_bootstrap, seed
        )
    return {"cross_domain": None, "subspace": None} | found


def _evaluator(job: Job, tokens: list[int], name: str, ids: Mapping[Label, Sequence[str]]) -> Evaluator:
    """What held-out prompts are answered and judged with; only for a stage that starts, whose completions it clears."""
    on_text = outputs.completion_writer(job, name, ids)
    return Evaluator(job.backend, tuple(tokens), job.config.sizes.max_new_tokens, job.judge, on_text, job.writer)


def _run_key(
    config: RunConfig, model: ChatModel, tasks: Sequence[Task], judge: Judge, endpoint: Endpoint | None
) -> str:
    return config.key(
        weights=model.weights_sha256,
        adapter=model.adapter_sha256 or "",
        head=model.template.head_sha256,
        judge_version=judge.version,
        save_completions=str(config.save_completions),
        tasks=",".join(task.sha256 for task in tasks),
        **({"endpoint": endpoint.model} if endpoint is not None else {}),
    )
