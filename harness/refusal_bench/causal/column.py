"""One domain's column of every causal table: its held-out prompts under every row.

Rows of different tables can be one and the same intervention: the whole span is the last subspace, a dose of 1 is the
domain's own row, two orderings take the same directions first. Such rows are measured once (`Measured`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from refusal_bench.causal.dependence import dependence
from refusal_bench.causal.rows import Interventions
from refusal_bench.evaluation import Evaluator
from refusal_bench.interventions import Ablate, Add, Intervention, SideBySide, joined, place_of, stacked_ablation
from refusal_bench.prompts import Domain
from refusal_bench.tasks.schema import Label

Observation = dict[str, Any]
"""{labels, scores, kl} of one row, in prompt order; without text {scores, kl}."""

Column = dict[str, Any]


@dataclass
class Measured:
    """Scores and KL of one set of prompts, by what was done to the model."""

    marks: list[Tensor] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)

    def add(self, what: Ablate | Add, found: Sequence[Observation]) -> None:
        """Keep what was measured under every variant."""
        self.marks += what.marks()
        self.observations += map(_scores, found)

    def scores(self, what: Ablate | Add, measure: Callable[[Ablate | Add], list[Observation]]) -> list[Observation]:
        """Return scores and KL under every variant, of which only those that are new are measured."""
        known, places, new = list(self.marks), list[int](), list[int]()
        for variant, mark in enumerate(what.marks()):
            place = place_of(mark, known)
            if place is None:
                place = len(known)
                known.append(mark)
                new.append(variant)
            places.append(place)
        if new:
            fresh = what.take(new)
            self.add(fresh, measure(fresh))
        return [self.observations[place] for place in places]


def measure_column(
    evaluator: Evaluator,
    name: str,
    domain: Domain,
    interventions: Interventions,
    on_progress: Callable[[int], None],
) -> Column:
    """Measure one domain's held-out prompts under every row. Holds letters, scores and KL, never text."""
    backend = evaluator.backend
    harmful, harmless = domain.held_out.harmful, domain.held_out.harmless
    base = backend.logits(harmless, lambda logits, _: logits)[0]
    measured = {"harmful": Measured(), "harmless": Measured()}

    def observe(
        rows: str | Sequence[str], prompts: Sequence[Any], what: Intervention | None, **options: Any
    ) -> list[Observation]:
        stage = f"{name}.{rows}" if isinstance(rows, str) else [f"{name}.{row}" for row in rows]
        generate = options.pop("generate", domain.generate or what is None)
        return evaluator.evaluate(stage, prompts, what, generate=generate, on_progress=on_progress, **options)

    def beside_baseline(
        label: Label, bases: Sequence[Tensor], add: Add | None = None, base: Tensor | None = None
    ) -> tuple[Observation, list[Observation], list[Observation]]:
        """Observe a label's prompts as they are, ablated and added to, in common passes where all have text."""
        prompts, plain = getattr(domain.held_out, label), f"baseline_{label}"
        stages = [f"ablated_{label}"] * len(bases) + [f"added_{label}"] * (0 if add is None else len(add))

        def what(bases: Sequence[Tensor]) -> Intervention:
            ablate = stacked_ablation(bases)
            return ablate if add is None else SideBySide(ablate, add)

        if domain.generate:
            baseline, *changed = observe([plain, *stages], prompts, what([bases[0][:0], *bases]), base=base)
        else:
            (baseline,), changed = observe(plain, prompts, None), observe(stages, prompts, what(bases), base=base)
        ablated, added = changed[: len(bases)], changed[len(bases) :]
        measured[label].add(stacked_ablation(bases), ablated)
        if add is not None:
            measured[label].add(add, added)
        return baseline, ablated, added

    own, _ = interventions.own[name]
    domains = list(interventions.own) if interventions.cross else [name]
    rows = {row: interventions.own[row][0][None] for row in domains} | dict(interventions.ablate)
    vectors = {row: interventions.own[row] for row in domains}
    vectors |= {row: (vector, interventions.layer) for row, vector in interventions.add.items()}
    adding = Add(torch.stack([vector for vector, _ in vectors.values()]), tuple(layer for _, layer in vectors.values()))
    with backend.keeping_prefix([*harmful, *harmless]):
        baseline_harmful, ablated, _ = beside_baseline("harmful", list(rows.values()))
        baseline_harmless, own_harmless, added = beside_baseline("harmless", [own[None]], adding, base)
        every = interventions.batches(name)
        scored: dict[str, dict[str, Observation]] = {batch.name: {} for batch in every}
        for label, prompts, reference in (("harmful", harmful, None), ("harmless", harmless, base)):
            batches = [batch for batch in every if batch.prompts == label]
            for places, what in joined([batch.what for batch in batches]):
                together, done = [batches[place] for place in places], measured[label]
                stage = "+".join(batch.name for batch in together)
                before = len(done.marks)
                found = done.scores(what, partial(observe, stage, prompts, base=reference, generate=False))
                on_progress(len(prompts) * (len(what) - (len(done.marks) - before)))  # rows that were known
                cells = iter(found)
                for batch in together:
                    scored[batch.name] = dict(zip(batch.rows, islice(cells, len(batch.rows)), strict=True))
    column = {
        "baseline_harmful": _without_text(baseline_harmful),
        "baseline_harmless": _without_text(baseline_harmless),
        "ablated_harmless": _without_text(own_harmless[0]),
        "ablated": {row: _without_text(found) for row, found in zip(rows, ablated, strict=True)},
        "added": {row: _without_text(found) for row, found in zip(vectors, added, strict=True)},
        "scored": scored,
        "loss_delta": _loss_delta(evaluator, harmless, baseline_harmless["tokens"], own[None]),
    }
    if interventions.independent is not None:
        column["dependence"] = dependence(backend, harmful, interventions.independent, on_progress).tolist()
    return column


