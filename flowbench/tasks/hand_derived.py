"""An objective whose gradients are known without autograd."""

from abc import abstractmethod

from torch import Tensor, nn

__all__ = ["HandDerived"]


class HandDerived(nn.Module):
    """An objective that knows its gradients without autograd."""

    @abstractmethod
    def leave_gradients(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `forward` does, without a graph, and write its gradients over those that the parameters have.

        The batch may be written over as well.
        """
