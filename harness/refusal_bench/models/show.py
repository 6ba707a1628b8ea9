"""What `models show` tells: how a model is asked and which positions are read. Loads the tokenizer, not the weights."""

from __future__ import annotations

from typing import Any

from refusal_bench.config import DEPTH_LIMIT, RunConfig
from refusal_bench.models.aliases import resolve
from refusal_bench.models.loading import load_tokenizer
from refusal_bench.models.template import ChatTemplate


def describe(model: str, system_prompt: str) -> dict[str, Any]:
    """Return a description of a model as plain values; InputError as in `load_model`."""
    source = resolve(model)
    tokenizer, settings, revision = load_tokenizer(source, RunConfig(model=model))
    n_layers, d_model = settings.get_text_config().num_hidden_layers, settings.get_text_config().hidden_size
    template = ChatTemplate.of(tokenizer, system_prompt)
    return {
        "id": source.id,
        "kind": source.kind,
        "note": source.note,
        "revision": revision,
        "n_layers": n_layers,
        "d_model": d_model,
        "candidate layers": f"0 to {int(DEPTH_LIMIT * n_layers) - 1}",
        "before the instruction": template.head,
        "positions": {
            str(position): token for position, token in zip(template.positions, template.suffix_tokens, strict=True)
        },
        "example": tokenizer.decode(template.render("Tell me about rivers.")),
    }
