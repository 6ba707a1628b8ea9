"""The record, put together from what the stages measured; nothing is computed on a model here."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from refusal_bench import causal
from refusal_bench.config import MAX_UNSCORED_SHARE, SECTIONS
from refusal_bench.damage import neutral_loss
from refusal_bench.evaluation import condition_of
from refusal_bench.job import Job, Sites
from refusal_bench.judges import Judge
from refusal_bench.metrics.comparisons import SEVERAL
from refusal_bench.metrics.geometry import reliability
from refusal_bench.metrics.judging import panel_agreement, proportion
from refusal_bench.metrics.refusal import finite_mean
from refusal_bench.models.adapters import adapter_name
from refusal_bench.observation import SPLITS, Residuals, refused_train_prompts
from refusal_bench.record import (
    Condition,
    Cost,
    Damage,
    Direction,
    Environment,
    HeldOutIds,
    JudgeCalibration,
    JudgeInfo,
    Layer,
    Model,
    Published,
    Record,
    Refusal,
    Results,
    TaskInfo,
    TaskResult,
    Tool,
    Work,
)
from refusal_bench.selection import Selected
from refusal_bench.version import __version__

MIN_REFUSED_SHARE = 0.1
"""A model that refuses less of a domain's harmful train prompts has no refusal there to find a direction for."""

PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors", "peft", "gguf")


def direction_status(selected: Selected, train_scores: Mapping[str, list[float]], name: str) -> str | None:
    """Return why a domain has no direction, or None if it has one."""
    n = sum(len(train_scores[f"{name}.{split}.harmful"]) for split in SPLITS)
    refused = refused_train_prompts(train_scores, name)
    if refused < MIN_REFUSED_SHARE * n:
        return f"the model refuses only {refused} of {n} harmful train prompts, so there is no refusal to find"
    if selected.passed:
        return None
    counts = ", ".join(f"{count} by {reason}" for reason, count in selected.selection.rejected.items())
    return f"no candidate passes every filter; of {selected.selection.n_candidates}, removed: {counts}"


def task_result(
    job: Job,
    name: str,
    reason: str | None,
    sites: Sites,
    residuals: Residuals,
    column: causal.Column,
    layers: list[Layer] | None,
    judged: JudgeCalibration | None,
    neutral: Mapping[str, Any],
) -> TaskResult:
    """Everything measured for one domain."""
    config, held_out, selected = job.config, job.domains[name].held_out, sites.own[name]
    site = selected.site
    vector = residuals.vector_at(name, site)
    harmful, harmless = residuals.pairs_at(name, sites.common.site)

    def observed(observation: causal.Observation) -> Condition:
        return condition_of(observation, config.sizes.n_bootstrap, config.seed, judged)

    refusal = Refusal(
        baseline_harmful=observed(column["baseline_harmful"]),
        baseline_harmless=observed(column["baseline_harmless"]),
        ablated_harmful=observed(column["ablated"][name]),
        ablated_harmless=observed(column["ablated_harmless"]),
        added_harmless=observed(column["added"][name]),
    )
    return TaskResult(
        status="ok" if reason is None else "no_direction",
        reason=reason,
        direction=Direction(
            layer=site.layer,
            position=site.position,
            method=config.method,
            norm=math.sqrt(float((vector**2).sum())),
        ),
        selection=selected.selection,
        held_out_ids=HeldOutIds(harmful=list(held_out.harmful_ids), harmless=list(held_out.harmless_ids)),
        refusal=refusal,
        layers=layers,
        reliability=reliability(harmful - harmless, config.sizes.n_splits, config.seed),
        damage=Damage(
            kl_harmless=finite_mean(column["ablated_harmless"]["kl"]),
            loss_delta=column["loss_delta"],
            kl_added=finite_mean(column["added"][name]["kl"]),
            neutral=neutral_loss(neutral, name, config.sizes.n_bootstrap, config.seed),
            degenerate={which: proportion(of.labels.count("G"), of.n - of.n_unscored) for which, of in refusal},
        ),
    )


def build_record(
    job: Job,
    tokens: dict[str, Any],
    train_scores: Mapping[str, list[float]],
    results: Results,
    warnings: list[str],
    judge: JudgeInfo,
    published: Published | None = None,
) -> Record:
    """Put the record together; its status is `incomplete` where too much of what was generated could not be scored."""
    model, config = job.backend.model, job.config
    unscored, n = _unscored(job, results)
    return Record(
        run_id=job.folder.run_id,
        created=job.folder.created,
        status="incomplete" if unscored > MAX_UNSCORED_SHARE * n else "complete",
        tool=Tool(version=__version__, git_sha=_git_sha()),
        environment=_environment(model.module.device, quantized=config.quantization != "none"),
        model=Model(
            id=model.id,
            revision=model.revision,
            weights_sha256=model.weights_sha256,
            adapter_sha256=model.adapter_sha256,
            quantization=config.quantization,
            dtype=model.dtype,
            n_layers=model.n_layers,
            d_model=model.d_model,
            chat_template_sha256=model.chat_template_sha256,
            system_prompt_sha256=model.template.head_sha256,
            post_instruction_tokens=model.template.suffix_tokens,
            refusal_tokens=[model.template.tokenizer.decode([token]) for token in tokens["tokens"]],
            refusal_tokens_from=tokens["from"],
            ablation_sites=model.structure.description,
            source_quantization=model.source_quantization,
        ),
        config=config.measured()
        | {
            "model": model.id,
            "adapter": adapter_name(config.adapter),
            "judge": judge.name,
        },
        tasks={
            name: TaskInfo(
                version=task.manifest.version,
                sha256=task.sha256,
                n_train_harmful=len(job.domains[name].direction) + len(job.domains[name].selection),
                n_train_harmless=len(job.domains[name].direction) + len(job.domains[name].selection),
                n_held_out_harmful=len(job.domains[name].held_out),
                n_held_out_harmless=len(job.domains[name].held_out),
                n_train_refused=refused_train_prompts(train_scores, name),
            )
            for name, task in job.tasks.items()
        },
        results=results,
        warnings=_warnings(job, tokens, results, judge) + warnings,
        timings={stage: round(seconds, 3) for stage, seconds in job.folder.timings.items()},
        cost=Cost(
            forward_passes=sum(passes for passes, _ in job.folder.work.values()),
            tokens=sum(tokens for _, tokens in job.folder.work.values()),
            peak_memory_bytes=job.backend.counters.peak_memory_bytes(),
            stages={stage: Work(forward_passes=p, tokens=t) for stage, (p, t) in job.folder.work.items()},
            rows_per_batch=job.backend.passes.room.rows,
            tokens_per_batch=job.backend.passes.room.tokens,
            batches_at_once=job.backend.passes.workers.n,
        ),
        published=published,
        judge=judge,
    )


