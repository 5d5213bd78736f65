"""A causal transformer as a flow's conditioner: over all tokens at once, or token by token with a cache.

The layers of TarFlow (Zhai et al. 2024, arXiv:2412.06329, section 3.2; apple/ml-tarflow), under the authors' names:
pre-norm, residual, and no norm after the last one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.products import Linear

__all__ = ["Cache", "CausalTransformer"]


class Cache:
    """Keys and values that one layer has computed for the tokens so far.

    Args:
        tokens: the most that it takes.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._kept: Tensor | None = None

    def extend(self, pairs: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Take the keys and values of the token at `place` and return those of all tokens up to it.

        Args:
            pairs: (2, batch, heads, 1, head).
            place: how many tokens came before.

        Returns:
            Keys and values, (batch, heads, place + 1, head) each.
        """
        if torch.is_grad_enabled():
            # What autograd has saved must not be written to.
            self._kept = pairs if self._kept is None else torch.cat((self._kept, pairs), dim=3)
        else:
            # Each token has a place of its own, so that nothing is copied for the cache to grow; tokens come first in
            # memory, so that those there are lie together (1.08 times as fast as heads first, 2026-11).
            if self._kept is None:
                two, batch, heads, _, head = pairs.shape
                self._kept = pairs.new_empty((self._tokens, two, batch, heads, head)).permute(1, 2, 3, 0, 4)
            self._kept[:, :, :, place : place + 1] = pairs
        keys, values = self._kept[:, :, :, : place + 1]
        return keys, values


class _Attention(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return what the branch adds to h, (batch, tokens, width): each token attends to itself and earlier ones."""
        queries, keys, values = self._heads(h)
        return self._merged(F.scaled_dot_product_attention(queries, keys, values, is_causal=True))

    def step(self, h: Tensor, cache: Cache, place: int, temperature: float) -> Tensor:
        """Return what the branch adds to the token at `place`, h (batch, 1, width), after those in the cache."""
        heads = self._heads(h)
        keys, values = cache.extend(heads[1:], place)
        scale = 1 / (math.sqrt(self.head) * temperature)
        return self._merged(F.scaled_dot_product_attention(heads[0], keys, values, scale=scale))

    def _heads(self, h: Tensor) -> Tensor:
        """Return queries, keys and values, (3, batch, heads, tokens, head)."""
        heads: Tensor = self.qkv(self.norm(h)).unflatten(2, (3, -1, self.head)).permute(2, 0, 3, 1, 4)
        return heads

    def _merged(self, heads: Tensor) -> Tensor:
        out: Tensor = self.proj(heads.transpose(1, 2).flatten(2))
        return out


class _MLP(nn.Module):
    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.main = nn.Sequential(Linear(width, expansion * width), nn.GELU(), Linear(expansion * width, width))

    def forward(self, h: Tensor) -> Tensor:
        """Return what the branch adds to h, (batch, tokens, width)."""
        out: Tensor = self.main(self.norm(h))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, head: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(width, head)
        self.mlp = _MLP(width, expansion)
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        """Return the tokens after attention and MLP, of h's shape (batch, tokens, width)."""
        h = h + self._dropped(self.attention(h))
        return h + self._dropped(self.mlp(h))

    def step(self, h: Tensor, cache: Cache, place: int, temperature: float) -> Tensor:
        """Return the token at `place`, (batch, 1, width), after attention and MLP."""
        h = h + self.attention.step(h, cache, place, temperature)
        out: Tensor = h + self.mlp(h)
        return out

    def _dropped(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


class CausalTransformer(Conditioner):
    """Layers of causal attention and MLP, then a linear map: what comes out at a token knows it and earlier ones.

    Args:
        width: features of a token, C.
        outputs: features that come out of each token.
        layers: of attention and MLP each.
        head: features of an attention head; divides `width`.
        expansion: hidden features of the MLP, in multiples of `width`.
        dropout: probability of dropping what a branch adds; not in the paper.
    """

    def __init__(self, width: int, outputs: int, *, layers: int, head: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attn_blocks = nn.ModuleList(_Layer(width, head, expansion, dropout) for _ in range(layers))
        self.proj_out = Linear(width, outputs)
        # Its bias keeps torch's default, as the authors' does: the flow starts as a constant map, not as the identity.
        nn.init.zeros_(self.proj_out.weight)

    def net(self, x: Tensor) -> Tensor:
        """Return (batch, tokens, outputs) for the hidden tokens x, (batch, tokens, width)."""
        for layer in self.attn_blocks:
            x = layer(x)
        out: Tensor = self.proj_out(x)
        return out

    def caches(self, tokens: int) -> list[Cache]:
        """Return empty caches, one a layer, for a sequence of that many tokens."""
        return [Cache(tokens) for _ in self.attn_blocks]

    def step(self, x: Tensor, caches: list[Cache], place: int, temperature: float = 1.0) -> Tensor:
        """Return what `net` gives at one token, (batch, 1, outputs), from it and the cached ones.

        Args:
            x: the hidden token, (batch, 1, width).
            caches: of `caches`, with the tokens before this one; they take it in.
            place: of the token in the sequence.
            temperature: divides the attention's logits.
        """
        h = x
        for layer, cache in zip(self.attn_blocks, caches, strict=True):
            h = layer.step(h, cache, place, temperature)  # type: ignore[operator]
        out: Tensor = self.proj_out(h)
        return out.to(x.dtype)
