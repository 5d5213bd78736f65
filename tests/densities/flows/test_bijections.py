"""Properties that every bijection has: a new one is tested by adding a line to BIJECTIONS."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowbench.densities.bijection import Bijection, Compose, Conjugate, OnFirstHalf
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.conv1x1 import permutation
from flowbench.densities.flows.coupling import ChannelCoupling, CheckerboardCoupling, checkerboard
from flowbench.densities.flows.glow import Glow
from flowbench.densities.flows.glow_layers import ConditionalPrior, GlowCoupling
from flowbench.densities.flows.nice import DiagonalScaling, NICEConfig
from flowbench.densities.flows.normalization import BatchStatistics, FlowBatchNorm, population_statistics
from flowbench.densities.flows.real_nvp import RealNVP
from flowbench.densities.flows.resnet import ResidualNet
from flowbench.densities.flows.squeeze import OrderedSqueeze, Squeeze
from flowbench.densities.flows.tarflow import TarFlow

Shape = tuple[int, int, int]
net = partial(ResidualNet, features=3, blocks=1)
plain_net = partial(net, batch_norm=False)
bottleneck_net = partial(net, bottleneck=True, skip=False)
small_real_nvp = partial(RealNVP, residual_blocks=1, features=2)
small_glow = partial(Glow, steps=2, hidden=4)
small_tarflow = partial(TarFlow, patch=2, width=6, blocks=3, layers=2, head=3, expansion=2)


class Case(NamedTuple):
    make: Callable[[Shape], Bijection]
    channels: tuple[int, ...] = (1, 2, 3)
    sides: tuple[int, ...] = (1, 2, 3, 4)
    perturbation: float = 0.3


EVEN = (2, 4)

BIJECTIONS = {
    "squeeze": Case(lambda _: Squeeze(), sides=EVEN),
    "ordered squeeze": Case(lambda _: OrderedSqueeze(), sides=EVEN),
    "flow batch norm": Case(lambda s: FlowBatchNorm(s[0])),
    "masked flow batch norm": Case(lambda s: FlowBatchNorm(s[0], checkerboard(s[1:], 1))),
    "checkerboard": Case(lambda s: CheckerboardCoupling(s[0], s[1:], 0, net)),
    "checkerboard, odd": Case(lambda s: CheckerboardCoupling(s[0], s[1:], 1, bottleneck_net)),
    "checkerboard, additive": Case(lambda s: CheckerboardCoupling(s[0], s[1:], 0, net, affine=False)),
    "checkerboard, no batch norm": Case(lambda s: CheckerboardCoupling(s[0], s[1:], 0, plain_net, batch_norm=False)),
    "channels": Case(lambda s: ChannelCoupling(s[0], net, pass_first=True), channels=EVEN),
    "channels, second half": Case(lambda s: ChannelCoupling(s[0], bottleneck_net, pass_first=False), channels=EVEN),
    "channels, additive": Case(lambda s: ChannelCoupling(s[0], net, pass_first=True, affine=False), channels=EVEN),
    "channels, no batch norm": Case(
        lambda s: ChannelCoupling(s[0], plain_net, pass_first=False, batch_norm=False), channels=EVEN
    ),
    "composition": Case(
        lambda s: Compose([FlowBatchNorm(s[0]), CheckerboardCoupling(s[0], s[1:], 0, net), FlowBatchNorm(s[0])])
    ),
    "conjugate": Case(lambda s: Conjugate(Squeeze(), FlowBatchNorm(4 * s[0])), sides=EVEN),
    "first half": Case(lambda s: OnFirstHalf(FlowBatchNorm(s[0] // 2)), channels=EVEN),
    "real nvp, one scale": Case(lambda s: small_real_nvp(s, scales=1)),
    "real nvp": Case(lambda s: small_real_nvp(s, scales=2), channels=(1, 3), sides=EVEN),
    "real nvp, additive": Case(lambda s: small_real_nvp(s, scales=2, affine=False), channels=(1,), sides=EVEN),
    "real nvp, three scales": Case(lambda s: small_real_nvp(s, scales=3), channels=(1,), sides=(4,)),
    "real nvp, bottleneck without skips": Case(
        lambda s: small_real_nvp(s, scales=2, bottleneck=True, skip=False), channels=(1,), sides=EVEN
    ),
    "real nvp, no batch norm": Case(lambda s: small_real_nvp(s, scales=2, batch_norm=False), channels=(1,), sides=EVEN),
    "real nvp, 1x1 convolutions": Case(
        lambda s: small_real_nvp(s, scales=2, mixing="conv1x1"), channels=(1,), sides=EVEN
    ),
    "actnorm": Case(lambda s: ActNorm(s[0])),
    "1x1 convolution": Case(lambda s: permutation("plain", s[0])),
    "1x1 convolution, LU": Case(lambda s: permutation("lu", s[0])),
    "reversal": Case(lambda s: permutation("reverse", s[0])),
    "shuffle": Case(lambda s: permutation("shuffle", s[0])),
    "glow coupling": Case(lambda s: GlowCoupling(s[0], 4, affine=True), channels=EVEN),
    "glow coupling, additive": Case(lambda s: GlowCoupling(s[0], 4, affine=False), channels=EVEN),
    "glow coupling, residual": Case(lambda s: GlowCoupling(s[0], 4, affine=True, network="residual"), channels=EVEN),
    "glow coupling, residual, additive": Case(
        lambda s: GlowCoupling(s[0], 4, affine=False, network="residual"), channels=EVEN
    ),
    "conditional prior": Case(lambda s: ConditionalPrior(s[0]), channels=EVEN),
    # Glow's log-scales count three times: with larger ones its Jacobians are too ill-conditioned for float64.
    "glow, one level": Case(lambda s: small_glow(s, levels=1), sides=EVEN, perturbation=0.1),
    "glow": Case(lambda s: small_glow(s, levels=2), channels=(1,), sides=(4,), perturbation=0.1),
    "glow, additive, plain": Case(
        lambda s: small_glow(s, levels=2, affine=False, mixing="plain"), channels=(1,), sides=(4,), perturbation=0.1
    ),
    "glow, shuffled": Case(
        lambda s: small_glow(s, levels=2, mixing="shuffle"), channels=(1,), sides=(4,), perturbation=0.1
    ),
    "glow, reversed": Case(
        lambda s: small_glow(s, levels=2, mixing="reverse"), channels=(1,), sides=(4,), perturbation=0.1
    ),
    "glow, residual": Case(
        lambda s: small_glow(s, levels=2, network="residual"), channels=(1,), sides=(4,), perturbation=0.1
    ),
    "diagonal scaling": Case(DiagonalScaling),
    "tarflow": Case(small_tarflow, sides=EVEN, perturbation=0.1),
    "tarflow, shifts alone": Case(partial(small_tarflow, affine=False), sides=EVEN, perturbation=0.1),
    "tarflow, a token a pixel, classes": Case(
        lambda s: small_tarflow(s, patch=1, classes=3), channels=(1,), sides=(2, 3), perturbation=0.1
    ),
    "nice": Case(lambda s: NICEConfig(couplings=2, residual_blocks=1, features=2).flow(s)),
}

parametrized = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in BIJECTIONS.items()])
some_examples = settings(max_examples=6, deadline=None, derandomize=True)


def draw_case(data, case, batches=(1, 2, 3)):
    """A bijection with random parameters and statistics in evaluation mode, and a batch for it, all float64."""
    shape = tuple(data.draw(st.sampled_from(values)) for values in (case.channels, case.sides, case.sides))
    batch = data.draw(st.sampled_from(batches))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bijection = case.make(shape).double().eval()
    perturb(bijection, generator, case.perturbation)
    return bijection, torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


@torch.no_grad()
def perturb(bijection: nn.Module, generator: torch.Generator, amount: float = 0.3) -> None:
    for parameter in bijection.parameters():
        parameter += amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for module in bijection.modules():
        if isinstance(module, BatchStatistics):
            module.mean += 0.3 * torch.randn(module.mean.shape, generator=generator, dtype=torch.float64)
            module.var *= torch.exp(0.3 * torch.randn(module.var.shape, generator=generator, dtype=torch.float64))


def same(actual, expected, tolerance):
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=tolerance)


def jacobian_log_det(bijection, x):
    """log|det ∂z/∂x| of each element of the batch, from the whole Jacobian."""

    def flat(values):
        return bijection(values.view(1, *x.shape[1:]))[0].flatten()

    return torch.stack([torch.linalg.slogdet(torch.func.jacrev(flat)(one.flatten())).logabsdet for one in x])


@parametrized
@some_examples
@given(data=st.data())
def test_inverse_undoes_forward(case, data):
    bijection, x = draw_case(data, case)
    z, log_det = bijection(x)
    back, inverse_log_det = bijection.inverse(z)
    assert z.dtype == log_det.dtype == torch.float64
    assert z.numel() == x.numel()
    assert log_det.shape == inverse_log_det.shape == x.shape[:1]
    same(back, x, 1e-10)
    same(inverse_log_det, -log_det, 1e-10)


@parametrized
@some_examples
@given(data=st.data())
def test_log_det_is_that_of_the_jacobian(case, data):
    bijection, x = draw_case(data, case)
    _, log_det = bijection(x)
    same(log_det, jacobian_log_det(bijection, x), 1e-8)


@parametrized
@some_examples
@given(data=st.data())
def test_in_training_mode_the_batch_statistics_are_constants_of_the_map(case, data):
    # A channel of a single value has variance 0, and every layer after it amplifies rounding a hundredfold.
    bijection, x = draw_case(data, case, batches=(6, 7))
    bijection.train()
    z, log_det = bijection(x)
    with population_statistics(bijection):  # a population of one batch: captures its statistics
        bijection(x)
    bijection.eval()
    frozen, frozen_log_det = bijection(x)
    same(frozen, z, 1e-8)
    same(frozen_log_det, log_det, 1e-8)
    same(log_det, jacobian_log_det(bijection, x), 1e-7)
    same(bijection.inverse(z)[0], x, 1e-7)


@parametrized
@some_examples
@given(data=st.data())
def test_elements_of_a_batch_do_not_mix_in_evaluation_mode(case, data):
    bijection, x = draw_case(data, case)
    z, log_det = bijection(x)
    alone = [bijection(one[None]) for one in x]
    same(z, torch.cat([part for part, _ in alone]), 1e-10)
    same(log_det, torch.cat([part for _, part in alone]), 1e-10)


@parametrized
@some_examples
@given(data=st.data())
def test_gradients_reach_every_parameter(case, data):
    bijection, x = draw_case(data, case)
    z, log_det = bijection(x)
    parameters = list(bijection.parameters())
    if parameters:
        gradients = torch.autograd.grad(z.square().sum() - log_det.sum(), parameters)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@parametrized
@some_examples
@given(data=st.data())
def test_scales_take_latents_apart_and_put_them_together(case, data):
    bijection, x = draw_case(data, case)
    z, _ = bijection(x)
    parts = bijection.by_scale(z)
    assert sum(part.numel() for part in parts) == z.numel()
    assert all(part.shape[0] == len(x) and part.ndim == 4 for part in parts)
    assert torch.equal(bijection.from_scales(parts), z)


@parametrized
@some_examples
@given(data=st.data())
def test_log_dets_of_the_layers_add_up(case, data):
    bijection, x = draw_case(data, case)
    found = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, result: found.append((layer, result[1])))
        for layer in bijection.layers()
    ]
    _, log_det = bijection(x)
    for hook in hooks:
        hook.remove()
    assert [layer for layer, _ in found] == list(bijection.layers())
    same(torch.stack([value for _, value in found]).sum(0), log_det, 1e-10)


@parametrized
@pytest.mark.filterwarnings("ignore:a flow in training mode")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_empty_batch_stays_empty_and_leaves_the_statistics(case, mode):
    shape = (max(case.channels), max(case.sides), max(case.sides))
    bijection = case.make(shape).train(mode == "train")
    before = {name: value.clone() for name, value in bijection.state_dict().items()}
    z, log_det = bijection(torch.zeros(0, *shape))
    x, inverse_log_det = bijection.inverse(z)
    assert x.shape == (0, *shape)
    assert math.prod(z.shape[1:]) == math.prod(shape)
    assert log_det.shape == inverse_log_det.shape == (0,)
    assert all(torch.equal(value, before[name]) for name, value in bijection.state_dict().items())
