import math

import pytest
import scipy.stats
import torch

from flowbench.config.experiments import load_experiment
from flowbench.data import open_images
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.conditioner import set_precision
from flowbench.densities.flows.conv1x1 import Conv1x1, LUConv1x1, PermuteChannels
from flowbench.densities.flows.glow import Glow, GlowConfig, GlowStep, LearnedTop
from flowbench.densities.flows.glow_layers import ConditionalPrior, GlowCoupling
from flowbench.densities.preprocessing import Center
from flowbench.errors import InputError


def perturbed(module, amount=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module


def glow(**changes):
    torch.manual_seed(0)
    kwargs = {"levels": 2, "steps": 2, "hidden": 4, "learn_top": True} | changes
    return perturbed(Glow((1, 8, 8), **kwargs).double())


def latents(n=5, seed=1):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_learned_top_is_a_normal_with_its_own_mean_and_deviation_for_the_coarsest_latents():
    flow = glow()
    z = latents()
    eps, top = flow.unpack(z)
    h = flow.base.p(torch.zeros(1, 2 * top.shape[1], *top.shape[2:], dtype=torch.float64)).detach()
    mean, log_sd = h.chunk(2, dim=1)
    assert mean.abs().max() > 0.01
    expected = scipy.stats.norm(mean, log_sd.exp()).logpdf(top).sum((1, 2, 3))
    expected += sum(scipy.stats.norm.logpdf(part).sum((1, 2, 3)) for part in eps)
    torch.testing.assert_close(flow.base.log_prob(z).detach(), torch.from_numpy(expected))


def test_learned_top_whitens_and_colors_and_its_temperature_scales_the_white_latents():
    base = glow().base
    z = latents()
    torch.testing.assert_close(base.color(base.whiten(z)), z)
    standard = torch.distributions.Normal(0, 1).log_prob(base.whiten(z)).sum(1)
    constant = (base.log_prob(z) - standard).detach()
    torch.testing.assert_close(constant, constant[:1].expand(5))
    draws = [
        base.float().whiten(base.sample((3, 1, 8, 8), t, torch.Generator().manual_seed(2), torch.device("cpu")))
        for t in (1.0, 0.5)
    ]
    torch.testing.assert_close(draws[1], 0.5 * draws[0], atol=1e-5, rtol=0)


def test_latents_by_level_have_the_papers_shapes():
    flow = glow(levels=3)
    z = latents()
    eps, top = flow.unpack(z)
    assert [part.shape[1:] for part in [*eps, top]] == [(2, 4, 4), (4, 2, 2), (16, 1, 1)]
    assert torch.equal(flow.pack(eps, top), z)


@pytest.mark.parametrize(
    ("mixing", "kind"),
    [("lu", LUConv1x1), ("plain", Conv1x1), ("reverse", PermuteChannels), ("shuffle", PermuteChannels)],
)
def test_every_step_is_actnorm_mixing_coupling_and_all_but_the_last_level_factor_out(mixing, kind):
    flow = glow(levels=3, mixing=mixing)
    names = [type(layer).__name__ for layer in flow.layers()]
    step = ["ActNorm", kind.__name__, "GlowCoupling"] * 2
    assert names == [*step, "ConditionalPrior", *step, "ConditionalPrior", *step]
    assert sum(isinstance(module, GlowStep) for module in flow.modules()) == 6


def test_additive_coupling_only_shifts():
    coupling = perturbed(GlowCoupling(4, 4, affine=False).double())
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = coupling(x)
    assert (log_det == 0).all()
    assert torch.equal(z[:, :2], x[:, :2])
    assert not torch.equal(z[:, 2:], x[:, 2:])


@pytest.mark.parametrize("network", ["convolutions", "residual"])
def test_affine_coupling_starts_by_scaling_with_the_sigmoid_of_2(network):
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = GlowCoupling(4, 4, affine=True, network=network).double()(x)
    factor = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(z[:, 2:].detach(), factor * x[:, 2:])
    torch.testing.assert_close(log_det.detach(), torch.full((3,), 8 * math.log(factor)).double())


def test_regularization_counts_the_magnitudes_of_residual_networks_alone():
    assert glow().regularization() == 0
    flow = glow(network="residual")
    magnitudes = [p for name, p in flow.named_parameters() if name.endswith("magnitude")]
    # In each of the four networks: the block's, the two skips' and the output's.
    assert len(magnitudes) == 16
    expected = sum(float(p.detach().square().sum()) for p in magnitudes)
    assert float(flow.regularization().detach()) == pytest.approx(expected)


def test_the_conditional_prior_starts_standard_normal():
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    z, log_det = ConditionalPrior(4)(x)
    assert torch.equal(z, x)
    assert (log_det == 0).all()


def test_reduced_precision_stays_inside_the_networks():
    flow = glow().float()
    set_precision(flow, "bf16")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    z, log_det = flow(x)
    assert z.dtype == log_det.dtype == flow.base.log_prob(z).dtype == torch.float32
    back, _ = flow.inverse(z)
    # The networks round, but to the same numbers there and back.
    torch.testing.assert_close(back.detach(), x, atol=1e-3, rtol=0)
    set_precision(flow, 32)
    assert not torch.equal(flow(x)[0], z)


@pytest.mark.parametrize("bits", [5, 8])
def test_bits_per_dim_count_the_grey_levels_that_the_data_have(bits, require_data):
    require_data("cifar10")
    data = load_experiment("glow/cifar10", [f"data.bits={bits}"]).data
    images = open_images(data, "test")
    assert images.levels == 2**bits
    some = torch.from_numpy(images.take(torch.arange(4).numpy()).transpose(0, 3, 1, 2).copy())
    torch.manual_seed(0)
    model = GlowConfig(levels=2, steps=1, hidden=4).build((3, 32, 32), images.levels)
    noise = torch.rand(some.shape, generator=torch.Generator().manual_seed(0))
    terms = model.terms(some, noise)
    torch.testing.assert_close(terms.quantization, torch.full((4,), -3072 * bits * math.log(2)))
    assert isinstance(model, FlowDensity)
    y, _ = model.flow_input(some, noise)
    torch.testing.assert_close(y, (some + noise) / 2**bits - 0.5)
    z, log_det = model.flow(y)
    nats = -(model.base.log_prob(z) + log_det) + 3072 * bits * math.log(2)
    again = model.bits_per_dim(some, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, nats / (3072 * math.log(2)))
    assert isinstance(model.preprocessing, Center)


@pytest.mark.parametrize(
    ("name", "levels", "steps", "side"),
    [
        ("cifar10", 3, 32, 32),
        ("imagenet32", 3, 48, 32),
        ("imagenet64", 4, 48, 64),
        ("lsun-bedroom", 4, 48, 64),
        ("lsun-tower", 4, 48, 64),
        ("lsun-church_outdoor", 4, 48, 64),
        ("celeba", 4, 48, 64),
    ],
)
def test_presets_are_the_papers(name, levels, steps, side):
    experiment = load_experiment(f"glow/{name}")
    model = experiment.model
    assert (model.levels, model.steps, model.hidden, model.coupling) == (levels, steps, 512, "affine")
    # The paper has CelebA-HQ, not this set.
    assert experiment.preset == (None if name == "celeba" else "paper")
    assert (experiment.data.bits, experiment.data.holdout) == (8, 0)
    assert (experiment.optim.name, experiment.optim.lr) == ("adamax", 1e-3)
    with torch.device("meta"):
        eps, top = Glow((3, side, side), levels=levels, steps=0, hidden=1).unpack(torch.empty(1, 3 * side**2))
    assert top.shape[1:] == (3 * 2 ** (levels + 1), side // 2**levels, side // 2**levels)
    assert len(eps) == levels - 1


def test_a_side_that_cannot_be_halved_so_often_is_an_error():
    with pytest.raises(InputError, match=r"model\.levels: 4 levels .* 8x8"):
        Glow((1, 8, 8), levels=4, steps=1, hidden=2)


def test_learned_top_takes_any_size():
    base = LearnedTop((1, 8, 8), 2)
    assert base.whiten(torch.zeros(2, 1, 16, 16)).shape == (2, 1, 16, 16)
