"""The benchmark, top to bottom. The stages are those of the README:

1. Load the tasks and the model; render every prompt once.
2. Find the model's refusal tokens and read the residual stream on train prompts.
3. Compute a direction for every (position, layer), select one a domain causally, and one common site on pooled data.
4. Measure held-out prompts: without intervention, with directions ablated and added, with controls.
5. Describe the geometry of the directions; write record, report and leaderboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench import causal, outputs, published
from refusal_bench.assembly import build_record, direction_status, judge_info, task_result
from refusal_bench.backends.availability import check_baseline_backend
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.openai import Endpoint
from refusal_bench.calibration.planted_world import Instruction
from refusal_bench.causal.directions import read_directions
from refusal_bench.causal.mixed import MixedPrompts, measure_mixed, mixed_task, planted_mixtures, render_mixed
from refusal_bench.causal.mixed import mixed as summarise_mixed
from refusal_bench.causal.orderings import greedy_order
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.evaluation import Evaluator
from refusal_bench.judges import Judge, load_judge
from refusal_bench.judges.check import measured_error
from refusal_bench.layers import layer_curves, separations
from refusal_bench.leaderboard.store import add_record
from refusal_bench.metrics.geometry import PairResiduals, geometry
from refusal_bench.models.aliases import resolve
from refusal_bench.models.loading import ChatModel, load_model
from refusal_bench.observation import Residuals, find_refusal_tokens, read_residuals
from refusal_bench.progress import Reporter
from refusal_bench.prompts import Domain, Rendered, pooled, render_tasks
from refusal_bench.record import (
    Geometry,
    GeometrySite,
    JudgeCalibration,
    Layer,
    Mixed,
    Record,
    Results,
    Site,
    SiteEffect,
)
from refusal_bench.run_folder import RunFolder, check_room, check_writable, open_run
from refusal_bench.selection import Selected, SelectionData, select
from refusal_bench.served import serve
from refusal_bench.slug import model_slug
from refusal_bench.tasks import Task, load_tasks
from refusal_bench.writing import compare_backends, vllm_engine

if TYPE_CHECKING:
    from refusal_bench.backends.vllm import VllmBackend

MIN_PAIRS = 4
"""Fewest pairs in a split: with fewer there is nothing to resample or to test."""


@dataclass(frozen=True)
class Job:
    """What every stage needs."""

    config: RunConfig
    backend: HookBackend
    domains: Mapping[str, Domain]
    folder: RunFolder
    reporter: Reporter
    judge: Judge
    writer: VllmBackend | None = None
    """Writes the text of all conditions in place of `backend`."""
    mixed: MixedPrompts | None = None
    """Prompts of two of the domains."""

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions after the instruction."""
        return self.backend.model.template.positions

    def has(self, section: str) -> bool:
        """Whether an optional section is computed: it was asked for and there are domains to compare."""
        return section in self.config.sections and (section == "layers" or len(self.domains) > 1)


@dataclass(frozen=True)
class Sites:
    """The selected candidate of each domain, and of all of them together."""

    own: Mapping[str, Selected]
    common: Selected


@dataclass(frozen=True)
class HeldOut:
    """What stage 4 measured."""

    columns: dict[str, causal.Column]
    orders: dict[str, list[int]]
    """In which order the subspace curve takes the domains' directions."""
    mixed: Mixed | None


