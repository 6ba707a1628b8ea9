"""Over-refusal: safe prompts that look dangerous, and unsafe contrasts, under the direction that the domains share.

No direction is taken from these prompts, and they belong to no domain. So the mean of the domains' unit directions at
the common site is ablated everywhere, or added there with the domains' mean norm, as in the controls of the causal
tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from refusal_bench.backends.passes import Prompt
from refusal_bench.calibration.planted_world import Instruction
from refusal_bench.causal import Observation
from refusal_bench.causal.directions import Directions
from refusal_bench.config import RunConfig, Sizes
from refusal_bench.evaluation import Evaluator, condition_of
from refusal_bench.interventions import Add, Intervention, SideBySide, stacked_ablation
from refusal_bench.metrics.judging import proportion
from refusal_bench.metrics.statistics import UNSCORED
from refusal_bench.record import HeldOutIds, JudgeCalibration, OverRefusal, Proportion, Refusal
from refusal_bench.tasks import Row, Task, load_tasks
from refusal_bench.tasks.schema import Kind, Label

NAME: Kind = "over_refusal"
"""Kind, and name, of the task; also the section of a run that measures it."""

CONDITIONS: Mapping[str, Label] = {
    "baseline_harmful": "harmful",
    "baseline_harmless": "harmless",
    "ablated_harmful": "harmful",
    "ablated_harmless": "harmless",
    "added_harmless": "harmless",
}


@dataclass(frozen=True)
class OverRefusalPrompts:
    """The task's rows that a run asks, by label, and the prompts rendered from them."""

    task: Task
    rows: Mapping[Label, tuple[Row, ...]]
    rendered: Mapping[Label, tuple[Prompt, ...]]

    @property
    def ids(self) -> dict[Label, tuple[str, ...]]:
        """Prompt ids by label."""
        return {label: tuple(row.id for row in rows) for label, rows in self.rows.items()}

    @property
    def n_rows(self) -> int:
        """Completions that `measure_over_refusal` writes."""
        return sum(len(self.rows[label]) for label in CONDITIONS.values())


def over_refusal_task(config: RunConfig) -> Task | None:
    """The task; None where the run leaves it out."""
    return load_tasks(NAME, config.tasks_path, (NAME,))[NAME] if NAME in config.sections else None


def planted_contrasts(task: Task | None, domains: Sequence[str]) -> dict[str, Instruction]:
    """What a planted model knows of them: the contrasts carry the domains' harm in turn, the safe ones none."""
    rows = task.held_out if task else ()
    return {
        row.prompt: Instruction(domains[i % len(domains)], True) if row.label == "harmful" else Instruction(NAME, False)
        for i, row in enumerate(rows)
    }


def render_over_refusal(task: Task, render: Callable[[str], Sequence[int]], sizes: Sizes) -> OverRefusalPrompts:
    """Render the first prompts of every type, as many of each label as the sizes say, or all there are."""

    def chosen(label: Label) -> Iterator[Row]:
        taken: dict[str | None, int] = {}
        for row in task.held_out:
            if row.label == label and taken.setdefault(row.type, 0) < sizes.over_refusal_per_type:
                taken[row.type] += 1
                yield row

    rows: dict[Label, tuple[Row, ...]] = {"harmful": tuple(chosen("harmful")), "harmless": tuple(chosen("harmless"))}
    rendered = {label: tuple(tuple(render(row.prompt)) for row in some) for label, some in rows.items()}
    return OverRefusalPrompts(task, rows, rendered)


def measure_over_refusal(
    evaluator: Evaluator, prompts: OverRefusalPrompts, directions: Directions, on_progress: Callable[[int], None]
) -> dict[str, Observation]:
    """Letters and scores of every condition, never text."""
    shared = directions.shared[None]
    ablate = stacked_ablation([shared[:0], shared])  # beside the model as it is
    add = Add.at(directions.norm * shared, directions.layer)
    found: dict[str, Observation] = {}
    interventions: dict[Label, Intervention] = {"harmful": ablate, "harmless": SideBySide(ablate, add)}
    for label, what in interventions.items():
        names = [name for name, of in CONDITIONS.items() if of == label]  # as it is, ablated, added to
        stages = [f"{NAME}.{name}" for name in names]
        observed = evaluator.evaluate(stages, prompts.rendered[label], what, on_progress=on_progress)
        for name, observation in zip(names, observed, strict=True):
            del observation["tokens"]  # token ids are text: they may not reach the disk
            found[name] = observation
    return found


def over_refusal(
    measured: Mapping[str, Observation],
    prompts: OverRefusalPrompts,
    layer: int,
    judged: JudgeCalibration | None,
    n_bootstrap: int,
    seed: int,
) -> OverRefusal:
    """Summarise what `measure_over_refusal` returned, all prompts together and by type."""
    conditions = {name: condition_of(measured[name], n_bootstrap, seed, judged) for name in CONDITIONS}
    types: dict[str, list[str]] = {label: [row.type or "" for row in rows] for label, rows in prompts.rows.items()}
    names = dict.fromkeys(types["harmless"] + types["harmful"])
    return OverRefusal(
        version=prompts.task.manifest.version,
        sha256=prompts.task.sha256,
        layer=layer,
        held_out_ids=HeldOutIds(harmful=list(prompts.ids["harmful"]), harmless=list(prompts.ids["harmless"])),
        types=types,
        refusal=Refusal(**conditions),
        by_type={
            kind: {name: _refused(conditions[name].labels, types[label], kind) for name, label in CONDITIONS.items()}
            for kind in names
        },
    )


def _refused(labels: str, types: Sequence[str], kind: str) -> Proportion:
    scored = [letter for letter, of in zip(labels, types, strict=True) if of == kind and letter not in UNSCORED]
    return proportion(scored.count("R"), len(scored))
