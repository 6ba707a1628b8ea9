"""How many rows and tokens a batch may hold, which rows go together, and whether it fitted."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from refusal_bench.models.loading import ChatModel

SMALLEST_BATCH = 256
"""Tokens in a batch below which out of memory is final."""

PASS_TOKENS = 32
"""What a pass costs beside its tokens, in tokens: one batch more must save as many."""


@dataclass(frozen=True)
class Room:
    """How much a batch may hold. Halved when memory runs out, which changes results by rounding only."""

    rows: int
    tokens: int
    decoding_tokens: int
    """Tokens where text follows: every decoding step reads all weights, so more rows share the reading."""

    @staticmethod
    def of(model: ChatModel, workers: int) -> Room:
        """What fills a processor's caches, or a GPU; never more tokens than fit beside the weights.

        Of `workers` that run side by side each has a share of the memory.
        """
        device, most = model.module.device, model.batch_tokens // workers
        if device.type == "cpu":
            size = model.module.dtype.itemsize  # a batch takes the same memory in every data type
            rows, tokens, decoding = 512 // (size * workers), 4096 // size, 32768 // (size * workers)
            return Room(rows, min(tokens, most), min(decoding, most))
        if device.type == "mps":
            return Room(rows=96, tokens=min(8192, most), decoding_tokens=min(8192, most))
        free, _ = torch.cuda.mem_get_info(device)
        # A row's logits are held in float32 about three times.
        rows = _power_of_two(free / 4 / (12 * model.module.config.get_text_config().vocab_size), 8, 512)
        return Room(rows=rows, tokens=most, decoding_tokens=most)

    def halved(self) -> Room:
        """Half of it."""
        return Room(max(1, self.rows // 2), self.tokens // 2, self.decoding_tokens // 2)


def plan_batches(
    lengths: Sequence[int],
    prefix: int,
    n_variants: int,
    rows: int,
    tokens: int,
    *,
    padded: bool,
    pass_tokens: int,
    workers: int,
) -> tuple[list[range], list[range]]:
    """Return the groups of variants that run at once, and the batches of prompts (lengths ascend) of each group.

    The groups are as large as `rows` and `tokens` allow, and each of the workers has as many of them; variants that fit
    in one group stay together, and the workers share the prompts: completions are longer under one variant than under
    another. The batches are those that cost fewest tokens, padding and `pass_tokens` for every batch counted. Without
    `padded` only prompts of equal length share a batch.
    """
    most = max(1, min(rows, tokens // max(prefix, lengths[-1])))
    n_groups = math.ceil(n_variants / most)
    if n_groups > 1 or len(lengths) < workers:
        n_groups = min(n_variants, workers * math.ceil(n_groups / workers))
    at_once = math.ceil(n_variants / n_groups)
    groups = [range(first, min(first + at_once, n_variants)) for first in range(0, n_variants, at_once)]
    largest = len(lengths) if len(groups) > 1 else math.ceil(len(lengths) / workers)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first prompts, and where their last batch starts
    for stop in range(1, len(lengths) + 1):
        width = lengths[stop - 1]
        fitting = max(1, min(largest, rows // at_once, tokens // (at_once * width)))
        starts = [
            start for start in range(max(0, stop - fitting), stop) if padded or lengths[start] == lengths[stop - 1]
        ]
        best.append(min((best[start][0] + (stop - start) * width + pass_tokens / at_once, start) for start in starts))
    batches, stop = list[range](), len(lengths)
    while stop:
        batches.append(range(best[stop][1], stop))
        stop = best[stop][1]
    return groups, batches[::-1]


def by_length(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Indices of prompts, the shortest first."""
    return sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))


def padded_ids(prompts: Sequence[Sequence[int]], device: torch.device, least: int = 0) -> Int[Tensor, "prompt token"]:
    """Token ids of prompts, padded on the right to the longest, and at `least` so wide."""
    width = max(least, *map(len, prompts))
    return torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)


def fits(work: Callable[[], None]) -> bool:
    """Whether work was done without running out of memory, which a CPU reports as a RuntimeError."""
    try:
        work()
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
    else:
        return True
    # Outside the handlers, where the exception no longer holds the tensors of its frames.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def give_back_memory() -> None:
    """Return what was freed to the system: glibc keeps it, for each thread that ran a batch apart."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _power_of_two(number: float, least: int, most: int) -> int:
    """The largest power of two up to `number`, between bounds: free memory varies between runs, batches should not."""
    return int(2 ** math.floor(math.log2(min(most, max(least, number)))))
