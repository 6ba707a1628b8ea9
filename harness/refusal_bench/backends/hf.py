"""Hugging Face models with hooks: logits, residuals and greedy completions, with or without an intervention.

Every pass evaluates `variants x prompts` rows. The token prefix that all prompts share (template head, system prompt)
runs once a variant and its keys and values are reused; prompts are batched by length and padded on the right, where
causal attention never sees the padding. Layers whose memory is shorter than the text (sliding windows, recurrent
states) would count padding, so such models get neither: only prompts of equal length share a batch. On a CPU several
batches run side by side. Batch composition depends only on the input and the machine, so results repeat exactly.
"""

from __future__ import annotations

import copy
import math
import os
import resource
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.batches import PASS_TOKENS, SMALLEST_BATCH, Room, fits, give_back_memory, plan_batches
from refusal_bench.backends.cache import new_cache
from refusal_bench.backends.decoding import State, decode
from refusal_bench.backends.hooks import Rows, Scored, ablation_leak, intervening, reading, scoring
from refusal_bench.backends.workers import Workers
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
    workers: Workers = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held where batches that run side by side meet: counting, and telling the caller."""

    def __post_init__(self) -> None:
        """Probe that ablation reaches every write to the stream; InputError if something of the direction is left."""
        give_back_memory()  # what loading took beside the weights
        self.workers = Workers(self.model)
        self.room = Room.of(self.model, self.workers.n)
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
        branching = isinstance(intervention, Add) and len(intervention) >= BRANCHED and self._can_branch
        return self._logits(prompts, reduce, intervention, on_progress, branching=branching)

    def _logits(
        self,
        prompts: Sequence[Prompt],
        reduce: Reduce,
        intervention: Intervention | None,
        on_progress: Callable[[int], None] = lambda rows: None,
        *,
        branching: bool,
    ) -> Float[Tensor, "variant prompt ..."]:
        out: list[list[Tensor | None]] = [[None] * len(prompts) for _ in range(_n_variants(intervention))]

        def keep(variants: Sequence[int], batch: Sequence[int], logits: Tensor) -> None:
            """Put a batch's results in their places."""
            reduced = reduce(logits, [batch[row % len(batch)] for row in range(logits.shape[0])])
            for row, value in enumerate(reduced.cpu()):
                out[variants[row // len(batch)]][batch[row % len(batch)]] = value
            with self._lock:
                on_progress(len(reduced))

        def fill() -> None:
            """Run all passes; again from the start, in smaller batches, where memory ran out."""
            if branching and isinstance(intervention, Add):
                self._branches(prompts, intervention, keep)
            else:
                self._batches(prompts, intervention, lambda v, batch, state: keep(v, batch, state.logits))

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
                for row, prompt in enumerate(rows):
                    end = len(prompts[prompt]) - prefix
                    index = [end + position for position in positions]
                    stream = torch.stack([layer[row, index].float().cpu() for layer in streams.entering], dim=1)
                    with self._lock:
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
        out: list[list[Any]] = [[None] * len(prompts) for _ in range(_n_variants(intervention))]
        ends = end_tokens(self.model)

        def keep(variants: Sequence[int], batch: Sequence[int], state: State) -> None:
            """Decode a batch and put its completions in their places."""
            n_rows = state.logits.shape[0]
            first = reduce(state.logits, [batch[row % len(batch)] for row in range(n_rows)]).cpu()
            tokens = decode(state, self._forward, ends, max_new_tokens, decided)
            for row in range(n_rows):
                out[variants[row // len(batch)]][batch[row % len(batch)]] = Completion(tuple(tokens[row]), first[row])
            with self._lock:
                on_progress(n_rows)

        self._until_it_fits(lambda: self._batches(prompts, intervention, keep, max_new_tokens))
        give_back_memory()  # the keys and values of hundreds of rows
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
            groups, batches = plan_batches(
                [len(texts[i]) for i in order],
                0,
                n_variants,
                self.room.rows,
                # Every token of an answer has logits, as much as a whole prompt has else.
                max(self.workers.n * self.room.rows, longest),
                padded=_remembers_all(self.model, longest),
                pass_tokens=PASS_TOKENS,
                workers=self.workers.n,
            )
            with intervening(self.model.structure, intervention) as rows:

                @torch.inference_mode()
                def run(work: tuple[range, range]) -> None:
                    """One batch under one group of variants."""
                    variants, chosen = work[0], [order[i] for i in work[1]]
                    rows.variant = torch.tensor(variants, device=device).repeat_interleave(len(chosen))
                    some, starts = [texts[i] for i in chosen], [len(prompts[i]) for i in chosen]
                    out[variants.start : variants.stop, chosen] = self._losses(some, starts, len(variants)).cpu()

                self.workers.each(run, [(variants, batch) for variants in groups for batch in batches])

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
        logits = self._forward(ids, new_cache(self.model.module.config), places, logits_to_keep=kept)
        each = -torch.log_softmax(logits.float(), -1).gather(-1, ids[:, first:, None])[..., 0]
        place = torch.arange(first, widest, device=each.device)
        start, end = (torch.tensor(x, device=each.device)[:, None] for x in (starts, [len(text) for text in texts]))
        counted = ((place >= start) & (place < end)).repeat(n_variants, 1)
        return ((each * counted).sum(dim=1) / counted.sum(dim=1)).view(n_variants, -1)

    def _until_it_fits(self, work: Callable[[], None]) -> None:
        """Do work again with half the room each time memory runs out; IncompleteRunError when there is none left."""
        while not fits(work):
            if self.room.tokens > SMALLEST_BATCH:
                self.room = self.room.halved()
            elif self.workers.n > 1:
                self.workers.n = 1  # the smallest batch has all of the memory to itself
            else:
                raise IncompleteRunError(
                    f"out of memory with batches of {self.room.tokens} tokens; free memory or use a smaller or "
                    "quantised model, then run the same command to go on."
                )

    def _batches(
        self,
        prompts: Sequence[Prompt],
        intervention: Intervention | None,
        use: Callable[[Sequence[int], Sequence[int], State], None],
        answer_room: int = 0,
    ) -> None:
        """Run every variant on every prompt; `use` gets each batch: variants, prompt indices, state after the prompts.

        The rows of a batch are its variants, outermost, times its prompts.
        """
        longest = max(map(len, prompts)) + answer_room
        prefix = self._prefix_length(prompts, longest)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        groups, batches = plan_batches(
            [len(prompts[i]) - prefix for i in order],
            prefix,
            _n_variants(intervention),
            self.room.rows,
            self.room.decoding_tokens if answer_room else self.room.tokens,
            padded=_remembers_all(self.model, longest),
            pass_tokens=PASS_TOKENS * (1 + answer_room),  # a batch more is a pass more for every token that follows
            workers=self.workers.n,
        )
        with intervening(self.model.structure, intervention) as rows, scoring(self.model.module) as scored:

            @torch.inference_mode()
            def head(variants: range) -> Any:
                """Keys and values of the shared prefix, one row a variant."""
                cache = new_cache(self.model.module.config)
                if prefix:
                    rows.variant = torch.tensor(variants, device=self.model.module.device)
                    self._forward_all(prompts[0][:prefix], len(variants), cache)
                return cache

            @torch.inference_mode()
            def run(variants: range, batch: range, cache: Any) -> None:
                """One batch, behind its prefix."""
                chosen = [order[i] for i in batch]
                state = self._prefill([prompts[i] for i in chosen], prefix, variants, cache, rows, scored)
                use(variants, chosen, state)

            def run_all(variants: range) -> None:
                """All batches of one group of variants."""
                cache = head(variants)
                for batch in batches:
                    run(variants, batch, cache if batch is batches[-1] else copy.deepcopy(cache))

            if len(groups) > 1:
                self.workers.each(run_all, groups)
            else:
                cache = head(groups[0])
                self.workers.each(lambda batch: run(groups[0], batch, copy.deepcopy(cache)), batches)

    def _branches(
        self, prompts: Sequence[Prompt], add: Add, use: Callable[[Sequence[int], Sequence[int], Tensor], None]
    ) -> None:
        """As `_batches`, with logits; all variants of a prompt share one row up to the layer that they are added at.

        There each becomes a row of its own; earlier layers' caches have the rows of before.
        """
        longest = max(map(len, prompts))
        prefix, padded = self._prefix_length(prompts, longest), _remembers_all(self.model, longest)
        most = max(2, min(self.room.rows, self.room.tokens // max(prefix, longest - prefix)))
        at_once = min(len(add), most - 1)
        together = min(most // (1 + at_once), math.ceil(len(prompts) / self.workers.n)) if padded else 1
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        batches = [order[start : start + together] for start in range(0, len(order), together)]
        by_layer = sorted(range(len(add)), key=lambda variant: add.layers[variant])
        # On a CPU a new shape costs new kernels: where each of many layers has its own, all batches are equally wide.
        common = longest - prefix if padded and len(set(add.layers)) > BRANCHED else 0
        with intervening(self.model.structure, add, branching=True) as rows, scoring(self.model.module) as scored:

            def forward(
                some: Sequence[Prompt], start: int, cache: Any, variants: Sequence[int], least: int = 0
            ) -> Tensor:
                """Score all rows of some prompts at their ends: the unmodified ones, then those of each variant."""
                rows.variant, rows.unmodified = torch.tensor(variants), len(some)
                with scored.at(torch.tensor([len(prompt) - 1 for prompt in some]).repeat(1 + len(variants))):
                    return self._forward_branched(some, least, start, cache, [add.layers[i] for i in variants])[:, 0]

            @torch.inference_mode()
            def head(variants: Sequence[int]) -> Any:
                """Keys and values of the shared prefix, at each layer of the rows that it has."""
                cache = new_cache(self.model.module.config)
                if prefix:
                    forward([prompts[0][:prefix]], 0, cache, variants)
                return cache

            @torch.inference_mode()
            def run(variants: Sequence[int], head: Any, batch: Sequence[int]) -> None:
                """One batch, behind its prefix."""
                cache = copy.deepcopy(head)
                if prefix:
                    cache.batch_repeat_interleave(len(batch))
                logits = forward([prompts[i][prefix:] for i in batch], prefix, cache, variants, common)[len(batch) :]
                use(variants, batch, _scorable(logits.float()))

            for first in range(0, len(add), at_once):
                variants = by_layer[first : first + at_once]
                self.workers.each(partial(run, variants, head(variants)), batches)

    @cached_property
    def _can_branch(self) -> bool:
        """Whether rows may become more in mid-model: not where biases are laid out a row beforehand (ALiBi)."""
        add = Add.at(torch.zeros(2, self.model.d_model), self.model.n_layers // 2)
        # For each worker a batch of two unequal prompts.
        texts = ["Tell me about rivers" + " and rivers" * i for i in range(2 * self.workers.n)]
        prompts = [tuple(self.model.template.render(text)) for text in texts]
        counters, self.counters = self.counters, Counters()  # no stage's work: a resumed run probes again
        try:
            plain, branched = (
                self._logits(prompts, lambda logits, _: logits, what, branching=what is add) for what in (None, add)
            )
        except (RuntimeError, ValueError):  # shapes that do not fit, or a mask that it does not take
            return False
        finally:
            self.counters = counters
        close = HALF_PRECISION_LEAK_LIMIT if self.model.dtype != "float32" else LEAK_LIMIT
        return bool(((branched - plain).norm(dim=-1) < close * plain.norm(dim=-1)).all())

    def _forward_branched(
        self, prompts: Sequence[Prompt], least: int, start: int, cache: Any, layers: Sequence[int]
    ) -> Float[Tensor, "row kept vocab"]:
        """Run one row a prompt, at `least` so wide, which as many more leave at each layer; counted as its share."""
        device = self.model.module.device
        width = max(least, *map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
        places = torch.arange(start, start + width, device=device)[None]
        options = {}
        if len(prompts) > 1:  # a mask that the library makes would have a row for each of these rows only
            seen = torch.arange(start + width, device=device)[None] <= places.T
            dtype = self.model.module.dtype
            options["attention_mask"] = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(
                ~seen, torch.finfo(dtype).min
            )[None, None]
        blocks = self.model.n_layers + sum(self.model.n_layers - layer for layer in layers)
        return self._forward(ids, cache, places, counted=ids.numel() * blocks // self.model.n_layers, **options)

    def _prefill(
        self, prompts: Sequence[Prompt], prefix: int, variants: range, cache: Any, rows: Rows, scored: Scored
    ) -> State:
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
        with scored.at(lengths - prefix - 1):
            logits = self._forward(ids, cache, columns[None].expand(len(ids), -1))
        return State(
            logits=_scorable(logits[:, 0].float()),
            cache=cache,
            mask=(torch.arange(widest, device=device)[None] < lengths[:, None]).long(),
            lengths=lengths,
            variant=rows.variant,
            rows=rows,
        )

    def _forward_all(self, prefix: Prompt, n_rows: int, cache: Any) -> None:
        """Put the keys and values of one text into a cache, in so many rows."""
        device = self.model.module.device
        ids = torch.tensor([prefix], device=device).expand(n_rows, -1)
        places = torch.arange(len(prefix), device=device)[None].expand(n_rows, -1)
        self._forward(ids, cache, places, logits_to_keep=_last(len(prefix)))

    def _forward(
        self, ids: Tensor, cache: Any, position_ids: Tensor, counted: int | None = None, **options: Any
    ) -> Float[Tensor, "row kept vocab"]:
        """The only call of the model; `counted` tokens where not all rows go through all blocks."""
        self.workers.check()
        with self._lock:
            self.counters.forward_passes += 1
            self.counters.tokens += ids.numel() if counted is None else counted
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


def _last(n_tokens: int) -> Tensor:
    """The last of several tokens, as an index: of a slice, a bfloat16 head on a CPU copies its whole matrix."""
    return torch.tensor([n_tokens - 1])  # on the CPU, from where it indexes a tensor on any GPU


def _scorable(logits: Tensor) -> Tensor:
    """Logits where they can be summed in float64, which Apple's GPUs do not have."""
    return logits.cpu() if logits.device.type == "mps" else logits


def _n_variants(intervention: Intervention | None) -> int:
    return 1 if intervention is None else len(intervention)


def _remembers_all(model: ChatModel, longest: int) -> bool:
    """Whether every layer attends to all of `longest` tokens, so that padding and a cached prefix change nothing."""
    return model.structure.lookback >= longest


def end_tokens(model: ChatModel) -> set[int]:
    """End-of-sequence ids of the generation config and the tokenizer."""
    configured = getattr(model.module.generation_config, "eos_token_id", None)
    ends = set(configured) if isinstance(configured, list) else {configured}
    return {int(end) for end in ends | {model.template.tokenizer.eos_token_id} if end is not None}
