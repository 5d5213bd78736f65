"""Flows of vectors, and flows as densities of their own: inverse, Jacobian, the integral, what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flowbench as fb
from flowbench.densities.bases import standard_normal_log_prob
from flowbench.densities.flow import Flow
from flowbench.errors import InputError
from tests.densities.flows.test_bijections import jacobian_log_det, perturb, same

VECTORS = {
    "real nvp": lambda d: fb.RealNVP(d, features=5),
    "real nvp, permuted": lambda d: fb.RealNVP(d, features=5, mixing="permute", couplings=3),
    "real nvp, additive, deep": lambda d: fb.RealNVP(d, features=3, residual_blocks=3, affine=False),
    "nice": lambda d: fb.NICE(d, features=5),
    "nice, permuted": lambda d: fb.NICE(d, features=5, mixing="permute"),
    "glow": lambda d: fb.Glow(d, steps=2, hidden=5),
    "glow, shuffled, additive": lambda d: fb.Glow(d, steps=3, hidden=5, mixing="shuffle", affine=False),
}
IMAGES = {
    "real nvp": lambda: fb.RealNVP((1, 4, 4), residual_blocks=1, features=2),
    "nice": lambda: fb.NICE((1, 4, 4), residual_blocks=1, features=2),
    "glow": lambda: fb.Glow((1, 4, 4), levels=2, steps=2, hidden=4, learn_top=True),
}


def made(make, *shape: int) -> Flow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = make(*shape).double().eval()
    perturb(flow, torch.Generator().manual_seed(1), 0.1)
    return flow


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(dimensions=st.integers(2, 9), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_inverse_and_jacobian_of_vectors(make, dimensions: int, batch: int, seed: int) -> None:
    flow = made(make, dimensions)
    x = torch.randn(batch, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z, log_det = flow(x)
    back, inverse_log_det = flow.inverse(z)
    same(back, x, 1e-10)
    same(inverse_log_det, -log_det, 1e-10)
    same(log_det, jacobian_log_det(flow, x), 1e-8)
    same(flow.log_prob(x), standard_normal_log_prob(z) + log_det, 1e-12)
    assert torch.equal(flow.from_scales(flow.by_scale(z)), z)
    gradients = torch.autograd.grad(-flow.log_prob(x).sum(), list(flow.parameters()))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
def test_every_dimension_depends_on_every_other(make) -> None:
    flow = made(make, 5)
    jacobian = torch.func.jacrev(lambda x: flow(x[None])[0][0])(torch.ones(5, dtype=torch.float64))
    assert (jacobian.abs().sum(0) > 0).all()
    assert (jacobian.abs().sum(1) > 0).all()
    assert ((jacobian - torch.diag(jacobian.diag())).abs().sum(1) > 0).any()


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
def test_the_density_integrates_to_one(make) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        flow = make(2).double()  # as initialized: larger weights make peaks that no grid resolves
    # Where the density lies, from samples; beyond that there is less than is tolerated.
    cloud = flow.sample(20_000, generator=torch.Generator().manual_seed(0))
    low, high = cloud.amin(0) - 1, cloud.amax(0) + 1
    sides = [torch.linspace(float(a), float(b), 500, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(*sides)).exp()
    cell = float(((high - low) / 499).prod())
    assert float(density.sum()) * cell == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_flows_of_images_are_densities_of_their_input_space(make) -> None:
    flow = made(make)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, log_det = flow(x)
    same(log_det, jacobian_log_det(flow, x), 1e-8)
    same(flow.log_prob(x), flow.base.log_prob(z) + log_det, 1e-12)


@pytest.mark.parametrize("make", [*IMAGES.values(), lambda: fb.RealNVP(3), lambda: fb.Glow(4)])
def test_samples_lie_in_the_input_space_and_leave_the_mode(make) -> None:
    flow = make().train()
    generator = torch.Generator().manual_seed(0)
    x = flow.sample(6, temperature=0.5, generator=generator)
    assert x.shape == (6, *flow.input_shape)
    assert flow.training
    assert torch.isfinite(x).all()
    again = flow.sample(6, temperature=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    flow.eval()
    z = flow(x)[0].flatten(1)
    white = 0.5 * torch.randn(6, math.prod(flow.input_shape), generator=torch.Generator().manual_seed(0))
    same(z, white, 1e-3)


def test_drawn_permutations_are_kept_with_the_weights() -> None:
    one, other = fb.RealNVP(6, mixing="permute"), fb.RealNVP(6, mixing="permute")
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(one.log_prob(x), other.log_prob(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fb.RealNVP(1), "of 1 dimensions: couplings need 2 or more"),
        (lambda: fb.RealNVP(2, scales=2), "scales: only a flow of images has it"),
        (lambda: fb.RealNVP(2, mixing="conv1x1"), "conv1x1 is for images"),
        (lambda: fb.RealNVP((1, 4, 4), couplings=2), "are for flows of vectors"),
        (lambda: fb.NICE(2, dropout=0.1), "dropout: only a flow of images has it"),
        (lambda: fb.NICE((1, 4, 4), mixing="permute"), "mixing: is for flows of vectors"),
        (lambda: fb.Glow(2, learn_top=True), "learn_top: only a flow of images has it"),
        (lambda: fb.RealNVP(2).log_prob(torch.zeros(4, 3)), r"the flow takes floats (batch, 2)"),
        (lambda: fb.RealNVP(2).log_prob(torch.zeros(4, 2, dtype=torch.uint8)), "x is torch.uint8"),
        (lambda: fb.RealNVP(2).log_prob(np.zeros((4, 2))), "x is ndarray: give a tensor"),
        (
            lambda: fb.RealNVP(2).log_prob(torch.zeros(4, 2, dtype=torch.float64)),
            "x is torch.float64, the flow's weights are torch.float32: give x.to(torch.float32), or flow.double()",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)
