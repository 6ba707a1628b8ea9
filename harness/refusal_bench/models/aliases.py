"""Names for models: an alias is data, nothing else about a family is hard-coded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refusal_bench.errors import InputError
from refusal_bench.models.demo import GEMMA, SMOLLM2
from refusal_bench.models.memory import Shape, llama_like

Kind = Literal["hub", "local", "gguf", "wheel", "planted"]


@dataclass(frozen=True)
class Source:
    """Where one model comes from."""

    id: str
    """What the record calls it: alias, hub id, or the name of the folder or file. Never an absolute path."""
    kind: Kind
    """How it is loaded."""
    location: str
    """Hub id (of a wheel's weights, too), path, or name of the planted world."""
    note: str = ""
    """One line for `models ls`."""
    license: str | None = None
    """Licence of the weights."""
    gated: bool = False
    """Whether the hub asks for an accepted licence and a login."""
    shape: Shape | None = None
    """What the model's memory depends on, where it is known before anything is fetched."""
    revision: str | None = None
    """Commit of a hub alias that is fetched unless another revision is asked for."""
    refuses: bool = False
    """Whether the adapter that ships with the package is merged into it."""


_SMOL = llama_like(576, 1536, 30, 9, 3, 64, 49152, tied=True)
_GEMMA_3 = llama_like(640, 2048, 18, 4, 1, 256, 262144, tied=True, norms=4, head_norms=True)
_OLD_CODE = "its own code (--trust-remote-code) was written for transformers 4 and has no chat template"


def _planted(name: str, world: str, note: str) -> Source:
    return Source(name, "planted", world, note, license="Apache-2.0")


def _hub(
    name: str, location: str, revision: str, license: str, shape: Shape, note: str = "", *, gated: bool = False
) -> Source:
    return Source(name, "hub", location, note, license, gated, shape, revision)


ALIASES: dict[str, Source] = {
    source.id: source
    for source in (
        Source(
            "demo", "wheel", SMOLLM2.hub_id,
            "SmolLM2-135M-Instruct with our refusal adapter; real weights, about 100 MB",
            license="Apache-2.0", shape=_SMOL, refuses=True,
        ),
        Source(
            "demo-base", "wheel", SMOLLM2.hub_id, "the same without the adapter: it does not refuse; takes --adapter",
            license="Apache-2.0", shape=_SMOL,
        ),
        Source(
            "gemma-3-270m", "wheel", GEMMA.hub_id, "base model, no chat template: takes an --adapter that brings one",
            license="Gemma Terms of Use", shape=_GEMMA_3,
        ),
        _planted("planted", "study", "tiny model with the study's five cosines set by construction; seconds"),
        _planted("planted:single", "single", "planted: one direction shared by all domains"),
        _planted("planted:cone", "cone", "planted: domains are mixtures of three refusal directions"),
        _planted("planted:topic_confound", "topic_confound", "planted: harmless prompts of other topics"),
        _planted("planted:harm_vs_refusal", "harm_vs_refusal", "planted: harm and refusal at two positions"),
        _planted("planted:no_refusal", "no_refusal", "planted: never refuses"),
        _planted("planted:late", "late", "planted: refusal arises past 80 % of depth"),
        _hub(
            "llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", "f5db02db724555f92da89c216ac04704f23d4590",
            "Llama 2 Community License",
            llama_like(4096, 11008, 32, 32, 32, 128, 32000), "the study's model; --preset study, arditi", gated=True,
        ),
        _hub(
            "llama-2-13b-chat", "meta-llama/Llama-2-13b-chat-hf", "a2cb7a712bb6e5e736ca7f8cd98167f81a0b5bd8",
            "Llama 2 Community License",
            llama_like(5120, 13824, 40, 40, 40, 128, 32000), "--preset arditi", gated=True,
        ),
        _hub(
            "llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2",
            "Llama 3 Community License",
            llama_like(4096, 14336, 32, 32, 8, 128, 128256), "--preset arditi", gated=True,
        ),
        _hub(
            "llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "9213176726f574b556790deb65791e0c5aa438b6",
            "Llama 3.2 Community License",
            llama_like(2048, 8192, 16, 32, 8, 64, 128256, tied=True), gated=True,
        ),
        _hub(
            "gemma-2b-it", "google/gemma-2b-it", "96988410cbdaeb8d5093d1ebdc5a8fb563e02bad",
            "Gemma Terms of Use",
            llama_like(2048, 16384, 18, 8, 1, 256, 256000, tied=True), "--preset arditi", gated=True,
        ),
        _hub(
            "gemma-2-2b-it", "google/gemma-2-2b-it", "299a8560bedf22ed1c72a8a11e7dce4a7f9f51f8",
            "Gemma Terms of Use",
            llama_like(2304, 9216, 26, 8, 4, 256, 256000, tied=True, norms=4), gated=True,
        ),
        _hub(
            "qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775",
            "Apache-2.0",
            llama_like(896, 4864, 24, 14, 2, 64, 151936, tied=True, biases=True),
        ),
        _hub(
            "qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
            "Apache-2.0",
            llama_like(1536, 8960, 28, 12, 2, 128, 151936, tied=True, biases=True),
        ),
        _hub(
            "qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "a09a35458c702b33eeacc393d103063234e8bc28",
            "Apache-2.0",
            llama_like(3584, 18944, 28, 28, 4, 128, 152064, biases=True),
        ),
        _hub(
            "qwen-1.8b-chat", "Qwen/Qwen-1_8B-Chat", "1d0f68de57b88cfde81f3c3e537f24464d889081",
            "Tongyi Qianwen RESEARCH LICENSE",
            llama_like(2048, 5504, 24, 16, 16, 128, 151936, biases=True), f"--preset arditi; {_OLD_CODE}",
        ),
        _hub(
            "qwen-7b-chat", "Qwen/Qwen-7B-Chat", "93a65d34827a3cc269b727e67004743b723e2f83",
            "Tongyi Qianwen LICENSE",
            llama_like(4096, 11008, 32, 32, 32, 128, 151936, biases=True), f"--preset arditi; {_OLD_CODE}",
        ),
        _hub(
            "yi-6b-chat", "01-ai/Yi-6B-Chat", "2dbf63b0cb7bc493c0243502c6e6111a36e3a093",
            "Apache-2.0",
            llama_like(4096, 11008, 32, 32, 4, 128, 64000), "--preset arditi",
        ),
        _hub(
            "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac",
            "Apache-2.0", _SMOL,
        ),
    )
}  # fmt: skip


def alias_of(model: str) -> str:
    """Return the alias of a hub id that has one, else the name itself."""
    return next(
        (alias for alias, source in ALIASES.items() if source.kind == "hub" and source.location == model), model
    )


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
