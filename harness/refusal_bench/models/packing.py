"""Weights of linear layers as oneDNN multiplies by them, laid out once and not anew in every product.

torch lays a bfloat16 matrix out for its processor's instructions each time that something is multiplied by it, which
takes a twentieth of the time of scoring prompts and a seventh of that of writing (benchmarks/half_precision.py).
Products are the same to the last bit; where an input does not lie in memory in order, torch adds a bias after a
rounding, and this before.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from refusal_bench.models.devices import free_bytes

PROBED = 16
"""Rows by which a layer's product is compared with torch's own."""

SPARE = 1 / 16
"""Most of the free memory that a second copy of an embedding's weight may take."""


class PackedLinear(nn.Linear):
    """A linear layer that multiplies by a packed weight, and has no other unless it shares that with an embedding."""

    packed: Tensor

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:  # type: ignore[override]
        """The weight in the usual layout: some architectures multiply by it themselves."""
        shared = self._parameters.get("weight")
        return self.packed.to_dense() if shared is None else shared

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Multiply, as the layer did before."""
        if x.requires_grad and torch.is_grad_enabled():
            found: Tensor = _Product.apply(x, self.packed, self.bias)  # type: ignore[no-untyped-call]
            return found
        return _product(x, self.packed, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.setdefault(f"{prefix}weight", self.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Become an ordinary layer for what moves or converts a model."""
        weight = self.weight
        del self.packed
        self.__class__ = nn.Linear  # type: ignore[assignment]
        self._parameters.setdefault("weight", nn.Parameter(weight, requires_grad=False))
        return self._apply(fn, recurse)


def can_pack() -> bool:
    """Whether this processor, and this build of torch, multiply by packed bfloat16 weights."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_onednn = is_x86 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(module: nn.Module) -> None:
    """Pack a model's bfloat16 linear layers on an x86 CPU, each in place of the usual layout, so that memory stays.

    Others stay as they are, as does a layer whose product is not the same to the last bit. A head that shares the
    embedding's weight is packed where there is plenty of memory for a second copy.
    """
    if not can_pack():
        return
    users = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    for layer in module.modules():
        if type(layer) is not nn.Linear or layer.weight.device.type != "cpu" or layer.weight.dtype != torch.bfloat16:
            continue
        is_shared = users[id(layer.weight)] > 1
        if is_shared and layer.weight.nbytes > SPARE * free_bytes(layer.weight.device):
            continue
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        if _is_same(packed, layer):
            if not is_shared:
                del layer.weight
            layer.__class__ = PackedLinear
            layer.packed = packed


@torch.inference_mode()
def _is_same(packed: Tensor, layer: nn.Linear) -> bool:
    x = torch.randn(PROBED, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight.dtype)
    return torch.equal(_product(x, packed, layer.bias), linear(x, layer.weight, layer.bias))


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found


class _Product(torch.autograd.Function):
    """The product with its gradient by x, which oneDNN's own has only for inputs in its layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply."""
        ctx.packed = packed
        return _product(x, packed, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Multiply back."""
        return gradients[0] @ ctx.packed.to_dense(), None, None
