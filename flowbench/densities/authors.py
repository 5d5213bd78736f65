"""Variables of TensorFlow programs, put into the parameters that they belong to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowbench.errors import InputError

__all__ = ["load_variables"]


@torch.no_grad()
def load_variables(ours: Mapping[str, Tensor], theirs: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Copy the authors' variables into our parameters, each by its name in their program.

    Args:
        ours: parameters by the authors' names: kernels OIHW, everything else as it is or flat.
        theirs: values in TensorFlow's layouts: kernels HWIO; vectors may carry dimensions of size 1 before them.

    Raises:
        InputError: a variable is missing, misshapen or left over.
    """
    for name, tensor in ours.items():
        if name not in theirs:
            raise InputError(f"variables: {name} is missing; do the hparams belong to these variables?")
        value = torch.from_numpy(np.array(theirs[name]))
        value = value.permute(3, 2, 0, 1) if tensor.ndim == 4 else value.flatten() if tensor.ndim == 1 else value
        if value.shape != tensor.shape:
            raise InputError(f"variables: {name} has shape {theirs[name].shape}, which the hparams do not ask for")
        tensor.copy_(value)
    unused = sorted(name for name in theirs if name not in ours)
    if unused:
        raise InputError(f"variables: {unused[0]} (of {len(unused)}) belongs to nothing that the hparams describe")
