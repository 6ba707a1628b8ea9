"""May two records be compared at all? What differs between them, graded.

`hard`: a difference in a number would not be a difference between the models, and nothing is compared.
`soft`: said beside the result, because it may explain a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from refusal_bench.record import HeldOutIds, OverRefusal, Record, TaskInfo, TaskResult
from refusal_bench.words import short

UNSCORED_SHARE = 0.1
"""Share of prompts left out of a paired rate from which it is said."""

OVER_REFUSAL = "over_refusal"
"""The task, and section of a record, whose prompts belong to no domain."""


@dataclass(frozen=True)
class Reason:
    """One difference between two records."""

    grade: Literal["hard", "soft"]
    """`hard` forbids the comparison."""
    about: str
    """What differs."""
    text: str
    """A sentence."""


def common_tasks(base: Record, candidate: Record) -> list[str]:
    """Tasks that both records measured, in the base's order."""
    return [name for name in base.results.tasks if name in candidate.results.tasks]


def answered(record: Record) -> dict[str, TaskResult | OverRefusal]:
    """Every task whose prompts a record's model answered: the domains, then `over_refusal` where it was measured."""
    apart = record.results.over_refusal
    return {**record.results.tasks, **({} if apart is None else {OVER_REFUSAL: apart})}


def reasons(base: Record, candidate: Record) -> list[Reason]:
    """Every difference that matters to a comparison, the hard ones first."""
    found = [*_runs(base, candidate), *_tasks(base, candidate), *_prompting(base, candidate), *_soft(base, candidate)]
    return sorted(found, key=lambda reason: reason.grade != "hard")


def _runs(base: Record, candidate: Record) -> Iterator[Reason]:
    for side, record in (("base", base), ("candidate", candidate)):
        if record.status != "complete":
            yield Reason("hard", "status", f"the {side} is incomplete: too much of it could not be scored")
    for key in sorted(k for k in base.config.keys() | candidate.config.keys() if k.startswith("judge")):
        yield from _differ("hard", "judge", key, base.config.get(key), candidate.config.get(key))
    if base.judge is not None and candidate.judge is not None:
        names = [f"{record.judge.name} {record.judge.version}" for record in (base, candidate) if record.judge]
        yield from _differ("hard", "judge", "judge and its version", *names)
    quick = [record.config.get("quick") is True for record in (base, candidate)]
    if quick[0] != quick[1]:
        which = "base" if quick[0] else "candidate"
        yield Reason("hard", "quick", f"only the {which} is a quick run: other sample sizes and shorter answers")
    else:
        yield from _differ("hard", "answer length", "max_new_tokens", *(_longest(r) for r in (base, candidate)))


def _tasks(base: Record, candidate: Record) -> Iterator[Reason]:
    common = common_tasks(base, candidate)
    if not common:
        yield Reason("hard", "tasks", "the records have no task in common")
    for name in common:
        ours, theirs = base.tasks.get(name), candidate.tasks.get(name)
        if ours is None or theirs is None:
            yield Reason("hard", f"task {name}", f"{name}: one record does not say which version of the task it used")
            continue
        yield from _asked(name, ours, theirs)
        yield from _prompts(name, base.results.tasks[name].held_out_ids, candidate.results.tasks[name].held_out_ids)
        train = [(task.n_train_harmful, task.n_train_harmless) for task in (ours, theirs)]
        yield from _differ("soft", "n", f"train prompts of {name}", *("{} + {}".format(*n) for n in train))
    apart = base.results.over_refusal, candidate.results.over_refusal
    if apart[0] is not None and apart[1] is not None:
        yield from _asked(OVER_REFUSAL, apart[0], apart[1])
        yield from _prompts(OVER_REFUSAL, apart[0].held_out_ids, apart[1].held_out_ids)
    for side, one, other in (("base", base, candidate), ("candidate", candidate, base)):
        if extra := [name for name in answered(one) if name not in answered(other)]:
            yield Reason("soft", "tasks", f"only in the {side}, left out: {', '.join(extra)}")


