"""Weight quantisation with bitsandbytes: nf4 with double quantisation (4bit), or LLM.int8() (8bit).

The matrices of the blocks are quantised, embeddings and head are not. Hooks see the outputs of modules, which are of
the compute type, so interventions work as on unquantised weights. Weights from safetensors are quantised while they are
read; those that must first be changed in full precision (an adapter is merged, a GGUF file is decoded) are quantised in
memory afterwards, to the same values. LLM.int8() also quantises each token's activations, so rounding that depends on
the batch (1e-7 in the input) can grow to a step of 1/127: batches and single prompts agree only that far.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from refusal_bench.errors import InputError

OUTLIER_THRESHOLD = 6.0
"""Columns with an activation above it are multiplied unquantised; Dettmers et al. 2022, section 3.2."""


def check_available(quantization: str) -> None:
    """Raise InputError if a quantisation is asked for and bitsandbytes is missing."""
    if quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"--quantization {quantization} needs bitsandbytes, which is not installed; "
            'pip install "refusal-bench[quantization]", or leave --quantization out.'
        )


def loading_options(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for transformers' `from_pretrained` that quantise weights while they are read."""
    from transformers import BitsAndBytesConfig

    if quantization == "4bit":
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER_THRESHOLD)
    return {"quantization_config": settings}


def quantize(model: Any, quantization: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Quantise the matrices of a model in memory, in place, one at a time, each on the device it will stay on."""
    head = model.get_output_embeddings()
    linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    for name, module in linear:
        if module is not head:
            make = _four_bit if quantization == "4bit" else _eight_bit
            model.set_submodule(name, make(module, dtype).to(device))
    return exact_products(model.to(device))


def exact_products(model: Any) -> Any:
    """Multiply 4-bit matrices in the compute type on every CPU.

    On a processor with bfloat16 instructions bitsandbytes would repack them, round their scales to bfloat16 and so give
    other numbers than elsewhere, and refuse sizes that its packing does not divide.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _four_bit(module: nn.Linear, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made: nn.Module = Linear4bit(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    made.weight = Params4bit(
        module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
    )
    made.bias = module.bias
    return made


def _eight_bit(module: nn.Linear, _: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    made: nn.Module = Linear8bitLt(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        has_fp16_weights=False,
        threshold=OUTLIER_THRESHOLD,
        device="meta",
    )
    made.weight = Int8Params(module.weight.data, requires_grad=False, has_fp16_weights=False)
    made.bias = module.bias
    return made
