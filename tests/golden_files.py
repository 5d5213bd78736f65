"""The golden files: results of the original authors' programs, in the folder that FLOWBENCH_GOLDEN names."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("FLOWBENCH_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


def golden_files(pattern: str) -> list[Any]:
    """Return every golden file that matches, as parameters of a test; one skipped parameter where there is none."""
    files = sorted(FOLDER.glob(pattern))
    if not files:
        skip = pytest.mark.skip(reason=f"no {pattern} in {FOLDER}: set FLOWBENCH_GOLDEN to the golden files' folder")
        return [pytest.param(None, marks=skip, id="none")]
    return [pytest.param(GoldenFile(file), id=file.stem) for file in files]


class GoldenFile:
    """One file, read when it is first asked for something."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def arrays(self) -> Any:
        return np.load(self.path)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> Tensor:
        """Return an array; images, which lie as NHWC, come as NCHW."""
        tensor = torch.from_numpy(np.array(self.arrays[key]))
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def json(self, key: str) -> Any:
        return json.loads(str(self.arrays[key]))

    def under(self, prefix: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return the raw arrays whose keys start with the prefix, by the rest of the key."""
        return {key.removeprefix(prefix): self.arrays[key] for key in self.arrays.files if key.startswith(prefix)}
