"""iTransformer: a transformer whose tokens are the columns, each one's whole history.

Liu, Hu, Zhang, Wu, Wang, Ma, Long: "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting",
ICLR 2024, section 3.2: a linear embedding of the history of each column, attention between columns, layer normalization
after each sum, one linear head over all. The authors' program has four more tokens, of the calendar; here a forecaster
sees nothing but the series.
"""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.forecasting.forecaster import Forecaster, LearnedConfig, Normalization, WindowShape

__all__ = ["ITransformer", "ITransformerConfig"]


@forecasters.register("itransformer")
class ITransformerConfig(LearnedConfig):
    """`name: itransformer`."""

    normalize: Normalization = "standard"
    width: PositiveInt = 256
    heads: PositiveInt = 8
    hidden: PositiveInt = 256
    """Width of the feed-forward layers."""
    layers: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return ITransformer(shape, self)


class ITransformer(Forecaster):
    """Columns → linear embedding → transformer encoder over the columns → linear head, for each column alike."""

    def __init__(self, shape: WindowShape, config: ITransformerConfig) -> None:
        super().__init__(shape)
        self.embed = nn.Linear(shape.lookback, config.width)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.hidden, config.dropout, activation="gelu", batch_first=True
        )
        norm = nn.LayerNorm(config.width)
        self.encoder = nn.TransformerEncoder(layer, config.layers, norm, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, shape.horizon)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        tokens = self.dropout(self.embed(history.transpose(1, 2)))  # (batch, inputs, width)
        future: Tensor = self.head(self.encoder(tokens))
        return self.targets(future.transpose(1, 2))
