"""What an intervention breaks beside refusal: the loss on neutral text, which no direction of refusal should change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.files import read_text
from refusal_bench.interventions import Add, SideBySide, stacked_ablation
from refusal_bench.metrics.statistics import bootstrap_mean
from refusal_bench.record import NeutralLoss

TEXT = Path(__file__).with_name("data") / "neutral.txt"
"""Passages written for this purpose, one a paragraph; licence in the README beside it."""


N_PASSAGES = 16
"""Of neutral text."""

PASSAGE_TOKENS = 100
"""More than a passage takes in the vocabulary of a language model."""


def neutral_passages(backend: HookBackend) -> list[Prompt]:
    """Token ids of every passage that is at least two tokens for this tokenizer, without a chat template."""
    tokenizer = backend.model.template.tokenizer
    found = [tuple(tokenizer(" ".join(passage.split()))["input_ids"]) for passage in read_text(TEXT).split("\n\n")]
    return [ids for ids in found if len(ids) > 1]


def neutral_losses(backend: HookBackend, own: Mapping[str, tuple[Tensor, int]]) -> dict[str, Any]:
    """Loss (nats a token) of every passage: {baseline, tokens, domain: {ablated, added}}.

    `own` holds each domain's difference in means and the layer it is added at. A tokenizer that knows none of the text
    gives empty lists.
    """
    passages = neutral_passages(backend)
    first, rest = [ids[:1] for ids in passages], [ids[1:] for ids in passages]

    vectors, layers = torch.stack([vector for vector, _ in own.values()]), tuple(layer for _, layer in own.values())
    what = SideBySide(stacked_ablation([vectors[:0], *vectors[:, None]]), Add(vectors, layers))
    baseline, *losses = backend.answer_loss(first, rest, what).tolist() if passages else [[]] * len(what)
    rows = zip(own, losses[: len(own)], losses[len(own) :], strict=True)
    changed = {name: {"ablated": ablated, "added": added} for name, ablated, added in rows}
    return {"baseline": baseline, "tokens": sum(map(len, rest)), **changed}


def neutral_loss(found: Mapping[str, Any], name: str, n_bootstrap: int, seed: int) -> NeutralLoss | None:
    """Summarise what `neutral_losses` returned for one domain; None where there was nothing to measure."""
    baseline = torch.tensor(found["baseline"], dtype=torch.float64)
    rises = {key: torch.tensor(row, dtype=torch.float64) - baseline for key, row in found[name].items()}
    if not len(baseline) or not all(torch.isfinite(rise).all() for rise in rises.values()):
        return None
    intervals = {key: bootstrap_mean(rise.numpy(), n_bootstrap, seed) for key, rise in rises.items()}
    return NeutralLoss(
        n_passages=len(baseline),
        n_tokens=found["tokens"],
        baseline=float(baseline.mean()),
        ablated_rise=float(rises["ablated"].mean()),
        ablated_rise_ci95=intervals["ablated"],
        added_rise=float(rises["added"].mean()),
        added_rise_ci95=intervals["added"],
    )
