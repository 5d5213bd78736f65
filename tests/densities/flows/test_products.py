"""Products for many inputs against torch's own, where weights are laid out once and where they are not."""

import pytest
import torch
import torch.nn.functional as F

from flowbench.densities.flows.products import Linear, repeated


@pytest.mark.parametrize("features", [16, 128])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_repeated_product_is_the_layers(features: int, gelu: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = Linear(features, 32), torch.randn(3, 5, features)
    with torch.no_grad():
        multiplied = repeated(linear, inputs[0], gelu=gelu)
        for x in inputs:
            expected = F.linear(x, linear.weight, linear.bias)
            torch.testing.assert_close(multiplied(x), F.gelu(expected) if gelu else expected)
        assert multiplied(inputs[0, :0]).shape == (0, 32)


def test_where_gradients_are_recorded_they_flow() -> None:
    linear, x = Linear(128, 4), torch.randn(2, 128, requires_grad=True)
    torch.autograd.backward(repeated(linear, x, gelu=True)(x).sum())
    assert x.grad is not None
    assert linear.weight.grad is not None
