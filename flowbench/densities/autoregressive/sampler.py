"""Images of a PixelNet, pixel by pixel, with everything kept that a later pixel sees again.

The first stream depends on the rows above alone: it is computed a row at a time. The second one is computed a pixel at
a time, and at a smaller scale only where its pixels begin (after Ramachandran et al. 2017, arXiv:1704.06001).
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from flowbench.densities.autoregressive.layers import GatedResnet, ShiftedConv
from flowbench.densities.autoregressive.network import PixelNet, Scale, with_ones

__all__ = ["draw_in_order"]


@torch.no_grad()
def draw_in_order(
    net: PixelNet, shape: tuple[int, int, int, int], h: Tensor | None, draw: Callable[[Tensor, int, int], Tensor]
) -> Tensor:
    """Return images, (batch, channels, height, width), each pixel drawn given those before it in raster order.

    Args:
        net: in evaluation mode.
        shape: of the images, sides multiples of 4.
        h: one-hot classes, (batch, classes), or None.
        draw: from the net's outputs at one pixel, (batch, outputs, 1, 1), its row and its column, to the pixel's
            values, (batch, channels, 1, 1): what the net is given for the pixels after it.
    """
    batch, _, height, width = shape
    like = net.out.V
    images = like.new_zeros(shape)
    above_u, above, left = (_Seen(layer, batch, width) for layer in (net.above_u, net.above, net.left))
    scale = _SeenScale(net.scale, batch, width, h)
    nothing = like.new_zeros(batch, len(net.above.b), 1, width)
    for i in range(height):
        # At this point the last row that these have seen is the one above.
        scale.row(i, above_u.at(0, width) if i else nothing)
        row = above.at(0, width) if i else nothing
        for j in range(width):
            ul = row[..., j : j + 1]
            if j:
                ul = ul + left.at(j - 1, 1)
            pixel = draw(net.read_out(scale.pixel(i, j, ul)), i, j)
            images[:, :, i : i + 1, j : j + 1] = pixel
            for seen in (above_u, above, left):
                seen.put(j, with_ones(pixel))
    return images


class _Seen:
    """The last rows of a convolution's input, with its padding.

    Args:
        layer: the convolution.
        batch: images.
        width: of the input.
    """

    def __init__(self, layer: ShiftedConv, batch: int, width: int) -> None:
        self.layer = layer
        _, channels, self.rows, self.columns = layer.V.shape
        left, right, _, _ = layer.padding
        self.left = left
        self.kept = layer.V.new_zeros(batch, channels, self.rows, left + width + right)

    def put(self, j: int, x: Tensor) -> None:
        """Take in x, (batch, channels, 1, n), from column j on; column 0 begins a new row."""
        if j == 0 and self.rows > 1:
            self.kept[:, :, :-1] = self.kept[:, :, 1:].clone()
        self.kept[:, :, -1:, self.left + j : self.left + j + x.shape[3]] = x

    def at(self, j: int, n: int) -> Tensor:
        """Return what the layer gives for the last row where n columns of its input begin at j."""
        x = self.kept[..., j : j + n + self.columns - 1]
        return F.conv2d(x, self.layer.kernels(), self.layer.b, self.layer.stride)

    def then(self, j: int, x: Tensor) -> Tensor:
        """Take in x and return what the layer gives there."""
        self.put(j, x)
        return self.at(j, x.shape[3])


class _SeenBlock:
    """A gated residual network with what its convolutions have seen."""

    def __init__(self, block: GatedResnet, batch: int, width: int, h: Tensor | None) -> None:
        self.block, self.h = block, h
        self.first, self.second = (_Seen(layer, batch, width) for layer in (block.first, block.second))

    def __call__(self, j: int, x: Tensor, a: Tensor | None) -> Tensor:
        """Return the block's output for the next n pixels from column j on, x and a (batch, …, 1, n)."""
        return self.block.through(
            lambda inner: self.first.then(j, inner), lambda inner: self.second.then(j, inner), x, a, self.h
        )


class _SeenScale:
    """A scale with what its layers have seen, its own pixels counted from the top left."""

    def __init__(self, scale: Scale, batch: int, width: int, h: Tensor | None) -> None:
        def seen(pairs: list[tuple[GatedResnet, GatedResnet]]) -> list[tuple[_SeenBlock, _SeenBlock]]:
            return [(_SeenBlock(u, batch, width, h), _SeenBlock(ul, batch, width, h)) for u, ul in pairs]

        self.down, self.up = seen(scale.pairs_down()), seen(scale.pairs_up())
        self.inner: _SeenScale | None = None
        if scale.inner is not None:
            self.shrink_u, self.shrink_ul = (_Seen(cast(ShiftedConv, one), batch, width) for one in scale.shrink)
            self.inner = _SeenScale(scale.inner, batch, width // 2, h)
            self.grow_u, self.grow_ul = scale.grow
            filters = len(self.shrink_u.layer.b)
            # What one row of the inner scale means for two rows of this one.
            self.grown_u, self.grown_ul = (self.shrink_u.kept.new_zeros(batch, filters, 2, width) for _ in range(2))
        self.row_down: list[Tensor] = []
        self.row_up: list[Tensor] = []

    def row(self, i: int, u: Tensor) -> Tensor:
        """Return the first stream's row i after the way up; u: as it comes, (batch, filters, 1, width)."""
        skips = [u]
        for block, _ in self.down:
            u = block(0, u, None)
            skips.append(u)
        self.row_down = skips[1:]
        if self.inner is None:
            skips.pop()
        else:
            self.shrink_u.put(0, u)
            if i % 2 == 0:
                self.grown_u = self.grow_u(self.inner.row(i // 2, self.shrink_u.at(0, u.shape[3])))
            u = self.grown_u[:, :, i % 2 : i % 2 + 1]
        self.row_up = []
        for block, _ in self.up:
            u = block(0, u, skips.pop())
            self.row_up.append(u)
        return u

    def pixel(self, i: int, j: int, ul: Tensor) -> Tensor:
        """Return the second stream at (i, j) after the way up; ul: as it comes, (batch, filters, 1, 1)."""
        skips = [ul]
        for (_, block), u in zip(self.down, self.row_down, strict=True):
            ul = block(j, ul, u[..., j : j + 1])
            skips.append(ul)
        if self.inner is None:
            skips.pop()
        else:
            self.shrink_ul.put(j, ul)
            if i % 2 == 0 and j % 2 == 0:
                smaller = self.inner.pixel(i // 2, j // 2, self.shrink_ul.at(j, 1))
                self.grown_ul[..., j : j + 2] = self.grow_ul(smaller)
            ul = self.grown_ul[:, :, i % 2 : i % 2 + 1, j : j + 1]
        for (_, block), u in zip(self.up, self.row_up, strict=True):
            ul = block(j, ul, torch.cat((u[..., j : j + 1], skips.pop()), dim=1))
        return ul
