"""The record's schema of what was run: which tool, where, on which model and prompts, and what it cost."""

from __future__ import annotations

from typing import Literal

from refusal_bench.record.base import Frozen


class Tool(Frozen):
    """Which refusal-bench made the record."""

    version: str
    """Version of the package."""
    git_sha: str | None
    """Commit of the checkout it ran from, null for an installed copy."""


class Environment(Frozen):
    """Where it ran."""

    python: str
    """Python version."""
    platform: str
    """Operating system and processor architecture."""
    device: str
    """Device type, e.g. `cpu` or the GPU's name."""
    packages: dict[str, str]
    """Versions of the packages that make the numbers."""
    threads: int
    """CPU threads used by torch."""


class Model(Frozen):
    """Which model was measured."""

    id: str
    """Hub id, alias, or the name of the local folder or file."""
    revision: str | None
    """Hub commit or pinned version."""
    weights_sha256: str
    """SHA-256 over the weight files, or over the built weights of a planted model."""
    adapter_sha256: str | None
    """SHA-256 of the adapter's weights."""
    quantization: str
    """Weight quantisation applied here."""
    dtype: str
    """Data type of weights and activations."""
    n_layers: int
    """Number of decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    chat_template_sha256: str
    """SHA-256 of the chat template's source."""
    system_prompt_sha256: str
    """SHA-256 of the text that the template puts before the instruction, default system prompt included."""
    post_instruction_tokens: list[str]
    """The template's tokens after the instruction; the last is position -1."""
    refusal_tokens: list[str]
    """First tokens that count as a refusal in the log-odds score."""
    refusal_tokens_from: Literal["model", "user", "default"]
    """Learned from the model's own refusals on train prompts, given by the user, or the documented default list."""
    ablation_sites: str
    """Which module outputs are projected, verified by a probe at load time."""
    source_quantization: str | None = None
    """How the weights were quantised before they were loaded (`gguf Q4_1`, `gptq`); null if they were not."""


class TaskInfo(Frozen):
    """Which prompts were asked, and how many."""

    version: str
    """Version of the task."""
    sha256: str
    """SHA-256 over the task's checksums."""
    n_train_harmful: int
    """Harmful train prompts used."""
    n_train_harmless: int
    """Harmless train prompts used."""
    n_held_out_harmful: int
    """Harmful held-out prompts used."""
    n_held_out_harmless: int
    """Harmless held-out prompts used."""
    n_train_refused: int
    """Harmful train prompts with a positive refusal score without intervention."""


class Work(Frozen):
    """Work of one stage."""

    forward_passes: int
    """Calls of the model."""
    tokens: int
    """Tokens through the blocks."""


class Cost(Frozen):
    """What it took."""

    forward_passes: int
    """Calls of the model."""
    tokens: int
    """Tokens through the blocks."""
    peak_memory_bytes: int
    """Peak resident memory of the process, or peak GPU memory."""
    stages: dict[str, Work] | None = None
    """The same by stage, as in `timings`."""
    rows_per_batch: int | None = None
    """Most rows in a batch at the end of the run: halved whenever memory ran out."""
    tokens_per_batch: int | None = None
    """Most tokens in a batch without decoding, likewise."""
    batches_at_once: int | None = None
    """Batches side by side at the end of the run, each on its share of the processor's cores."""
