"""The one count of floating-point operations: convolutions, matrix products and their inverses, 2 for a multiply-add.

Elementwise work, normalizations and pooling are not counted. Operations are counted by `torch.utils.flop_counter`,
which takes operators that it does not know for free: fused ones are taken apart while it counts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.backends import mha, mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["MOST_COUNTED", "flops_per_item"]

MOST_COUNTED = 3
"""The largest batch that is counted, of two."""


def flops_per_item(*stages: Callable[[int], object]) -> list[int]:
    """Return what one image or window more in the batch adds to each stage.

    Products that are made once a batch (of a 1x1 convolution's factors, say) are left out: at batch 1 they would add
    7.7 % to Glow's, in a large one nothing.

    Args:
        stages: called in turn with the size of the batch, on a CPU: a GPU's LSTM is one unknown operator. What they
            keep from one call to the next (`Derived`) must be there before, or it is counted once.
    """
    few, more = ([_flops(stage, size) for stage in stages] for size in (MOST_COUNTED - 1, MOST_COUNTED))
    return [b - a for a, b in zip(few, more, strict=True)]


def _flops(stage: Callable[[int], object], size: int) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH)
    # Its tracker of modules hangs hooks into the graph, and the gradient of a critic's gradient refuses them.
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with _nothing_fused(), counter:
        stage(size)
    return int(counter.get_total_flops())


class _Untracked:
    """Every operation belongs to the whole."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def _nothing_fused() -> Iterator[None]:
    """Inside the block, attention and recurrent layers are made of matrix products."""
    fast, onednn = mha.get_fastpath_enabled(), mkldnn.enabled
    mha.set_fastpath_enabled(False)  # of attention and transformer layers in evaluation
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(fast)
        mkldnn.enabled = onednn


def _product(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Return the operations of a product by the shapes of its factors."""
    return 2 * int(prod(a)) * (int(b[-1]) if len(b) > 1 else 1)


def _added(_to: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _product(a, b)


def _triangular(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _product(a, b) // 2


def _by_factors(lu: Any, _pivots: Any, b: Any, *_: Any, **__: Any) -> int:
    return _product(lu, b)


_aten = torch.ops.aten
_UNKNOWN_TO_TORCH = {
    _aten.mv: _product,
    _aten.addmv: _added,
    _aten.addmm_: _added,
    _aten.baddbmm_: _added,
    _aten.linalg_solve_triangular: _triangular,
    _aten.linalg_lu_solve: _by_factors,
}
"""Factors come first, but where something is added or pivots stand between them."""
