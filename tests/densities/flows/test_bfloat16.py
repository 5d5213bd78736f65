"""The bfloat16 of CPUs: what it rounds to, its gradients, and that no statistic and no sum is reduced."""

import pytest
import torch
import torch.nn.functional as F

from flowbench.config.experiments import load_experiment
from flowbench.densities.flows import bfloat16
from flowbench.densities.flows.conditioner import set_precision
from flowbench.densities.flows.glow_layers import ConvNet
from flowbench.densities.flows.resnet import ResidualNet
from flowbench.throughput.convolutions import record
from flowbench.throughput.passes import PASSES, make_subject

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN does not know bfloat16 on this processor: networks compute under autocast",
)
CPU = torch.device("cpu")
ROUNDED = 0.01
"""Of a vector's norm: bfloat16 keeps 8 bits of each number, and each is rounded two or three times."""


def near(value, exact):
    return float((value.detach().double() - exact.detach().double()).norm() / exact.detach().double().norm())


def images(*shape, mean=0.0, std=1.0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * std + mean
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def leaves(*tensors):
    return [None if tensor is None else tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("learned", [True, False])
def test_normalization_relu_and_convolution_in_one_have_the_gradients_of_them_one_by_one(learned):
    torch.manual_seed(0)
    x, added = images(4, 16, 8, 8, mean=3, std=2).requires_grad_(), images(4, 24, 8, 8).requires_grad_()
    beta, biases, magnitude = (torch.randn(n).requires_grad_() for n in (16, 24, 24))
    weights = torch.randn(24, 16, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [x, beta, weights, *([magnitude, biases, added] if learned else [])]
    y, mean, var = bfloat16.activated_convolution(
        x, beta, weights, *((magnitude, biases, added) if learned else (None, None, None))
    )
    exact = leaves(*inputs)
    h = F.relu(F.batch_norm(exact[0], None, None, None, exact[1], training=True, eps=1e-4))
    kernels = exact[2] / exact[2].square().sum((1, 2, 3), keepdim=True).sqrt()
    kernels = kernels * exact[3].view(-1, 1, 1, 1) if learned else kernels
    expected = F.conv2d(h, kernels, exact[4] if learned else None, padding=1) + (exact[5] if learned else 0)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert near(y, expected) < ROUNDED
    # The moments of the rounded image, not rounded again.
    torch.testing.assert_close(mean, exact[0].mean((0, 2, 3)).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, exact[0].var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=1e-6)
    to_y = images(*y.shape)
    for got, want in zip(
        torch.autograd.grad(y, inputs, to_y), torch.autograd.grad(expected, exact, to_y.double()), strict=True
    ):
        assert near(got, want) < ROUNDED
    assert x.dtype == torch.bfloat16


@pytest.mark.parametrize("way", ["relu", "into", "padded"])
def test_a_convolution_has_the_gradients_of_torch_s_own(way):
    torch.manual_seed(0)
    x, into = images(4, 6, 8, 8).requires_grad_(), images(4, 5, 8, 8).requires_grad_()
    kernels, biases = torch.randn(5, 6, 3, 3).requires_grad_(), torch.randn(5).requires_grad_()
    options = {"relu": {"relu": True}, "into": {"into": into * 1}, "padded": {"padded": True}}[way]
    y = bfloat16.convolution(x, kernels, biases, **options)
    exact = leaves(x, kernels, biases, into)
    expected = F.conv2d(*exact[:3], padding=0 if way == "padded" else 1)
    expected = expected.relu() if way == "relu" else expected + exact[3] if way == "into" else expected
    assert near(y, expected) < ROUNDED
    to_y, some = images(*y.shape), slice(None if way == "into" else 3)
    got = torch.autograd.grad(y, [x, kernels, biases, into][some], to_y)
    for one, want in zip(got, torch.autograd.grad(expected, exact[some], to_y.double()), strict=True):
        assert near(one, want) < ROUNDED
    assert got[1].dtype == got[2].dtype == torch.float32


NETS = {
    "plain": lambda: ResidualNet(7, 5, features=16, blocks=2),
    "bottleneck": lambda: ResidualNet(7, 5, features=16, blocks=2, bottleneck=True),
    "no skip": lambda: ResidualNet(7, 5, features=16, blocks=2, skip=False),
    "no normalization": lambda: ResidualNet(7, 5, features=16, blocks=2, batch_norm=False),
    "narrow Glow": lambda: ConvNet(6, 12, 24),
    "wide Glow": lambda: ConvNet(12, 24, 16),
}


@pytest.mark.parametrize("kind", NETS)
def test_networks_are_those_of_float32_up_to_rounding_in_training_and_evaluation(kind):
    torch.manual_seed(0)
    net = NETS[kind]().to(memory_format=torch.channels_last)
    channels = 6 if kind == "narrow Glow" else 12 if "Glow" in kind else 7
    x = torch.randn(8, channels, 8, 8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # nothing is 0 or 1 as it is at first
    outputs, gradients, buffers = {}, {}, {}
    for precision in (32, "bf16"):
        set_precision(net, precision)
        for name, buffer in net.named_buffers():
            buffer.fill_(1 if name.endswith("var") else 0)
        out = net.train()(x)
        out.square().mean().backward()
        gradients[precision] = torch.cat([p.grad.flatten() for p in net.parameters()])
        buffers[precision] = torch.cat([buffer.flatten().float() for buffer in net.buffers()] or [torch.ones(1)])
        net.zero_grad()
        with torch.no_grad():
            outputs[precision] = [out.detach(), net.eval()(x), net(x)]
        outputs[precision].append(net(x).detach())  # in evaluation with gradients
    for reduced, full in zip(outputs["bf16"], outputs[32], strict=True):
        assert reduced.dtype == torch.float32
        assert 0 < near(reduced, full) < 3 * ROUNDED
    assert torch.equal(outputs["bf16"][1], outputs["bf16"][2])
    assert near(gradients["bf16"], gradients[32]) < 5 * ROUNDED
    assert near(buffers["bf16"], buffers[32]) < ROUNDED


def test_kernels_that_evaluation_keeps_are_cast_again_when_weights_move():
    torch.manual_seed(0)
    net = ConvNet(6, 12, 24).eval()
    torch.nn.init.normal_(net.l_last.W, std=0.1)
    set_precision(net, "bf16")
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        before = net(x)
        net.l_2.W.mul_(2)
        moved = net(x)
        set_precision(net, 32)
        assert near(moved, net(x)) < 2 * ROUNDED
    assert near(moved, before) > 0.1


@pytest.mark.parametrize("name", ["real_nvp/digits", "glow/digits"])
def test_whoever_counts_operations_sees_the_same_convolutions(name):
    small = ["model.features=4", "model.residual_blocks=1"] if name.startswith("real") else ["model.steps=1"]
    counts = []
    for precision in ("32", "bf16"):
        subject = make_subject(load_experiment(name, [*small, f"train.precision={precision}"]), 2, CPU)
        calls = record(PASSES["forward"](subject, compiled=False))
        counts.append(sum(calls.values()))
    assert counts[0] == counts[1] > 0
