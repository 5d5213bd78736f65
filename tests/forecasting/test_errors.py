"""The errors of a batch of forecasts and their gradient: torch's own, to the last bit, in the forecast's layout."""

import pytest
import torch

from flowbench.forecasting.errors import mean_errors, mean_errors_and_gradient


@pytest.mark.parametrize("of", ["mse", "mae"])
@pytest.mark.parametrize("by_column", [True, False])
def test_errors_and_gradient_are_torchs_own(of: str, by_column: bool) -> None:
    torch.manual_seed(0)
    shape = (5, 3, 24) if by_column else (5, 24, 3)
    stored, future = torch.randn(shape, requires_grad=True), torch.randn(5, 24, 3)
    future[0, 0] = stored.detach().transpose(1, 2)[0, 0] if by_column else stored.detach()[0, 0]
    forecast = stored.transpose(1, 2) if by_column else stored
    errors = mean_errors(forecast, future, of=of)
    difference = forecast - future
    plain = difference.square().mean(), difference.abs().mean()
    assert all(torch.equal(ours, torchs) for ours, torchs in zip(errors, plain, strict=True))
    chosen = ("mse", "mae").index(of)
    assert [error.requires_grad for error in errors] == [chosen == 0, chosen == 1]
    (ours,), (torchs,) = (torch.autograd.grad(values[chosen], stored) for values in (errors, plain))
    assert torch.equal(ours, torchs)
    assert ours.is_contiguous()
    without_graph = mean_errors_and_gradient(forecast.detach().clone(), future, of=of)
    assert all(torch.equal(one, other) for one, other in zip(without_graph[:2], errors, strict=True))
    assert torch.equal(without_graph[2], torchs.transpose(1, 2) if by_column else torchs)
