"""Hugging Face models with hooks: logits, residuals and greedy completions, with or without an intervention.

Every pass evaluates `variants x prompts` rows. The token prefix that all prompts share (template head, system prompt)
runs once a variant and its keys and values are reused; prompts are batched by length and padded on the right, where
causal attention never sees the padding. Layers whose memory is shorter than the text (sliding windows, recurrent
states) would count padding, so such models get neither: only prompts of equal length share a batch. Batch composition
depends only on the input, so results repeat exactly.
"""

from __future__ import annotations

import copy
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.batches import PASS_TOKENS, SMALLEST_BATCH, Room, fits, plan_batches
from refusal_bench.backends.hooks import Rows, ablation_leak, intervening, reading, scoring_at
from refusal_bench.errors import IncompleteRunError, InputError
from refusal_bench.interventions import Add, Intervention
from refusal_bench.models.loading import ChatModel
from refusal_bench.models.lookback import cache_argument

Prompt = tuple[int, ...]
"""Token ids of one rendered prompt."""

Reduce = Callable[[Float[Tensor, "row vocab"], list[int]], Float[Tensor, "row ..."]]
"""What is kept of the first-answer-token logits; the second argument is each row's index into the prompts."""

LEAK_LIMIT = 1e-3
"""Largest share of the stream that may remain along an ablated direction."""

HALF_PRECISION_LEAK_LIMIT = 0.05
"""The same in half precision, which rounds every write to two or three digits."""

STILL_WRITING = 0.75
"""Share of unfinished rows from which down the finished ones leave a batch."""

BRANCHED = 6
"""Vectors added at one layer from which on they share one row up to that layer."""


@dataclass
class Counters:
    """Work done so far."""

    forward_passes: int = 0
    tokens: int = 0

    def peak_memory_bytes(self) -> int:
        """Peak memory of the GPU, or of this process."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


@dataclass(frozen=True)
class Completion:
    """One greedy completion."""

    tokens: tuple[int, ...]
    """Generated ids without the end-of-sequence token."""
    first: Float[Tensor, ...]
    """What `reduce` kept of the first token's logits."""


