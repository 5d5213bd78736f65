"""Convolution and ReLU in one pass, where no gradients are recorded: torch's own two operations to the last bit."""

import pytest
import torch
import torch.nn.functional as F

from flowbench.densities.flows.activated_conv import convolve_and_rectify, convolve_columns_and_rectify, rectifies
from flowbench.densities.flows.glow_layers import ConvNet


@pytest.mark.parametrize(("into", "out_of", "size"), [(7, 256, 3), (25, 128, 3), (7, 36, 3), (36, 36, 1)])
@torch.no_grad()
def test_a_convolution_rectified_in_one_pass_is_the_one_in_two(into: int, out_of: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, into, 10, 6).to(memory_format=torch.channels_last)
    kernels = torch.randn(out_of, into, size, size).to(memory_format=torch.channels_last)
    biases = torch.randn(out_of)
    assert rectifies(x, kernels)
    plain = F.conv2d(x, kernels, biases).relu()
    for way in (convolve_and_rectify, convolve_columns_and_rectify):
        y = way(x, kernels, biases)
        assert y.shape == plain.shape
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [160, 4])
def test_a_network_of_glow_gives_the_same_with_and_without_gradients(hidden: int) -> None:
    torch.manual_seed(0)
    net = ConvNet(6, 12, hidden).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.nn.init.normal_(net.l_last.W, std=0.05)
    for side in (8, 4, 8):  # what the border adds is kept by the images' size
        x = torch.randn(2, 6, side, side).to(memory_format=torch.channels_last)
        recorded = net(x)
        with torch.no_grad():
            torch.testing.assert_close(net(x), recorded.detach(), rtol=1e-5, atol=1e-6)
            assert net(x[:0]).shape == (0, 12, side, side)
    with torch.no_grad():
        net.l_last.W[:, -1] += 1  # of the border alone
        x = torch.randn(2, 6, 8, 8)
        changed = net(x)
    torch.testing.assert_close(changed, net(x).detach(), rtol=1e-5, atol=1e-6)
