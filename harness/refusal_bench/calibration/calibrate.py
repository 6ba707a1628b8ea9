"""Does refusal-bench get worlds with known answers right, and at the stated rate?

Two levels, both through the code of a real run: residuals drawn from a planted model of the residual stream, where the
geometry is judged over many seeds; and planted Llama models, which a whole run measures from prompts to record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from refusal_bench.calibration.activation_worlds import HARMFULNESS, WORLDS
from refusal_bench.calibration.activations import activations, coverage_of, flags, measure, says_several, summary
from refusal_bench.calibration.coverage import intervals
from refusal_bench.calibration.planted_world import STUDY_COSINES
from refusal_bench.calibration.result import CORRECT_SHARE, WorldResult, at_least
from refusal_bench.calibration.whole_run import all_ok, components_for, several, transfer_within, with_model


def calibrate(
    names: Sequence[str] | None, seeds: int, on_progress: Callable[[str], None] = lambda name: None
) -> dict[str, WorldResult]:
    """Run the named worlds, or all; `seeds` is the number of activation samples a world."""
    results = {}
    for name in names or ALL:
        on_progress(name)
        results[name] = ALL[name](seeds)
    return results


def _single(seeds: int) -> WorldResult:
    return with_model(
        activations(
            WORLDS["single"],
            seeds,
            "one direction, full transfer, no flag",
            lambda g: not says_several(g) and not flags(g),
            0.95,
        ),
        "single",
        lambda record: all_ok(record) and not several(record) and transfer_within(record, np.ones((5, 5)), 0.1),
    )


def _study(seeds: int) -> WorldResult:
    return with_model(
        activations(
            WORLDS["study"],
            seeds,
            "more than one direction: the five published cosines",
            lambda g: says_several(g) and not flags(g),
            0.95,
        ),
        "study",
        lambda record: all_ok(record) and several(record) and transfer_within(record, STUDY_COSINES, 0.1),
    )


def _cone(seeds: int) -> WorldResult:
    return with_model(
        activations(WORLDS["cone"], seeds, "three dimensions", lambda g: g.n_components == 3, CORRECT_SHARE),
        "cone",
        lambda record: all_ok(record) and components_for(record, 0.9) == 3,
    )


def _topic_confound(seeds: int) -> WorldResult:
    return with_model(
        activations(
            WORLDS["topic_confound"],
            seeds,
            "one direction; low naive cosines are flagged as topic",
            lambda g: "topic_confound" in flags(g),
            CORRECT_SHARE,
        ),
        "topic_confound",
        lambda record: (
            # A run knows more than activations: what acts as one is one, however low the cosines.
            transfer_within(record, np.ones((5, 5)), 0.1)
            and any("differ but act as one" in warning for warning in record.warnings)
        ),
    )


def _shared_negatives(seeds: int) -> WorldResult:
    return activations(
        WORLDS["shared_negatives"],
        seeds,
        "unrelated directions; spuriously high cosines are flagged",
        lambda g: "shared_negatives" in flags(g),
        CORRECT_SHARE,
    )


def _harm_vs_refusal(seeds: int) -> WorldResult:
    """At the last instruction token each domain's harm has an axis; at the last template token refusal has one."""
    instruction, template = measure(HARMFULNESS, seeds), measure(WORLDS["single"], seeds)
    right = [says_several(a) and not says_several(b) for a, b in zip(instruction, template, strict=True)]
    result = WorldResult(
        expected="harm of several directions at the instruction, refusal of one at the template's last token",
        n_seeds=seeds,
        correct_share=float(np.mean(right)),
        coverage95=coverage_of(instruction, HARMFULNESS.gram),
        flagged_share=float(np.mean([bool(flags(g)) for g in (*instruction, *template)])),
        figures={"instruction": summary(HARMFULNESS, instruction), "template": summary(WORLDS["single"], template)},
        passed=at_least(float(np.mean(right)), CORRECT_SHARE, seeds),
    )
    return with_model(result, "harm_vs_refusal", lambda record: all_ok(record) and not several(record))


def _without_direction(name: str, expected: str, seeds: int) -> WorldResult:
    del seeds  # the model's answer is what counts
    return with_model(
        WorldResult(expected=expected, n_seeds=0, correct_share=1.0),
        name,
        lambda record: (
            all(task.status == "no_direction" for task in record.results.tasks.values())
            and record.results.geometry is None
        ),
    )


ALL: Mapping[str, Callable[[int], WorldResult]] = {
    "single": _single,
    "study": _study,
    "cone": _cone,
    "topic_confound": _topic_confound,
    "shared_negatives": _shared_negatives,
    "harm_vs_refusal": _harm_vs_refusal,
    "no_refusal": partial(_without_direction, "no_refusal", "the model never refuses: no direction, no geometry"),
    "late": partial(_without_direction, "late", "the direction exists only past 80 % of depth: no direction"),
    "intervals": intervals,
}
"""What `calibrate` runs, in this order."""
