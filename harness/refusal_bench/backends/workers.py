"""Batches side by side on a CPU.

Threads that share every product wait for each other at each of them; threads that run a batch each, with part of the
cores, wait only at the end. Which rows share a batch is settled beforehand, so results do not depend on who runs what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from refusal_bench.models.loading import ChatModel
from refusal_bench.models.memory import MIN_TOKENS

Item = TypeVar("Item")

MOST = 4
"""Batches at once, each with an equal share of the cores: every batch more takes its own memory."""


class Workers:
    """Runs batches of one model."""

    def __init__(self, model: ChatModel) -> None:
        """As many as there are threads, and as memory has room for; on a GPU one.

        One, too, of weights packed in integers, whose layers keep state from one product to the next.
        """
        plain = all(weight.is_floating_point() for weight in model.module.parameters())
        several = min(MOST, torch.get_num_threads(), model.batch_tokens // MIN_TOKENS)
        self.n = max(1, several) if model.module.device.type == "cpu" and plain else 1
        self._abandoned = threading.Event()

    def each(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Do the work on every item; what one of them raises ends the others at their next `check`, and is raised."""
        if self.n == 1 or len(items) == 1:
            for item in items:
                work(item)
            return
        threads = torch.get_num_threads()
        try:
            # A number of threads belongs to the thread that sets it.
            with ThreadPoolExecutor(self.n, "batch", torch.set_num_threads, (max(1, threads // self.n),)) as pool:
                running = [pool.submit(work, item) for item in items]
                try:
                    for done in as_completed(running):
                        done.result()
                except BaseException:
                    self._abandoned.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            self._abandoned.clear()
            torch.set_num_threads(threads)  # what threads that are yet to come begin with

    def check(self) -> None:
        """Go no further where another batch failed or the user interrupted; RuntimeError, which nobody gets to see."""
        if self._abandoned.is_set():
            raise RuntimeError("another batch failed")
