"""Couplings that see a context: inverse, Jacobian and integral for every context, and parts that add up."""

import math

import pytest
import torch

from flowbench.densities.flows.conditional import ConditionalFlow
from flowbench.densities.flows.vectors import VectorCoupling
from flowbench.errors import InputError
from tests.densities.flows.test_bijections import jacobian_log_det, perturb, same


def made(dimensions: int, context: int = 3, mixing: str = "permute") -> ConditionalFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = ConditionalFlow(dimensions, context, couplings=3, features=6, mixing=mixing).double()
    perturb(flow, torch.Generator().manual_seed(1), 0.2)
    return flow


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mixing", ["alternate", "permute"])
@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_inverse_and_jacobian_under_every_context(dimensions: int, mixing: str) -> None:
    flow, x, context = made(dimensions, mixing=mixing), drawn(4, dimensions), drawn(4, 3, seed=1)
    z, log_det = flow(x, context)
    back, inverse_log_det = flow.inverse(z, context)
    same(back, x, 1e-10)
    same(inverse_log_det, -log_det, 1e-10)
    for row in range(4):  # each under its own context
        of_row = context[row : row + 1]
        same(log_det[row : row + 1], jacobian_log_det(lambda y, c=of_row: flow(y, c), x[row : row + 1]), 1e-8)
    normal = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
    same(flow.log_prob(x, context), normal + log_det, 1e-12)


def test_the_parts_by_place_add_up_and_follow_their_dimension() -> None:
    flow, x, context = made(5), drawn(4, 5), drawn(4, 3, seed=1)
    parts = flow.log_prob_by_place(x, context)
    same(parts.sum(1), flow.log_prob(x, context), 1e-12)
    coupling = VectorCoupling(torch.tensor([2, 0, 3, 1]), pass_first=True, features=4, layers=1, context=3).double()
    _, log_scale = coupling.by_place(drawn(4, 4), context)
    assert (log_scale[:, [2, 0]] == 0).all()  # passed
    assert (log_scale[:, [3, 1]] != 0).all()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_density_integrates_to_one_given_a_context(dimensions: int) -> None:
    flow, context = made(dimensions), drawn(1, 3, seed=1)
    axis = torch.linspace(-30, 30, 6001 if dimensions == 1 else 601, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * dimensions).view(-1, dimensions)
    with torch.no_grad():
        total = sum(flow.log_prob(part, context.expand(len(part), -1)).exp().sum() for part in grid.split(2**17))
    assert float(total) * float(axis[1] - axis[0]) ** dimensions == pytest.approx(1, abs=1e-4)


def test_the_context_moves_the_density_and_gradients_reach_it() -> None:
    flow, x = made(2), drawn(1, 2)
    context = drawn(1, 3).requires_grad_()
    other = flow.log_prob(x, drawn(1, 3, seed=2))
    log_prob = flow.log_prob(x, context)
    assert not torch.isclose(log_prob, other)
    (gradient,) = torch.autograd.grad(log_prob.sum(), context)
    assert (gradient != 0).all()


def test_without_a_context_couplings_are_as_they_were() -> None:
    torch.manual_seed(0)
    one = VectorCoupling(torch.arange(5), pass_first=True, features=4, layers=1)
    torch.manual_seed(0)
    other = VectorCoupling(torch.arange(5), pass_first=True, features=4, layers=1, context=2)
    assert one.net.layers[0].in_features == 2
    assert other.net.layers[0].in_features == 4
    assert one.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("sizes", [(0, 3), (2, 0)])
def test_nothing_to_map_and_nothing_to_see_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="both are 1 or more"):
        ConditionalFlow(*sizes)
