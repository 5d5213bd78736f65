import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn

from flowbench.config.registry import density_models
from flowbench.densities.bases import StandardNormal, Uniform
from flowbench.densities.bijection import Bijection
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.model import DensityModel
from flowbench.densities.modes import evaluating
from flowbench.densities.preprocessing import Center, Logit, Unit
from flowbench.errors import InputError, WorkFailedError


class Affine(Bijection):
    """z = (y − shift) · exp(log_scale), the same for all pixels: a flow whose density is known in closed form."""

    def __init__(self, shift: float = 0.0, log_scale: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale * x[0].numel() * torch.ones(len(x), dtype=x.dtype)
        return (x - self.shift) * self.log_scale.exp(), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_det = -self.log_scale * z[0].numel() * torch.ones(len(z), dtype=z.dtype)
        return z * (-self.log_scale).exp() + self.shift, log_det


def images_of(shape, levels, seed=0):
    return torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_identity_on_uniform_images_gives_exactly_log2_of_the_levels(levels):
    model = FlowDensity(Affine(), Unit(), Uniform(), (3, 4, 4), levels)
    bits = model.bits_per_dim(images_of((6, 3, 4, 4), levels), draws=2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, torch.full((6,), math.log2(levels)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("preprocessing", "levels"), [(Logit(0.05), 256), (Center(), 32), (Unit(), 17)], ids=repr)
def test_every_term_agrees_with_an_independent_formula(preprocessing, levels):
    model = FlowDensity(Affine(0.3, -0.7), preprocessing, StandardNormal(), (3, 2, 2), levels).double()
    images = images_of((5, 3, 2, 2), levels)
    noise = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    terms = model.terms(images, noise)

    x = (images.numpy().astype(np.float64) + noise.numpy()) / levels
    if isinstance(preprocessing, Logit):
        p = 0.05 + 0.9 * x
        y, jacobian = np.log(p / (1 - p)), np.log(0.9 / (p * (1 - p))).sum((1, 2, 3))
    else:
        y, jacobian = x - 0.5 * isinstance(preprocessing, Center), np.zeros(5)
    density = scipy.stats.norm(0.3, math.exp(0.7)).logpdf(y).sum((1, 2, 3))  # of y, by the closed form
    expected = density + jacobian - 12 * math.log(levels)
    np.testing.assert_allclose(terms.log_prob.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(terms.preprocessing.detach().numpy(), jacobian, atol=1e-9)
    np.testing.assert_allclose(terms.quantization.detach().numpy(), -12 * math.log(levels), atol=1e-6)
    np.testing.assert_allclose(terms.log_det.detach().numpy(), 12 * -0.7, atol=1e-6)


def one_pixel(levels=5):
    return FlowDensity(Affine(0.4, 0.2), Logit(0.05), StandardNormal(), (1, 1, 1), levels).double()


def integrate(model, value, of):
    def integrand(u):
        noise = torch.full((1, 1, 1, 1), u, dtype=torch.float64)
        return of(model.terms(torch.full((1, 1, 1, 1), value, dtype=torch.uint8), noise).log_prob.item())

    return scipy.integrate.quad(integrand, 0, 1, epsabs=1e-10)[0]


def test_one_pixel_toy_against_numeric_integration():
    model, levels = one_pixel(), 5
    edges = [math.log(p / (1 - p)) for p in 0.05 + 0.9 * np.arange(levels + 1) / levels]
    distribution = scipy.stats.norm(0.4, math.exp(-0.2))
    bound = {}
    with torch.no_grad():
        for value in range(levels):
            # Integrated over the noise, the model's density is exactly the probability of the grey level.
            probability = distribution.cdf(edges[value + 1]) - distribution.cdf(edges[value])
            assert integrate(model, value, math.exp) == pytest.approx(probability, abs=1e-7)
            bound[value] = integrate(model, value, lambda log_p: log_p)
            assert bound[value] <= math.log(probability)
        images = torch.arange(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1)
        estimate = model.log_prob(images, draws=4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, torch.tensor(list(bound.values()), dtype=estimate.dtype), atol=0.02, rtol=0)


def test_log_prob_is_the_mean_over_draws():
    model = FlowDensity(Affine(0.1, 0.3), Logit(0.05), StandardNormal(), (1, 2, 2), 256)
    images = images_of((3, 1, 2, 2), 256)
    one_by_one = torch.Generator().manual_seed(5)
    single = [model.log_prob(images, generator=one_by_one) for _ in range(3)]
    together = model.log_prob(images, draws=3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(together, torch.stack(single).mean(0))
    bits = model.bits_per_dim(images, draws=3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(bits, -together / (4 * math.log(2)))


def test_gradients_flow_through_the_terms():
    model = FlowDensity(Affine(0.1, 0.3), Logit(0.05), StandardNormal(), (1, 2, 2), 256)
    model.log_prob(images_of((3, 1, 2, 2), 256), generator=torch.Generator().manual_seed(0)).mean().backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [torch.float32, torch.int64])
def test_images_that_are_not_uint8_are_refused(wrong):
    model = one_pixel()
    with pytest.raises(TypeError, match="uint8"):
        model.log_prob(torch.zeros(2, 1, 1, 1, dtype=wrong))


def test_values_beyond_the_levels_and_other_shapes_are_refused():
    model = one_pixel(levels=5)
    with pytest.raises(InputError, match="images reach 5, but the model has 5 levels"):
        model.log_prob(torch.full((2, 1, 1, 1), 5, dtype=torch.uint8))
    with pytest.raises(InputError, match="the model takes"):
        model.log_prob(torch.zeros(2, 3, 1, 1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("preprocessing", "levels"), [(Logit(0.05), 256), (Logit(0.05), 17), (Unit(), 17), (Center(), 32)]
)
def test_images_survive_the_way_to_the_latents_and_back(preprocessing, levels):
    model = FlowDensity(Affine(0.3, 0.5), preprocessing, StandardNormal(), (3, 8, 8), levels).double()
    images = images_of((8, 3, 8, 8), levels)
    noise = 0.01 + 0.98 * torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z, _ = model.flow(model.flow_input(images, noise)[0])
    assert torch.equal(model.images_of(z), images)


def test_samples_follow_the_model():
    model = one_pixel(levels=5).float()
    samples = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert samples.dtype == torch.uint8
    assert samples.shape == (20_000, 1, 1, 1)
    edges = [-math.inf, *(math.log(p / (1 - p)) for p in 0.05 + 0.9 * np.arange(1, 5) / 5), math.inf]
    expected = np.diff(scipy.stats.norm(0.4, math.exp(-0.2)).cdf(edges))
    np.testing.assert_allclose(np.bincount(samples.flatten().numpy(), minlength=5) / 20_000, expected, atol=0.015)
    assert model.sample(10, temperature=0.0).unique().tolist() == [
        int(5 * (torch.sigmoid(torch.tensor(0.4)) - 0.05) / 0.9)
    ]


def test_sampling_leaves_the_modes_as_they_were():
    model = one_pixel().float()
    model.flow.dropout.eval()
    seen = []
    with evaluating(model):
        seen.append(model.training)
    model.sample(2)
    assert seen == [False]
    assert model.training
    assert not model.flow.dropout.training


def test_samples_that_are_not_numbers_are_an_error():
    model = FlowDensity(Affine(math.nan), Logit(0.05), StandardNormal(), (1, 1, 1), 256)
    with pytest.raises(WorkFailedError, match="2 of 2 images"):
        model.sample(2)


BUILDERS = {
    "independent": {},
    "real_nvp": {"scales": 2, "residual_blocks": 1, "features": 2},
    "glow": {"levels": 2, "steps": 1, "hidden": 4},
    "nice": {"residual_blocks": 1, "features": 2},
    "iafvae": {"depth": 2, "blocks": 1, "latents": 2, "features": 4},
    "pixelcnn": {"blocks": 1, "filters": 2, "components": 2},
    "tarflow": {"patch": 2, "width": 8, "head": 8, "blocks": 2, "layers": 1},
}


def test_every_model_is_asked_for_nothing():
    assert set(BUILDERS) == set(density_models)


@pytest.fixture(params=BUILDERS)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return density_models[request.param](name=request.param, **BUILDERS[request.param]).build((1, 4, 4), 17)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_sampled_and_measured_where_nothing_is_asked_for(model, training):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = model.sample(0, temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert (images.dtype, images.shape) == (torch.uint8, (0, 1, 4, 4))
    assert model.log_prob(images).shape == model.bits_per_dim(images, draws=3).shape == (0,)
    assert model.sample(np.int64(2)).shape == (2, 1, 4, 4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("temperature", [-1.0, -1e-9, math.nan, math.inf, -math.inf, None, "1", 1j])
def test_a_temperature_that_is_none_is_one_sentence(model, temperature):
    with pytest.raises(InputError, match=r"temperature is .*: give a finite number, 0 or above"):
        model.sample(2, temperature)


def test_no_draws_at_all_are_one_sentence(model):
    with pytest.raises(InputError, match="draws is 0: at least one is needed"):
        model.log_prob(torch.zeros((1, 1, 4, 4), dtype=torch.uint8), draws=0)


@pytest.mark.parametrize("n", [-1, 2.5, True, None, "2"])
def test_a_number_of_samples_that_is_none_is_one_sentence(model, n):
    with pytest.raises(InputError, match=r"n is .*: give the number of images, 0 or more"):
        model.sample(n)


def test_at_temperature_0_all_samples_are_one(model):
    images = model.sample(3, 0)
    assert torch.equal(images, images[:1].expand_as(images))


def test_a_model_is_not_initialized_from_no_images():
    model = density_models["glow"](name="glow", **BUILDERS["glow"]).build((1, 4, 4), 17)
    with pytest.raises(InputError, match="first batch is empty"):
        model.initialize(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, 1, 4, 4))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_model_that_names_no_squares_has_its_zero_where_it_lies():
    class Named(DensityModel):
        terms = sample = None  # of the abstract class

    model = Named((1, 2, 2), 4)
    assert model.regularization().device.type == "cpu"
    model.anything = nn.Parameter(torch.zeros(1, device="meta"))
    assert model.regularization().device.type == "meta"
