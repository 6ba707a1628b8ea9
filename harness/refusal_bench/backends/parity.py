"""Does vLLM run the same model, and do its hooks change it as the hook backend's do?

Next-token log-probabilities of both backends are compared on prompts of different lengths: without intervention, with
a subspace ablated and with a vector added. The subspace and the vector are differences between these prompts' own
streams, so that both interventions change the model a great deal; one that changed nothing would prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from refusal_bench.backends.hf import HookBackend, Prompt
from refusal_bench.backends.vllm import VllmBackend
from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add, Intervention
from refusal_bench.record import Parity

N_PROMPTS = 8
"""Prompts compared, of lengths spread evenly over those of the run."""

TOLERANCE = 0.01
"""Largest disagreement (nats) that float32 rounding explains, with room."""

HALF_PRECISION_TOLERANCE = 0.3
"""The same in half precision: two kernels that round differently at every layer."""

LEAST_EFFECT = 4
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
    effects = {name: float((x - expected["baseline"]).abs().max()) for name, x in expected.items()}
    found = dict[str, float]()
    reason = None
    try:
        for name, what in interventions.items():
            rows = vllm.next_log_probabilities(chosen, what)
            found[name] = max(
                abs(float(expected[name][row, token]) - value)
                for row, top in enumerate(rows)
                for token, value in top.items()
            )
    except InputError as error:  # vLLM's module tree offers no place for the hooks
        reason = str(error)
    for name, difference in found.items():
        if not difference <= tolerance:
            reason = reason or f"{name}: log-probabilities differ by {difference:.2g} nats, {tolerance} is allowed"
        elif name != "baseline" and effects[name] < LEAST_EFFECT * tolerance:
            reason = reason or f"{name}: the intervention changes too little ({effects[name]:.2g} nats) to be a test"
    return Parity(
        backend="vllm",
        passed=reason is None,
        reason=reason,
        n_prompts=len(chosen),
        tolerance=tolerance,
        max_abs_diff={name: value if value < float("inf") else None for name, value in found.items()},
    )


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
