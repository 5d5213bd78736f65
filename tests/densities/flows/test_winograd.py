import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from flowbench.densities.flows import winograd
from flowbench.densities.flows.activated_conv import convolve

LAST, FIRST = torch.channels_last, torch.contiguous_format


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(channels_in=128, channels_out=128, size=(16, 16), batch=4, dtype=torch.float32):
    x = torch.randn(batch, channels_in, *size, dtype=dtype)
    kernels = torch.randn(channels_out, channels_in, 3, 3, dtype=dtype) / (9 * channels_in) ** 0.5
    return x, kernels, torch.randn(channels_out, dtype=dtype)


def error(actual, exact):
    return float((actual - exact).norm() / exact.norm())


@pytest.mark.parametrize("layout", [LAST, FIRST])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("channels_in", "channels_out", "size"), [(128, 128, (16, 16)), (3, 5, (7, 4)), (6, 2, (1, 12))]
)
def test_it_is_the_convolution_and_its_gradients_are_its_own(channels_in, channels_out, size, biased, layout):
    x, kernels, biases = drawn(channels_in, channels_out, size)
    to_y = torch.randn(len(x), channels_out, *size)
    exact_x, exact_kernels = (tensor.double().requires_grad_() for tensor in (x, kernels))
    exact = F.conv2d(exact_x, exact_kernels, biases.double() if biased else None, padding=1)
    expected = torch.autograd.grad(exact, (exact_x, exact_kernels), to_y.double())
    x, kernels, to_y = (tensor.contiguous(memory_format=layout) for tensor in (x, kernels, to_y))
    y = winograd.convolve(x, kernels, biases if biased else None)
    assert y.is_contiguous(memory_format=LAST)
    assert error(y, exact.detach()) < 3e-6
    for ours, theirs in zip(winograd.gradients(to_y, x, kernels), expected, strict=True):
        assert error(ours, theirs) < 1e-5


def test_rounding_stays_within_twice_that_of_the_direct_way():
    x, kernels, _ = (tensor.contiguous(memory_format=LAST) if tensor.ndim == 4 else tensor for tensor in drawn())
    exact = F.conv2d(x.double(), kernels.double(), padding=1)
    direct = error(F.conv2d(x, kernels, padding=1), exact)
    assert error(winograd.convolve(x, kernels, None), exact) < 2 * direct


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"channels_in": 127}, "too few channels"),
        ({"channels_out": 64}, "too few channels"),
        ({"size": (16, 18)}, "no whole tiles"),
        ({"size": (16, 64)}, "too long rows"),
        ({"batch": 1}, "too few pixels"),
        ({"dtype": torch.float64}, "exact arithmetic is asked for"),
    ],
)
def test_other_images_are_convolved_as_ever(change, why):
    x, kernels, biases = drawn(**change)
    assert not winograd.suits(x, kernels), why
    assert torch.equal(convolve(x, kernels, biases), F.conv2d(x, kernels, biases, padding=1))


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="the way of processors with AVX2 or AVX-512"
)
def test_whoever_counts_operations_sees_the_models_own_convolution():
    x, kernels, _ = drawn()
    assert winograd.suits(x, kernels)
    with FlopCounterMode(display=False) as counter:
        convolve(x, kernels, None)
        assert not winograd.suits(x, kernels)
    assert counter.get_total_flops() == 2 * 4 * 256 * 9 * 128 * 128


def test_gradients_through_it_are_never_lost():
    x, kernels, biases = drawn()
    kernels.requires_grad_()
    (gradient,) = torch.autograd.grad(convolve(x, kernels, biases).square().sum(), kernels)
    assert gradient.abs().min() > 0
