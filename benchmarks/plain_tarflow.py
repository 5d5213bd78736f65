"""TarFlow as one writes it down from the paper: torch's layers, its fused attention, keys and values concatenated."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainTarFlow"]


class PlainTarFlow(nn.Module):
    """Zhai et al. 2024 (arXiv:2412.06329), without classes.

    Args:
        side: pixels of the square image's side; three channels.
        patch: pixels of a patch's side.
        width, blocks, layers, head: as in `TarFlowConfig`.
    """

    def __init__(self, side: int, patch: int, width: int, blocks: int, layers: int, head: int) -> None:
        super().__init__()
        self.side, self.patch = side, patch
        self.blocks = nn.ModuleList(
            _Block((side // patch) ** 2, 3 * patch**2, width, layers, head, number % 2 == 1) for number in range(blocks)
        )

    def loss(self, images: Tensor) -> Tensor:
        """Return ½ mean z² − mean a of uint8 images under fresh dequantization noise."""
        x = 2 * (images + torch.rand(images.shape)) / 256 - 1
        tokens = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        log_det = torch.zeros(())
        for block in self.blocks:
            tokens, increment = block(tokens)
            log_det = log_det + increment
        return 0.5 * tokens.square().mean() - log_det

    def sample(self, tokens: Tensor) -> Tensor:
        """Return the images of latents, (batch, T, E)."""
        for block in reversed(self.blocks):
            tokens = block.inverse(tokens)
        return F.fold(tokens.transpose(1, 2), (self.side, self.side), self.patch, stride=self.patch)


class _Block(nn.Module):
    def __init__(self, tokens: int, features: int, width: int, layers: int, head: int, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.places = nn.Parameter(0.01 * torch.randn(tokens, width))
        self.proj_in = nn.Linear(features, width)
        self.layers = nn.ModuleList(_Layer(width, head) for _ in range(layers))
        self.proj_out = nn.Linear(width, 2 * features)

    def _turned(self, tokens: Tensor) -> Tensor:
        return tokens.flip(-2) if self.reverse else tokens

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._turned(x)
        h = self.proj_in(x) + self._turned(self.places)
        for layer in self.layers:
            h = layer(h, {})
        out = self.proj_out(h)
        a, b = torch.cat((torch.zeros_like(out[:, :1]), out[:, :-1]), dim=1).chunk(2, dim=-1)
        return self._turned((x - b) * torch.exp(-a)), -a.mean()

    def inverse(self, z: Tensor) -> Tensor:
        x = self._turned(z).clone()
        places = self._turned(self.places)
        caches: list[dict[str, Tensor]] = [{} for _ in self.layers]
        for t in range(x.shape[1] - 1):
            h = self.proj_in(x[:, t : t + 1]) + places[t]
            for layer, cache in zip(self.layers, caches, strict=True):
                h = layer(h, cache)
            a, b = self.proj_out(h)[:, 0].chunk(2, dim=-1)
            x[:, t + 1] = x[:, t + 1] * torch.exp(a) + b
        return self._turned(x)


class _Layer(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, cache: dict[str, Tensor]) -> Tensor:
        batch, tokens, width = h.shape
        heads = self.qkv(self.norm(h)).reshape(batch, tokens, -1, self.head).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        if cache:
            k, v = torch.cat((cache["k"], k), dim=2), torch.cat((cache["v"], v), dim=2)
        cache.update(k=k, v=v)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1)
        h = h + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        out: Tensor = h + self.mlp(self.norm_mlp(h))
        return out
