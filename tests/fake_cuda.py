"""A GPU without a GPU: tensors that say they lie on "cuda", and notes of what leaks to the CPU or waits for the device.

torch's FakeTensorMode checks the device rules of every operator and computes nothing. What it lets pass is noted here:
operators that read a tensor on the CPU, and those for which the host waits until the device is done.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flowbench

__all__ = ["CUDA", "Watched", "backward", "fake_cuda", "on_cuda"]

CUDA = torch.device("cuda", 0)
_PACKAGE = str(Path(flowbench.__file__).parent)
_aten = torch.ops.aten
_COPIES = (_aten._to_copy, _aten.copy_)
_WAITING = {
    "_local_scalar_dense": ".item()",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "equal": "equal",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "repeat_interleave": "repeat_interleave",
    "multinomial": "multinomial",  # looks whether its probabilities are some
    "_linalg_svd": "svd",
    "_linalg_eigh": "eigh",
    "linalg_lu_factor": "lu_factor",  # lu_factor_ex does not look whether it worked
    "linalg_inv_ex": "inverse",
}
"""Operators for which the host waits, and how they are called here."""


@dataclass
class Watched:
    """What happened inside `fake_cuda`, each by the function of the package that asked for it, as file:function."""

    waits: Counter[str] = field(default_factory=Counter)
    """Where the host waited for the device, and for what: "densities/flow_density.py:images_of .item()"."""
    leaks: Counter[str] = field(default_factory=Counter)
    """Where an operator read a tensor on the CPU."""


@contextmanager
def fake_cuda() -> Iterator[Watched]:
    """Inside the block torch believes in one GPU, and everything that is computed on it is fake."""
    watched = Watched()
    memory = (80 * 2**30, 80 * 2**30)
    with ExitStack() as held:
        held.enter_context(mock.patch("torch.Generator", _Generator))
        held.enter_context(mock.patch("torch.cuda.mem_get_info", return_value=memory))
        # Without a GPU autocast is off, and the bfloat16 networks would not be seen.
        held.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        held.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        held.enter_context(mock.patch("torch.Tensor.numpy", _numpy))
        held.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        held.enter_context(_Watch(watched))
        yield watched


def _numpy(copied: Tensor, *, to_numpy: Callable[[Tensor], np.ndarray[Any, Any]] = Tensor.numpy) -> Any:
    """Give the zeros of a copy to the host: a fake tensor made of them on the way has whatever memory holds."""
    with unset_fake_temporarily():
        return to_numpy(copied)


def on_cuda(model: nn.Module) -> nn.Module:
    """Put fake parameters and buffers on "cuda" in the place of a model's own, as `Module.to` would; return it.

    `Module.to` itself cannot: fake tensors are no data of real parameters. What a module holds as a plain attribute
    stays on the CPU, as it would there.
    """

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(moved(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved(buffer)
    return model


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Do what `loss.backward()` does, node by node: autograd's engine asks for the GPU of each."""
    assert loss.grad_fn is not None
    root = loss.grad_fn
    waiting: Counter[Any] = Counter()
    nodes, seen = [root], {root}
    for node in nodes:
        following = [after for after, _ in node.next_functions if after is not None]
        waiting.update(following)
        nodes += [after for after in dict.fromkeys(following) if after not in seen]
        seen.update(following)
    gradients: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready = [root]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        arguments = [given.get(place) for place in range(len(node._input_metadata))]
        call = getattr(node, "apply", node)
        results = call(*arguments) if given else [None] * len(node.next_functions)
        results = results if isinstance(results, tuple | list) else (results,)
        for (after, place), result in zip(node.next_functions, results, strict=True):
            if after is None:
                continue
            if result is not None:
                wanted, sums = after._input_metadata[place], gradients.setdefault(after, {})
                # Of what was broadcast the engine sums, and it casts.
                result = result.sum_to_size(wanted.shape).to(wanted.dtype)
                sums[place] = sums[place] + result if place in sums else result
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)


class _Generator(torch.Generator):
    """Says that it is the device's: a generator of a GPU's own cannot be made without one."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        generator: _Generator = super().__new__(cls)
        generator._where = CUDA if torch.device(device).type == "cuda" else torch.device("cpu")
        return generator

    @property
    def device(self) -> torch.device:
        return self._where


class _Watch(TorchDispatchMode):
    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self._watched = watched
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator, name = func.overloadpacket, func.overloadpacket.__name__
        if name == "_pin_memory":
            self._pinned.append(args[0])
            return args[0]
        if operator in _COPIES:
            return self._copied(func, args, kwargs)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors}
        if name == "_local_scalar_dense":
            if "cuda" not in devices:
                with unset_fake_temporarily():
                    return func(*args)
            self._waits(".item()")
            return 0.0 if args[0].dtype.is_floating_point else 0
        if devices == {"cuda", "cpu"}:
            self._watched.leaks[f"{_asker()} {name}"] += 1
        if "cuda" in devices and (name in _WAITING or _looks_up_a_mask(name, args)):
            self._waits(_WAITING.get(name, "mask"))
        return func(*args, **kwargs)

    def _copied(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        in_place = func.overloadpacket is _aten.copy_
        source, target = (args[1], args[0].device) if in_place else (args[0], kwargs.get("device") or args[0].device)
        if source.device.type == target.type:
            return func(*args, **kwargs)
        if target.type == "cpu":
            self._waits("to the host")
            with unset_fake_temporarily():
                return args[0] if in_place else torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        pinned = any(source is one for one in self._pinned)
        if not (pinned and (args[2] if len(args) > 2 else kwargs.get("non_blocking"))):
            self._waits("to the device")
        return func(*args, **kwargs)

    def _waits(self, how: str) -> None:
        self._watched.waits[f"{_asker()} {how}"] += 1


def _looks_up_a_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Say whether places of a mask must be counted first: to set all of them to one value, they need not."""
    if name not in ("index", "index_put", "index_put_"):
        return False
    masked = any(one is not None and one.dtype == torch.bool for one in args[1])
    return masked and not (name != "index" and args[2].numel() == 1)


def _asker() -> str:
    """Return the function of the package that is at work, as file:function."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "test"
    return f"{Path(frame.f_code.co_filename).relative_to(_PACKAGE).as_posix()}:{frame.f_code.co_name}"
