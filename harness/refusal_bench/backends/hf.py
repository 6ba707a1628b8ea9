"""What a Hugging Face model with hooks is asked: logits, residuals, greedy completions and losses of given answers.

Each with or without an intervention; `passes.py` runs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.batches import PASS_TOKENS, by_length, give_back_memory, padded_ids, plan_batches
from refusal_bench.backends.cache import new_cache
from refusal_bench.backends.decoding import State, decode
from refusal_bench.backends.hooks import ablation_leak, intervening, leak_limit, reading
from refusal_bench.backends.passes import Counters, Passes, Place, Prompt, count_variants, remembers_all
from refusal_bench.errors import InputError
from refusal_bench.interventions import Intervention
from refusal_bench.models.loading import ChatModel

Reduce = Callable[[Float[Tensor, "row vocab"], list[int]], Float[Tensor, "row ..."]]
"""What is kept of the first-answer-token logits; the second argument is each row's index into the prompts."""


@dataclass(frozen=True)
class Completion:
    """One greedy completion."""

    tokens: tuple[int, ...]
    """Generated ids without the end-of-sequence token."""
    first: Float[Tensor, ...]
    """What `reduce` kept of the first token's logits."""


@dataclass
class HookBackend:
    """One model with hooks."""

    model: ChatModel
    passes: Passes = field(init=False)

    def __post_init__(self) -> None:
        """Probe that ablation reaches every write to the stream; InputError if something of the direction is left."""
        give_back_memory()  # what loading took beside the weights
        self.passes = Passes(self.model)
        leak = ablation_leak(self.model, self.model.template.render("Tell me about rivers."))
        if not leak < leak_limit(self.model):
            raise InputError(
                f"{self.model.id}: after ablating a direction {leak:.2g} of the residual stream is still along it; "
                "this architecture writes to the stream somewhere unknown and is not supported."
            )

    @property
    def counters(self) -> Counters:
        """Work done so far."""
        return self.passes.counters

    def keeping_prefix(self, prompts: Sequence[Prompt]) -> AbstractContextManager[None]:
        """Run what all of these prompts begin with once an ablation, however often it is asked of some of them."""
        return self.passes.keeping_prefix(prompts)

    def logits(
        self,
        prompts: Sequence[Prompt],
        reduce: Reduce,
        intervention: Intervention | None = None,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> Float[Tensor, "variant prompt ..."]:
        """Reduce the first-answer-token logits of every prompt under every variant of an intervention."""
        out: list[list[Tensor | None]] = [[None] * len(prompts) for _ in range(count_variants(intervention))]

        def keep(places: Sequence[Place], logits: Tensor) -> None:
            """Put a batch's results in their places."""
            reduced = reduce(logits, [prompt for _, prompt in places]).cpu()
            for (variant, prompt), value in zip(places, reduced, strict=True):
                out[variant][prompt] = value
            with self.passes.lock:
                on_progress(len(places))

        self.passes.until_it_fits(lambda: self.passes.logits(prompts, intervention, keep))
        return torch.stack([torch.stack(row) for row in out])  # type: ignore[arg-type]

    def residuals(
        self,
        prompts: Sequence[Prompt],
        positions: Sequence[int],
        store: Callable[[int, Float[Tensor, "position layer d_model"]], None],
        reduce: Reduce,
    ) -> Float[Tensor, "prompt ..."]:
        """Hand the stream entering every block, at positions from the prompt's end, to `store`; reduce the logits."""
        prefix = self.passes.prefix_length(prompts, longest=max(map(len, prompts)))
        with reading(self.model.structure) as streams:

            def keep(logits: Tensor, rows: list[int]) -> Tensor:
                for row, prompt in enumerate(rows):
                    end = len(prompts[prompt]) - prefix
                    index = [end + position for position in positions]
                    stream = torch.stack([layer[row, index].float().cpu() for layer in streams.entering], dim=1)
                    with self.passes.lock:
                        store(prompt, stream)
                return reduce(logits, rows)

            return self.logits(prompts, keep)[0]

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        reduce: Reduce,
        intervention: Intervention | None = None,
        decided: Callable[[Sequence[int]], bool] = lambda tokens: False,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> list[list[Completion]]:
        """Complete every prompt greedily under every variant: [variant][prompt].

        A row ends at the end-of-sequence token, at `max_new_tokens`, or when `decided` says that more text cannot
        change what the caller wants to know.
        """
        out: list[list[Any]] = [[None] * len(prompts) for _ in range(count_variants(intervention))]
        ends = end_tokens(self.model)

        def keep(places: Sequence[Place], state: State) -> None:
            """Decode a batch and put its completions in their places."""
            first = reduce(state.logits, [prompt for _, prompt in places]).cpu()
            tokens = decode(state, self.passes.forward, ends, max_new_tokens, decided)
            for row, (variant, prompt) in enumerate(places):
                out[variant][prompt] = Completion(tuple(tokens[row]), first[row])
            with self.passes.lock:
                on_progress(len(places))

        self.passes.until_it_fits(lambda: self.passes.batches(prompts, intervention, keep, max_new_tokens))
        give_back_memory()  # the keys and values of hundreds of rows
        return out

    def answer_loss(
        self, prompts: Sequence[Prompt], answers: Sequence[Prompt], intervention: Intervention | None = None
    ) -> Float[Tensor, "variant prompt"]:
        """Mean cross-entropy (nats a token) of given answers, which must not be empty."""
        device = self.model.module.device
        texts = [(*prompt, *answer) for prompt, answer in zip(prompts, answers, strict=True)]
        order = by_length(texts)
        longest = max(map(len, texts))
        out = torch.zeros(count_variants(intervention), len(texts))

        def fill() -> None:
            """Run all passes; again from the start, in smaller batches, where memory ran out."""
            groups, batches = plan_batches(
                [len(texts[i]) for i in order],
                0,
                len(out),
                self.passes.room.rows,
                # Every token of an answer has logits: a batch has as many as all workers together have rows.
                max(self.passes.workers.n * self.passes.room.rows, longest),
                padded=remembers_all(self.model, longest),
                pass_tokens=PASS_TOKENS,
                workers=self.passes.workers.n,
            )
            with intervening(self.model.structure, intervention) as rows:

                @torch.inference_mode()
                def run(work: tuple[range, range]) -> None:
                    """One batch under one group of variants."""
                    variants, chosen = work[0], [order[i] for i in work[1]]
                    rows.variant = torch.tensor(variants, device=device).repeat_interleave(len(chosen))
                    some, starts = [texts[i] for i in chosen], [len(prompts[i]) for i in chosen]
                    out[variants.start : variants.stop, chosen] = self._losses(some, starts, len(variants)).cpu()

                self.passes.workers.each(run, [(variants, batch) for variants in groups for batch in batches])

        self.passes.until_it_fits(fill)
        return out

    def _losses(self, texts: Sequence[Prompt], starts: Sequence[int], n_variants: int) -> Float[Tensor, "variant text"]:
        """Mean cross-entropy of each text from its start on."""
        device = self.model.module.device
        widest, first = max(map(len, texts)), min(starts)
        ids = padded_ids(texts, device).repeat(n_variants, 1)
        places = torch.arange(widest, device=device)[None].expand(len(ids), -1)
        kept = torch.arange(first - 1, widest - 1)  # on the CPU, from where it indexes a tensor on any GPU
        logits = self.passes.forward(ids, new_cache(self.model.module.config), places, logits_to_keep=kept)
        each = -torch.log_softmax(logits.float(), -1).gather(-1, ids[:, first:, None])[..., 0]
        place = torch.arange(first, widest, device=each.device)
        start, end = (torch.tensor(x, device=each.device)[:, None] for x in (starts, [len(text) for text in texts]))
        counted = ((place >= start) & (place < end)).repeat(n_variants, 1)
        return ((each * counted).sum(dim=1) / counted.sum(dim=1)).view(n_variants, -1)


def end_tokens(model: ChatModel) -> set[int]:
    """End-of-sequence ids of the generation config and the tokenizer."""
    configured = getattr(model.module.generation_config, "eos_token_id", None)
    ends = set(configured) if isinstance(configured, list) else {configured}
    return {int(end) for end in ends | {model.template.tokenizer.eos_token_id} if end is not None}
