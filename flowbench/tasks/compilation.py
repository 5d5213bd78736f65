"""How what is trained, timed or evaluated is compiled: in one way, so that one figure is that of the other."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from flowbench.densities.flows.compiled_resnet import compile_networks_once
from flowbench.densities.flows.normalization import recorded_afterwards

__all__ = ["as_compiled", "forget_compiled"]

Function = TypeVar("Function", bound=Callable[..., object])

GPU_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    # The hundreds of small kernels of a pass are launched as one CUDA graph: what `mode="reduce-overhead"` sets.
    "triton.cudagraphs": True,
    # Small kernels that do not wait for each other are one: a step has 0.6 times as many.
    "combo_kernels": True,
    # A normalization's backward pass reads ten tensors, all but a few of them tiny, and what is read out a dozen
    # channels: to write down what is computed of them, in float32, and to read that in the next kernels would take
    # twice as long. Torch does from four and eight on.
    "realize_reads_threshold": 48,
    "realize_acc_reads_threshold": 48,
    "realize_opcount_threshold": 200,
    # Left to itself, the compiler takes networks of 64 channels or fewer for too narrow to be channels-last.
    "force_layout_optimization": True,
    # To try whether a small kernel fits a reduction's loops takes a fifth of the time that kernels are planned in, and
    # none of ours does.
    "loop_reindexing_after_fusion": False,
}
"""Inductor's, on a GPU alone."""
NEWER_OPTIONS = frozenset({"loop_reindexing_after_fusion"})
"""Those of them that torch 2.11 does not know: it is not told."""
GPU_RECOMPUTATION = {
    # What is cheap to compute is computed again for the gradients, not kept: reading it would take longer.
    "ban_recompute_used_far_apart": False,
    "ban_recompute_long_fusible_chains": False,
}
"""AOTAutograd's, on a GPU alone."""
CACHED = {
    # Networks have gradients of their own (`compiled_resnet`), which are a function of what they are given alone.
    "autograd_cache_allow_custom_autograd_functions": True,
}
"""AOTAutograd's, everywhere: what is compiled once is not compiled again by the next process."""


def as_compiled(function: Function, device: torch.device) -> Function:
    """Return a function compiled for each shape it is called with.

    Args:
        function: of a model, on tensors.
        device: where they lie; on a GPU memory and launches are what a pass waits for: `GPU_OPTIONS`,
            `GPU_RECOMPUTATION`.
    """
    compile_networks_once()
    on_gpu = device.type == "cuda"
    compiled = (
        torch.compile(function, dynamic=False, options=_known(GPU_OPTIONS))
        if on_gpu
        else torch.compile(function, dynamic=False)
    )
    settings = {**CACHED, **(GPU_RECOMPUTATION if on_gpu else {})}

    @wraps(function)
    def set_up(*arguments: Any) -> object:
        # AOTAutograd takes no options: it looks at its settings whenever it compiles.
        with torch._functorch.config.patch(settings), recorded_afterwards():
            return compiled(*arguments)

    return cast(Function, set_up)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    # Only here: it imports the compiler.
    from torch._inductor import config

    return {name: value for name, value in options.items() if name not in NEWER_OPTIONS or hasattr(config, name)}


def forget_compiled() -> None:
    """Forget all that was compiled in this process, and give its CUDA graphs' memory back.

    Torch keeps eight versions of a function, for all its models together; from the ninth on it runs uncompiled.
    """
    # torch.compiler would import the compiler to reset it: 124 MB that the peak of a pass would show.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
