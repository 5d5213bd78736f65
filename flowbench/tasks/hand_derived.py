"""The gradients of an objective: by autograd, or without it where the objective knows them."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["HandDerived", "descend"]


class HandDerived(nn.Module):
    """An objective that knows its gradients without autograd."""

    @abstractmethod
    def leave_gradients(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `forward` does, without a graph, and write its gradients over those that the parameters have.

        The batch may be written over as well.
        """


def descend(objective: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and what is logged of it; the parameters have its gradients."""
    # On a GPU there are no gradients to write over.
    if isinstance(objective, HandDerived) and batch[0].is_cpu:
        return objective.leave_gradients(*batch)
    loss, terms = objective(*batch)
    torch.autograd.backward(loss)
    return loss, terms
