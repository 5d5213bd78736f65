"""The faithful model against the original's loop written step by step, quirk by quirk; the corrected model."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flowbench.forecasting.attended_steps import attended_steps
from flowbench.forecasting.models.lstm2lstm import FaithfulLSTM2LSTM, LSTM2LSTMConfig


def build(inputs: int = 3, outputs: int = 3, lookback: int = 10, horizon: int = 6, **keys: Any) -> Any:
    torch.manual_seed(0)
    config = LSTM2LSTMConfig(name="lstm2lstm", **{"hidden": 8, **keys})
    return config.build(lookback=lookback, horizon=horizon, inputs=inputs, outputs=outputs).double()


def history(inputs: int = 3, lookback: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, lookback, inputs, dtype=torch.float64, generator=generator)


def as_written(model: FaithfulLSTM2LSTM, x: Tensor) -> Tensor:
    """The original's forward pass, one step after the other."""
    encoded, (hiddens, _) = model.encoder(x)
    state, output = hiddens[-1], x[:, -1]
    outputs = []
    for _ in range(model.shape.horizon):
        weights = model.attention(torch.cat((state, output), dim=1)).softmax(dim=1)
        context = torch.einsum("bl,blh->bh", weights, encoded)
        _, state = model.cell(context, (state, state))
        output = model.out(state)
        outputs.append(output)
    stacked = torch.stack(outputs, dim=1)
    return model.last(stacked) if model.shape.outputs == 1 else stacked


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (1, 1), (3, 1)])
def test_faithful_computes_what_the_original_loop_computes(inputs: int, outputs: int) -> None:
    model, x = build(inputs, outputs, faithful=True), history(inputs)
    expected = as_written(model, x)
    torch.testing.assert_close(model(x), expected)
    slow = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    fast = torch.autograd.grad(model(x).square().sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(fast, slow, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_steps_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3), (2, 3), (2, 5), (14, 3), (14,), (9, 3)]
    arguments = [
        torch.randn(shape, dtype=torch.float64, generator=generator).mul(0.5).requires_grad_() for shape in shapes
    ]
    assert torch.autograd.gradcheck(lambda *a: attended_steps(*a, 4), arguments)


def test_faithful_has_the_reports_parameters() -> None:
    model = build(7, 7, lookback=64, horizon=24, hidden=128, faithful=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 343_999


def test_faithful_carries_the_cell_state_so_the_output_gate_is_without_effect() -> None:
    model, x = build(faithful=True), history()
    before = model(x)
    with torch.no_grad():
        for parameter in (model.cell.weight_ih, model.cell.weight_hh, model.cell.bias_ih, model.cell.bias_hh):
            parameter[24:] += 1  # the last of four blocks of 8 rows
    assert torch.equal(model(x), before)


def test_faithful_has_one_score_per_row_of_the_history() -> None:
    model = build(faithful=True)
    assert model.attention.weight.shape == (10, 8 + 3)
    with pytest.raises(ValueError, match="10 scores for 11 rows"):
        model(history(lookback=11))


def test_faithful_never_sees_the_future_in_training() -> None:
    model, x = build(faithful=True), history()
    nothing = torch.full((4, 6, 3), float("nan"), dtype=torch.float64)
    assert torch.equal(model.training_forward(x, nothing, torch.Generator()), model(x))
    for wrong in ({"dropout": 0.1}, {"teacher_forcing": 0.5}):
        with pytest.raises(ValidationError, match="neither dropout nor teacher_forcing"):
            LSTM2LSTMConfig(name="lstm2lstm", faithful=True, **wrong)
    for wrong in ({"channels": "independent"}, {"positions": True}, {"loss": "mae"}):
        with pytest.raises(ValidationError, match="mixes the columns, has no positions and is trained on mse"):
            LSTM2LSTMConfig(name="lstm2lstm", faithful=True, **wrong)


def test_faithful_applies_its_last_layer_to_single_targets_only() -> None:
    x = history()
    for outputs, used in ((3, False), (1, True)):
        model = build(3, outputs, faithful=True)
        before = model(x)
        with torch.no_grad():
            model.last.bias += 1
        assert torch.equal(model(x), before) != used


def test_corrected_uses_the_output_gate_and_any_length() -> None:
    model, x = build(), history()
    before = model(x)
    assert model(history(lookback=17)).shape == (4, 6, 3)
    with torch.no_grad():
        model.cell.bias_ih[24:] += 1
    assert not torch.allclose(model(x), before)


def test_stored_results_are_stale_only_where_teacher_forcing_drew_from_the_step_alone() -> None:
    assert LSTM2LSTMConfig(name="lstm2lstm", teacher_forcing=0.3).numerics == 2
    assert LSTM2LSTMConfig(name="lstm2lstm").numerics == LSTM2LSTMConfig(name="lstm2lstm", faithful=True).numerics == 1


def test_teacher_forcing_feeds_earlier_steps_only() -> None:
    model, x = build(teacher_forcing=1.0), history()
    future = torch.randn(4, 6, 3, dtype=torch.float64)
    first = model.training_forward(x, future, torch.Generator())
    later = future.clone()
    later[:, 3:] += 10
    second = model.training_forward(x, later, torch.Generator())
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_teacher_forcing_is_drawn_from_the_generator_at_its_rate() -> None:
    model, x = build(teacher_forcing=0.5), history()
    future = torch.randn(4, 6, 3, dtype=torch.float64)
    one, again, other = (model.training_forward(x, future, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(one[:, 0], model(x)[:, 0])


def test_dropout_acts_in_training_only() -> None:
    model, x = build(dropout=0.5), history()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


INDEPENDENT: dict[str, Any] = {"channels": "independent", "positions": True}


def test_independent_is_the_one_column_model_on_each_column() -> None:
    model, alone, x = build(**INDEPENDENT), build(1, 1, positions=True), history()
    alone.load_state_dict(model.state_dict())
    each = [alone(x[..., [column]]) for column in range(3)]
    torch.testing.assert_close(model(x), torch.cat(each, dim=2))


def test_independent_forecasts_a_target_from_its_own_history_alone() -> None:
    model, x = build(3, 1, **INDEPENDENT), history()
    before = model(x)
    assert before.shape == (4, 6, 1)
    others = x.clone()
    others[..., :2] += 1
    assert torch.equal(model(others), before)


def test_independent_columns_are_forced_together_at_the_rate() -> None:
    model, x = build(**INDEPENDENT, teacher_forcing=0.5), history()
    future = torch.randn(4, 6, 3, dtype=torch.float64)
    forecast = model.training_forward(x, future, torch.Generator().manual_seed(1))
    order = [2, 0, 1]
    other = model.training_forward(x[..., order], future[..., order], torch.Generator().manual_seed(1))
    torch.testing.assert_close(other, forecast[..., order])
    assert not torch.allclose(forecast, model(x))


def test_positions_start_without_effect_and_can_choose_one_row() -> None:
    model, x = build(positions=True), history()
    torch.testing.assert_close(model(x), build()(x))
    with torch.no_grad():
        model.positions[:, :, 4] = 1e9
    encoded, _ = model.encoder(x)
    seen = []
    model.cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :8]))
    model(x)
    assert len(seen) == 6
    for context in seen:
        torch.testing.assert_close(context, encoded[:, 4])
