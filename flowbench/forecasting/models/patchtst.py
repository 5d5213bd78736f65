"""PatchTST: a transformer over patches of each column's own history.

Nie, Nguyen, Sinthong, Kalagnanam: "A Time Series is Worth 64 Words", ICLR 2023, section 3.1: patches of 16 rows every
8, the last row repeated once more for a stride (42 patches of 336 rows), learned positions, one linear head over all.
Columns do not mix. The sizes are the authors' for the ETTh files.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.densities.dropout import Dropout
from flowbench.errors import InputError
from flowbench.forecasting.forecaster import Forecaster, Normalization, WindowShape
from flowbench.forecasting.residual_attention import ResidualAttentionEncoder
from flowbench.forecasting.transformer import TransformerConfig, encoder_layer

__all__ = ["PatchTST", "PatchTSTConfig"]


@forecasters.register("patchtst")
class PatchTSTConfig(TransformerConfig):
    """PatchTST (Nie et al. 2023): a transformer over patches of each column's own history."""

    numerics = 2
    added: ClassVar[frozenset[str]] = TransformerConfig.added | {"faithful"}

    normalize: Normalization = "revin"
    patch: PositiveInt = 16
    """Rows of a patch."""
    stride: PositiveInt = 8
    """Rows from patch to patch."""
    width: PositiveInt = 16
    heads: PositiveInt = 4
    hidden: PositiveInt = 128
    layers: PositiveInt = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Of embeddings, residuals and feed-forward layers, not of the attention weights."""
    faithful: bool = False
    """The encoder of the authors' program: batch normalization, and scores of attention that add up over the layers.
    False: torch's encoder, with layer normalization."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return PatchTST(shape, self)


class PatchTST(Forecaster):
    """Patches → linear embedding + positions → transformer encoder → linear head, for each column alike."""

    def __init__(self, shape: WindowShape, config: PatchTSTConfig) -> None:
        super().__init__(shape)
        if config.patch > shape.lookback:
            raise InputError(f"model.patch: {config.patch} rows are more than data.lookback {shape.lookback}")
        self.patch, self.stride = config.patch, config.stride
        patches = (shape.lookback - config.patch) // config.stride + 2
        self.pad = nn.ReplicationPad1d((0, config.stride))
        self.embed = nn.Linear(config.patch, config.width)
        self.positions = nn.Parameter(torch.empty(patches, config.width).uniform_(-0.02, 0.02))
        self.dropout = Dropout(config.dropout) if config.faithful else nn.Dropout(config.dropout)
        self.encoder = ResidualAttentionEncoder(config) if config.faithful else _plain_encoder(config)
        self.head = nn.Linear(patches * config.width, shape.horizon)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        past = self.targets(history).transpose(1, 2)
        patches = self.pad(past).unfold(2, self.patch, self.stride)  # (batch, outputs, patches, patch)
        tokens = self.dropout(self.embed(patches) + self.positions).flatten(0, 1)
        encoded = self.encoder(tokens).flatten(1)
        future: Tensor = self.head(encoded).unflatten(0, (-1, self.shape.outputs))
        return future.transpose(1, 2)


def _plain_encoder(config: PatchTSTConfig) -> nn.Module:
    layer = encoder_layer(config)
    layer.self_attn.dropout = 0.0  # as in the authors' code (`attn_dropout`); torch can fuse the attention then
    return nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