def run(config: RunConfig, reporter: Reporter) -> tuple[Record, Path]:
    """Measure one model; return its record and the run's folder.

    InputError for bad input, before anything is written. IncompleteRunError if the run cannot go on; what is done is
    kept, and the same command resumes.
    """
    for place in (config.out, config.leaderboard):
        if place is not None:
            check_writable(place)
    tasks = load_tasks(config.tasks, config.tasks_path)
    judge = load_judge(config.judge)
    reporter.note(f"loading {config.model} ...")
    endpoint = _endpoint(config)
    both = mixed_task(config, tasks)
    model = load_model(config, planted_prompts(tasks) | planted_mixtures(both, tasks))
    domains = render_tasks(tasks, model.template, config.sizes, config.seed)
    _check_sizes(domains)
    mixed = None if both is None else render_mixed(both, list(domains), model.template.render, config.sizes)
    known = [*tasks.values(), *([mixed.task] if mixed else [])]
    _check_room(config.out, model, domains)
    backend = HookBackend(model)
    with (
        vllm_engine(config, backend, domains, reporter) as engine,
        open_run(
            config.out / model_slug(model.id), _run_key(config, model, known, judge, endpoint), resume=config.resume
        ) as folder,
    ):
        folder.log(f"first prompt's token ids: {list(next(iter(domains.values())).direction.harmful[0])}")
        parity = compare_backends(folder, backend, engine, domains, reporter) if engine is not None else None
        writer = engine if parity is not None and parity.passed else None
        job = Job(config, backend, domains, folder, reporter, judge, writer, mixed)
        judged = measure_judge(job)
        tokens = refusal_tokens(job)
        train_scores, residuals = observe(job, tokens["tokens"])
        sites = select_sites(job, tokens["tokens"], residuals)
        status = {name: direction_status(sites.own[name], train_scores, name) for name in domains}
        curves = describe_layers(job, tokens["tokens"], residuals, sites)
        held_out = measure(job, tokens["tokens"], residuals, sites)
        common, own_site, warnings = describe_geometry(job, residuals, sites, status)
        results = Results(
            tasks={
                name: task_result(
                    config, domain, status[name], sites, name, column, residuals, curves.get(name), judged
                )
                for (name, domain), column in zip(domains.items(), held_out.columns.values(), strict=True)
            },
            geometry=common,
            geometry_own_site=own_site,
            **describe_causes(job, residuals, sites, held_out, common),
            parity=parity,
            served=serve(job, tasks, endpoint) if endpoint is not None else None,
        )
        known_judge = judge_info(judge, judged, held_out.columns)
        beside_ours = published.beside(config, results, sites.common)
        record = build_record(job, tasks, tokens, train_scores, results, warnings, known_judge, beside_ours)
        outputs.write(record, job, residuals, train_scores, held_out.columns)
        if config.leaderboard is not None:
            add_record(config.leaderboard, record)
        folder.finish()
    return record, folder.path


def measure_judge(job: Job) -> JudgeCalibration | None:
    """Stage 1b: the judge's error on completions of known labels."""

    def compute() -> dict[str, Any] | None:
        error = measured_error(job.judge)
        return None if error is None else error.model_dump()

    found = job.folder.stage("judge", compute)
    return None if found is None else JudgeCalibration.model_validate(found)


def refusal_tokens(job: Job) -> dict[str, Any]:
    """Stage 2a: which first tokens count as a refusal."""
    total = sum(2 * len(domain.direction) for domain in job.domains.values())
    with job.reporter.stage("refusal tokens", total) as advance:
        found: dict[str, Any] = job.folder.stage(
            "refusal_tokens",
            lambda: find_refusal_tokens(
                job.backend, job.domains, job.config.refusal_tokens, job.judge, advance, writer=job.writer
            ),
            job.backend.counters,
        )
    return found


def observe(job: Job, tokens: list[int]) -> tuple[dict[str, list[float]], Residuals]:
    """Stage 2b: residuals and refusal scores of all train prompts, from one unmodified pass."""
    file = job.folder.stages / "residuals.npy"
    total = sum(2 * (len(domain.direction) + len(domain.selection)) for domain in job.domains.values())
    with job.reporter.stage("residual stream", total) as advance:
        scores = job.folder.stage(
            "residuals",
            lambda: read_residuals(job.backend, job.domains, tokens, file, advance),
            job.backend.counters,
        )
    return scores, Residuals.open(file, job.domains, job.positions)


