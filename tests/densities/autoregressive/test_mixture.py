"""Mixtures of logistics over grey levels: whatever levels and channels, they are distributions."""

import itertools
import math

import pytest
import torch

from flowbench.densities.autoregressive.mixture import LogisticMixture


def every_pixel(channels, levels):
    """Every value that one pixel can have, (levels^channels, channels, 1, 1)."""
    values = list(itertools.product(range(levels), repeat=channels))
    return torch.tensor(values, dtype=torch.uint8)[:, :, None, None]


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 17), (1, 256), (2, 9), (3, 5), (4, 3), (5, 2)])
def test_the_probabilities_of_a_pixel_sum_to_one(channels, levels):
    mixture = LogisticMixture(channels, 3, levels)
    torch.manual_seed(channels * levels)
    # Scales as wide as a bin at least, so that no mass is too small for the difference of sigmoids.
    outputs = 0.3 * torch.randn(1, mixture.outputs, 1, 1, dtype=torch.float64)
    images = every_pixel(channels, levels)
    log_prob, share = mixture.log_prob_and_density_share(outputs.expand(len(images), -1, -1, -1), images)
    assert not share.any()
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(mixture.log_prob(outputs.expand(len(images), -1, -1, -1), images), log_prob)


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 17), (1, 256), (2, 9), (3, 5), (4, 3)])
def test_a_narrow_component_on_every_value_is_uniform(channels, levels):
    images = every_pixel(channels, levels)
    mixture = LogisticMixture(channels, len(images), levels)
    outputs = torch.zeros(mixture.outputs, dtype=torch.float64)
    rows = outputs[len(images) :].view(-1, len(images))
    rows[mixture._rows["mean"]] = mixture.scaled(images, torch.float64)[:, :, 0, 0].T
    rows[mixture._rows["scale"]] = -7.0
    bits = -mixture.log_prob(outputs.view(1, -1, 1, 1).expand(len(images), -1, -1, -1), images) / math.log(2)
    # With 256 levels a bin is 8.6 scales wide: what a bin loses to its neighbours it gets from them.
    torch.testing.assert_close(bits / channels, torch.full_like(bits, math.log2(levels)), rtol=0, atol=1e-5)


def test_the_bound_is_never_below_the_exact_value_and_says_where_it_is_one():
    torch.manual_seed(0)
    mixture = LogisticMixture(1, 2, 256)
    outputs = torch.randn(256, mixture.outputs, 1, 1, dtype=torch.float64)
    outputs[:, mixture.components :].view(256, -1, 2, 1, 1)[:, mixture._rows["scale"]] -= 5
    images = every_pixel(1, 256)
    log_prob, share = mixture.log_prob_and_density_share(outputs, images)
    parameters = mixture.parameters(outputs)
    x = mixture.scaled(images, torch.float64)[:, :, None]

    def log_cdf(edge, sign):
        return torch.nn.functional.logsigmoid(sign * (x + edge - parameters.means) / parameters.log_scales.exp())

    upper, lower = log_cdf(1 / 255, 1), log_cdf(-1 / 255, 1)
    # log(F(b) − F(a)) = log F(b) + log(1 − F(a)) + log(1 − e^(a − b)) for the logistic distribution.
    inside = upper + log_cdf(-1 / 255, -1) + torch.log(-torch.expm1(-2 / 255 / parameters.log_scales.exp()))
    exact = torch.where(x == -1, upper, torch.where(x == 1, log_cdf(-1 / 255, -1), inside))
    assert bool(torch.isfinite(lower).all())
    exact = torch.logsumexp(torch.log_softmax(parameters.logits, 1) + exact.sum(1), 1).flatten()
    loss = exact - log_prob
    assert float(loss.min()) > -1e-9
    assert bool((loss[share == 0].abs() < 1e-9).all())
    assert 0 < int((share > 0.5).sum()) < 256
    assert float(loss[share > 0.5].max()) > 0.1


def test_a_later_channel_knows_the_channels_before_it_by_its_own_coefficients():
    mixture = LogisticMixture(3, 1, 256)
    outputs = torch.zeros(1, 10, 1, 1)
    # The authors' order: logit; of each colour mean, log-scale and a coefficient, all three of one component.
    red, green_given_red, blue_given_red, blue_given_green = 0.5, 0.1, 0.2, 0.4
    outputs[0, [3, 6, 9], 0, 0] = torch.atanh(torch.tensor([green_given_red, blue_given_red, blue_given_green]))
    outputs[0, [1, 4, 7], 0, 0] = torch.tensor([0.0, -0.25, 0.125])
    x = torch.tensor([red, -0.5, 0.25]).view(1, 3, 1, 1)
    means = mixture.conditional_means(mixture.parameters(outputs), x).flatten()
    expected = [0.0, -0.25 + 0.1 * 0.5, 0.125 + 0.2 * 0.5 + 0.4 * -0.5]
    torch.testing.assert_close(means, torch.tensor(expected))


@pytest.mark.parametrize(("channels", "levels"), [(1, 5), (2, 3), (3, 3)])
def test_draws_follow_the_probabilities(channels, levels):
    mixture = LogisticMixture(channels, 2, levels)
    torch.manual_seed(1)
    outputs = 0.5 * torch.randn(1, mixture.outputs, 1, 1)
    images = every_pixel(channels, levels)
    expected = mixture.log_prob(outputs.expand(len(images), -1, -1, -1), images).exp()
    n = 100_000
    shape = (1, 2, 1, n), (1, channels, 1, n)
    u_mix, u_logistic = (torch.rand(s).clamp_(1e-5, 1 - 1e-5) for s in shape)
    drawn = mixture.rounded(mixture.draw(outputs.expand(1, -1, 1, n), u_mix, u_logistic))[0, :, 0].long()
    places = torch.tensor([levels**power for power in reversed(range(channels))])
    counts = torch.bincount((places[:, None] * drawn).sum(0), minlength=len(images))
    assert bool(((counts / n - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-5).all())


def test_at_temperature_zero_the_mean_of_the_most_probable_component_is_drawn():
    mixture = LogisticMixture(1, 2, 256)
    outputs = torch.tensor([0.1, 0.0, 0.5, -0.5, -1.0, -1.0]).view(1, -1, 1, 1)
    u = torch.full((1, 2, 1, 1), 0.01), torch.full((1, 1, 1, 1), 0.99)
    drawn = mixture.draw(outputs, *u, temperature=0.0, rounded=False)
    assert float(drawn) == 0.5
    assert mixture.rounded(drawn).item() == 191  # (0.5 + 1) · 127.5 = 191.25
