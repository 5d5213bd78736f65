"""The network of PixelCNN++: two streams, down through three scales and up again, with skip connections.

Salimans et al. 2017 (arXiv:1701.05517), sections 2.3 and 2.4, as in the authors' program (openai/pixel-cnn).
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbench.densities.autoregressive.layers import (
    GatedResnet,
    Nin,
    Nonlinearity,
    Normed,
    ShiftedConv,
    ShiftedDeconv,
    down_shift,
    right_shift,
)

__all__ = ["SCALES", "PixelNet", "Scale", "with_ones"]

SCALES = 3
"""Each but the first halves both sides."""


def with_ones(x: Tensor) -> Tensor:
    """Return x with a channel of ones: beside the zeros of a padding they tell where the image ends."""
    return torch.cat((x, torch.ones_like(x[:, :1])), dim=1)


class Scale(nn.Module):
    """Gated residual networks at one size, and between those of the way down and of the way up the smaller scales.

    Every output of the way down, the first and the strided ones too, goes once into the way up.

    Args:
        below: how many smaller scales there are.
        blocks: residual networks of each stream on the way down; on the way up as many, and one more where there are
            smaller scales.
        filters, nonlinearity, dropout, classes: see `GatedResnet`.
    """

    def __init__(
        self, below: int, blocks: int, filters: int, nonlinearity: Nonlinearity, dropout: float, classes: int
    ) -> None:
        super().__init__()
        options = (nonlinearity, dropout, classes)

        def pair(beside_u: int, beside_ul: int) -> nn.ModuleList:
            u = GatedResnet("down", filters, beside_u, *options)
            return nn.ModuleList([u, GatedResnet("down_right", filters, beside_ul, *options)])

        self.down = nn.ModuleList(pair(0, filters) for _ in range(blocks))
        self.inner: Scale | None = None
        if below:
            self.shrink = nn.ModuleList(
                [ShiftedConv("down", filters, filters, stride=2), ShiftedConv("down_right", filters, filters, stride=2)]
            )
            self.inner = Scale(below - 1, blocks, filters, *options)
            self.grow = nn.ModuleList(
                [ShiftedDeconv("down", filters, filters), ShiftedDeconv("down_right", filters, filters)]
            )
        self.up = nn.ModuleList(pair(filters, 2 * filters) for _ in range(blocks + (1 if below else 0)))

    def forward(self, u: Tensor, ul: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return both streams after the way up, shaped as they came.

        Args:
            u, ul: the streams, (batch, filters, height, width).
            h: one-hot classes, (batch, classes).
        """
        skips = [(u, ul)]
        for block_u, block_ul in self.pairs_down():
            u = block_u(u, None, h)
            ul = block_ul(ul, u, h)
            skips.append((u, ul))
        if self.inner is None:
            skips.pop()
        else:
            (shrink_u, shrink_ul), (grow_u, grow_ul) = self.shrink, self.grow
            u, ul = self.inner(shrink_u(u), shrink_ul(ul), h)
            u, ul = grow_u(u), grow_ul(ul)
        for block_u, block_ul in self.pairs_up():
            skip_u, skip_ul = skips.pop()
            u = block_u(u, skip_u, h)
            ul = block_ul(ul, torch.cat((u, skip_ul), dim=1), h)
        return u, ul

    def pairs_down(self) -> list[tuple[GatedResnet, GatedResnet]]:
        """Return the residual networks of the way down, those of the first and of the second stream."""
        return [cast(tuple[GatedResnet, GatedResnet], tuple(cast(nn.ModuleList, pair))) for pair in self.down]

    def pairs_up(self) -> list[tuple[GatedResnet, GatedResnet]]:
        """Return those of the way up."""
        return [cast(tuple[GatedResnet, GatedResnet], tuple(cast(nn.ModuleList, pair))) for pair in self.up]

    def in_order(self) -> Iterator[Normed | GatedResnet]:
        """Yield the layers, a `GatedResnet` for all of its own, in the order of the authors' program."""
        for pair in self.pairs_down():
            yield from pair
        if self.inner is not None:
            yield from cast(Iterator[Normed], iter(self.shrink))
            yield from self.inner.in_order()
            yield from cast(Iterator[Normed], iter(self.grow))
        for pair in self.pairs_up():
            yield from pair


class PixelNet(nn.Module):
    """From an image to the parameters of every pixel's distribution, each seeing the pixels before it in raster order.

    Args:
        channels: of the image.
        outputs: values for each pixel.
        blocks, filters, nonlinearity, dropout, classes: see `Scale`.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        blocks: int,
        filters: int,
        nonlinearity: Nonlinearity,
        dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.above_u = ShiftedConv("down", channels + 1, filters, (2, 3))
        self.above = ShiftedConv("down", channels + 1, filters, (1, 3))
        self.left = ShiftedConv("down_right", channels + 1, filters, (2, 1))
        self.scale = Scale(SCALES - 1, blocks, filters, nonlinearity, dropout, classes)
        self.out = Nin(filters, outputs)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Return (batch, outputs, height, width).

        Args:
            x: images in [−1, 1], (batch, channels, height, width), sides multiples of 4.
            h: one-hot classes, (batch, classes).
        """
        x = with_ones(x)
        # Shifted after the biases: the first row of u, and ul at the first pixel, are exactly 0.
        u = down_shift(self.above_u(x))
        ul = down_shift(self.above(x)) + right_shift(self.left(x))
        _, ul = self.scale(u, ul, h)
        return self.read_out(ul)

    def read_out(self, ul: Tensor) -> Tensor:
        """Return the outputs of the second stream, (batch, outputs, height, width)."""
        out: Tensor = self.out(F.elu(ul))  # elu, whatever the nonlinearity of the residual networks
        return out

    def authors_variables(self) -> dict[str, Tensor]:
        """Return the parameters (not copies) under the names of the authors' TensorFlow variables, in their order."""
        counts: dict[str, int] = {}
        named: dict[str, Tensor] = {}

        def number(kind: str) -> str:
            counts[kind] = counts.get(kind, -1) + 1
            return f"model/{kind}_{counts[kind]}"

        def enter(layer: Normed) -> None:
            kind = "dense" if isinstance(layer, Nin) else "deconv2d" if isinstance(layer, ShiftedDeconv) else "conv2d"
            name = number(kind)
            named.update({f"{name}/V": layer.V, f"{name}/g": layer.g, f"{name}/b": layer.b})

        for layer in (self.above_u, self.above, self.left, *self.scale.in_order(), self.out):
            if isinstance(layer, Normed):
                enter(layer)
                continue
            for part in (layer.first, layer.beside, layer.second):
                if part is not None:
                    enter(part)
            if layer.hw is not None:
                named[f"{number('conditional_weights')}/hw"] = layer.hw
        return named
