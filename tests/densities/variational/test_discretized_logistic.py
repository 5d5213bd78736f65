import math

import pytest
import scipy.stats
import torch

from flowbench.densities.variational import discretized_logistic as logistic

LEVELS = [2, 3, 17, 256]
F64 = torch.float64


def all_levels(levels, location, log_scale, log_prob=logistic.log_prob):
    """P of every level at each location, (len(location), levels)."""
    images = torch.arange(levels).to(torch.uint8).expand(len(location), levels)
    return log_prob(images, location[:, None], log_scale, levels).exp()


def spread(levels):
    return logistic.clamp_location(torch.linspace(-0.7, 0.7, 29, dtype=F64), levels)


@pytest.mark.parametrize("log_scale", [-9.0, -4.0, -2.1, 0.0, 3.0])
@pytest.mark.parametrize("levels", LEVELS)
def test_over_the_levels_the_likelihood_sums_to_one(levels, log_scale):
    total = all_levels(levels, spread(levels), torch.tensor(log_scale, dtype=F64)).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_level_has_the_logistics_mass_between_its_edges(levels):
    location, scale = spread(levels), 0.05
    edges = [-math.inf, *(value / levels - 0.5 for value in range(1, levels)), math.inf]
    below = scipy.stats.logistic.cdf([[edge] for edge in edges], loc=location.numpy(), scale=scale).T
    mass = torch.from_numpy(below[:, 1:] - below[:, :-1])
    found = all_levels(levels, location, torch.tensor(math.log(scale), dtype=F64))
    torch.testing.assert_close(found, mass, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("levels", "scale"), [(2, 7.0), (3, 1 / (6 * math.log(2))), (4, 1 / (4 * math.log(3)))], ids=["2", "3", "4"]
)
def test_where_a_logistic_can_be_uniform_it_costs_log2_of_the_levels(levels, scale):
    bits = -all_levels(levels, torch.zeros(1, dtype=F64), torch.tensor(math.log(scale), dtype=F64)).log2()
    torch.testing.assert_close(bits, torch.full_like(bits, math.log2(levels)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_wide_logistic_is_uniform_over_the_authors_bins_but_for_the_mass_that_is_lost(levels):
    # The density at the middle of a wide logistic is 1/(4s): bins of width 1/levels have log2(levels) bits, and the
    # 4s come from what lies outside. Where nothing else is left, the 1e-7 counts whole.
    scale = 1000.0
    found = all_levels(
        levels, torch.zeros(1, dtype=F64), torch.tensor(math.log(scale), dtype=F64), logistic.authors_log_prob
    )
    expected = torch.full_like(found, 1 / (4 * scale * levels) + 1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_authors_formula_differs_by_its_edges_and_its_floor_alone(levels):
    location, log_scale = spread(levels), torch.tensor(-2.1, dtype=F64)
    ours = all_levels(levels, location, log_scale)
    theirs = all_levels(levels, location, log_scale, logistic.authors_log_prob) - 1e-7
    torch.testing.assert_close(theirs[:, 1:-1], ours[:, 1:-1], rtol=0, atol=1e-14)
    s = math.exp(-2.1)
    lost = torch.sigmoid((-0.5 - location) / s) + torch.sigmoid((location - 0.5) / s)
    torch.testing.assert_close(1 - theirs.sum(1), lost, rtol=0, atol=1e-13)
    assert (lost > 0.001).all()


def test_far_from_the_location_float32_keeps_its_digits():
    images = torch.arange(256).to(torch.uint8)
    values = [
        logistic.log_prob(images, torch.tensor(0.49, dtype=dtype), torch.tensor(-5.0, dtype=dtype), 256)
        for dtype in (torch.float32, F64)
    ]
    assert values[1].min() < -140  # a difference of sigmoids would be 0, its logarithm −∞
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [3, 17])
def test_draws_follow_the_likelihood(levels):
    location, log_scale = torch.tensor([-0.45, 0.1, 0.3]), torch.tensor(-1.5)
    uniform = torch.rand(3, 40_000, generator=torch.Generator().manual_seed(0))
    drawn = logistic.draw(location[:, None].expand(3, 40_000), log_scale, levels, uniform)
    shares = torch.stack([torch.bincount(row.long(), minlength=levels) for row in drawn]) / 40_000
    expected = all_levels(levels, location, log_scale)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 40_000).sqrt() + 1e-6).all()


@pytest.mark.parametrize("levels", LEVELS)
def test_the_input_is_the_middle_of_the_bin_that_a_value_stands_for(levels):
    images = torch.arange(levels).to(torch.uint8)
    middles = logistic.as_input(images, levels, F64)
    assert torch.equal(logistic.nearest_level(middles, levels), images)
    assert middles[0] == -0.5 + 0.5 / levels == -middles[-1]
    assert torch.equal(logistic.clamp_location(middles, levels), middles)
    assert torch.equal(logistic.clamp_location(2 * middles, levels)[[0, -1]], middles[[0, -1]])
