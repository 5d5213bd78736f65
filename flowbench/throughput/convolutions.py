"""The floor under a pass: its own convolutions and nothing else, replayed on the device that runs the pass.

A pass without convolutions, as a transformer's, has its matrix products for a floor, those of attention included.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowbench.densities.flows.products import product, suits

__all__ = ["Floor", "record"]

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_aten = torch.ops.aten
_MATRICES = (_aten.mm.default, _aten.addmm.default)
_PRODUCTS = (*_MATRICES, _aten.bmm.default, _aten.baddbmm.default)
_LAYOUTS = (torch.channels_last, torch.contiguous_format)
_TRIALS = 3

# What tells one call from another: the operator and its arguments, tensors by shape and type.
_Call = tuple[Any, tuple[Any, ...]]


class Floor:
    """The convolutions of one pass, there and back as the pass has them, on random numbers.

    Calling it runs them all. Of channels-last and contiguous the layout that is faster here is used, and of torch's own
    matrix products and oneDNN's, where there are both, likewise.

    Args:
        calls: how often each convolution, or matrix product, occurs.
        device: where they run.
        synchronize: waits for the device.
        launching: makes of a function that launches the convolutions one that launches them as the pass launches its
            kernels (`Device.as_graph`); None: one by one. A floor that waits for Python is none.
    """

    def __init__(
        self,
        calls: Mapping[_Call, int],
        device: torch.device,
        synchronize: Callable[[], None],
        launching: Callable[[Callable[[], object]], Callable[[], object]] | None = None,
    ) -> None:
        self._run: Callable[[], object] | None = None
        if not calls:
            return

        def made(layout: torch.memory_format) -> Callable[[], object]:
            run = partial(_convolve, _tensors(calls, device, layout))
            return launching(run) if launching else run

        seconds = {}
        for layout in _LAYOUTS:
            self._run = made(layout)
            seconds[layout] = min(_seconds(self._run, synchronize) for _ in range(_TRIALS))
        best = min(_LAYOUTS, key=lambda layout: seconds[layout])
        if best != _LAYOUTS[-1]:
            self._run = made(best)

    def __bool__(self) -> bool:
        """Whether there is any convolution or matrix product."""
        return self._run is not None

    def __call__(self) -> None:
        """Run every one as often as the pass does."""
        if self._run is not None:
            self._run()


def record(run: Callable[[], object]) -> Counter[_Call]:
    """Run a pass once, eagerly; return its convolutions, or without any its matrix products, with their counts."""
    recorder = _Recorder()
    with recorder:
        run()
    return recorder.calls or recorder.products


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[_Call] = Counter()
        self.products: Counter[_Call] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _CONVOLUTIONS:
            self.calls[func, tuple(_described(argument) for argument in args)] += 1
        elif func in _PRODUCTS:
            self.products[func, tuple(_described(argument) for argument in args)] += 1
        elif "scaled_dot_product" in func.name():
            self.products.update(_inside_attention(args, backward="backward" in func.name()))
        return func(*args, **(kwargs or {}))


def _inside_attention(args: Sequence[Any], *, backward: bool) -> list[_Call]:
    """Return the products of a fused attention: two forward, four of gradients, over all pairs of tokens.

    Args:
        args: queries, keys and values, (batch, heads, tokens, head) each; in the backward pass after a gradient.
    """
    queries, keys, values = args[1:4] if backward else args[:3]
    many, dtype = queries.shape[0] * queries.shape[1], queries.dtype
    here, there, head, width = queries.shape[2], keys.shape[2], queries.shape[3], values.shape[3]

    def call(rows: int, inner: int, columns: int) -> _Call:
        return _aten.bmm.default, (((many, rows, inner), dtype), ((many, inner, columns), dtype))

    if not backward:
        return [call(here, head, there), call(here, there, width)]
    return [call(there, here, width), call(here, width, there), call(here, there, head), call(there, here, head)]


def _described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return tuple(argument) if isinstance(argument, list) else argument


def _tensors(
    calls: Mapping[_Call, int], device: torch.device, layout: torch.memory_format
) -> list[tuple[Any, list[Any], int]]:
    """Return operators with arguments to call them on; equal tensors are shared, to take no more memory than needed."""
    made: dict[Any, Tensor] = {}

    def build(description: Any) -> Any:
        if not (isinstance(description, tuple) and len(description) == 2 and isinstance(description[1], torch.dtype)):
            return list(description) if isinstance(description, tuple) else description
        if description not in made:
            shape, dtype = description
            values = torch.rand(shape, dtype=dtype, device=device)
            made[description] = values.contiguous(memory_format=layout) if len(shape) == 4 else values
        return made[description]

    work = [(operator, [build(one) for one in arguments], count) for (operator, arguments), count in calls.items()]
    if layout is torch.contiguous_format:
        return work
    return [(*_by_onednn(operator, arguments), count) for operator, arguments, count in work]


def _by_onednn(operator: Any, arguments: list[Any]) -> tuple[Any, list[Any]]:
    """Return the same matrix product by oneDNN, where that takes it; anything else as it is."""
    if operator not in _MATRICES:
        return operator, arguments
    *bias, x, columns = arguments
    weight = columns.t().contiguous()
    if not suits(x, weight) or any(one.ndim != 1 for one in bias):
        return operator, arguments
    return product, [x, weight, *bias]


@torch.no_grad()
def _convolve(work: list[tuple[Any, list[Any], int]]) -> None:
    for operator, arguments, count in work:
        for _ in range(count):
            operator(*arguments)


def _seconds(run: Callable[[], object], synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start
