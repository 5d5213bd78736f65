"""LSTM2LSTM: an LSTM encoder, attention over its outputs, an autoregressive LSTM decoder.

`faithful: true` is the weekly report's model as its code has it (343,999 parameters for 7 columns, 64 → 24), where that
differs from good practice:

- one tensor is hidden and cell state at once, and the new *cell* state is carried on, attends and is read out; the
  output gate is computed for nothing, and the encoder's final cell state is dropped;
- attention weights come from a linear layer of (previous state, previous output) with one score per row of the history:
  no keys from the encoder;
- teacher forcing is never applied; there is no dropout;
- the decoder's outputs are all input columns, and a last linear layer to the targets exists always but is applied only
  where there is one target.

The default has none of that: hidden and cell state stay two, the encoder hands both over, scores are scaled dot
products of a query of (previous state, previous output) with keys of the encoder's outputs (Vaswani et al. 2017,
eq. 1), and the previous output enters the decoder's cell too, so that teacher forcing (Williams & Zipser 1989) acts
on a recurrence.

`channels: independent` applies that model to each column as a series of its own, with the same weights for all (channel
independence: Nie et al. 2023, section 3.1): seven times the training series of ETTh for fewer weights. Columns do not
mix: with MS features, only the target's own history counts.

`positions: true` adds a learned score for each pair of forecast step and row of the history (a bias by position, as in
Raffel et al. 2020, "T5", section 2.1): attention finds the hour of yesterday without having to count. The window's
length is then fixed, as in the faithful model.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple, Self, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.forecasting.attended_steps import attended_steps
from flowbench.forecasting.forecaster import Forecaster, LearnedConfig, WindowShape

__all__ = ["LSTM2LSTM", "Decoded", "FaithfulLSTM2LSTM", "LSTM2LSTMConfig"]


@forecasters.register("lstm2lstm")
class LSTM2LSTMConfig(LearnedConfig):
    """LSTM2LSTM: an LSTM encoder, attention over its outputs, an autoregressive LSTM decoder."""

    added: ClassVar[frozenset[str]] = LearnedConfig.added | {"channels", "positions"}

    hidden: PositiveInt = 128
    layers: PositiveInt = 2
    """Of the encoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Between the encoder's layers and before the output layer."""
    teacher_forcing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability, for each window and step in training, that the true value is fed back instead of the forecast."""
    channels: Literal["mixed", "independent"] = "mixed"
    """One model of all columns together, or one that is applied to each column by itself."""
    positions: bool = False
    """Whether attention has a learned score for each step and row of the history besides that of their contents."""
    faithful: bool = False

    @property
    def numerics(self) -> int:  # type: ignore[override]
        """2: teacher forcing draws from the seed, too, no longer from the step alone; without it nothing changed."""
        return 2 if self.teacher_forcing else 1

    @model_validator(mode="after")
    def _faithful_has_neither(self) -> Self:
        if self.faithful and (self.dropout or self.teacher_forcing):
            raise ValueError("faithful: true has neither dropout nor teacher_forcing: set both to 0")
        if self.faithful and (self.channels != "mixed" or self.positions or self.loss != "mse"):
            raise ValueError("faithful: true mixes the columns, has no positions and is trained on mse")
        return self

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return FaithfulLSTM2LSTM(shape, self) if self.faithful else LSTM2LSTM(shape, self)


class Decoded(NamedTuple):
    """A forecast, and what it was read from."""

    forecast: Tensor
    """(batch, horizon, outputs)."""
    states: Tensor
    """Of the decoder, which attends to the encoder's outputs: (batch, horizon, hidden), or with independent columns
    (batch, horizon, outputs, hidden)."""
    encoded: Tensor
    """The encoder's last state: (batch, hidden), or with independent columns (batch, outputs · hidden)."""


