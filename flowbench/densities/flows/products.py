"""Linear layers whose matrix products are oneDNN's where that is the faster library: float32 on a CPU with AVX-512.

Torch's own products are those of the BLAS it was built with. On an AMD processor with AVX-512 (EPYC, Zen 5) MKL reaches
90 GFLOP/s a core and oneDNN 200 there, 120 to 150 for the gradient of the weights (4096 rows, 128 and 512 features,
torch 2.14, 2026-11). Torch has oneDNN's product as the operator that its compiler calls on a CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["Linear", "product", "repeated", "suits"]

LEAST_FEATURES = 128
LEAST_ROWS = 1024
"""For the 64 rows of a step of sampling oneDNN takes as long as MKL where it lays out the weights anew each time."""


class Linear(nn.Linear):
    """`torch.nn.Linear`, its parameters and its numbers up to rounding, by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b for x, (…, in_features)."""
        if not suits(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _Affine.apply(x.flatten(0, -2), self.weight, self.bias)
        return out.view(*x.shape[:-1], self.out_features)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Say whether oneDNN's product takes this input and these weights, and is the faster one for them.

    It is not for whoever watches the operations (a count of FLOPs, say): the model's own product is to be seen.
    """
    return x.numel() >= LEAST_ROWS * weight.shape[1] and _takes(x, weight)


def _takes(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and weight.shape[1] >= LEAST_FEATURES
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not is_in_torch_dispatch_mode()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return x Wᵀ + b by oneDNN, float32, without gradients; of it max(·, 0) with `relu`.

    Args:
        x: (rows, in).
        weight: (out, in).
        bias: (out,).
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "none")
    return out


def repeated(linear: nn.Linear, x: Tensor, *, gelu: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the function x ↦ x Wᵀ + b, or GELU of that, for many inputs of the shape of x between which W stays.

    Where oneDNN's product suits, W is laid out for it once, at 64 rows 1.6 times as fast as MKL (512 and 128 features,
    EPYC, 2026-11), and the GELU is part of it.

    Args:
        linear: its weights are read now.
        x: (rows, in).
        gelu: apply torch's exact GELU.
    """
    weight, bias = linear.weight, linear.bias
    if torch.is_grad_enabled() or not _takes(x, weight):
        return (lambda x: F.gelu(linear(x))) if gelu else linear
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), len(x))
    after = "gelu" if gelu else "none"

    def multiplied(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, after, [], "none")
        return out

    return multiplied


class _Affine(torch.autograd.Function):
    """x Wᵀ + b and its gradients, each product by oneDNN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (to_y,) = grads
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        to_y = to_y.contiguous()
        return (
            product(to_y, weight.t().contiguous()) if needed[0] else None,
            product(to_y.t(), x.t()) if needed[1] else None,
            to_y.sum(0) if needed[2] else None,
        )
