"""From a model's name to a `ChatModel`: weights, tokenizer, template, structure, identity. All checks happen here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of
from refusal_bench.models import demo
from refusal_bench.models.aliases import Source, resolve
from refusal_bench.models.structure import Structure, find_structure
from refusal_bench.models.template import ChatTemplate

@dataclass(frozen=True)
class ChatModel:
    """A loaded model with everything the backends need."""

    id: str
    module: Any
    template: ChatTemplate
    structure: Structure
    revision: str | None
    weights_sha256: str
    adapter_sha256: str | None
    dtype: str

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.structure.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.module.config.get_text_config().hidden_size)

    @property
    def chat_template_sha256(self) -> str:
        """SHA-256 of the template's source."""
        return hashlib.sha256(str(self.template.tokenizer.chat_template).encode()).hexdigest()


def load_model(config: RunConfig, planted_prompts: Mapping[str, str | None] | None = None) -> ChatModel:
    """Load and check a model. `planted_prompts` maps prompts to domains (None: harmless) for planted models.

    InputError for an unknown model, no network, a missing tokenizer or chat template, or an unknown architecture.
    """
    source = resolve(config.model)
    device = torch.device(config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    dtype = _dtype(config.dtype, device)
    with _quiet():
        if source.kind == "planted":
            module, tokenizer = _planted(source, planted_prompts or {})
            weights_sha256, revision = _sha256_of_weights(module), None
        else:
            module, tokenizer, weights_sha256, revision = _pretrained(source, config, dtype)
        adapter = str(demo.adapter_folder()) if source.location == "adapter" else config.adapter
        module, adapter_sha256 = _with_adapter(module, adapter) if adapter else (module, None)
    module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    template = ChatTemplate.of(tokenizer, config.system_prompt)
    structure = find_structure(module)
    return ChatModel(
        source.id, module, template, structure, revision, weights_sha256, adapter_sha256, str(dtype).split(".")[-1]
    )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def _planted(source: Source, prompts: Mapping[str, str | None]) -> tuple[Any, Any]:
    from refusal_bench.calibration.planted import WORLDS, build_planted

    return build_planted(WORLDS[source.location], prompts)


def _pretrained(source: Source, config: RunConfig, dtype: torch.dtype) -> tuple[Any, Any, str, str | None]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, gguf, revision = _files(source, config)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
    if gguf is not None:
        options["gguf_file"] = gguf
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source.id}: its tokenizer cannot be loaded ({_first_line(error)}); add the tokenizer files.") from error
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{source.id}: its tokenizer has no chat template; use a chat or instruct model, or add a chat_template."
        )
    weights = [folder / gguf] if gguf is not None else sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{source.id}: no .safetensors file in it; weights are never loaded from pickles, convert them.")
    try:
        if gguf is None:
            options["use_safetensors"] = True
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{source.id}: its weights cannot be loaded ({_first_line(error)}).") from error
    digest = hashlib.sha256("".join(sha256_of(path) for path in weights).encode()).hexdigest()
    return module, tokenizer, sha256_of(weights[0]) if len(weights) == 1 else digest, revision


def _files(source: Source, config: RunConfig) -> tuple[Path, str | None, str | None]:
    """Return the folder of the model's files, the .gguf name in it if it is one, and the revision."""
    if source.kind == "demo":
        path = demo.base_gguf()
        return path.parent, path.name, demo.WHEEL
    if source.kind == "gguf":
        path = Path(source.location)
        return path.parent, path.name, None
    if source.kind == "local":
        return Path(source.location), None, None
    folder = _hub_snapshot(source.location, config.revision, trust_remote_code=config.trust_remote_code)
    return folder, None, folder.name


def _hub_snapshot(repo: str, revision: str | None, *, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"] + (["*.py"] if trust_remote_code else [])
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise InputError(f"{repo}: is gated; accept its licence on the hub and log in with `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{repo}: there is no such model on the hub (or it is private); check the name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{repo}: the model hub cannot be reached and the model is not in the local cache; check the network, "
            "or use --model demo, a local folder or a .gguf file."
        ) from error


def _with_adapter(module: Any, adapter: str) -> tuple[Any, str]:
    """Merge a PEFT adapter into the weights: interventions then see one plain model."""
    from peft import PeftModel

    folder = Path(adapter) if Path(adapter).is_dir() else None
    if folder is None:
        if adapter.startswith((".", "/")) or adapter.count("/") != 1:
            raise InputError(f"{adapter}: there is no such adapter folder; give a folder or a hub id such as owner/name.")
        folder = _hub_snapshot(adapter, None, trust_remote_code=False)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise InputError(f"{adapter}: needs adapter_config.json and adapter_model.safetensors; it is not a PEFT adapter.")
    try:
        merged = PeftModel.from_pretrained(module, str(folder)).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{adapter}: does not fit this model ({_first_line(error)}).") from error
    return merged, sha256_of(weights)


def _sha256_of_weights(module: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes about tied weights and conversion off the screen; errors still raise."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.getLogger("peft").setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
