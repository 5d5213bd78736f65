"""iTransformer: a transformer whose tokens are the columns, each one's whole history.

Liu, Hu, Zhang, Wu, Wang, Ma, Long: "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting",
ICLR 2024, section 3.2: a linear embedding of the history of each column, attention between columns, layer normalization
after each sum, one linear head over all. The authors' program has four more tokens, of the calendar; here a forecaster
sees nothing but the series.
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.forecasting.forecaster import Forecaster, Normalization, WindowShape
from flowbench.forecasting.transformer import TransformerConfig, encoder_layer

__all__ = ["ITransformer", "ITransformerConfig"]


@forecasters.register("itransformer")
class ITransformerConfig(TransformerConfig):
    """iTransformer (Liu et al. 2024): a transformer whose tokens are the columns, each one's whole history."""

    normalize: Normalization = "standard"
    width: PositiveInt = 256
    heads: PositiveInt = 8
    hidden: PositiveInt = 256
    layers: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return ITransformer(shape, self)


class ITransformer(Forecaster):
    """Columns → linear embedding → transformer encoder over the columns → linear head, for each column alike."""

    def __init__(self, shape: WindowShape, config: ITransformerConfig) -> None:
        super().__init__(shape)
        self.embed = nn.Linear(shape.lookback, config.width)
        self.dropout = nn.Dropout(config.dropout)
        norm = nn.LayerNorm(config.width)
        self.encoder = nn.TransformerEncoder(encoder_layer(config), config.layers, norm, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, shape.horizon)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        tokens = self.dropout(self.embed(history.transpose(1, 2)))  # (batch, inputs, width)
        future: Tensor = self.head(self.encoder(tokens))
        return self.targets(future.transpose(1, 2))
