"""From a model's name to a `ChatModel`: weights, tokenizer, template, structure, identity. All checks happen here."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from safetensors import SafetensorError

from refusal_bench.calibration.planted_world import Instruction
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError, first_line
from refusal_bench.models import demo, quantization
from refusal_bench.models.adapters import chat_template_of, merge_adapter
from refusal_bench.models.aliases import Source, resolve
from refusal_bench.models.checkpoint import (
    Files,
    check_vocabulary,
    find_files,
    read_config,
    read_tokenizer,
    shape_of,
    source_quantization,
)
from refusal_bench.models.devices import all_gpus, free_bytes, resolve_device, resolve_dtype, spread, total_bytes
from refusal_bench.models.gguf_header import read_once
from refusal_bench.models.memory import MAX_TOKENS, USABLE, Shape, check_fits
from refusal_bench.models.structure import Structure, find_structure
from refusal_bench.models.template import ChatTemplate

THREADS = torch.get_num_threads()
"""What torch uses for models of any size, by its own choice or the environment's."""


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
    source_quantization: str | None = None
    """How the weights were quantised before they were loaded."""
    batch_tokens: int = MAX_TOKENS
    """Most tokens of one batch that the device has room for."""

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.structure.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.module.config.get_text_config().hidden_size)

    @property
    def is_sharded(self) -> bool:
        """Whether the blocks are on several devices."""
        return len(set(getattr(self.module, "hf_device_map", {}).values())) > 1

    @property
    def chat_template_sha256(self) -> str:
        """SHA-256 of the template's source."""
        return hashlib.sha256(str(self.template.tokenizer.chat_template).encode()).hexdigest()


@dataclass(frozen=True)
class _Place:
    """Where weights go, and as what."""

    device: torch.device
    gpus: tuple[torch.device, ...]
    """All GPUs, where the model may be spread over several."""
    dtype: torch.dtype
    quantization: str

    @staticmethod
    def of(config: RunConfig, device: torch.device, published: str) -> _Place:
        dtype = resolve_dtype(config.dtype, device, published)
        return _Place(device, all_gpus(config.device), dtype, config.quantization)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class _Loaded:
    """What loading gives; the fields are those of `ChatModel`."""

    module: Any
    tokenizer: Any
    dtype: str
    weights_sha256: str
    adapter_sha256: str | None
    revision: str | None = None
    warnings: tuple[str, ...] = ()
    source_quantization: str | None = None
    batch_tokens: int = MAX_TOKENS


def load_model(config: RunConfig, planted_prompts: Mapping[str, Instruction] | None = None) -> ChatModel:
    """Load and check a model. `planted_prompts` says whose each prompt is, for planted models.

    InputError for an unknown, unreachable, gated, damaged or incomplete model, an architecture that is not known, a
    device that cannot be used, or memory that does not suffice.
    """
    from refusal_bench.models.attention import use_for_short_texts
    from refusal_bench.models.packing import pack

    source = resolve(config.model)
    quantization.check_available(config.quantization)
    device = resolve_device(config.device)
    adapter = str(demo.adapter_folder()) if source.refuses else config.adapter
    # Threads that share a planted model's small matrices wait for each other: for minutes on a busy machine.
    torch.set_num_threads(1 if source.kind == "planted" else THREADS)
    with _quiet(), read_once():
        if source.kind == "planted":
            loaded = _built(source, planted_prompts or {}, config, adapter, device)
        else:
            loaded = _pretrained(source, config, adapter, device)
    module = loaded.module.eval().requires_grad_(False)
    use_for_short_texts(module)
    pack(module)
    return ChatModel(
        id=source.id,
        module=module,
        template=ChatTemplate.of(loaded.tokenizer, config.system_prompt, config.thinking),
        structure=find_structure(module),
        revision=loaded.revision,
        weights_sha256=loaded.weights_sha256,
        adapter_sha256=loaded.adapter_sha256,
        dtype=loaded.dtype,
        warnings=loaded.warnings,
        source_quantization=loaded.source_quantization,
        batch_tokens=loaded.batch_tokens,
    )


def load_tokenizer(
    source: Source, config: RunConfig, planted_prompts: Mapping[str, Instruction] | None = None
) -> tuple[Any, Shape, str | None]:
    """Return tokenizer, shape and revision without loading or fetching weights; InputError as `load_model`."""
    with _quiet(), read_once():
        if source.kind == "planted":
            module, tokenizer = _planted(source, planted_prompts or {})
            return tokenizer, shape_of(source.id, module.config), None
        files = find_files(source, config, weights=False)
        template = chat_template_of(config.adapter)
        return read_tokenizer(files, template), _shape(source, config, read_config(files)), files.revision


def _shape(source: Source, config: RunConfig, settings: Any) -> Shape:
    shape = shape_of(source.id, settings, config.trust_remote_code)
    # A .gguf file does not say what its weights were before they were quantised; an alias does.
    return replace(shape, published=source.shape.published) if source.kind == "wheel" and source.shape else shape


def _planted(source: Source, prompts: Mapping[str, Instruction]) -> tuple[Any, Any]:
    from refusal_bench.calibration.planted import WORLDS, build_planted

    world = WORLDS[source.location]
    # A prompt of a task that the world does not know is harmless to it, as any prompt it does not know.
    return build_planted(world, {text: x if x.task in world.domains else None for text, x in prompts.items()})


