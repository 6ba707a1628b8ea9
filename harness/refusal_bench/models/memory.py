"""How much memory a model takes, from its shape alone: its weights by data type and quantisation, and a batch.

Sizes are in bytes; a GB is 1e9 bytes. Nothing here needs torch, so `models ls` can say what a model needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from refusal_bench.errors import InputError

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one number."""

FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in nf4: half a byte, a byte a block of 64, and a float a block of 256 blocks (double quantisation)."""

EIGHT_BIT_BYTES = 1.0
"""A weight in LLM.int8(); the scale of each row is negligible."""

MIN_TOKENS = 512
"""A batch that every run must have room for: a prompt of this length, in one row."""

MAX_TOKENS = 65536
"""Tokens in a batch beyond which more brings nothing."""

USABLE = 0.9
"""Share of a device's memory that may be planned for; the rest is the allocator's and the driver's."""


@dataclass(frozen=True)
class Shape:
    """What memory depends on."""

    matrices: int
    """Parameters in the matrices of the blocks, which quantisation reaches."""
    others: int
    """All other parameters: embeddings, head, norms, biases, and experts that are stored fused."""
    n_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    key_value_width: int
    """Numbers that a token leaves in one layer's cache: keys and values of all heads."""
    vocabulary: int
    """Rows of the embedding."""
    published: str = "float32"
    """Data type that the weights were published in."""

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.matrices + self.others

    def weight_bytes(self, dtype: str, quantization: str = "none") -> int:
        """Size of the weights."""
        each = {"none": BYTES[dtype], "8bit": EIGHT_BIT_BYTES, "4bit": FOUR_BIT_BYTES}[quantization]
        return round(self.matrices * each + self.others * BYTES[dtype])

    def token_bytes(self, dtype: str) -> int:
        """What one more token in a batch takes: cache, stream at every layer, a block's results (about 16 widths)."""
        numbers = self.n_layers * self.key_value_width + (self.n_layers + 1 + 16) * self.d_model
        return numbers * BYTES[dtype]

    def least_bytes(self, dtype: str, quantization: str = "none") -> int:
        """The least that a run takes: weights and the smallest batch, whose logits are also kept in float64."""
        logits = self.vocabulary * (BYTES[dtype] + 4 + 3 * 8)
        return self.weight_bytes(dtype, quantization) + MIN_TOKENS * self.token_bytes(dtype) + logits

    def batch_tokens(self, capacity: int, dtype: str, quantization: str = "none") -> int:
        """Most tokens of one batch, a power of two, that fit beside the weights in half of what is left.

        The other half is for logits and for copies while a cache grows. It depends on the device's size and not on what
        is free just now, so that the same machine makes the same batches.
        """
        room = (USABLE * capacity - self.weight_bytes(dtype, quantization)) / 2
        tokens = MAX_TOKENS
        while tokens > MIN_TOKENS and tokens * self.token_bytes(dtype) > room:
            tokens //= 2
        return tokens


def llama_like(
    d_model: int,
    intermediate: int,
    n_layers: int,
    heads: int,
    key_value_heads: int,
    head_dim: int,
    vocabulary: int,
    *,
    tied: bool = False,
    biases: bool = False,
    norms: int = 2,
    head_norms: bool = False,
    published: str = "bfloat16",
) -> Shape:
    """Shape of a decoder with gated MLPs: Llama, Mistral, Gemma, Qwen2 (`biases` on queries, keys and values).

    `norms` in a block, and `head_norms` of queries and keys (Gemma 3).
    """
    queries, keys = heads * head_dim, key_value_heads * head_dim
    block = 2 * d_model * queries + 2 * d_model * keys + 3 * d_model * intermediate
    small = norms * d_model + (queries + 2 * keys if biases else 0) + (2 * head_dim if head_norms else 0)
    embeddings = vocabulary * d_model * (1 if tied else 2)
    return Shape(
        matrices=n_layers * block,
        others=n_layers * small + d_model + embeddings,
        n_layers=n_layers,
        d_model=d_model,
        key_value_width=2 * keys,
        vocabulary=vocabulary,
        published=published,
    )


def check_fits(name: str, shape: Shape, dtype: str, quantization: str, free: int, device: str) -> None:
    """Raise InputError if the smallest batch does not fit; the sentence says what would."""
    need = shape.least_bytes(dtype, quantization)
    if need <= USABLE * free:
        return
    ways = [
        (f"--dtype bfloat16 needs {gigabytes(shape.least_bytes('bfloat16'))}", "bfloat16", "none"),
        (f"--quantization 8bit needs {gigabytes(shape.least_bytes(dtype, '8bit'))}", dtype, "8bit"),
        (f"--quantization 4bit needs {gigabytes(shape.least_bytes(dtype, '4bit'))}", dtype, "4bit"),
    ]
    fitting = [text for text, kind, bits in ways if shape.least_bytes(kind, bits) <= USABLE * free]
    remedy = fitting[0] if fitting else "use a larger device or a smaller model"
    weights = gigabytes(shape.weight_bytes(dtype, quantization))
    kind = dtype if quantization == "none" else quantization
    raise InputError(
        f"{name}: needs {gigabytes(need)} ({weights} of weights in {kind}, the rest for the smallest batch) and "
        f"{device} has {gigabytes(free)} free, of which {USABLE:.0%} can be used; {remedy}."
    )


def gigabytes(size: float) -> str:
    """A size in words, e.g. `13.5 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.2f} GB"
