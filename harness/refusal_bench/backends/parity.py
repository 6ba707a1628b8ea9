"""Does vLLM run the same model, and do its hooks change it as the hook backend's do?

Next-token log-probabilities of both backends are compared on prompts of different lengths: without intervention, with
a subspace ablated and with a vector added. The subspace and the vector are differences between these prompts' own
streams, so that both interventions change the model a great deal; one that changed nothing would prove nothing.

The mean difference over a prompt's most likely tokens is what counts, of the prompt where it is largest: the largest
single difference is that of an unlikely token, and in half precision rounding alone makes it most of a nat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.backends.vllm import TOP, VllmBackend
from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add, Intervention
from refusal_bench.record import Parity

N_PROMPTS = 8
"""Prompts compared, of lengths spread evenly over those of the run."""

TOLERANCE = 0.01
"""Largest mean difference (nats) that float32 rounding explains, with room."""

HALF_PRECISION_TOLERANCE = 0.5
"""The same in half precision, where kernels round differently at every layer (measured: docs/backends.md)."""

LEAST_EFFECT = 3
"""An intervention must change the hook backend's log-probabilities by so many tolerances to be a test."""


def check_parity(hf: HookBackend, vllm: VllmBackend, prompts: Sequence[Prompt]) -> Parity:
    """Compare both backends on some of the prompts; a difference is a result, not an error."""
    chosen = _spread(prompts)
    tolerance = TOLERANCE if hf.model.dtype == "float32" else HALF_PRECISION_TOLERANCE
    layer, differences = _stream_differences(hf, chosen)
    interventions: dict[str, Intervention | None] = {
        "baseline": None,
        "ablated": Ablate.span(differences),
        "added": Add.at(differences[:1], layer),
    }
    expected = {name: torch.log_softmax(_logits(hf, chosen, what), dim=-1) for name, what in interventions.items()}
    unmodified = _most_likely(expected["baseline"])
    effects = {name: _worst_mean(_differences(x, unmodified)) for name, x in expected.items()}
    found = dict[str, list[ndarray]]()
    reason = None
    try:
        for name, what in interventions.items():
            found[name] = _differences(expected[name], vllm.next_log_probabilities(chosen, what))
    except InputError as error:  # vLLM's module tree offers no place for the hooks
        reason = str(error)
    means = {name: _worst_mean(differences) for name, differences in found.items()}
    for name, mean in means.items():
        if not mean <= tolerance:
            reason = reason or f"{name}: log-probabilities differ by {mean:.2g} nats, {tolerance} is allowed"
        elif name != "baseline" and effects[name] < LEAST_EFFECT * tolerance:
            reason = reason or f"{name}: the intervention changes too little ({effects[name]:.2g} nats) to be a test"
    return Parity(
        backend="vllm",
        passed=reason is None,
        reason=reason,
        n_prompts=len(chosen),
        tolerance=tolerance,
        max_abs_diff={name: _finite(np.max(np.concatenate(rows))) for name, rows in found.items()},
        mean_abs_diff={name: _finite(mean) for name, mean in means.items()},
    )


def _differences(expected: Tensor, found: Sequence[Mapping[int, float]]) -> list[ndarray]:
    """Absolute differences (nats) a prompt, at the tokens whose log-probabilities were found."""
    return [np.abs(expected[row, list(top)].numpy() - list(top.values())) for row, top in enumerate(found)]


def _worst_mean(differences: Sequence[ndarray]) -> float:
    return float(np.max([row.mean() for row in differences]))  # of numpy, since Python's max may pass a NaN over


def _most_likely(expected: Tensor) -> list[dict[int, float]]:
    """As many log-probabilities a prompt as vLLM gives."""
    values, tokens = expected.topk(min(TOP, expected.shape[-1]))
    return [dict(zip(*row, strict=True)) for row in zip(tokens.tolist(), values.tolist(), strict=True)]


def _finite(value: float) -> float | None:
    return float(value) if value < float("inf") else None


def _spread(prompts: Sequence[Prompt]) -> list[Prompt]:
    by_length = sorted(set(prompts), key=lambda prompt: (len(prompt), prompt))
    places = torch.linspace(0, len(by_length) - 1, min(N_PROMPTS, len(by_length))).round().long().tolist()
    return [by_length[place] for place in places]


def _logits(hf: HookBackend, prompts: Sequence[Prompt], what: Intervention | None) -> Tensor:
    return hf.logits(prompts, lambda logits, _: logits, what)[0].double()


def _stream_differences(hf: HookBackend, prompts: Sequence[Prompt]) -> tuple[int, Tensor]:
    """The middle layer, and how each prompt's stream entering it at the last token differs from the first one's."""
    layer = hf.model.n_layers // 2
    streams = dict[int, Tensor]()
    hf.residuals(
        prompts, (-1,), lambda prompt, x: streams.__setitem__(prompt, x[0, layer]), lambda logits, _: logits[:, :1]
    )
    return layer, torch.stack([streams[i] - streams[0] for i in range(1, len(prompts))])
