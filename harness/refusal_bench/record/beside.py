"""The record's schema of what stands beside the measurements: other backends, and published figures."""

from __future__ import annotations

from typing import Literal

from refusal_bench.record.base import Frozen, Interval
from refusal_bench.record.domain import Condition


class Parity(Frozen):
    """Whether another backend's next-token log-probabilities are those of the hook backend."""

    backend: Literal["vllm"]
    """Which one was compared."""
    passed: bool
    """Only then does it write the text of all conditions; else the hook backend does."""
    reason: str | None
    """Why it did not pass."""
    n_prompts: int
    """Prompts compared, of different lengths."""
    tolerance: float
    """Largest difference allowed, nats."""
    max_abs_diff: dict[str, float | None]
    """Largest difference (nats) unmodified, with a subspace ablated, and with a vector added; null: infinite."""


class ServedTask(Frozen):
    """An endpoint's answers to one task's held-out prompts; they have no scores."""

    harmful: Condition
    """In the order of the task's `held_out_ids`."""
    harmless: Condition
    """In the order of the task's `held_out_ids`."""


class Served(Frozen):
    """Unmodified completions of an endpoint: it may serve other weights or another template, so nothing is contrasted
    with them."""

    model: str
    """Name the endpoint was asked for."""
    prompt_tokens: int
    """As the endpoint counts them."""
    completion_tokens: int
    """As the endpoint counts them."""
    requests: int
    """Requests sent, repeated ones included."""
    tasks: dict[str, ServedTask]
    """By task name."""


class PublishedFigure(Frozen):
    """A published figure beside ours."""

    name: str
    """What it is."""
    published: float
    """As published."""
    ours: float | None
    """As measured here; null where it was not."""
    ci95: Interval | None
    """Interval of ours, at this run's number of prompts; null where ours has none."""
    tolerance: float | None
    """Largest difference that counts as agreement where there is no interval; null where nothing is claimed."""
    agrees: bool | None
    """Whether the published figure lies in our interval, else within the tolerance; null where neither is given."""


class Published(Frozen):
    """The figures of the setting that a preset reproduces."""

    preset: str
    """Name of the preset."""
    source: str
    """Where the figures were published."""
    deviations: list[str]
    """What differs from the published setting, the prompts first."""
    figures: list[PublishedFigure]
    """Figure by figure."""
