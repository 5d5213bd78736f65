"""How what is trained, timed or evaluated is compiled: in one way, so that one figure is that of the other."""

import sys
from collections.abc import Callable
from typing import TypeVar, cast

import torch

__all__ = ["as_compiled", "forget_compiled"]

Function = TypeVar("Function", bound=Callable[..., object])


def as_compiled(function: Function, device: torch.device) -> Function:
    """Return a function compiled for each shape it is called with.

    Args:
        function: of a model, on tensors.
        device: where they lie; on a GPU the hundreds of small kernels of a pass are launched as one CUDA graph.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    return cast(Function, torch.compile(function, dynamic=False, mode=mode))


def forget_compiled() -> None:
    """Forget all that was compiled in this process, and give its CUDA graphs' memory back.

    Torch keeps eight versions of a function, for all its models together; from the ninth on it runs uncompiled.
    """
    # torch.compiler would import the compiler to reset it: 124 MB that the peak of a pass would show.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
