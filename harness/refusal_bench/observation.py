"""The unmodified model on train prompts: its refusal tokens, scores, and residuals at every candidate site."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.directions import difference_in_means
from refusal_bench.errors import IncompleteRunError
from refusal_bench.evaluation import DEFAULT_OPENERS, Evaluator, learn_refusal_tokens, openers_to_tokens
from refusal_bench.judges import Judge
from refusal_bench.metrics.refusal import refusal_score
from refusal_bench.models.loading import ChatModel
from refusal_bench.prompts import Domain, Rendered
from refusal_bench.record import Site
from refusal_bench.tasks.schema import LABELS, Label

if TYPE_CHECKING:
    from refusal_bench.backends.vllm import VllmBackend

REFUSAL_TOKENS_BUDGET = 24
"""Tokens generated per train prompt to see whether the model refuses it."""

SPLITS = ("direction", "selection")


def find_refusal_tokens(
    backend: HookBackend,
    domains: Mapping[str, Domain],
    given: tuple[str, ...],
    judge: Judge,
    on_progress: Callable[[int], None],
    writer: VllmBackend | None = None,
) -> dict[str, Any]:
    """Return {tokens, from}: given by the user, learned from the model's refusals of train prompts, or the default."""
    tokenizer = backend.model.template.tokenizer
    default = openers_to_tokens(tokenizer, given or DEFAULT_OPENERS)
    source: Literal["user", "model", "default"] = "user" if given else "default"
    if not given:
        prompts = [prompt for domain in domains.values() for prompt in domain.direction.prompts]
        evaluator = Evaluator(backend, tuple(default), REFUSAL_TOKENS_BUDGET, judge, writer=writer)
        found = evaluator.evaluate("train", prompts, on_progress=on_progress)[0]
        learned = learn_refusal_tokens([t[0] if t else None for t in found["tokens"]], found["labels"])
        if learned:
            return {"tokens": learned, "from": "model"}
    return {"tokens": default, "from": source}


def size_of_residuals(model: ChatModel, domains: Mapping[str, Domain]) -> int:
    """Bytes of the file that `read_residuals` writes."""
    return 4 * len(_train_prompts(domains)) * len(model.template.positions) * model.n_layers * model.d_model


def read_residuals(
    backend: HookBackend,
    domains: Mapping[str, Domain],
    refusal_tokens: list[int],
    file: Path,
    on_progress: Callable[[int], None],
) -> dict[str, list[float]]:
    """Write every train prompt's residuals to `file` (.npy, [prompt, position, layer, d_model]); return the scores.

    IncompleteRunError if the model produces NaN.
    """
    model, prompts = backend.model, _train_prompts(domains)
    positions = model.template.positions
    shape = (len(prompts), len(positions), model.n_layers, model.d_model)
    residuals = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)

    def store(prompt: int, stream: Float[torch.Tensor, "position layer d_model"]) -> None:
        residuals[prompt] = stream.numpy()
        on_progress(1)

    scores = backend.residuals(prompts, positions, store, lambda logits, _: refusal_score(logits, refusal_tokens))
    residuals.flush()
    if not (torch.isfinite(scores).all() and np.isfinite(residuals).all()):
        raise IncompleteRunError(
            f"{model.id} produced NaN or infinity without any intervention in {model.dtype}; try --dtype float32."
        )
    out, start = {}, 0
    for name, split, rendered in _train_splits(domains):
        for label in LABELS:
            out[f"{name}.{split}.{label}"] = [float(s) for s in scores[start : start + len(rendered)]]
            start += len(rendered)
    return out


@dataclass(frozen=True)
class Residuals:
    """Residuals on disk, by domain, split and label."""

    array: Float[ndarray, "prompt position layer d_model"]
    places: Mapping[tuple[str, str, Label], slice]
    positions: tuple[int, ...]

    @staticmethod
    def open(file: Path, domains: Mapping[str, Domain], positions: tuple[int, ...]) -> Residuals:
        """Map the file that `read_residuals` wrote."""
        places, start = {}, 0
        for name, split, rendered in _train_splits(domains):
            for label in LABELS:
                places[name, split, label] = slice(start, start + len(rendered))
                start += len(rendered)
        return Residuals(np.load(file, mmap_mode="r"), places, positions)

    def of(self, domain: str, split: str, label: Label) -> Float[ndarray, "prompt position layer d_model"]:
        """Return one group of prompts."""
        return self.array[self.places[domain, split, label]]

    def vectors(self, domain: str) -> Float[ndarray, "position layer d_model"]:
        """Difference in means of a domain's direction split."""
        return difference_in_means(self.of(domain, "direction", "harmful"), self.of(domain, "direction", "harmless"))

    def vector_at(self, domain: str, site: Site) -> Float[ndarray, " d_model"]:
        """Difference in means at one site."""
        at: ndarray = self.vectors(domain)[self.positions.index(site.position), site.layer]
        return at

    def pairs_at(
        self, domain: str, site: Site
    ) -> tuple[Float[ndarray, "pair d_model"], Float[ndarray, "pair d_model"]]:
        """Harmful and harmless residuals of the direction pairs at one site, in float64."""
        place = self.positions.index(site.position)
        harmful, harmless = (
            self.of(domain, "direction", label)[:, place, site.layer].astype(float) for label in LABELS
        )
        return harmful, harmless


def refused_train_prompts(scores: Mapping[str, list[float]], name: str) -> int:
    """Number of harmful train prompts of a domain with a positive refusal score."""
    return sum(s > 0 for split in SPLITS for s in scores[f"{name}.{split}.harmful"] if math.isfinite(s))


def _train_splits(domains: Mapping[str, Domain]) -> list[tuple[str, str, Rendered]]:
    return [(name, split, getattr(domain, split)) for name, domain in domains.items() for split in SPLITS]


def _train_prompts(domains: Mapping[str, Domain]) -> list[Prompt]:
    return [prompt for _, _, rendered in _train_splits(domains) for prompt in rendered.prompts]
