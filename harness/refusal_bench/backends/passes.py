"""Passes of prompts through a model, under every variant of an intervention, in batches.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusal_bench.backends.batches import PASS_TOKENS, SMALLEST_BATCH, Room, by_length, fits, padded_ids, plan_batches
from refusal_bench.backends.cache import new_cache
from refusal_bench.backends.decoding import State
from refusal_bench.backends.hooks import Rows, Scored, intervening, leak_limit, scoring
from refusal_bench.backends.prefixes import Prefix, Row, cache_of, can_keep, rows_of
from refusal_bench.backends.workers import Workers
from refusal_bench.errors import IncompleteRunError
from refusal_bench.interventions import Ablate, Add, Intervention
from refusal_bench.models.loading import ChatModel
from refusal_bench.models.lookback import cache_argument

Prompt = tuple[int, ...]
"""Token ids of one rendered prompt."""

Place = tuple[int, int]
"""A row's variant, and its index into the prompts."""

BRANCHED = 6
"""Vectors added at one layer from which on they share one row up to that layer."""

KEPT_SHARE = 1 / 8
"""Most tokens of kept prefixes, as a share of those of a batch that would fill the memory."""


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


@dataclass
class Passes:
    """Runs one model; the only place that calls it without a gradient."""

    model: ChatModel
    counters: Counters = field(default_factory=Counters)
    room: Room = field(init=False)
    workers: Workers = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held where batches that run side by side meet: counting, and telling the caller."""
    prefix: Prefix | None = field(default=None, init=False)
    """What is kept at present."""

    def __post_init__(self) -> None:
        self.workers = Workers(self.model)
        self.room = Room.of(self.model, self.workers.n)

    def logits(
        self,
        prompts: Sequence[Prompt],
        intervention: Intervention | None,
        use: Callable[[Sequence[Place], Float[Tensor, "row vocab"]], None],
    ) -> None:
        """Hand each batch's rows and their first-answer-token logits to `use`, by the way that takes less work."""
        if isinstance(intervention, Add) and len(intervention) >= BRANCHED and self.can_branch:
            self.branches(prompts, intervention, use)
        else:
            self.batches(prompts, intervention, lambda places, state: use(places, state.logits))

    def until_it_fits(self, work: Callable[[], None]) -> None:
        """Do work again with half the room each time memory runs out; IncompleteRunError when there is none left."""
        while not fits(work):
            self.prefix = None
            if self.room.tokens > SMALLEST_BATCH:
                self.room = self.room.halved()
            elif self.workers.n > 1:
                self.workers.n = 1  # the smallest batch has all of the memory to itself
            else:
                raise IncompleteRunError(
                    f"out of memory with batches of {self.room.tokens} tokens; free memory or use a smaller or "
                    "quantised model, then run the same command to go on."
                )

    def batches(
        self,
        prompts: Sequence[Prompt],
        intervention: Intervention | None,
        use: Callable[[Sequence[Place], State], None],
        answer_room: int = 0,
    ) -> None:
        """Run every variant on every prompt; `use` gets each batch's rows and its state after the prompts.

        The rows of a batch are its variants, outermost, times its prompts.
        """
        device = self.model.module.device
        longest = max(map(len, prompts)) + answer_room
        prefix, kept = self.prefix_length(prompts, longest), self.prefix
        known, fresh = dict[int, Row](), dict[int, Row]()
        ablate = intervention if isinstance(intervention, Ablate) and intervention.offsets is None else None
        if kept is None or ablate is None or prompts[0][:prefix][: len(kept.ids)] != kept.ids:
            kept = None  # nothing that these prompts begin with
        else:
            prefix, known = len(kept.ids), kept.find(ablate)
        order = by_length(prompts)
        groups, batches = plan_batches(
            [len(prompts[i]) - prefix for i in order],
            prefix,
            count_variants(intervention),
            self.room.rows,
            self.room.decoding_tokens if answer_room else self.room.tokens,
            padded=remembers_all(self.model, longest),
            pass_tokens=PASS_TOKENS * (1 + answer_room),  # a batch more is a pass more for every token that follows
            workers=self.workers.n,
        )
        structure, module, last_mlp = self.model.structure, self.model.module, self.last_mlp
        with intervening(structure, intervention) as rows, scoring(module, last_mlp) as scored:

            @torch.inference_mode()
            def head(variants: range) -> Any:
                """Keys and values of the shared prefix, one row a variant."""
                cache, new = new_cache(module.config), [variant for variant in variants if variant not in known]
                if prefix and new:
                    rows.variant = torch.tensor(new, device=device)
                    ids = torch.tensor([prompts[0][:prefix]], device=device).expand(len(new), -1)
                    columns = torch.arange(prefix, device=device)[None].expand(len(new), -1)
                    self.forward(ids, cache, columns, logits_to_keep=_last(prefix))
                if kept is None:
                    return cache
                fresh.update(zip(new, rows_of(cache) if new else (), strict=True))
                return cache_of([known.get(variant) or fresh[variant] for variant in variants], module.config)

            @torch.inference_mode()
            def run(variants: range, batch: range, cache: Any) -> None:
                """One batch, behind its prefix."""
                chosen = [order[i] for i in batch]
                state = self._prefill([prompts[i] for i in chosen], prefix, variants, cache, rows, scored)
                use([(variant, prompt) for variant in variants for prompt in chosen], state)

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
        if kept is not None and ablate is not None:
            kept.keep(ablate, fresh)

    @contextmanager
    def keeping_prefix(self, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Keep the keys and values of what all of these prompts begin with, one row an ablation, in the context."""
        n = self.prefix_length(prompts, max(map(len, prompts)))
        if n and can_keep(self.model.module.config):
            self.prefix = Prefix(prompts[0][:n], int(KEPT_SHARE * self.model.batch_tokens) // n)
        try:
            yield
        finally:
            self.prefix = None

    def branches(
        self, prompts: Sequence[Prompt], add: Add, use: Callable[[Sequence[Place], Float[Tensor, "row vocab"]], None]
    ) -> None:
        """As `batches`, with logits; all variants of a prompt share one row up to the layer that they are added at.

        There each becomes a row of its own; earlier layers' caches have the rows of before.
        """
        longest = max(map(len, prompts))
        prefix, padded = self.prefix_length(prompts, longest), remembers_all(self.model, longest)
        most = max(2, min(self.room.rows, self.room.tokens // max(prefix, longest - prefix)))
        at_once = min(len(add), most - 1)
        together = min(most // (1 + at_once), math.ceil(len(prompts) / self.workers.n)) if padded else 1
        order = by_length(prompts)
        batches = [order[start : start + together] for start in range(0, len(order), together)]
        by_layer = sorted(range(len(add)), key=lambda variant: add.layers[variant])
        # On a CPU a new shape costs new kernels: where each of many layers has its own, all batches are equally wide.
        common = longest - prefix if padded and len(set(add.layers)) > BRANCHED else 0
        structure, module, last_mlp = self.model.structure, self.model.module, self.last_mlp
        with intervening(structure, add, branching=True) as rows, scoring(module, last_mlp) as scored:

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
                cache = new_cache(module.config)
                if prefix:
                    forward([prompts[0][:prefix]], 0, cache, variants)
                return cache

            @torch.inference_mode()
            def run(variants: Sequence[int], prefixed: Any, batch: Sequence[int]) -> None:
                """One batch, behind its prefix."""
                cache = copy.deepcopy(prefixed)
                if prefix:
                    cache.batch_repeat_interleave(len(batch))
                logits = forward([prompts[i][prefix:] for i in batch], prefix, cache, variants, common)[len(batch) :]
                use([(variant, prompt) for variant in variants for prompt in batch], _scorable(logits.float()))

            for first in range(0, len(add), at_once):
                variants = by_layer[first : first + at_once]
                self.workers.each(partial(run, variants, head(variants)), batches)

    @cached_property
    def last_mlp(self) -> nn.Module | None:
        """The last MLP, where it can be given one place a row: not where its output is added to in place."""
        module = self.model.module
        prompts = [self.model.template.render("Tell me about rivers" + more) for more in ("", " and seas")]
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts])

        @torch.inference_mode()
        def logits(last_mlp: nn.Module | None) -> Tensor:
            with scoring(module, last_mlp) as scored, scored.at(ends):
                found: Tensor = module(input_ids=padded_ids(prompts, module.device), use_cache=False).logits
            return found.float()

        mlp, whole = self.model.structure.last_mlp, logits(None)
        try:
            close = (logits(mlp) - whole).norm() < leak_limit(self.model) * whole.norm()
        except (RuntimeError, IndexError):  # shapes that do not fit, or an input that is given by name
            return None
        return mlp if close else None

    @cached_property
    def can_branch(self) -> bool:
        """Whether rows may become more in mid-model: not where biases are laid out a row beforehand (ALiBi)."""
        add = Add.at(torch.zeros(2, self.model.d_model), self.model.n_layers // 2)
        # For each worker a batch of two unequal prompts.
        texts = ["Tell me about rivers" + " and rivers" * i for i in range(2 * self.workers.n)]
        prompts = [tuple(self.model.template.render(text)) for text in texts]
        plain, branched = dict[Place, Tensor](), dict[Place, Tensor]()

        def keep(found: dict[Place, Tensor], places: Sequence[Place], logits: Tensor) -> None:
            found.update(zip(places, logits, strict=True))

        counters, self.counters = self.counters, Counters()  # no stage's work: a resumed run probes again
        try:
            self.until_it_fits(lambda: self.batches(prompts, None, lambda places, x: keep(plain, places, x.logits)))
            self.until_it_fits(lambda: self.branches(prompts, add, partial(keep, branched)))
        except (RuntimeError, ValueError):  # shapes that do not fit, or a mask that it does not take
            return False
        finally:
            self.counters = counters
        close = leak_limit(self.model)
        return all(
            bool((row - plain[0, prompt]).norm() < close * plain[0, prompt].norm())
            for (_, prompt), row in branched.items()
        )

    def _forward_branched(
        self, prompts: Sequence[Prompt], least: int, start: int, cache: Any, layers: Sequence[int]
    ) -> Float[Tensor, "row kept vocab"]:
        """Run one row a prompt, at `least` so wide, which as many more leave at each layer; counted as its share."""
        device = self.model.module.device
        ids = padded_ids(prompts, device, least)
        width = ids.shape[1]
        places = torch.arange(start, start + width, device=device)[None]
        options = {}
        if len(prompts) > 1:  # a mask that the library makes would have a row for each of these rows only
            seen = torch.arange(start + width, device=device)[None] <= places.T
            dtype = self.model.module.dtype
            options["attention_mask"] = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(
                ~seen, torch.finfo(dtype).min
            )[None, None]
        blocks = self.model.n_layers + sum(self.model.n_layers - layer for layer in layers)
        return self.forward(ids, cache, places, counted=ids.numel() * blocks // self.model.n_layers, **options)

    def _prefill(
        self, prompts: Sequence[Prompt], prefix: int, variants: range, cache: Any, rows: Rows, scored: Scored
    ) -> State:
        """Run prompts behind their prefix, whose keys and values `cache` holds with one row a variant."""
        device = self.model.module.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat(len(variants))
        widest = max(map(len, prompts))
        ids = padded_ids([prompt[prefix:] for prompt in prompts], device).repeat(len(variants), 1)
        rows.variant = torch.tensor(variants, device=device).repeat_interleave(len(prompts))
        if prefix:
            cache.batch_repeat_interleave(len(prompts))
        columns = torch.arange(prefix, widest, device=device)
        with scored.at(lengths - prefix - 1):
            logits = self.forward(ids, cache, columns[None].expand(len(ids), -1))
        return State(
            logits=_scorable(logits[:, 0].float()),
            cache=cache,
            mask=(torch.arange(widest, device=device)[None] < lengths[:, None]).long(),
            lengths=lengths,
            variant=rows.variant,
            rows=rows,
        )

    def forward(
        self, ids: Tensor, cache: Any, position_ids: Tensor, counted: int | None = None, **options: Any
    ) -> Float[Tensor, "row kept vocab"]:
        """The only call of the model; `counted` tokens where not all rows go through all blocks."""
        self.workers.check()
        with self.lock:
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

    def prefix_length(self, prompts: Sequence[Prompt], longest: int) -> int:
        """Tokens that all prompts share at the start, leaving the post-instruction tokens and one more."""
        if not remembers_all(self.model, longest):
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


def count_variants(intervention: Intervention | None) -> int:
    """How many variants a pass evaluates; one without an intervention."""
    return 1 if intervention is None else len(intervention)


def remembers_all(model: ChatModel, longest: int) -> bool:
    """Whether every layer attends to all of `longest` tokens, so that padding and a cached prefix change nothing."""
    return model.structure.lookback >= longest