def select_sites(job: Job, tokens: list[int], residuals: Residuals) -> Sites:
    """Stage 3: one candidate a domain on its own selection split, and the common site on all of them together."""

    def selected(name: str, vectors: Float[Tensor, "position layer d_model"], split: Rendered) -> Selected:
        data = SelectionData(split.harmful, split.harmless, tokens)
        with job.reporter.stage(f"selection: {name}", vectors.shape[0] * vectors.shape[1]) as advance:
            found = job.folder.stage(
                f"selection.{name}",
                lambda: select(
                    job.backend, vectors, job.positions, data, advance, screened=job.config.selection == "screened"
                ).to_json(),
                job.backend.counters,
            )
        return Selected.from_json(found)

    own = {
        name: selected(name, torch.from_numpy(residuals.vectors(name)), domain.selection)
        for name, domain in job.domains.items()
    }
    # With equally many pairs a domain this is the difference in means of all prompts together; with unequal numbers
    # every domain still counts the same.
    together = torch.from_numpy(np.mean([residuals.vectors(name) for name in job.domains], axis=0))
    return Sites(own, selected("all domains", together, pooled(job.domains, job.config.sizes.pooled_selection_pairs)))


def describe_layers(job: Job, tokens: list[int], residuals: Residuals, sites: Sites) -> dict[str, list[Layer]]:
    """Stage 3b: curves over all layers at each domain's selected position."""

    def curves(name: str, domain: Domain, site: Site) -> list[Layer]:
        """Curves of one domain, from its stage if that is done."""
        place = job.positions.index(site.position)
        vectors = residuals.vectors(name)[place]
        groups = (residuals.of(name, "selection", label)[:, place] for label in ("harmful", "harmless"))
        n = job.config.sizes.layer_curve_pairs
        data = SelectionData(domain.selection.harmful[:n], domain.selection.harmless[:n], tokens)

        def compute() -> list[dict[str, Any]]:
            separation = separations(vectors, *groups)
            layers = layer_curves(job.backend, torch.from_numpy(vectors), site.layer, data, separation, advance)
            return [layer.model_dump() for layer in layers]

        with job.reporter.stage(f"layers: {name}", len(vectors)) as advance:
            found = job.folder.stage(f"layers.{name}", compute, job.backend.counters)
        return [Layer.model_validate(layer) for layer in found]

    if not job.has("layers"):
        return {}
    return {name: curves(name, domain, sites.own[name].site) for name, domain in job.domains.items()}


def measure(job: Job, tokens: list[int], residuals: Residuals, sites: Sites) -> HeldOut:
    """Stage 4: every intervention on every domain's held-out prompts, a column of all matrices at a time."""
    directions = read_directions(
        residuals, {name: sites.own[name].site for name in job.domains}, sites.common.site, job.config.seed
    )
    subspace, prompts = job.has("subspace"), pooled(job.domains, job.config.sizes.pooled_selection_pairs).harmful
    greedy: list[int] = []
    if subspace:
        with job.reporter.stage("subspace order", len(prompts)):
            greedy = job.folder.stage(
                "held_out.order",
                lambda: greedy_order(job.backend, prompts, tokens, directions.common),
                job.backend.counters,
            )
    interventions = causal.plan(
        directions, greedy, job.config.sizes, job.config.seed, cross=job.has("cross_domain"), subspace=subspace
    )

    def column(name: str, domain: Domain) -> causal.Column:
        evaluator = Evaluator(
            job.backend,
            tuple(tokens),
            job.config.sizes.max_new_tokens,
            job.judge,
            outputs.completion_writer(job, name),
            job.writer,
        )
        with job.reporter.stage(
            f"held-out: {name}", causal.n_rows(interventions, len(domain.held_out), name)
        ) as advance:
            found: causal.Column = job.folder.stage(
                f"held_out.{name}",
                lambda: causal.measure_column(evaluator, name, domain, interventions, advance),
                job.backend.counters,
            )
        return found

    columns = {name: column(name, domain) for name, domain in job.domains.items()}
    return HeldOut(columns, causal.orderings(directions, greedy), measure_mixtures(job, tokens, interventions, columns))


