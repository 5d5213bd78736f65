import math

import pytest
import torch

from flowbench.densities.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_as_many_values_are_kept_as_asked_for_and_scaled_so_that_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(400, 1001))
    n = dropped.numel()
    share = float((dropped > 0).float().mean())
    assert abs(share - (1 - p)) < 4 * math.sqrt(p * (1 - p) / n)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1e-4)]
    # Neighbours share a draw of 64 bits, and nothing else.
    kept = (dropped > 0).double().flatten()
    for lag in (1, 2, 3, 4, 1001):
        correlation = float(torch.corrcoef(torch.stack((kept[:-lag], kept[lag:])))[0, 1])
        assert abs(correlation) < 4 / math.sqrt(n)


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    dropped = Dropout(0.4)(x)
    dropped.sum().backward()
    torch.testing.assert_close(dropped, x * x.grad)
    assert 0 < int((x.grad == 0).sum()) < x.numel()


def test_images_stay_channels_last_and_are_dropped_value_by_value() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8, 12, 12).to(memory_format=torch.channels_last).requires_grad_()
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert dropped.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(dropped, x * x.grad)
    shares = (dropped != 0).double().mean((0, 2, 3))
    assert (shares - 0.5).abs().max() < 4 * 0.5 / math.sqrt(16 * 12 * 12)


def test_masks_are_the_generators_and_go_on_from_its_state() -> None:
    layer, x = Dropout(0.3), torch.ones(3, 11)
    torch.manual_seed(0)
    layer(x)
    state = torch.get_rng_state()
    second = layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), second)
    torch.manual_seed(0)
    assert not torch.equal(layer(x), second)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False), (0.0, False)])
def test_nothing_is_dropped_at_zero_and_in_evaluation_mode(p: float, training: bool) -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(p).train(training)(x), x)


def test_evaluation_draws_nothing() -> None:
    state = torch.get_rng_state()
    Dropout(0.5).eval()(torch.ones(4, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_all_is_dropped_at_one_and_nothing_of_nothing() -> None:
    assert not Dropout(1.0)(torch.ones(8)).any()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)
