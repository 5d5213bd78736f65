"""How weights move: the optimizer, and the learning rate over a training."""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from flowbench.config.schema import Optim
from flowbench.training.authors_adam import InsideAdam
from flowbench.training.fused_adam import FusedAdam

__all__ = ["learning_rate", "make_optimizer", "take_step"]


def make_optimizer(parameters: Iterable[nn.Parameter], config: Optim) -> torch.optim.Optimizer:
    """Build the optimizer of the `optim:` section; fused where torch has it (no Python loop), never asking the device.

    On a CPU the parameters' gradients are made as well, all zeros, before any activation: see `take_step`.
    """
    parameters = list(parameters)
    for parameter in parameters:
        if not parameter.is_cuda:
            parameter.grad = torch.zeros_like(parameter)
    kind: type[torch.optim.Optimizer]
    match config.name:
        case "adam" | "adamw":
            # weight_decay is coupled to the gradient in Adam and decoupled from it in AdamW.
            kind, way = FusedAdam, {"fused": True, "decoupled_weight_decay": config.name == "adamw"}
        case "adamax":
            # foreach: a Python loop over hundreds of parameters takes longer than their arithmetic. capturable: a GPU
            # counts the steps itself, and not one that is undone (`_step_if`).
            on_gpu = any(parameter.is_cuda for parameter in parameters)
            kind, way = torch.optim.Adamax, {"foreach": True, "capturable": on_gpu}
        case "adam-inside":
            kind, way = InsideAdam, {}
    optimizer = _uncompiled(kind)(parameters, config.lr, config.betas, config.eps, config.weight_decay, **way)
    # A checkpoint may come from the other kind of device, and says how that one computed.
    optimizer.register_load_state_dict_pre_hook(lambda _, state: _computed(state, way))
    # Torch asks under `capturable` whether a step is being captured, and warns where none is.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def _computed(state: dict[str, Any], way: dict[str, bool]) -> dict[str, Any]:
    return {**state, "param_groups": [{**group, **way} for group in state["param_groups"]]}


@cache
def _uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimizer without the decorators that keep torch's compiler out of its methods.

    They import it for that: 0.75 s and 124 MB of every training (2026-11). We compile the loss, never an optimizer.
    """
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    step: Any = torch.no_grad()(inspect.unwrap(kind.step))
    # Torch wraps it into a profiler's mark, as long as all else that a small model's step does but arithmetic.
    step.hooked = True
    return type(kind.__name__, (kind,), {**plain, "step": step})


def learning_rate(config: Optim, progress: float, epoch: int, step: int = 0) -> float:
    """Return the rate at `progress` (0 to 1, of all steps or of the time budget): linear warm-up, then the schedule.

    Args:
        config: the `optim:` section.
        progress: part of the training that is done.
        epoch: full passes done, for `exponential`: lr · decay^max(epoch − hold, 0).
        step: steps done, for `exponential-steps`: lr · decay^(step + 1), the first step decayed too.
    """
    if progress < config.warmup:
        # Half a promille of the rate at the very first step: a rate of 0 would waste it.
        return config.lr * max(progress / config.warmup, 5e-4)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            done = (progress - config.warmup) / (1 - config.warmup)
            return config.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        case "exponential":
            return config.lr * config.decay ** max(epoch - config.hold, 0)
        case "exponential-steps":
            return float(config.lr * config.decay ** (step + 1))


def take_step(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor, clip_norm: float | None
) -> tuple[Tensor, Tensor]:
    """Clip the gradients that `loss` left, step and clear them, without waiting for the device.

    A non-finite loss or gradient changes nothing.

    Args:
        optimizer: over `parameters`.
        parameters: with their gradients.
        loss: scalar.
        clip_norm: of all gradients together; None: they are not clipped.

    Returns:
        The gradients' norm before clipping, and 1 if the step was taken, else 0: scalars on the device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = _clip(gradients, clip_norm)
    if not loss.is_cuda:
        if taken := math.isfinite(norm.item()) and math.isfinite(loss.item()):
            optimizer.step()
            _count_writes(optimizer, parameters)
        # Gradients keep their place: taken anew among the activations, they leave gaps in memory (an eighth of the peak
        # of Real NVP, 2026-11). On a GPU it would cost a kernel for each.
        torch._foreach_zero_(gradients)
        return norm, norm.new_tensor(float(taken))
    finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
    if optimizer.defaults.get("fused"):
        # The fused kernels skip the step on the device, as they do for a gradient scaler's overflow.
        optimizer.grad_scale, optimizer.found_inf = None, 1 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
        _count_writes(optimizer, parameters)
    else:
        _step_if(finite, optimizer, parameters)
    optimizer.zero_grad(set_to_none=True)
    return norm, finite.float()


@torch.no_grad()
def _clip(gradients: list[Tensor], most: float | None) -> Tensor:
    """Scale gradients to a norm of at most `most`, as `torch.nn.utils.clip_grad_norm_` does; return that before."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if most is not None:
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        # Where nobody waits for it, it is looked at: gradients times 1 are a pass over memory for nothing.
        if factor.is_cuda or factor != 1:
            torch._foreach_mul_(gradients, factor)
    return norm


def _count_writes(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Raise the tensors' versions, by which `Derived` knows what it computed from older weights."""
    if optimizer.defaults.get("fused"):  # fused kernels write past them
        torch.autograd.graph.increment_version(parameters)


@torch.no_grad()
def _step_if(finite: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Step, and undo all of it where `finite` is false, bit for bit: the device decides, and nobody waits for it.

    Args:
        finite: bool, a scalar on the device.
        optimizer: its state is float32 and all zeros at first.
        parameters: float32, with their gradients.
    """

    def owned() -> dict[int, Tensor]:
        """What a step changes: weights, moments and counts, as the integers that their bits are."""
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        tensors = [*parameters, *(tensor for state in states for tensor in state.values())]
        return {id(tensor): tensor.detach().view(torch.int32) for tensor in tensors}

    known = owned()
    copies = dict(zip(known, torch._foreach_add(list(known.values()), 0), strict=True))
    optimizer.step()
    bits = owned()
    before = [copies[key] if key in copies else torch.zeros_like(value) for key, value in bits.items()]
    # new ← before + finite · (new − before): of floating-point numbers it would leave rounding, and NaNs.
    torch._foreach_sub_(list(bits.values()), before)
    torch._foreach_mul_(list(bits.values()), finite.int())
    torch._foreach_add_(list(bits.values()), before)
