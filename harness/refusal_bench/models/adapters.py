"""PEFT adapters: merged into the weights in full precision, so that interventions see one plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from refusal_bench.errors import InputError, first_line
from refusal_bench.files import sha256_of
from refusal_bench.models.hub import snapshot

SETTINGS, WEIGHTS, TEMPLATE = "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"


def find_adapter(adapter: str) -> Path:
    """Return the folder of a local or hub adapter; InputError if it is not one."""
    folder = _folder(adapter, [SETTINGS, WEIGHTS])
    if not (folder / WEIGHTS).is_file() or not (folder / SETTINGS).is_file():
        raise InputError(f"{adapter}: needs {SETTINGS} and {WEIGHTS}; it is not a PEFT adapter.")
    return folder


def adapter_name(adapter: str | None) -> str | None:
    """What a record calls an adapter: a local folder's name without its place, a hub id as it is."""
    return Path(adapter).resolve().name if adapter and Path(adapter).is_dir() else adapter


def chat_template_of(adapter: str | None) -> str | None:
    """Return the chat template that an adapter was trained with, where its folder holds one."""
    file = _folder(adapter, [SETTINGS, TEMPLATE]) / TEMPLATE if adapter else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else None


def merge_adapter(module: Any, adapter: str) -> tuple[Any, str]:
    """Merge an adapter into an unquantised model; return the model and the SHA-256 of the adapter's weights."""
    from peft import PeftModel

    folder = find_adapter(adapter)
    try:
        merged = PeftModel.from_pretrained(module, str(folder)).merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(f"{adapter}: does not fit this model ({first_line(error)}).") from error
    return merged, sha256_of(folder / WEIGHTS)


def _folder(adapter: str, files: list[str]) -> Path:
    """The adapter's folder, or some files of it fetched from the hub."""
    if Path(adapter).is_dir():
        return Path(adapter)
    if adapter.startswith((".", "/")) or adapter.count("/") != 1:
        raise InputError(f"{adapter}: there is no such adapter folder; give a folder or a hub id such as owner/name.")
    return snapshot(adapter, None, files)
