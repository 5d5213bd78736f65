"""Variables of the authors' programs, put into the parameters that they belong to."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowbench.errors import InputError

__all__ = ["as_it_is", "load_variables", "of_tensorflow"]

Layout = Callable[[Tensor, int], Tensor]
"""Lays a value of theirs out as a parameter of that many dimensions is."""


def of_tensorflow(value: Tensor, dimensions: int) -> Tensor:
    """Return kernels HWIO as OIHW, matrices (in, out) as kernels of 1x1 where such a one is asked for, vectors flat."""
    if dimensions == 1:
        return value.flatten()
    if dimensions == 4 and value.ndim == 2:
        return value.T[:, :, None, None]
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value


def as_it_is(value: Tensor, dimensions: int) -> Tensor:
    """Return the value."""
    return value


@torch.no_grad()
def load_variables(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, np.ndarray[Any, Any]],
    layout: Layout = of_tensorflow,
    optional: Collection[str] = (),
) -> None:
    """Copy the authors' variables into our parameters, each by its name in their program.

    Args:
        ours: parameters by the authors' names.
        theirs: values in their program's layouts.
        layout: of those.
        optional: names that may be missing: ours stay as they are.

    Raises:
        InputError: a variable is missing, misshapen or left over.
    """
    for name, tensor in ours.items():
        if name not in theirs:
            if name in optional:
                continue
            raise InputError(f"variables: {name} is missing; do the hparams belong to these variables?")
        value = layout(torch.from_numpy(np.array(theirs[name])), tensor.ndim)
        if value.shape != tensor.shape:
            raise InputError(f"variables: {name} has shape {theirs[name].shape}, which the hparams do not ask for")
        tensor.copy_(value)
    unused = sorted(name for name in theirs if name not in ours and name not in optional)
    if unused:
        raise InputError(f"variables: {unused[0]} (of {len(unused)}) belongs to nothing that the hparams describe")
