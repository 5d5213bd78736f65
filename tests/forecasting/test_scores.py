"""Scores of distributions, each against what it is defined as, and against a closed form."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.forecaster import WindowShape
from flowbench.forecasting.scores import (
    SAMPLES,
    crps_of_normal,
    crps_of_samples,
    pit_of_samples,
    quantiles_of_samples,
    score,
)


class Normals(DistributionForecaster):
    """y ~ N(last row, σ² times `wrong`²), drawn or in closed form."""

    def __init__(self, deviation: float, *, closed: bool, wrong: float = 1.0) -> None:
        super().__init__(WindowShape(4, 3, 2, 2))
        self.deviation, self.closed, self.wrong = deviation, closed, wrong

    def forward(self, history: Tensor) -> Tensor:
        return history[:, -1:].expand(-1, 3, -1)

    def log_prob_by_value(self, future: Tensor, past: Tensor) -> Tensor:
        return torch.distributions.Normal(self(past), self.deviation).log_prob(future)

    def sample(self, past: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(n, len(past), 3, 2, generator=generator)
        return self(past) + self.deviation * self.wrong * noise

    def normal(self, past: Tensor) -> tuple[Tensor, Tensor] | None:
        mean = self(past)
        return (mean, torch.full_like(mean, self.deviation)) if self.closed else None


def truth(n: int = 400, deviation: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    past = torch.randn(n, 4, 2, generator=generator)
    return past, past[:, -1:] + deviation * torch.randn(n, 3, 2, generator=generator)


def test_the_closed_form_is_the_integral_that_defines_the_crps() -> None:
    mean, deviation, y = 0.3, 1.7, 2.1
    normal = stats.norm(mean, deviation)
    below, _ = integrate.quad(lambda x: normal.cdf(x) ** 2, -30, y)
    above, _ = integrate.quad(lambda x: normal.sf(x) ** 2, y, 30)
    found = crps_of_normal(*(torch.tensor(value, dtype=torch.float64) for value in (mean, deviation, y)))
    assert float(found) == pytest.approx(below + above, rel=1e-9)


def test_the_fair_estimate_is_the_sum_over_all_pairs() -> None:
    samples, y = torch.randn(2, 3, 4, 7, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    pairs = (samples.unsqueeze(-1) - samples.unsqueeze(-2)).abs().sum(dim=(-1, -2)) / (2 * 7 * 6)
    expected = (samples - y.unsqueeze(-1)).abs().mean(dim=-1) - pairs
    torch.testing.assert_close(crps_of_samples(samples, y)[0], expected)


def test_the_estimate_is_the_closed_form_within_its_error_and_its_error_is_right() -> None:
    past, future = truth()
    exact = score(Normals(0.7, closed=True), past, future, torch.Generator())
    z = []
    for seed in range(30):
        drawn = score(Normals(0.7, closed=False), past, future, torch.Generator().manual_seed(seed))
        assert drawn.crps_variance is not None
        error = math.sqrt(float(drawn.crps_variance.sum())) / len(past)
        z.append(float(drawn.by_value["crps"].mean() - exact.by_value["crps"].mean()) / error)
    assert abs(sum(z)) / math.sqrt(30) < 3  # fair: no bias
    assert 0.7 < torch.tensor(z).std() < 1.35
    assert max(map(abs, z)) < 4
    assert exact.crps_variance is None


@pytest.mark.parametrize("closed", [True, False])
def test_intervals_of_the_right_distribution_cover_what_they_say(closed: bool) -> None:
    past, future = truth(2000)
    scores = score(Normals(0.7, closed=closed), past, future, torch.Generator().manual_seed(0)).by_value
    assert float(scores["coverage_50"].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(scores["coverage_90"].mean()) == pytest.approx(0.9, abs=0.012)
    assert float(scores["mae_median"].mean()) == pytest.approx(0.7 * math.sqrt(2 / math.pi), rel=0.03)
    expected = -stats.norm(past[:, -1:].expand(-1, 3, -1), 0.7).logpdf(future)
    torch.testing.assert_close(scores["nll"], torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_samples_of_the_wrong_scale_are_seen_in_crps_and_coverage() -> None:
    past, future = truth(2000)
    right, wrong = (
        score(Normals(0.7, closed=False, wrong=factor), past, future, torch.Generator().manual_seed(0)).by_value
        for factor in (1.0, 0.6)
    )
    assert float(wrong["coverage_90"].mean()) < 0.75
    assert float(wrong["crps"].mean()) > 1.03 * float(right["crps"].mean())


def test_pit_is_uniform_for_the_right_distribution_and_its_ranks_are_counted() -> None:
    samples = torch.arange(1.0, 10.0).expand(2, 9)
    pit = pit_of_samples(samples, torch.tensor([3.5, 100.0]), torch.Generator().manual_seed(0))
    assert 0.3 <= pit[0] < 0.4
    assert 0.9 <= pit[1] < 1
    generator = torch.Generator().manual_seed(0)
    of_many = pit_of_samples(
        torch.randn(3000, 20, generator=generator), torch.randn(3000, generator=generator), generator
    )
    assert stats.kstest(of_many.numpy(), "uniform").pvalue > 0.01


def test_pit_is_uniform_where_draws_are_equal_to_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, truth = torch.zeros(3000, 20), torch.zeros(3000)  # a sensor that is stuck, and a forecast that knows it
    assert stats.kstest(pit_of_samples(samples, truth, generator).numpy(), "uniform").pvalue > 0.01


def test_quantiles_bound_the_next_draw_with_their_probability() -> None:
    ordered = torch.arange(1.0, 10.0)[torch.randperm(9)]
    assert quantiles_of_samples(ordered, [0.1, 0.5, 0.55, 0.9, 0.001]).tolist() == pytest.approx([1, 5, 5.5, 9, 1])
    assert SAMPLES == 99  # (1 − 0.9)/2 · 100 and (1 − 0.5)/2 · 100 are whole numbers