@dataclass
class HookBackend:
    """Runs one model; the only place that calls it."""

    model: ChatModel
    counters: Counters = field(default_factory=Counters)
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        """Probe that ablation reaches every write to the stream; InputError if something of the direction is left."""
        self.room = Room.of(self.model)
        leak = ablation_leak(self.model, self.model.template.render("Tell me about rivers."))
        limit = LEAK_LIMIT if self.model.dtype == "float32" else HALF_PRECISION_LEAK_LIMIT
        if not leak < limit:
            raise InputError(
                f"{self.model.id}: after ablating a direction {leak:.2g} of the residual stream is still along it; "
                "this architecture writes to the stream somewhere unknown and is not supported."
            )

    def logits(
        self,
        prompts: Sequence[Prompt],
        reduce: Reduce,
        intervention: Intervention | None = None,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> Float[Tensor, "variant prompt ..."]:
        """Reduce the first-answer-token logits of every prompt under every variant of an intervention."""
        out: list[list[Tensor | None]] = [[None] * len(prompts) for _ in range(_n_variants(intervention))]

        def fill() -> None:
            """Run all passes; again from the start, in smaller batches, where memory ran out."""
            if isinstance(intervention, Add) and len(intervention) >= BRANCHED and self._can_branch:
                passes = self._branched(prompts, intervention)
            else:
                passes = self._prefilled(prompts, intervention)
            for variants, batch, step in passes:
                reduced = reduce(step.logits, [batch[row % len(batch)] for row in range(step.logits.shape[0])])
                for row, value in enumerate(reduced.cpu()):
                    out[variants[row // len(batch)]][batch[row % len(batch)]] = value
                on_progress(len(reduced))

        self._until_it_fits(fill)
        return torch.stack([torch.stack(row) for row in out])  # type: ignore[arg-type]

    def residuals(
        self,
        prompts: Sequence[Prompt],
        positions: Sequence[int],
        store: Callable[[int, Float[Tensor, "position layer d_model"]], None],
        reduce: Reduce,
    ) -> Float[Tensor, "prompt ..."]:
        """Hand the stream entering every block, at positions from the prompt's end, to `store`; reduce the logits."""
        prefix = self._prefix_length(prompts, longest=max(map(len, prompts)))
        with reading(self.model.structure) as streams:

            def keep(logits: Tensor, rows: list[int]) -> Tensor:
                suffix = streams[-self.model.n_layers - 1 : -1]  # without the last block's output
                for row, prompt in enumerate(rows):
                    end = len(prompts[prompt]) - prefix
                    index = [end + position for position in positions]
                    store(prompt, torch.stack([layer[row, index].float().cpu() for layer in suffix], dim=1))
                streams.clear()
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
        out: list[list[Any]] = [[None] * len(prompts) for _ in range(_n_variants(intervention))]

        def fill() -> None:
            """Run all passes; again from the start, in smaller batches, where memory ran out."""
            for variants, batch, step in self._prefilled(prompts, intervention, max_new_tokens):
                n_rows = step.logits.shape[0]
                first = reduce(step.logits, [batch[row % len(batch)] for row in range(n_rows)]).cpu()
                tokens = self._decode(step, max_new_tokens, decided)
                for row in range(n_rows):
                    place = variants[row // len(batch)], batch[row % len(batch)]
                    out[place[0]][place[1]] = Completion(tuple(tokens[row]), first[row])
                on_progress(n_rows)

        self._until_it_fits(fill)
        return out

    def answer_loss(
        self, prompts: Sequence[Prompt], answers: Sequence[Prompt], intervention: Intervention | None = None
    ) -> Float[Tensor, "variant prompt"]:
        """Mean cross-entropy (nats a token) of given answers, which must not be empty."""
        device = self.model.module.device
        n_variants = _n_variants(intervention)
        texts = [(*prompt, *answer) for prompt, answer in zip(prompts, answers, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        longest = max(map(len, texts))
        out = torch.zeros(n_variants, len(texts))

        def fill() -> None:
            """Run all passes; again from the start, in smaller batches, where memory ran out."""
            at_once, batches = plan_batches(
                [len(texts[i]) for i in order],
                0,
                n_variants,
                self.room.rows,
                max(self.room.rows, longest),  # every token of an answer has logits, as much as a whole prompt has else
                padded=_remembers_all(self.model, longest),
                pass_tokens=PASS_TOKENS,
            )
            with torch.inference_mode(), intervening(self.model.structure, intervention) as rows:
                for first in range(0, n_variants, at_once):
                    variants = torch.arange(first, min(first + at_once, n_variants), device=device)
                    for batch in batches:
                        chosen = [order[i] for i in batch]
                        rows.variant = variants.repeat_interleave(len(chosen))
                        some, starts = [texts[i] for i in chosen], [len(prompts[i]) for i in chosen]
                        out[first : first + len(variants), chosen] = self._losses(some, starts, len(variants)).cpu()

        self._until_it_fits(fill)
        return out

    def _losses(self, texts: Sequence[Prompt], starts: Sequence[int], n_variants: int) -> Float[Tensor, "variant text"]:
        """Mean cross-entropy of each text from its start on."""
        device = self.model.module.device
        widest, first = max(map(len, texts)), min(starts)
        padded = [[*text, *[0] * (widest - len(text))] for text in texts]
        ids = torch.tensor(padded, device=device).repeat(n_variants, 1)
        places = torch.arange(widest, device=device)[None].expand(len(ids), -1)
        kept = torch.arange(first - 1, widest - 1)  # on the CPU: see `_last`
        logits = self._forward(ids, _new_cache(self.model), places, logits_to_keep=kept)
        each = -torch.log_softmax(logits.float(), -1).gather(-1, ids[:, first:, None])[..., 0]
        place = torch.arange(first, widest, device=each.device)
        start, end = (torch.tensor(x, device=each.device)[:, None] for x in (starts, [len(text) for text in texts]))
        counted = ((place >= start) & (place < end)).repeat(n_variants, 1)
        return ((each * counted).sum(dim=1) / counted.sum(dim=1)).view(n_variants, -1)

    def _until_it_fits(self, work: Callable[[], None]) -> None:
        """Do work again with half the room each time memory runs out; IncompleteRunError when there is none left."""
        while not fits(work):
            if self.room.tokens <= SMALLEST_BATCH:
                raise IncompleteRunError(
                    f"out of memory with batches of {self.room.tokens} tokens; free memory or use a smaller or "
                    "quantised model, then run the same command to go on."
                )
            self.room = self.room.halved()

    def _decode(self, step: _Step, max_new_tokens: int, decided: Callable[[Sequence[int]], bool]) -> list[list[int]]:
        """Greedy decoding after a prefill; finished rows leave the batch once they are a quarter of it.

        Every leaving copies the cache, and on a CPU a new number of rows costs new kernels.
        """
        ends = end_tokens(self.model)
        tokens: list[list[int]] = [[] for _ in range(step.logits.shape[0])]
        alive = torch.arange(len(tokens))
        following = step.logits.argmax(dim=-1).cpu()
        writing = [True] * len(tokens)
        for count in range(max_new_tokens):
            keep = []
            for place, (row, token) in enumerate(zip(alive.tolist(), following.tolist(), strict=True)):
                if writing[row] and token not in ends:
                    tokens[row].append(token)
                    writing[row] = count + 1 < max_new_tokens and not decided(tokens[row])
                else:
                    writing[row] = False
                if writing[row]:
                    keep.append(place)
            if not keep:
                break
            if len(keep) <= STILL_WRITING * len(alive):
                alive, following = alive[keep], following[keep]
                step.select(torch.tensor(keep))  # on the CPU: the cache of a model may be spread over several GPUs
            following = self._step(step, following).argmax(dim=-1).cpu()
        return tokens

    def _step(self, step: _Step, following: Tensor) -> Float[Tensor, "row vocab"]:
        device = self.model.module.device
        step.mask = torch.cat([step.mask, torch.ones_like(step.mask[:, :1])], dim=1)
        step.rows.variant = step.variant
        logits = self._forward(
            following[:, None].to(device), step.cache, step.lengths[:, None], attention_mask=step.mask, logits_to_keep=1
        )
        step.lengths = step.lengths + 1
        return logits[:, -1]

    def _prefilled(self, prompts: Sequence[Prompt], intervention: Intervention | None, answer_room: int = 0) -> Any:
        """Yield (variants, prompt indices, state after the prompts) for every batch of rows, variants outermost."""
        longest = max(map(len, prompts)) + answer_room
        prefix = self._prefix_length(prompts, longest)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        n_variants = _n_variants(intervention)
        at_once, batches = plan_batches(
            [len(prompts[i]) - prefix for i in order],
            prefix,
            n_variants,
            self.room.rows,
            self.room.decoding_tokens if answer_room else self.room.tokens,
            padded=_remembers_all(self.model, longest),
            pass_tokens=PASS_TOKENS * (1 + answer_room),  # a batch more is a pass more for every token that follows
        )
        with torch.inference_mode(), intervening(self.model.structure, intervention) as rows:
            for first in range(0, n_variants, at_once):
                variants = list(range(first, min(first + at_once, n_variants)))
                head = self._head(prompts[0][:prefix], variants, rows)
                for batch in batches:
                    chosen = [order[i] for i in batch]
                    cache = head if batch is batches[-1] else copy.deepcopy(head)
                    yield variants, chosen, self._prefill([prompts[i] for i in chosen], prefix, variants, cache, rows)

    def _branched(self, prompts: Sequence[Prompt], add: Add) -> Any:
        """Yield as `_prefilled`, one prompt at a time: all variants share one row up to the layer they are added at.

        There each becomes a row of its own; positions, mask and earlier layers' caches have the rows of before.
        """
        order = sorted(range(len(add)), key=lambda variant: add.layers[variant])
        device = self.model.module.device
        prefix = self._prefix_length(prompts, max(map(len, prompts)))
        widest = max(prefix, *(len(prompt) - prefix for prompt in prompts))
        at_once = max(1, min(self.room.rows, self.room.tokens // widest))
        with torch.inference_mode(), intervening(self.model.structure, add, branching=True) as rows:
            for first in range(0, len(add), at_once):
                variants = order[first : first + at_once]
                layers = [add.layers[variant] for variant in variants]
                rows.variant = torch.tensor(variants, device=device)
                head = _new_cache(self.model)
                if prefix:
                    self._forward_branched(prompts[0][:prefix], 0, head, layers)
                for place, prompt in enumerate(prompts):
                    cache = copy.deepcopy(head)
                    logits = self._forward_branched(prompt[prefix:], prefix, cache, layers)[1:]
                    lengths = torch.full((len(variants),), len(prompt), device=device)
                    mask = torch.ones(len(variants), len(prompt), dtype=torch.long, device=device)
                    yield (
                        variants,
                        [place],
                        _Step(_scorable(logits[:, -1].float()), cache, mask, lengths, rows.variant, rows),
                    )

    @cached_property
    def _can_branch(self) -> bool:
        """Whether one row may become several in mid-model: not where biases are laid out a row beforehand (BLOOM)."""
        add = Add.at(torch.zeros(2, self.model.d_model), self.model.n_layers // 2)
        prompts = [tuple(self.model.template.render("Tell me about rivers."))]
        counters, self.counters = self.counters, Counters()  # no stage's work: a resumed run probes again
        try:
            ((_, _, plain),) = self._prefilled(prompts, None)
            ((_, _, branched),) = self._branched(prompts, add)
        except RuntimeError:  # shapes that do not fit
            return False
        finally:
            self.counters = counters
        close = HALF_PRECISION_LEAK_LIMIT if self.model.dtype != "float32" else LEAK_LIMIT
        return bool((branched.logits - plain.logits).norm() < close * plain.logits.norm())

    def _forward_branched(
        self, tokens: Prompt, start: int, cache: Any, layers: Sequence[int]
    ) -> Float[Tensor, "row kept vocab"]:
        """Run one row of tokens that one more leaves at each of `layers`; counted as the share of work that it is."""
        device = self.model.module.device
        places = torch.arange(start, start + len(tokens), device=device)[None]
        counted = self.counters.tokens
        logits = self._forward(torch.tensor([tokens], device=device), cache, places, logits_to_keep=_last(len(tokens)))
        blocks = self.model.n_layers + sum(self.model.n_layers - layer for layer in layers)
        self.counters.tokens = counted + len(tokens) * blocks // self.model.n_layers
        return logits

    def _prefill(
        self, prompts: Sequence[Prompt], prefix: int, variants: Sequence[int], cache: Any, rows: Rows
    ) -> _Step:
        """Run prompts behind their prefix, whose keys and values `cache` holds with one row a variant."""
        device = self.model.module.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat(len(variants))
        widest = max(map(len, prompts))
        padded = [list(prompt[prefix:]) + [0] * (widest - len(prompt)) for prompt in prompts]
        ids = torch.tensor(padded, device=device).repeat(len(variants), 1)
        rows.variant = torch.tensor(variants, device=device).repeat_interleave(len(prompts))
        if prefix:
            cache.batch_repeat_interleave(len(prompts))
        columns = torch.arange(prefix, widest, device=device)
        with scoring_at(self.model.module, lengths - prefix - 1):
            logits = self._forward(ids, cache, columns[None].expand(len(ids), -1))
        return _Step(
            logits=_scorable(logits[:, 0].float()),
            cache=cache,
            mask=(torch.arange(widest, device=device)[None] < lengths[:, None]).long(),
            lengths=lengths,
            variant=rows.variant,
            rows=rows,
        )

    def _head(self, prefix: Prompt, variants: list[int], rows: Rows) -> Any:
        """A cache with the keys and values of the shared prefix, one row a variant."""
        device = self.model.module.device
        cache = _new_cache(self.model)
        if prefix:
            rows.variant = torch.tensor(variants, device=device)
            ids = torch.tensor([prefix], device=device).expand(len(variants), -1)
            places = torch.arange(len(prefix), device=device)[None].expand(len(variants), -1)
            self._forward(ids, cache, places, logits_to_keep=_last(len(prefix)))
        return cache

    def _forward(
        self, ids: Tensor, cache: Any, position_ids: Tensor, **options: Any
    ) -> Float[Tensor, "row kept vocab"]:
        self.counters.forward_passes += 1
        self.counters.tokens += ids.numel()
        output = self.model.module(
            input_ids=ids, position_ids=position_ids, use_cache=True, **{self._cache_name: cache}, **options
        )
        logits: Tensor = output.logits
        return logits

    @cached_property
    def _cache_name(self) -> str:
        return cache_argument(self.model.module)

    def _prefix_length(self, prompts: Sequence[Prompt], longest: int) -> int:
        """Tokens that all prompts share at the start, leaving the post-instruction tokens and one more."""
        if not _remembers_all(self.model, longest):
            return 0
        shortest = min(map(len, prompts)) - len(self.model.template.suffix) - 1
        first, last = min(prompts), max(prompts)  # the common prefix of the two extremes is common to all
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return max(0, min(shared, shortest))


@dataclass
class _Step:
    """State of a batch after its prompts."""

    logits: Float[Tensor, "row vocab"]
    cache: Any
    mask: Tensor
    lengths: Tensor
    variant: Tensor
    rows: Rows

    def select(self, keep: Tensor) -> None:
        self.cache.reorder_cache(keep)  # selects rows in every kind of layer, recurrent ones too
        self.mask, self.lengths, self.variant = self.mask[keep], self.lengths[keep], self.variant[keep]


def _last(n_tokens: int) -> Tensor:
    """The last of several tokens, as an index: of a slice, a bfloat16 head on a CPU copies its whole matrix."""
    return torch.tensor([n_tokens - 1])  # on the CPU, from where it indexes a tensor on any GPU


def _scorable(logits: Tensor) -> Tensor:
    """Logits where they can be summed in float64, which Apple's GPUs do not have."""
    return logits.cpu() if logits.device.type == "mps" else logits


def _n_variants(intervention: Intervention | None) -> int:
    return 1 if intervention is None else len(intervention)


def _new_cache(model: ChatModel) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.module.config)


def _remembers_all(model: ChatModel, longest: int) -> bool:
    """Whether every layer attends to all of `longest` tokens, so that padding and a cached prefix change nothing."""
    return model.structure.lookback >= longest


def end_tokens(model: ChatModel) -> set[int]:
    """End-of-sequence ids of the generation config and the tokenizer."""
    configured = getattr(model.module.generation_config, "eos_token_id", None)
    ends = set(configured) if isinstance(configured, list) else {configured}
    return {int(end) for end in ends | {model.template.tokenizer.eos_token_id} if end is not None}