def _built(
    source: Source, prompts: Mapping[str, Instruction], config: RunConfig, adapter: str | None, device: torch.device
) -> _Loaded:
    module, tokenizer = _planted(source, prompts)
    place = _Place.of(config, device, "float32")
    checksum = _sha256_of_weights(module)
    module, adapter_sha256 = _adapted(module, adapter, place, sharded=False)
    return _Loaded(module, tokenizer, place.dtype_name, checksum, adapter_sha256)


def _pretrained(source: Source, config: RunConfig, adapter: str | None, device: torch.device) -> _Loaded:
    template = chat_template_of(adapter)
    files = find_files(source, config, weights=True)
    tokenizer, settings = read_tokenizer(files, template), read_config(files)
    files.weights()
    shape = _shape(source, config, settings)
    place = _Place.of(config, device, shape.published)
    check_vocabulary(files, tokenizer, settings.get_text_config().vocab_size)
    original = source_quantization(files, settings)
    if original and not files.gguf and place.quantization != "none":
        raise InputError(f"{source.id}: its weights are already quantised ({original}); leave --quantization out.")
    # The quantisation of the weights as they are in memory; an unknown one is taken for the smallest.
    bits = "4bit" if original and not files.gguf else place.quantization
    sharded = _check_memory(source.id, shape, bits, place, in_full_first=bool(adapter or files.gguf))
    module, adapter_sha256 = _read(files, settings, adapter, place, sharded=sharded)
    capacity = sum(map(total_bytes, place.gpus)) if sharded else total_bytes(place.device)
    return _Loaded(
        module,
        tokenizer,
        place.dtype_name,
        files.weights_sha256(),
        adapter_sha256,
        files.revision,
        files.warnings,
        original,
        shape.batch_tokens(capacity, place.dtype_name, bits),
    )


def _check_memory(name: str, shape: Shape, bits: str, place: _Place, *, in_full_first: bool) -> bool:
    """Raise InputError if the model cannot fit; return whether it must be spread over all GPUs."""
    cpu = torch.device("cpu")
    if in_full_first:
        check_fits(name, shape, "float32", "none", free_bytes(cpu), "this machine, where it is merged or decoded,")
    may_shard = bool(place.gpus) and not (in_full_first and bits != "none")
    free = free_bytes(place.device)
    if may_shard and shape.least_bytes(place.dtype_name, bits) > USABLE * free:
        together = sum(map(free_bytes, place.gpus))
        check_fits(name, shape, place.dtype_name, bits, together, f"all {len(place.gpus)} GPUs together")
        return True
    check_fits(name, shape, place.dtype_name, bits, free, "this machine" if place.device == cpu else str(place.device))
    return False


def _read(files: Files, settings: Any, adapter: str | None, place: _Place, *, sharded: bool) -> tuple[Any, str | None]:
    """Read the weights; straight to their device unless something must be done to them in full precision first."""
    from transformers import AutoModelForCausalLM, GgufConfig

    # Unless told, transformers leaves some architectures' weights as a .gguf file has them.
    own = {"quantization_config": GgufConfig(dequantize=True)} if files.gguf else {"use_safetensors": True}
    options: dict[str, Any] = files.options() | own
    if getattr(settings.get_text_config(), "attn_logit_softcapping", None) is not None:
        options["attn_implementation"] = "eager"  # some versions of transformers take a kernel that leaves the cap out
    in_full = bool(files.gguf or adapter)
    if not in_full and (place.device.type != "cpu" or place.quantization != "none"):
        options["device_map"] = "auto" if sharded else {"": place.device}
        if place.quantization != "none":
            options |= quantization.loading_options(place.quantization, place.dtype)
    try:
        module, told = AutoModelForCausalLM.from_pretrained(
            files.folder,
            config=settings,
            dtype=torch.float32 if in_full else place.dtype,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{files.id}: its weights cannot be loaded ({first_line(error)}).") from error
    # transformers draws random numbers for what a checkpoint lacks.
    if absent := sorted(told["missing_keys"]):
        raise InputError(
            f"{files.id}: its weights lack {len(absent)} of the architecture's tensors, {absent[0]} first; fetch the "
            "model again, or mend its config.json."
        )
    if not in_full:
        return quantization.exact_products(module), None
    return _adapted(module, adapter, place, sharded=sharded)


def _adapted(module: Any, adapter: str | None, place: _Place, *, sharded: bool) -> tuple[Any, str | None]:
    """Merge the adapter into a model in float32, then round and quantise, then put the model where it belongs."""
    module, adapter_sha256 = merge_adapter(module, adapter) if adapter else (module, None)
    if place.dtype != torch.float32:
        _round(module, place.dtype)
    if place.quantization != "none":
        module = quantization.quantize(module, place.quantization, place.dtype, place.device)
    return (spread(module) if sharded else module.to(place.device)), adapter_sha256


def _round(module: Any, dtype: torch.dtype) -> None:
    """Round in place what transformers reads in a data type; rotary frequencies and some routers stay in float32."""
    names = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    read = type(module).from_pretrained(None, config=module.config, state_dict=names, dtype=dtype, device_map="meta")
    alike = dict(chain(read.named_parameters(), read.named_buffers()))
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        tensor.data = tensor.data.to(alike[name].dtype)


def _sha256_of_weights(module: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes about tied weights and conversion off the screen; errors still raise."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for name in ("peft", "bitsandbytes"):  # both are imported wherever they are installed
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # peft looks for a base config beside a .gguf file, and calls a name that transformers renamed.
            warnings.filterwarnings("ignore", message="Could not find a config file", category=UserWarning)
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