def judge_info(judge: Judge, judged: JudgeCalibration | None, columns: Mapping[str, causal.Column]) -> JudgeInfo:
    """Name the judge, with its error and, for a panel, its agreement on all completions of held-out prompts."""
    votes = defaultdict[str, str](str)
    for column in columns.values():
        rows = [column["baseline_harmful"], column["baseline_harmless"], column["ablated_harmless"]]
        for observation in (*rows, *column["ablated"].values(), *column["added"].values()):
            for member, letters in observation.get("votes", {}).items():
                votes[member] += letters
    return JudgeInfo(
        name=judge.name,
        version=judge.version,
        languages=list(judge.languages),
        input="answer",
        calibration=judged,
        agreement=panel_agreement(votes) if votes else None,
    )


def _unscored(job: Job, results: Results) -> tuple[int, int]:
    """Unscored and all completions of held-out prompts; text that a task forbids was never there to be scored."""
    conditions = [
        condition
        for name, result in results.tasks.items()
        for row, condition in result.refusal
        if row.startswith("baseline") or job.domains[name].generate
    ]
    if results.over_refusal is not None:
        conditions += [condition for _, condition in results.over_refusal.refusal]
    return sum(c.n_unscored for c in conditions), sum(c.n for c in conditions)


def _warnings(job: Job, tokens: dict[str, Any], results: Results, judge: JudgeInfo) -> list[str]:
    """Why numbers are null, and every fallback that changes one."""
    found = list(job.backend.model.warnings)
    if job.config.quick:
        found.append("quick run: fewer prompts, candidates and replicates; not comparable with a full run")
    if judge.calibration is None:
        found.append("judge: its error is not known, the bundled completions are missing; no rate is corrected")
    unscored, n = _unscored(job, results)
    if unscored > MAX_UNSCORED_SHARE * n:
        found.append(f"judge: {unscored} of {n} completions could not be scored; their rates are bounded only")
    if tokens["from"] == "default":
        found.append("refusal tokens: the model refuses too rarely to learn its own; the default list is used")
    found += [f"{name}: no direction: {result.reason}" for name, result in results.tasks.items() if result.reason]
    if any(result.damage.neutral is None for result in results.tasks.values()):
        found.append(
            "damage: the loss on neutral text is null, the tokenizer knows none of it or the loss is not finite"
        )
    if results.parity is not None and not results.parity.passed:
        found.append(f"vLLM: {results.parity.reason}; the hook backend wrote all text")
    for name, domain in job.domains.items():
        if not domain.generate:
            found.append(f"{name}: the task forbids text under intervention; its ablated and added labels are unscored")
    geometry, cross = results.geometry, results.cross_domain
    if (
        geometry
        and cross
        and geometry.verdict.startswith(SEVERAL)
        and (cross.verdict or "").startswith(causal.ONE_IN_EFFECT)
    ):
        found.append(
            "geometry: the directions differ but act as one, so what differs between them is not refusal (topic, "
            "wording, or harmless prompts that do not match)"
        )
    if results.cross_domain is not None:
        for j, name in enumerate(results.cross_domain.domains):
            if all(row[j] is None for row in results.cross_domain.transfer):
                found.append(f"transfer to {name}: null, its own drop is within noise")
    if results.cross_domain is not None and results.cross_domain.effects is not None:
        for name in results.cross_domain.effects.fragile:
            found.append(
                f"{name}: ablating random directions moves the refusal score beyond its interval; the model is fragile "
                "to any ablation here, so an effect must be judged against the random control"
            )
    for section in SECTIONS:
        if not job.has(section):
            reason = "left out by --sections" if section not in job.config.sections else "needs at least two tasks"
            found.append(f"{section}: null, {reason}")
    return found


def _environment(device: torch.device, *, quantized: bool) -> Environment:
    packages = (*PACKAGES, "bitsandbytes") if quantized else PACKAGES
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        packages={name: importlib.metadata.version(name) for name in packages},
        threads=torch.get_num_threads(),
    )


def _git_sha() -> str | None:
    """Commit of the checkout this file is in; an installed copy has none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
