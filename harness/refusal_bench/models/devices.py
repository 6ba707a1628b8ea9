"""Where a model runs and in which data type, and how much memory is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import torch

from refusal_bench.errors import InputError

KINDS = ("cpu", "cuda", "mps")
CGROUP = Path("/sys/fs/cgroup")

# oneDNN keeps 1,024 kernels, each 0.7 MB in bfloat16; batches of a run rarely have the shape of much earlier ones.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is a CUDA GPU where there is one. InputError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used here; give auto, cpu, or a GPU that torch sees (cuda, cuda:1, mps)."
        ) from error
    if device.type not in KINDS:
        raise InputError(f"device {name!r} is not supported; give auto, {', '.join(KINDS)} or cuda:1.")
    return device


def resolve_dtype(name: str, device: torch.device, published: str) -> torch.dtype:
    """Return the data type of a name; `published` is the one that the weights were published in.

    `auto` is bfloat16 on a GPU. On a processor it is float32, or bfloat16 where the processor multiplies that in
    hardware and nobody has the weights in more digits than half precision.
    """
    if name != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
    half = published in ("bfloat16", "float16") and _multiplies_bfloat16()
    return torch.bfloat16 if device.type != "cpu" or half else torch.float32


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it: AMX is several times as fast as float32, AVX-512 twice."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older ones do not say
    return capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)


def all_gpus(name: str) -> tuple[torch.device, ...]:
    """The devices that `auto` may spread a model over; none if there are not several, or one device was named."""
    n = torch.cuda.device_count() if name == "auto" and torch.cuda.is_available() else 0
    return tuple(torch.device("cuda", index) for index in range(n)) if n > 1 else ()


def spread(model: Any) -> Any:
    """Spread a model in memory over all GPUs, whole blocks at a time, and let it move activations between them."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or [])
    balanced = get_balanced_memory(model, no_split_module_classes=whole)
    return dispatch_model(model, infer_auto_device_map(model, balanced, no_split_module_classes=whole))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now; on a CPU within the limit of the container, if there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = int(psutil.virtual_memory().available)
    limit = _container_bytes()
    return free if limit is None else min(free, limit[0] - limit[1])


def total_bytes(device: torch.device) -> int:
    """Memory of a device, in use or not."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    total = int(psutil.virtual_memory().total)
    limit = _container_bytes()
    return total if limit is None else min(total, limit[0])


def _container_bytes() -> tuple[int, int] | None:
    """Limit and use (less the file cache, which gives way) of this control group; None without a limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cache = dict(line.split() for line in lines).get("inactive_file", "0")
    return int(limit), max(0, used - int(cache))
