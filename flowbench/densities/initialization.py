"""Layers that take their first values from the first batch, and the block in which they do."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["DataInitialized", "initializing"]


class DataInitialized(nn.Module):
    """A layer whose forward pass inside `initializing` sets its parameters from what it is given."""

    initializing = False


@contextmanager
def initializing(model: nn.Module) -> Iterator[None]:
    """Let every `DataInitialized` layer of `model` take its values from what it is given inside the block."""
    layers = [module for module in model.modules() if isinstance(module, DataInitialized)]
    for layer in layers:
        layer.initializing = True
    try:
        yield
    finally:
        for layer in layers:
            layer.initializing = False
