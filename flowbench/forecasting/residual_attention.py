"""An encoder whose attention scores add up from layer to layer, with batch normalization: PatchTST's own.

He, Ravula, Kanagal, Ainslie: "RealFormer: Transformer Likes Residual Attention", Findings of ACL 2021, section 3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowbench.densities.dropout import Dropout
from flowbench.forecasting.transformer import TransformerConfig

__all__ = ["ResidualAttentionEncoder"]

MOMENTUM = 0.1
"""Weight of a batch in the moving averages, torch's default."""


class ResidualAttentionEncoder(nn.Module):
    """Layers of attention and feed-forward with GELU, each sum normalized over batch and tokens, feature by feature."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode (batch, tokens, width)."""
        scores: Tensor | None = None
        for layer in self.layers:
            tokens, scores = layer(tokens, scores)
        return tokens


class _Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.project = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.hidden, config.width),
        )
        # The authors' attention ends in a mask of its own, and their layer masks that again: both are one mask here.
        self.attention_dropout = Dropout(1 - (1 - config.dropout) ** 2)
        self.dropout = Dropout(config.dropout)
        self.norms = nn.ModuleList(_BatchNorm(config.width) for _ in range(2))

    def forward(self, tokens: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the layer's tokens, (batch, tokens, width), and its scores, (batch · heads, tokens, tokens)."""
        batch, count, width = tokens.shape
        projected = self.project(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4).flatten(1, 2)
        scale = (width // self.heads) ** -0.5
        if scores is None:
            scores = torch.bmm(query * scale, key.transpose(1, 2))
        else:
            scores = torch.baddbmm(scores, query, key.transpose(1, 2), alpha=scale)
        mixed = torch.bmm(functional.softmax(scores, dim=-1), value)
        mixed = mixed.view(batch, self.heads, count, -1).transpose(1, 2).flatten(2)
        tokens = self._normalized(0, tokens + self.attention_dropout(self.out(mixed)))
        return self._normalized(1, tokens + self.dropout(self.feed(tokens))), scores

    def _normalized(self, which: int, tokens: Tensor) -> Tensor:
        normalized: Tensor = self.norms[which](tokens.flatten(0, 1))
        return normalized.view_as(tokens)


class _BatchNorm(nn.BatchNorm1d):
    """torch's, whose moving averages forget a batch with numbers that are not finite: the trainer skips its step."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            var, mean = torch.var_mean(x, dim=0)
            for average, moment in ((self.running_mean, mean), (self.running_var, var)):
                assert average is not None
                average.lerp_(torch.where(torch.isfinite(moment), moment, average), MOMENTUM)
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
