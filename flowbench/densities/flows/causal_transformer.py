"""A causal transformer as a flow's conditioner: over all tokens at once, or token by token with a cache.

The layers of TarFlow (Zhai et al. 2024, arXiv:2412.06329, section 3.2; apple/ml-tarflow), under the authors' names:
pre-norm, residual, and no norm after the last one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.products import Linear, repeated

__all__ = ["Cache", "CausalTransformer"]


class Cache:
    """What one layer keeps while tokens are made one after the other: their keys and values, and its weights, laid out.

    Args:
        layer: whose.
        tokens: the most that it takes.
    """

    def __init__(self, layer: "_Layer", tokens: int) -> None:
        self._layer, self._tokens = layer, tokens
        self._kept: Tensor | None = None
        self._products: _Products | None = None

    def products(self, h: Tensor) -> "_Products":
        """Return the layer's products for tokens of the shape of h, (batch, width)."""
        if self._products is None:
            self._products = self._layer.products(h)
        return self._products

    def extend(self, pairs: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Take the keys and values of the token at `place` and return those of all tokens up to it.

        Args:
            pairs: (2, batch, heads, head).
            place: how many tokens came before.

        Returns:
            Keys and values, (batch · heads, place + 1, head) each.
        """
        if torch.is_grad_enabled():
            # What autograd has saved must not be written to.
            new = pairs.unsqueeze(3)
            self._kept = new if self._kept is None else torch.cat((self._kept, new), dim=3)
        else:
            # Each token has a place of its own, so that nothing is copied for the cache to grow.
            if self._kept is None:
                two, batch, heads, head = pairs.shape
                self._kept = pairs.new_empty((two, batch, heads, self._tokens, head))
            self._kept[:, :, :, place] = pairs
        keys, values = self._kept[:, :, :, : place + 1].flatten(1, 2)
        return keys, values


class _Products(NamedTuple):
    """The matrix products of a layer, each a function of (batch, features)."""

    qkv: Callable[[Tensor], Tensor]
    proj: Callable[[Tensor], Tensor]
    widened: Callable[[Tensor], Tensor]
    """With the GELU."""
    narrowed: Callable[[Tensor], Tensor]


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
        """Return what the branch adds to the token at `place`, h (batch, width), after those in the cache."""
        products = cache.products(h)
        heads = products.qkv(self.norm(h)).view(len(h), 3, h.shape[1] // self.head, self.head)
        keys, values = cache.extend(heads[:, 1:].transpose(0, 1), place)
        queries = heads[:, 0].flatten(0, 1).unsqueeze(1)
        # One query each: two products of small matrices are 1.4 times as fast as torch's fused attention (2026-11).
        scale = 1 / (math.sqrt(self.head) * temperature)
        nothing = queries.new_zeros(1)
        logits = torch.baddbmm(nothing, queries, keys.transpose(1, 2), beta=0, alpha=scale)
        return products.proj(torch.bmm(logits.softmax(-1), values).view(h.shape))

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
        """Return the token at `place`, (batch, width), after attention and MLP."""
        products = cache.products(h)
        h = h + self.attention.step(h, cache, place, temperature)
        return h + products.narrowed(products.widened(self.mlp.norm(h)))

    def products(self, h: Tensor) -> _Products:
        """Return the layer's products for tokens of the shape of h, (batch, width)."""
        widen, _, narrow = self.mlp.main
        assert isinstance(widen, Linear)
        assert isinstance(narrow, Linear)
        wide = h.new_empty((len(h), narrow.in_features))
        return _Products(
            repeated(self.attention.qkv, h),
            repeated(self.attention.proj, h),
            repeated(widen, h, gelu=True),
            repeated(narrow, wide),
        )

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
        return [Cache(cast(_Layer, layer), tokens) for layer in self.attn_blocks]

    def step(self, x: Tensor, caches: list[Cache], place: int, temperature: float = 1.0) -> Tensor:
        """Return what `net` gives at one token, (batch, outputs), from it and the cached ones.

        Args:
            x: the hidden token, (batch, width).
            caches: of `caches`, with the tokens before this one; they take it in.
            place: of the token in the sequence.
            temperature: divides the attention's logits.
        """
        h = x
        for layer, cache in zip(self.attn_blocks, caches, strict=True):
            h = layer.step(h, cache, place, temperature)  # type: ignore[operator]
        out: Tensor = self.proj_out(h)
        return out.to(x.dtype)
