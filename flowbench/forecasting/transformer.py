"""What forecasters with a transformer encoder share: its sizes, and the encoder itself."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from flowbench.forecasting.forecaster import LearnedConfig

__all__ = ["TransformerConfig", "encoder_layer"]


class TransformerConfig(LearnedConfig):
    """The sizes of an encoder, in the `model:` section of a forecaster; models set defaults of their own."""

    width: PositiveInt
    heads: PositiveInt
    hidden: PositiveInt
    """Width of the feed-forward layers."""
    layers: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


def encoder_layer(config: TransformerConfig) -> nn.TransformerEncoderLayer:
    """Return a layer of attention and feed-forward with GELU, normalized after each sum; (batch, tokens, width)."""
    return nn.TransformerEncoderLayer(
        config.width, config.heads, config.hidden, config.dropout, activation="gelu", batch_first=True
    )