def n_completed(interventions: Interventions, n_pairs: int) -> int:
    """Completions that `measure_column` computes for a domain's held-out pairs."""
    crossed = len(interventions.own) if interventions.cross else 1
    return n_pairs * (3 + 2 * crossed + len(interventions.ablate) + len(interventions.add))


def n_rows(interventions: Interventions, n_pairs: int, name: str) -> int:
    """Completions and scores that `measure_column` computes, rows that turn out to be the same counted apart."""
    scored = sum(len(batch.rows) for batch in interventions.batches(name))
    streams = 0 if interventions.independent is None else 1 + len(interventions.independent)
    return n_completed(interventions, n_pairs) + n_pairs * (scored + streams)


def cell(column: Mapping[str, Any], row: str, under: Literal["ablated", "added"], prompts: str) -> Observation | None:
    """Find a row's observation, with text or without; None where it was not measured. `none` is the baseline."""
    if row == "none":
        return column[f"baseline_{prompts}"]  # type: ignore[no-any-return]
    with_text = column[under] if (under, prompts) in (("ablated", "harmful"), ("added", "harmless")) else {}
    found: Observation | None = with_text.get(row) or column["scored"].get(f"{under}_{prompts}", {}).get(row)
    return found


def values(observation: Observation, what: Literal["scores", "kl"] = "scores") -> np.ndarray:
    """An observation's scores or KL, with nan for null."""
    return np.array(observation[what], dtype=float)


def _loss_delta(evaluator: Evaluator, prompts: Any, answers: Any, direction: Tensor) -> float | None:
    kept = [(prompt, tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True) if answer]
    if not kept:
        return None
    texts, kept_answers = zip(*kept, strict=True)
    before, after = evaluator.backend.answer_loss(texts, kept_answers, stacked_ablation([direction[:0], direction]))
    delta = float((after - before).mean())
    return delta if np.isfinite(delta) else None


def _without_text(observation: Observation) -> Observation:
    # Token ids are text: they may not reach the disk.
    return {key: value for key, value in observation.items() if key != "tokens"}


def _scores(observation: Observation) -> Observation:
    return {key: observation[key] for key in ("scores", "kl")}
