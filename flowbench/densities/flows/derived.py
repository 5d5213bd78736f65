"""What evaluation and sampling compute from weights once, not at every pass: folded kernels, checks of matrices."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Derived", "are_finite"]

T = TypeVar("T")


class Derived(Generic[T]):
    """A value computed from tensors, kept until one of them changes.

    Nothing is kept where gradients are recorded or in what torch.compile compiled: there it is computed afresh, and a
    value kept before is dropped, so that training carries no second copy of the weights.

    A change is a write that the tensor's version counts. Fused optimizers do not count theirs: `take_step` does.
    """

    def __init__(self) -> None:
        self._key: Any = None
        self._value: T | None = None

    def get(self, compute: Callable[[], T], *sources: Tensor | None, keep: bool = True) -> T:
        """Return `compute()`, or what it returned before if no source was written to or replaced since.

        Args:
            compute: gives the value.
            sources: what it is computed from.
            keep: False: it is computed afresh here, too.
        """
        if not keep or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self.clear()
            return compute()
        # The version counts writes in place; the address changes where a whole tensor is replaced (module.to).
        key = tuple(None if tensor is None else (tensor.data_ptr(), tensor._version) for tensor in sources)
        if self._value is None or key != self._key:
            self._key, self._value = key, compute()
        return self._value

    def clear(self) -> None:
        """Drop the value."""
        # Written, never read: torch.compile does the same after its graph, and has no value here to guard.
        self._key = None
        self._value = None


def are_finite(*tensors: Tensor | None) -> bool:
    """Say whether what evaluation keeps of weights is finite; True where nothing is kept, as in training.

    oneDNN's ReLU, fused into a convolution, makes 0 of what is not a number: unnoticed, weights that diverged would
    have figures that look like figures.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return True
    # On a GPU nothing is fused so, and the host would wait.
    kept = [tensor for tensor in tensors if tensor is not None and tensor.device.type == "cpu"]
    return all(bool(torch.isfinite(tensor).all()) for tensor in kept)
