import math

import pytest
import scipy.stats
import torch

from flowbench.densities.bases import StandardNormal, Uniform

CPU = torch.device("cpu")


def test_standard_normal_is_scipys():
    z = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = scipy.stats.norm.logpdf(z.numpy()).sum((1, 2))
    torch.testing.assert_close(StandardNormal().log_prob(z), torch.from_numpy(expected))


def test_temperature_scales_the_normal():
    draw = [StandardNormal().sample((5, 3), t, torch.Generator().manual_seed(1), CPU) for t in (1.0, 0.7)]
    torch.testing.assert_close(draw[1], 0.7 * draw[0])


def test_uniform_is_zero_inside_and_impossible_outside():
    z = torch.tensor([[0.0, 0.5], [1.0, 0.2], [0.5, 1.1], [-0.1, 0.5]])
    assert Uniform().log_prob(z).tolist() == [0.0, 0.0, -math.inf, -math.inf]


def test_uniform_samples_stay_inside_at_any_temperature():
    z = Uniform().sample((100, 4), 0.5, torch.Generator().manual_seed(0), CPU)
    assert z.min() >= 0
    assert z.max() < 1
    assert z.mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("base", [StandardNormal(), Uniform()], ids=["normal", "uniform"])
def test_white_latents_are_standard_normal_and_come_back(base):
    z = base.sample((4000,), 1.0, torch.Generator().manual_seed(0), CPU).double()
    white = base.whiten(z)
    torch.testing.assert_close(base.color(white), z)
    assert scipy.stats.kstest(white.numpy(), "norm").pvalue > 0.01
