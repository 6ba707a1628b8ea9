"""What a run would do, without loading weights: prompts, tokens, memory; the numbers behind `run --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from refusal_bench import causal
from refusal_bench.causal.directions import N_PERMUTED, Directions
from refusal_bench.causal.mixed import MixedPrompts, mixed_task, planted_mixtures, render_mixed
from refusal_bench.config import DEPTH_LIMIT, RunConfig, Sizes
from refusal_bench.damage import N_PASSAGES, PASSAGE_TOKENS
from refusal_bench.errors import InputError
from refusal_bench.models.aliases import Source, resolve
from refusal_bench.models.memory import Shape, check_fits, gigabytes
from refusal_bench.models.show import access
from refusal_bench.observation import REFUSAL_TOKENS_BUDGET
from refusal_bench.over_refusal import OverRefusalPrompts, over_refusal_task, planted_contrasts, render_over_refusal
from refusal_bench.tasks import Task, load_tasks


@dataclass(frozen=True)
class Stage:
    """The most that a stage can take; filters and finished answers make it less."""

    name: str
    prompts: int
    """Prompts through the model, each variant of an intervention counted."""
    completions: int
    """How many of them go on to an answer."""
    answer_tokens: int
    """Longest answer."""

    def tokens(self, prompt_tokens: int) -> int:
        """Tokens through the blocks, at most, where no prompt is longer than `prompt_tokens`."""
        return self.prompts * prompt_tokens + self.completions * self.answer_tokens


@dataclass(frozen=True)
class Splits:
    """Pairs of a task in each of its splits."""

    direction: int
    selection: int
    held_out: int

    @staticmethod
    def of(task: Task, sizes: Sizes) -> Splits:
        """As `prompts.py` draws them."""
        train = min(len(task.pairs("train")), sizes.max_train_pairs)
        direction = round(sizes.direction_share * train)
        return Splits(direction, train - direction, min(len(task.pairs("held_out")), sizes.max_held_out_pairs))


def planned_stages(
    config: RunConfig,
    tasks: Mapping[str, Task],
    mixed: MixedPrompts | None,
    apart: OverRefusalPrompts | None,
    n_positions: int,
    n_layers: int,
) -> list[Stage]:
    """The stages of a run in order, each with the most it can take."""
    sizes = config.sizes
    splits = {name: Splits.of(task, sizes) for name, task in tasks.items()}
    n = len(splits)
    direction = sum(s.direction for s in splits.values())
    selection = sum(s.selection for s in splits.values())
    pooled = sum(min(s.selection, max(1, sizes.pooled_selection_pairs // n)) for s in splits.values())
    candidates = n_positions * int(DEPTH_LIMIT * n_layers)
    learned = 0 if config.refusal_tokens else 2 * direction
    stages = [
        Stage("refusal tokens", learned, learned, REFUSAL_TOKENS_BUDGET),
        Stage("residual stream", 2 * (direction + selection), 0, 0),
        # Two unmodified passes, then KL, bypass and induce of every candidate.
        Stage("selection", (2 + 3 * candidates) * (selection + pooled), 0, 0),
    ]
    if "layers" in config.sections:
        stages.append(Stage("layers", 2 * n_layers * selection, 0, 0))
    if n > 1 and "subspace" in config.sections:
        # Every direction not yet taken is tried at every step but the last.
        stages.append(Stage("subspace order", (n * (n + 1) // 2 - 1) * pooled, 0, 0))
    interventions = _interventions(config, list(tasks))
    held_out = sum(s.held_out for s in splits.values())
    rows = sum(causal.n_rows(interventions, s.held_out, name) for name, s in splits.items())
    # Beside them the unmodified logits, and twice the loss on the model's own answers.
    completed = causal.n_completed(interventions, held_out) + 2 * held_out
    stages.append(Stage("held-out prompts", rows + 3 * held_out, completed, sizes.max_new_tokens))
    if mixed is not None:
        stages.append(Stage("mixed prompts", mixed.n_rows(n), 0, 0))
    if apart is not None:
        stages.append(Stage("over-refusal", apart.n_rows, apart.n_rows, sizes.max_new_tokens))
    # Every passage unmodified, and with each domain's direction ablated and added.
    passages = (1 + 2 * n) * N_PASSAGES
    stages.append(Stage("neutral text", passages, passages, PASSAGE_TOKENS))
    return stages


def _interventions(config: RunConfig, names: list[str]) -> causal.Interventions:
    """The rows of the causal tables as a run lays them out, here for directions that are made up."""
    n = len(names)
    width = n + 2  # the directions must be independent, and so must what is left of each
    vectors = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    directions = Directions(
        own={name: (vector, 0) for name, vector in zip(names, vectors, strict=True)},
        own_harmless={name: torch.zeros(1, width) for name in names},
        common=vectors,
        permuted=torch.ones(N_PERMUTED, width),
        layer=0,
    )
    cross, subspace = (n > 1 and section in config.sections for section in ("cross_domain", "subspace"))
    return causal.plan(directions, list(range(n)), config.sizes, config.seed, cross=cross, subspace=subspace)


def describe_plan(config: RunConfig) -> list[tuple[str, str]]:
    """Return what a run would do as facts, without loading weights; InputError for what can be seen to be wrong now.

    Tokenizer and config of a hub model are fetched; where they are out of reach the plan says so and goes on.
    """
    source, tasks = resolve(config.model), load_tasks(config.tasks, config.tasks_path)
    where = source.id if source.kind in ("local", "gguf") else source.location
    facts = [("model", f"{source.id} ({source.kind}: {where}); {access(source)}")]
    if config.preset:
        facts.append(("preset", config.preset))
    facts.append(("weights", f"dtype {config.dtype}, quantization {config.quantization}, device {config.device}"))
    facts.append(("system", f"system prompt {config.system_prompt}"))
    for name, task in tasks.items():
        split = Splits.of(task, config.sizes)
        facts.append(
            (
                "task",
                f"{name} {task.manifest.version}: pairs for direction {split.direction}, selection {split.selection}, "
                f"held out {split.held_out}",
            )
        )
    facts += _work(config, source, tasks)
    facts.append(("judge", config.judge))
    facts.append(("sections", ", ".join(config.sections) or "none"))
    facts.append(("sizes", config.sizes.model_dump_json()))
    facts.append(("out", f"{config.out}; leaderboard {config.leaderboard or 'none'}"))
    return facts


def _work(config: RunConfig, source: Source, tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
    """Tokens, stages and memory, as far as tokenizer and shape are known."""
    from refusal_bench.models.loading import load_tokenizer
    from refusal_bench.models.template import ChatTemplate
    from refusal_bench.prompts import planted_prompts, render_tasks

    both, contrasts = mixed_task(config, tasks), over_refusal_task(config)
    try:
        known = planted_prompts(tasks) | planted_mixtures(both, tasks) | planted_contrasts(contrasts, list(tasks))
        tokenizer, shape, revision = load_tokenizer(source, config, known)
    except InputError as error:
        if source.kind in ("local", "gguf", "planted"):
            raise
        unread = [("tokens", f"not known: {error}")]
        return unread + ([("memory", _memory(source.id, source.shape, config))] if source.shape else [])
    template = ChatTemplate.of(tokenizer, config.system_prompt, config.thinking)
    domains = render_tasks(tasks, template, config.sizes, config.seed)
    first = next(iter(domains.values())).direction.harmful[0]
    splits = [split for domain in domains.values() for split in (domain.direction, domain.selection, domain.held_out)]
    mixed = None if both is None else render_mixed(both, list(domains), template.render, config.sizes)
    of_two = () if mixed is None else (*(prompt for some in mixed.harmful.values() for prompt in some), *mixed.harmless)
    apart = None if contrasts is None else render_over_refusal(contrasts, template.render, config.sizes)
    of_none = () if apart is None else (*apart.rendered["harmful"], *apart.rendered["harmless"])
    prompts_of = [*of_two, *of_none, *(prompt for split in splits for prompt in split.prompts)]
    longest = max(map(len, prompts_of))
    facts = [
        ("revision", revision or "none"),
        ("first prompt", " ".join(f"{token}:{tokenizer.decode([token])!r}" for token in first)),
        ("positions", ", ".join(f"{p} {t!r}" for p, t in zip(template.positions, template.suffix_tokens, strict=True))),
    ]
    stages = planned_stages(config, tasks, mixed, apart, len(template.positions), shape.n_layers)
    for stage in stages:
        answers = f", {stage.completions:,} of them answered" if stage.completions else ""
        facts.append(("at most", f"{stage.name}: {stage.prompts:,} prompts{answers}, {stage.tokens(longest):,} tokens"))
    prompts, tokens = sum(s.prompts for s in stages), sum(s.tokens(longest) for s in stages)
    facts.append(("in all", f"at most {prompts:,} prompts and {tokens:,} tokens through {shape.n_layers} layers"))
    return [*facts, ("memory", _memory(source.id, shape, config))]


def _memory(name: str, shape: Shape, config: RunConfig) -> str:
    """What the run needs and whether the device has it."""
    from refusal_bench.models.devices import free_bytes, resolve_device, resolve_dtype

    device = resolve_device(config.device)
    dtype = str(resolve_dtype(config.dtype, device, shape.published)).removeprefix("torch.")
    weights = gigabytes(shape.weight_bytes(dtype, config.quantization))
    least = gigabytes(shape.least_bytes(dtype, config.quantization))
    try:
        check_fits(name, shape, dtype, config.quantization, free_bytes(device), str(device))
    except InputError as error:
        return f"{least} at least, {weights} of it weights; does not fit here: {error}"
    return f"{least} at least, {weights} of it weights; fits on {device}"
