"""Names for models: an alias is data, nothing else about a family is hard-coded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refusal_bench.errors import InputError

Kind = Literal["hub", "local", "gguf", "demo", "planted"]


@dataclass(frozen=True)
class Source:
    """Where one model comes from."""

    id: str
    """What the record calls it: alias, hub id, or the name of the folder or file. Never an absolute path."""
    kind: Kind
    """How it is loaded."""
    location: str
    """Hub id, path, or name of the planted world."""
    note: str = ""
    """One line for `models ls`."""


ALIASES: dict[str, Source] = {
    source.id: source
    for source in (
        Source("demo", "demo", "adapter", "SmolLM2-135M-Instruct with our refusal adapter; real weights, about 100 MB"),
        Source("demo-base", "demo", "base", "the same without the adapter: it does not refuse; takes --adapter"),
        Source("planted", "planted", "study", "tiny model with the study's five cosines set by construction; seconds"),
        Source("planted:single", "planted", "single", "planted: one direction shared by all domains"),
        Source("planted:cone", "planted", "cone", "planted: domains are mixtures of three refusal directions"),
        Source("planted:topic_confound", "planted", "topic_confound", "planted: harmless prompts of other topics"),
        Source("planted:harm_vs_refusal", "planted", "harm_vs_refusal", "planted: harm and refusal at two positions"),
        Source("planted:no_refusal", "planted", "no_refusal", "planted: never refuses"),
        Source("planted:late", "planted", "late", "planted: refusal arises past 80 % of depth"),
        Source("llama-2-7b-chat", "hub", "meta-llama/Llama-2-7b-chat-hf", "gated: accept the licence on the hub"),
        Source("llama-3-8b-instruct", "hub", "meta-llama/Meta-Llama-3-8B-Instruct", "gated"),
        Source("llama-3.2-1b-instruct", "hub", "meta-llama/Llama-3.2-1B-Instruct", "gated"),
        Source("gemma-2b-it", "hub", "google/gemma-2b-it", "gated"),
        Source("gemma-2-2b-it", "hub", "google/gemma-2-2b-it", "gated"),
        Source("qwen2.5-0.5b-instruct", "hub", "Qwen/Qwen2.5-0.5B-Instruct"),
        Source("qwen2.5-1.5b-instruct", "hub", "Qwen/Qwen2.5-1.5B-Instruct"),
        Source("qwen2.5-7b-instruct", "hub", "Qwen/Qwen2.5-7B-Instruct"),
        Source("smollm2-135m-instruct", "hub", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    )
}


def resolve(name: str) -> Source:
    """Return where a model comes from; InputError with the nearest alias for a name that is none of the kinds."""
    if name in ALIASES:
        return ALIASES[name]
    path = Path(name)
    if path.is_dir():
        return Source(path.resolve().name, "local", str(path))
    if name.endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"{name}: there is no such file; give the path of a .gguf file.")
        return Source(path.name, "gguf", str(path))
    if name.startswith(("planted:", ".", "/")) or name.count("/") != 1:
        near = difflib.get_close_matches(name, ALIASES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"unknown model {name!r}: give an alias (`refusal-bench models ls`), a hub id such as "
            f"owner/name, a local folder or a .gguf file.{hint}"
        )
    return Source(name, "hub", name)