def _asked(name: str, ours: TaskInfo | OverRefusal, theirs: TaskInfo | OverRefusal) -> Iterator[Reason]:
    yield from _differ("hard", f"task {name}", f"version of {name}", ours.version, theirs.version)
    if ours.version == theirs.version:
        yield from _differ("hard", f"task {name}", f"prompts of {name}", short(ours.sha256), short(theirs.sha256))


def _prompts(name: str, ours: HeldOutIds, theirs: HeldOutIds) -> Iterator[Reason]:
    for label in ("harmful", "harmless"):
        one, other = set(getattr(ours, label)), set(getattr(theirs, label))
        if one == other:
            continue
        if one and other and (one < other or other < one):
            sizes = f"{len(one)} and {len(other)} {label} held-out prompts; the {len(one & other)} common ones are used"
            yield Reason("soft", "n", f"{name}: {sizes}")
        else:
            yield Reason("hard", f"task {name}", f"{name}: the {label} held-out prompts are not the same")


def _prompting(base: Record, candidate: Record) -> Iterator[Reason]:
    ours, theirs = base.model, candidate.model
    asked = [record.config.get("system_prompt", "default") for record in (base, candidate)]
    same_template = ours.chat_template_sha256 == theirs.chat_template_sha256
    if not same_template:
        same_weights = ours.weights_sha256 == theirs.weights_sha256
        text = (
            "the same weights under another chat template" if same_weights else "each model has its own chat template"
        )
        yield Reason("hard" if same_weights else "soft", "template", text)
    thinking = [record.config.get("thinking", "default") for record in (base, candidate)]
    yield from _differ("hard", "thinking", "thinking", *thinking)
    if asked[0] != asked[1]:
        yield Reason("hard", "system prompt", "the runs used different system prompts")
    elif same_template and ours.system_prompt_sha256 != theirs.system_prompt_sha256:
        yield Reason("hard", "system prompt", "the text before the instruction differs under the same chat template")


def _soft(base: Record, candidate: Record) -> Iterator[Reason]:
    ours, theirs = base.model, candidate.model
    yield from _differ("soft", "model", "model", ours.id, theirs.id)
    yield from _differ("soft", "dtype", "data type", ours.dtype, theirs.dtype)
    yield from _differ("soft", "quantisation", "quantisation", ours.quantization, theirs.quantization)
    tokens = [" ".join(sorted(model.refusal_tokens)) for model in (ours, theirs)]
    if tokens[0] != tokens[1]:
        yield Reason("soft", "refusal tokens", "scores count different refusal tokens and are not compared; rates are")
    for key, about in (
        ("method", "direction method"),
        ("contrast", "contrast"),
        ("selection", "selection"),
        ("backend", "backend"),
        ("baseline_backend", "generation backend"),
    ):
        yield from _differ("soft", about, about, base.config.get(key), candidate.config.get(key))
    yield from _differ("soft", "tool version", "refusal-bench version", base.tool.version, candidate.tool.version)
    yield from _differ("soft", "device", "device", base.environment.device, candidate.environment.device)
    answers = answered(base), answered(candidate)
    for name in (name for name in answers[0] if name in answers[1]):
        for side, tasks in zip(("base", "candidate"), answers, strict=True):
            refusal = tasks[name].refusal
            for label, condition in (("harmful", refusal.baseline_harmful), ("harmless", refusal.baseline_harmless)):
                if condition.n_unscored > UNSCORED_SHARE * condition.n:
                    left_out = f"{condition.n_unscored} of {condition.n} {label} answers of the {side} are unscored"
                    yield Reason("soft", "unscored", f"{name}: {left_out} and left out of the pairs")


def _differ(grade: Literal["hard", "soft"], about: str, what: str, ours: object, theirs: object) -> Iterator[Reason]:
    if ours != theirs:
        yield Reason(grade, about, f"{what}: {ours} in the base, {theirs} in the candidate")


def _longest(record: Record) -> object:
    sizes = record.config.get("sizes")
    return sizes.get("max_new_tokens") if isinstance(sizes, dict) else None
