"""Real NVP the plain PyTorch way: the reference that our passes are timed against.

The architecture and the number of trained values are those of `flowbench.densities.flows.real_nvp`; everything is done
as one writes it down first: NCHW, weight normalization by torch's hook, masks as factors, nothing folded or kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def conv(channels_in: int, channels_out: int, size: int, *, magnitude: bool = True, bias: bool = True) -> nn.Module:
    layer = parametrizations.weight_norm(nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=bias))
    layer.parametrizations.weight.original0.requires_grad_(magnitude)
    return layer


def batch_norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, eps=1e-4)
    layer.weight.requires_grad_(False)  # the architecture learns a shift alone
    return layer


class Block(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            batch_norm(features),
            nn.ReLU(),
            conv(features, features, 3, magnitude=False, bias=False),
            batch_norm(features),
            nn.ReLU(),
            conv(features, features, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Net(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, features: int, blocks: int) -> None:
        super().__init__()
        self.first = conv(channels_in, features, 3, magnitude=False)
        self.blocks = nn.ModuleList(Block(features) for _ in range(blocks))
        self.skips = nn.ModuleList(conv(features, features, 1) for _ in range(blocks + 1))
        self.last = nn.Sequential(batch_norm(features), nn.ReLU(), conv(features, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = self.skips[0](x)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            x = block(x)
            total = total + skip(x)
        return self.last(total)


class Coupling(nn.Module):
    """With a mask: 1 where the image is passed, of any shape that broadcasts to it."""

    def __init__(
        self, channels: int, mask: Tensor, features: int, blocks: int, *, with_mask: bool, scale: float
    ) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.with_mask = with_mask
        seen = 2 * channels + 1 if with_mask else channels
        self.bn_in = batch_norm(channels if with_mask else channels // 2)
        self.net = Net(seen, 2 * channels if with_mask else channels, features, blocks)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bn_out = nn.BatchNorm2d(channels, eps=1e-4, affine=False)

    def shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.with_mask:
            h = 2 * self.bn_in(x * self.mask)
            seen = torch.cat((h, -h, self.mask.expand(len(x), -1, -1, -1)), dim=1)
            shift, log_scale = self.net(F.relu(seen)).chunk(2, dim=1)
        else:
            first = bool(self.mask[0, 0, 0, 0])
            h = self.bn_in(x.chunk(2, dim=1)[0 if first else 1])
            parts = self.net(F.relu(torch.cat((h, -h), dim=1))).chunk(2, dim=1)
            shift, log_scale = (torch.cat((part, part), dim=1) for part in parts)
        moved = 1 - self.mask
        return shift * moved, self.scale * torch.tanh(log_scale) * moved

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.bn_out(x)
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        else:
            var, mean = self.bn_out.running_var, self.bn_out.running_mean
        moved = 1 - self.mask
        return mean.view(1, -1, 1, 1) * moved, -0.5 * torch.log(var.view(1, -1, 1, 1) + 1e-4) * moved

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.shift_and_log_scale(x)
        moved = 1 - self.mask
        y = x * self.mask + (x + shift) * torch.exp(log_scale) * moved
        mean, log_sd = self.statistics(y * moved)
        log_det = log_scale.sum(dim=(1, 2, 3)) + log_sd.expand_as(y).sum(dim=(1, 2, 3))
        return (y - mean) * torch.exp(log_sd), log_det

    def inverse(self, z: Tensor) -> Tensor:
        shift, log_scale = self.shift_and_log_scale(z)
        mean, log_sd = self.statistics(z)
        y = z * torch.exp(-log_sd) + mean
        return y * self.mask + (y * torch.exp(-log_scale) - shift) * (1 - self.mask)


class Scale(nn.Module):
    def __init__(self, shape: tuple[int, int, int], scales: int, features: int, blocks: int) -> None:
        super().__init__()
        channels, height, width = shape
        board = (torch.arange(height).view(-1, 1) + torch.arange(width)) % 2
        boards = [(board == parity).float().view(1, 1, height, width) for parity in (0, 1)]
        count = 3 if scales > 1 else 4
        self.checkers = nn.ModuleList(
            Coupling(channels, boards[number % 2], features, blocks, with_mask=True, scale=0.0)
            for number in range(count)
        )
        self.channelwise = nn.ModuleList()
        self.next: Scale | None = None
        if scales > 1:
            halves = torch.cat((torch.ones(2 * channels), torch.zeros(2 * channels))).view(1, -1, 1, 1)
            self.channelwise = nn.ModuleList(
                Coupling(4 * channels, mask, 2 * features, blocks, with_mask=False, scale=1.0)
                for mask in (halves, 1 - halves, halves)
            )
            self.next = Scale((2 * channels, height // 2, width // 2), scales - 1, 2 * features, blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros(len(x))
        for coupling in self.checkers:
            x, change = coupling(x)
            log_det = log_det + change
        if self.next is None:
            return x, log_det
        x = F.pixel_unshuffle(x, 2)
        for coupling in self.channelwise:
            x, change = coupling(x)
            log_det = log_det + change
        kept, out = x.chunk(2, dim=1)
        kept, change = self.next(kept)
        return F.pixel_shuffle(torch.cat((kept, out), dim=1), 2), log_det + change

    def inverse(self, z: Tensor) -> Tensor:
        if self.next is not None:
            kept, out = F.pixel_unshuffle(z, 2).chunk(2, dim=1)
            z = torch.cat((self.next.inverse(kept), out), dim=1)
            for coupling in reversed(self.channelwise):
                z = coupling.inverse(z)
            z = F.pixel_shuffle(z, 2)
        for coupling in reversed(self.checkers):
            z = coupling.inverse(z)
        return z


class PlainRealNVP(nn.Module):
    def __init__(self, shape: tuple[int, int, int], scales: int, features: int, blocks: int) -> None:
        super().__init__()
        self.flow = Scale(shape, scales, features, blocks)

    def log_prob(self, images: Tensor) -> Tensor:
        x = 0.05 + 0.9 * (images.float() + torch.rand(images.shape)) / 256
        y = torch.log(x) - torch.log(1 - x)
        jacobian = (F.softplus(y) + F.softplus(-y)).sum(dim=(1, 2, 3))
        z, log_det = self.flow(y)
        return torch.distributions.Normal(0, 1).log_prob(z).sum(dim=(1, 2, 3)) + log_det + jacobian

    def sample(self, z: Tensor) -> Tensor:
        x = (torch.sigmoid(self.flow.inverse(z)) - 0.05) / 0.9
        return (x * 256).floor().clamp(0, 255).to(torch.uint8)

    def penalty(self) -> Tensor:
        magnitudes = [
            layer.parametrizations.weight.original0
            for layer in self.modules()
            if isinstance(layer, nn.Conv2d) and layer.parametrizations.weight.original0.requires_grad
        ]
        return sum((value.square().sum() for value in magnitudes), torch.zeros(()))
