"""What a flow is made of: invertible maps with known log-determinants, and the ways to put them together."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

__all__ = ["Bijection", "Compose", "Conjugate", "OnFirstHalf"]


class Bijection(nn.Module, ABC):
    """An invertible map between batches of equal size, x ↔ z.

    Both directions return the mapped batch and the log-determinant of their own Jacobian, one value per element of
    the batch, in nats: `inverse`'s is minus `forward`'s at the same point.
    """

    inverse_compiles: ClassVar[bool] = True
    """False: the inverse is a loop of so many steps that unrolling it would compile for hours."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents.

        Args:
            x: (batch, ...).

        Returns:
            z, and log|det ∂z/∂x| in nats, (batch,).
        """

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents to data.

        Args:
            z: (batch, ...).

        Returns:
            x, and log|det ∂x/∂z| in nats, (batch,).
        """

    def layers(self) -> Iterator["Bijection"]:
        """Yield the bijections that this one is made of, in the order of `forward`, down to the indivisible ones."""
        yield self

    def by_scale(self, z: Tensor) -> list[Tensor]:
        """Return latents by the scale at which they leave the flow, finest first; a single one unless some do early.

        Args:
            z: latents as `forward` gives them, (batch, ...).

        Returns:
            (batch, channels, height, width) each; together as many values as z has.
        """
        return [z]

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the latents that `by_scale` takes apart into `parts`, as `inverse` takes them."""
        (z,) = parts
        return z

    def regularization(self) -> Tensor:
        """Return the sum of squares of the convolutions' magnitudes and of the couplings' scales, a scalar.

        That is what `optim.scale_l2` penalizes (Dinh et al. 2017, section 4.1); 0 without weight normalization.
        """
        named = list(self.named_parameters())
        scales = [one.flatten() for name, one in named if name.endswith((".magnitude", ".rescaling_scale"))]
        if scales:
            return torch.cat(scales).square().sum()
        return named[0][1].new_zeros(()) if named else torch.zeros(())


class Compose(Bijection):
    """The given bijections one after the other: z = f_n(… f_2(f_1(x))); their log-determinants add up."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the bijections from the first to the last."""
        log_det = x.new_zeros(x.shape[0])
        for bijection in self.bijections:
            x, increment = bijection(x)
            log_det = log_det + increment
        return x, log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the bijections from the last to the first."""
        log_det = z.new_zeros(z.shape[0])
        for bijection in reversed(self.bijections):
            z, increment = bijection.inverse(z)  # type: ignore[operator]
            log_det = log_det + increment
        return z, log_det

    def layers(self) -> Iterator[Bijection]:
        """Yield the layers of each bijection in turn."""
        for bijection in self.bijections:
            yield from cast(Bijection, bijection).layers()


class Conjugate(Bijection):
    """A bijection seen in other coordinates: outer⁻¹ ∘ inner ∘ outer.

    With a squeeze as `outer`, `inner` works on the squeezed image and the result has the image's shape again.
    """

    def __init__(self, outer: Bijection, inner: Bijection) -> None:
        super().__init__()
        self.outer = outer
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Go to the other coordinates, apply `inner` and come back."""
        y, there = self.outer(x)
        y, inside = self.inner(y)
        z, back = self.outer.inverse(y)
        return z, there + inside + back

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go to the other coordinates, undo `inner` and come back."""
        y, there = self.outer(z)
        y, inside = self.inner.inverse(y)
        x, back = self.outer.inverse(y)
        return x, there + inside + back

    def layers(self) -> Iterator[Bijection]:
        """Yield the layers of `inner`: what the change of coordinates adds, it takes away again."""
        yield from self.inner.layers()


class OnFirstHalf(Bijection):
    """A bijection of the first half of the channels; the second half is factored out, that is, left as it is.

    Dinh et al. 2017 (arXiv:1605.08803), section 3.6.
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map the first half of the channels of x, (batch, channels, ...)."""
        first, second = x.chunk(2, dim=1)
        first, log_det = self.inner(first)
        return torch.cat((first, second), dim=1), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the map of the first half of the channels of z, (batch, channels, ...)."""
        first, second = z.chunk(2, dim=1)
        first, log_det = self.inner.inverse(first)
        return torch.cat((first, second), dim=1), log_det

    def layers(self) -> Iterator[Bijection]:
        """Yield the layers of `inner`."""
        yield from self.inner.layers()
