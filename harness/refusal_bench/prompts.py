"""Which prompts play which part in a run, as token ids: direction, selection and held-out split of every domain."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refusal_bench.backends.passes import Prompt
from refusal_bench.calibration.planted_world import Instruction
from refusal_bench.config import Sizes
from refusal_bench.errors import InputError
from refusal_bench.models.template import ChatTemplate
from refusal_bench.tasks import Row, Task
from refusal_bench.tasks.schema import Label

Pair = tuple[Row, Row]

MIN_PAIRS = 4
"""Fewest pairs in a split: with fewer there is nothing to resample or to test."""


@dataclass(frozen=True)
class Rendered:
    """Pairs of one split, harmful and harmless twins in the same order."""

    harmful_ids: tuple[str, ...]
    harmless_ids: tuple[str, ...]
    harmful: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.harmful)

    @property
    def ids(self) -> dict[Label, tuple[str, ...]]:
        """Prompt ids by label."""
        return {"harmful": self.harmful_ids, "harmless": self.harmless_ids}

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All harmful, then all harmless prompts."""
        return (*self.harmful, *self.harmless)


@dataclass(frozen=True)
class Domain:
    """The three disjoint splits of one task."""

    direction: Rendered
    """Train pairs that directions are computed from."""
    selection: Rendered
    """The other train pairs: candidates are chosen on them."""
    held_out: Rendered
    """Never seen before the final measurements."""
    generate: bool
    """Whether text may be generated under intervention."""


def planted_prompts(tasks: Mapping[str, Task]) -> dict[str, Instruction]:
    """Every prompt's task and whether it is harmful: what a planted model is built to know."""
    return {
        row.prompt: Instruction(name, row.label == "harmful")
        for name, task in tasks.items()
        for row in (*task.train, *task.held_out)
    }


def render_tasks(tasks: Mapping[str, Task], template: ChatTemplate, sizes: Sizes, seed: int) -> dict[str, Domain]:
    """Draw the direction and selection pairs of each task and render all prompts once, for every backend.

    InputError for a task with fewer than MIN_PAIRS pairs in a split.
    """
    domains = {name: _domain(task, template, sizes, seed) for name, task in tasks.items()}
    for name, domain in domains.items():
        for split in ("direction", "selection", "held_out"):
            if len(getattr(domain, split)) < MIN_PAIRS:
                raise InputError(
                    f"task {name}: its {split} split has {len(getattr(domain, split))} pairs, at least {MIN_PAIRS} are "
                    "needed; add pairs to the task (12 train and 4 held-out pairs are the minimum)."
                )
    return domains


def pooled(domains: Mapping[str, Domain], n_pairs: int) -> Rendered:
    """About n_pairs selection pairs of all domains together, in equal shares."""
    each = max(1, n_pairs // len(domains))
    parts = [_first(domain.selection, each) for domain in domains.values()]
    return Rendered(
        harmful_ids=tuple(x for part in parts for x in part.harmful_ids),
        harmless_ids=tuple(x for part in parts for x in part.harmless_ids),
        harmful=tuple(x for part in parts for x in part.harmful),
        harmless=tuple(x for part in parts for x in part.harmless),
    )


def name_seed(seed: int, name: str) -> np.random.Generator:
    """A random generator of its own for a purpose: draws do not depend on what was drawn before."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _domain(task: Task, template: ChatTemplate, sizes: Sizes, seed: int) -> Domain:
    train = task.pairs("train")
    order = name_seed(seed, task.manifest.name).permutation(len(train))[: sizes.max_train_pairs]
    n_direction = round(sizes.direction_share * len(order))
    direction, selection = sorted(order[:n_direction]), sorted(order[n_direction:])
    return Domain(
        direction=_render([train[i] for i in direction], template),
        selection=_render([train[i] for i in selection], template),
        held_out=_render(task.pairs("held_out")[: sizes.max_held_out_pairs], template),
        generate=task.manifest.generate,
    )


def _render(pairs: Sequence[Pair], template: ChatTemplate) -> Rendered:
    return Rendered(
        harmful_ids=tuple(harmful.id for harmful, _ in pairs),
        harmless_ids=tuple(harmless.id for _, harmless in pairs),
        harmful=tuple(tuple(template.render(harmful.prompt)) for harmful, _ in pairs),
        harmless=tuple(tuple(template.render(harmless.prompt)) for _, harmless in pairs),
    )


def _first(rendered: Rendered, n: int) -> Rendered:
    return Rendered(rendered.harmful_ids[:n], rendered.harmless_ids[:n], rendered.harmful[:n], rendered.harmless[:n])