class LSTM2LSTM(Forecaster):
    """The corrected model: see the module's text."""

    def __init__(self, shape: WindowShape, config: LSTM2LSTMConfig) -> None:
        super().__init__(shape)
        hidden = config.hidden
        between = config.dropout if config.layers > 1 else 0.0
        self.independent = config.channels == "independent"
        inputs, outputs = (1, 1) if self.independent else (shape.inputs, shape.outputs)
        self.teacher_forcing = config.teacher_forcing
        self.encoder = nn.LSTM(inputs, hidden, config.layers, batch_first=True, dropout=between)
        self.key = nn.Linear(hidden, hidden, bias=False)  # a bias would shift all scores alike
        self.query = nn.Linear(hidden + outputs, hidden)
        self.cell = nn.LSTMCell(hidden + outputs, hidden)
        self.positions = nn.Parameter(torch.zeros(shape.horizon, 1, shape.lookback)) if config.positions else None
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        return self._forecast(history, None, None)

    @property
    def draws(self) -> bool:
        """Whether there is teacher forcing."""
        return self.teacher_forcing > 0

    def training_forward(self, history: Tensor, future: Tensor, generator: torch.Generator) -> Tensor:
        """Forecast with true previous values fed at the rate of `teacher_forcing`."""
        if not self.draws:
            return self._forecast(history, None, None)
        coins = torch.rand(future.shape[:2], generator=generator, device=generator.device).to(future.device)
        return self._forecast(history, future, (coins < self.teacher_forcing).unsqueeze(2))

    def decode(self, history: Tensor) -> Decoded:
        """Forecast, and return what the forecast was read from; history as in Forecaster.forward."""
        if not self.independent:
            forecast, states, encoded = self._decode(history, self.targets(history)[:, -1], None, None)
            return Decoded(forecast, torch.stack(states, dim=1), encoded)
        columns, outputs = _apart(self.targets(history)), self.shape.outputs
        forecast, states, encoded = self._decode(columns, columns[:, -1], None, None)
        return Decoded(
            self._together(forecast),
            torch.stack(states, dim=1).view(len(history), outputs, self.shape.horizon, -1).transpose(1, 2),
            encoded.view(len(history), -1),
        )

    def _forecast(self, history: Tensor, future: Tensor | None, forced: Tensor | None) -> Tensor:
        """Decode all columns together, or each as a window of its own; `forced` is (batch, horizon, 1)."""
        if not self.independent:
            return self._decode(history, self.targets(history)[:, -1], future, forced)[0]
        columns = _apart(self.targets(history))
        if future is not None and forced is not None:
            future, forced = _apart(future), forced.repeat_interleave(self.shape.outputs, dim=0)
        return self._together(self._decode(columns, columns[:, -1], future, forced)[0])

    def _together(self, forecast: Tensor) -> Tensor:
        """Undo `_apart` for a forecast, (batch · outputs, horizon, 1)."""
        return forecast.view(-1, self.shape.outputs, self.shape.horizon).transpose(1, 2)

    def _decode(
        self, history: Tensor, output: Tensor, future: Tensor | None, forced: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the forecast, the decoder's state at each step, and the encoder's last one."""
        encoded, (hiddens, cells) = self.encoder(history)
        keys = self.key(encoded).transpose(1, 2) * encoded.shape[2] ** -0.5  # once for all steps
        state = (hiddens[-1], cells[-1])
        outputs: list[Tensor] = []
        states: list[Tensor] = []
        for step in range(self.shape.horizon):
            previous = torch.cat((state[0], output), dim=1)
            scores = torch.bmm(self.query(previous).unsqueeze(1), keys)
            if self.positions is not None:
                scores = scores + self.positions[step]
            context = torch.bmm(scores.softmax(dim=2), encoded).squeeze(1)
            state = self.cell(torch.cat((context, output), dim=1), state)
            output = self.out(self.dropout(state[0]))
            outputs.append(output)
            states.append(state[0])
            if future is not None and forced is not None:
                output = torch.where(forced[:, step], future[:, step], output)
        return torch.stack(outputs, dim=1), states, hiddens[-1]


def _apart(values: Tensor) -> Tensor:
    """Return each column as a series of its own: (batch, rows, columns) → (batch · columns, rows, 1)."""
    return values.transpose(1, 2).flatten(0, 1).unsqueeze(2)


class FaithfulLSTM2LSTM(Forecaster):
    """The report's model: see the module's text; the parameters are its own, the steps are computed together."""

    def __init__(self, shape: WindowShape, config: LSTM2LSTMConfig) -> None:
        super().__init__(shape)
        hidden = config.hidden
        self.encoder = nn.LSTM(shape.inputs, hidden, config.layers, batch_first=True)
        self.attention = nn.Linear(hidden + shape.inputs, shape.lookback)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.out = nn.Linear(hidden, shape.inputs)
        self.last = nn.Linear(shape.inputs, shape.outputs)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        encoded, (hiddens, _) = self.encoder(history)
        state, gated = hiddens[-1], 3 * hiddens.shape[2]
        # The new cell state needs the input, forget and cell gates only: the first three blocks of PyTorch's four.
        cell = self.cell
        gate_bias = (cell.bias_ih + cell.bias_hh)[:gated]
        # Scores are linear in (state, output) and outputs are linear in the state: two layers fold into one.
        of_state, of_output = torch.tensor_split(self.attention.weight, (state.shape[1],), dim=1)
        recurrent = torch.cat((cell.weight_hh[:gated], of_state + of_output @ self.out.weight))
        bias = torch.cat((gate_bias, self.attention.bias + of_output @ self.out.bias))
        first = self.attention(torch.cat((state, history[:, -1]), dim=1))
        states = attended_steps(encoded, state, first, recurrent, bias, cell.weight_ih[:gated], self.shape.horizon)
        outputs = self.out(states.transpose(0, 1))
        return cast(Tensor, self.last(outputs) if self.shape.outputs == 1 else outputs)