def measure_mixtures(
    job: Job, tokens: list[int], interventions: causal.Interventions, columns: Mapping[str, causal.Column]
) -> Mixed | None:
    """Stage 4b: prompts of two domains under the domains' ablations; None where there are none."""
    prompts = job.mixed
    if prompts is None:
        return None
    evaluator = Evaluator(job.backend, tuple(tokens), job.config.sizes.max_new_tokens, job.judge)
    with job.reporter.stage("held-out: mixed", prompts.n_rows(len(job.domains))) as advance:
        found = job.folder.stage(
            "held_out.mixed",
            lambda: measure_mixed(evaluator, prompts, interventions, advance),
            job.backend.counters,
        )
    return summarise_mixed(found, prompts, interventions, columns, job.config.sizes.n_bootstrap, job.config.seed)


def describe_geometry(
    job: Job, residuals: Residuals, sites: Sites, status: Mapping[str, str | None]
) -> tuple[Geometry | None, Geometry | None, list[str]]:
    """Stage 5: geometry at the common site and at each domain's own; null, with the reason, where there is none."""
    if len(job.domains) < 2:
        return None, None, ["geometry: null, it needs at least two tasks"]
    if sum(reason is None for reason in status.values()) < 2:
        return None, None, ["geometry: null, fewer than two domains have a direction that passes every filter"]
    chosen_by = "pooled selection" if sites.common.passed else "pooled selection (no candidate passed)"
    site = sites.common.site
    common, warnings = geometry(
        {name: PairResiduals(*residuals.pairs_at(name, site)) for name in job.domains},
        GeometrySite(layer=site.layer, position=site.position, chosen_by=chosen_by),
        n_bootstrap=job.config.sizes.n_bootstrap,
        seed=job.config.seed,
    )
    own, own_warnings = geometry(
        {name: PairResiduals(*residuals.pairs_at(name, sites.own[name].site)) for name in job.domains},
        GeometrySite(layer=None, position=None, chosen_by="each domain"),
        n_bootstrap=job.config.sizes.n_bootstrap,
        seed=job.config.seed,
    )
    if not sites.common.passed:
        warnings.append("geometry: no candidate passed on pooled data; the common site is the least bad candidate")
    return common, own, warnings + [f"own site {warning}" for warning in own_warnings]


def site_effect(job: Job, residuals: Residuals, sites: Sites) -> SiteEffect:
    """Stage 5b: how much of the difference between both geometries comes from comparing different layers."""
    own = {name: sites.own[name].site for name in job.domains}
    return causal.site_effect(residuals, own, sites.common.site, job.config.sizes.n_bootstrap, job.config.seed)


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
        found["site_effect"] = site_effect(job, residuals, sites)
    return {"cross_domain": None, "subspace": None} | found


def _endpoint(config: RunConfig) -> Endpoint | None:
    """The endpoint of a run that asks for one, once it has answered."""
    name = resolve(config.model).id
    check_baseline_backend(config.baseline_backend, name)
    if config.baseline_backend != "openai":
        return None
    endpoint = Endpoint.from_environment(name)
    endpoint.check()
    return endpoint


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


def planted_prompts(tasks: Mapping[str, Task]) -> dict[str, Instruction]:
    """Every prompt's task and whether it is harmful: what a planted model is built to know."""
    return {
        row.prompt: Instruction(name, row.label == "harmful")
        for name, task in tasks.items()
        for row in (*task.train, *task.held_out)
    }


def _check_room(out: Path, model: ChatModel, domains: Mapping[str, Domain]) -> None:
    n_prompts = sum(2 * (len(domain.direction) + len(domain.selection)) for domain in domains.values())
    check_room(out, 4 * n_prompts * len(model.template.positions) * model.n_layers * model.d_model)


def _check_sizes(domains: Mapping[str, Domain]) -> None:
    for name, domain in domains.items():
        for split in ("direction", "selection", "held_out"):
            if len(getattr(domain, split)) < MIN_PAIRS:
                raise InputError(
                    f"task {name}: its {split} split has {len(getattr(domain, split))} pairs, at least {MIN_PAIRS} are "
                    "needed; add pairs to the task (12 train and 4 held-out pairs are the minimum)."
                )
