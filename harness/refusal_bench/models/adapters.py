"""PEFT adapters: merged into the weights in full precision, so that interventions see one plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from refusal_bench.errors import InputError, first_line
from refusal_bench.files import sha256_of
from refusal_bench.models.hub import snapshot


def find_adapter(adapter: str) -> Path:
    """Return the folder of a local or hub adapter; InputError if it is not one."""
    folder = Path(adapter) if Path(adapter).is_dir() else None
    if folder is None:
        if adapter.startswith((".", "/")) or adapter.count("/") != 1:
            raise InputError(
                f"{adapter}: there is no such adapter folder; give a folder or a hub id such as owner/name."
            )
        folder = snapshot(adapter, None, ["adapter_config.json", "adapter_model.safetensors"])
    if not (folder / "adapter_model.safetensors").is_file() or not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: needs adapter_config.json and adapter_model.safetensors; it is not a PEFT adapter."
        )
    return folder


def merge_adapter(module: Any, adapter: str) -> tuple[Any, str]:
    """Merge an adapter into an unquantised model; return the model and the SHA-256 of the adapter's weights."""
    from peft import PeftModel

    folder = find_adapter(adapter)
    try:
        merged = PeftModel.from_pretrained(module, str(folder)).merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(f"{adapter}: does not fit this model ({first_line(error)}).") from error
    return merged, sha256_of(folder / "adapter_model.safetensors")
