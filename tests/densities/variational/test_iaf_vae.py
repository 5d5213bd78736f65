import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from flowbench.config.experiments import load_experiment
from flowbench.data.images import FixedPixels, Images
from flowbench.densities.initialization import initializing
from flowbench.densities.noise import evaluation_noise
from flowbench.densities.variational.convolutions import Conv, MaskedConv, TransposedConv
from flowbench.densities.variational.iaf_vae import IAFVAE
from flowbench.densities.variational.inverse_autoregressive import InverseAutoregressiveFlow
from flowbench.errors import InputError, WorkFailedError
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.reported import Setting
from flowbench.tasks.objectives import NegativeLogLikelihood

F64 = torch.float64
SHAPE, LEVELS = (1, 8, 8), 17


def small(free_bits=0.1, shape=SHAPE, levels=LEVELS, **keys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = IAFVAE(
            shape, levels, **{"depth": 2, "blocks": 2, "latents": 2, "features": 4, **keys}, free_bits=free_bits
        )
        pixels, noise = batch(model, 32)
        model.initialize(pixels, noise)
        with torch.no_grad():
            model.dec_log_stdv.fill_(-1.5)
    return model


def batch(model, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(model.levels, (n, *model.image_shape), generator=generator).to(torch.uint8)
    return images, torch.randn(n, *model.noise_shape, generator=generator)


def split(n=11):
    values = np.random.default_rng(0).integers(LEVELS, size=(n, 8, 8, 1), dtype=np.uint8)
    return Images("toy", "test", LEVELS, "fingerprint", "unverified", FixedPixels(values))


@pytest.mark.parametrize(("latents", "features"), [(2, 4), (3, 3), (4, 2)])
def test_the_log_determinant_of_the_flow_is_that_of_its_jacobian(latents, features):
    torch.manual_seed(0)
    flow = InverseAutoregressiveFlow(latents, features).to(F64)
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + 1)
    z0, context = torch.randn(1, latents, 3, 3, dtype=F64), torch.randn(1, features, 3, 3, dtype=F64)
    _, s = flow(z0, context)
    assert s.abs().max() > 0.1
    matrix = jacobian(lambda x: flow(x, context)[0], z0).reshape(z0.numel(), z0.numel())
    assert torch.linalg.slogdet(matrix)[1].item() == pytest.approx(-s.sum().item(), abs=1e-10)
    # In the order from the last position to the first, the channels of each ascending, nothing sees what comes later.
    order = torch.arange(z0.numel()).reshape(latents, 9).flip(1).T.flatten()
    assert torch.equal(matrix[order][:, order].triu(1), torch.zeros_like(matrix))
    below = matrix[order][:, order].tril(-1)
    assert (below != 0).float().mean() > 0.2


@pytest.mark.parametrize(
    ("channels_in", "channels_out", "here"),
    [(2, 4, [[0], [0], [0, 1], [0, 1]]), (4, 2, [[0, 1], [0, 1, 2, 3]]), (2, 2, [[0], [0, 1]])],
)
def test_a_position_sees_its_own_groups_channels_up_to_its_own(channels_in, channels_out, here):
    loose, strict = (MaskedConv(channels_in, channels_out, strict=one).mask for one in (False, True))
    assert [row[:, 1, 1].nonzero().flatten().tolist() for row in loose] == here
    assert (strict[:, :, 1, 1] <= loose[:, :, 1, 1]).all()
    assert not strict[0, :, 1, 1].any()
    for mask in (loose, strict):
        assert mask[:, :, 2].all()
        assert mask[:, :, 1, 2].all()
        assert not mask[:, :, 0].any()
        assert not mask[:, :, 1, 0].any()


def test_counts_that_do_not_divide_each_other_are_one_sentence():
    with pytest.raises(InputError, match=r"model\.latents and model\.features: .* between 3 and 4 channels"):
        IAFVAE(SHAPE, LEVELS, depth=1, blocks=1, latents=3, features=4)


def test_a_side_that_cannot_be_halved_so_often_is_one_sentence():
    with pytest.raises(InputError, match=r"model\.depth: .* 8x8 pixels"):
        IAFVAE(SHAPE, LEVELS, depth=4, blocks=1, latents=2, features=2)


@pytest.mark.parametrize("size", [3, 5])
def test_a_transposed_convolution_is_the_adjoint_of_the_one_that_halves(size):
    torch.manual_seed(0)
    down, up = Conv(3, 2, size, stride=2).to(F64), TransposedConv(2, 3, size).to(F64)
    with torch.no_grad():
        up.V.copy_(down.V)  # norms are over each output here, over each input there: the same kernels
    x, y = torch.randn(2, 3, 8, 6, dtype=F64), torch.randn(2, 2, 4, 3, dtype=F64)
    assert (down(x) * y).sum().item() == pytest.approx((x * up(y)).sum().item(), rel=1e-12)


def test_initialization_gives_what_was_meant_and_stores_the_authors_cube_root():
    torch.manual_seed(0)
    conv, x = Conv(3, 5).to(F64), torch.randn(16, 3, 6, 6, dtype=F64) + 1
    with initializing(conv):
        y = conv(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.full((5,), 0.1, dtype=F64), rtol=1e-6, atol=0)
    later = conv(x) - conv.b.view(-1, 1, 1)
    scale = (y - y.mean((0, 2, 3), keepdim=True)) / (later - later.mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(scale.mean((0, 2, 3)), torch.exp(2 * conv.g), rtol=1e-9, atol=0)


def test_without_information_the_bound_is_the_decoders_and_a_uniform_one_costs_its_levels():
    # Two levels about a location of 0: one bit each, exactly; a posterior that is the prior costs nothing.
    model = small(levels=2, blocks=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.zero_()
            if name.endswith(".g"):
                parameter.fill_(-60)
    images, noise = batch(model, 5)
    elbo = model.double().terms(images, noise.double())
    torch.testing.assert_close(elbo.divergence, torch.zeros(5, dtype=F64), rtol=0, atol=1e-9)
    bits = -elbo.log_prob / (model.dimensions * math.log(2))
    torch.testing.assert_close(bits, torch.full((5,), math.log2(2), dtype=F64), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_mean_importance_weight_is_a_distribution_over_the_images():
    # E_q [p(x, z) / q(z | x)] = p(x), and over all images of one pixel in four places that sums to 1.
    model = small(shape=(1, 2, 2), levels=2, depth=1, blocks=1).eval()
    images = torch.tensor([[(n >> place) & 1 for place in range(4)] for n in range(16)]).view(16, 1, 2, 2)
    draws = 20_000
    noise = torch.randn(16 * draws, *model.noise_shape, generator=torch.Generator().manual_seed(1))
    rows = images.to(torch.uint8).repeat_interleave(draws, dim=0)
    weights = model.terms(rows, noise).log_prob.double().exp().view(16, draws)
    error = (weights.var(1) / draws).sum().sqrt()
    assert error < 0.01
    assert abs(weights.mean(1).sum() - 1) < 4 * error


def test_free_bits_are_what_a_channels_divergence_lacks_and_enter_no_figure():
    model = small(free_bits=0.4)
    images, noise = batch(model, 8, seed=1)
    elbo, surplus = model.training_terms(images, noise)
    divergences = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _module, _input, down: divergences.append(down.posterior.divergence))
    again = model.terms(images, noise)
    means = torch.cat([divergence.mean(0) for divergence in divergences])
    assert (means < 0.4).any()
    assert (means > 0.4).any()
    counted = means.clamp_min(0.4).sum()
    assert (-elbo.divergence.mean() + surplus).item() == pytest.approx(counted.item(), rel=1e-5)
    assert torch.equal(elbo.log_prob, again.log_prob)
    loss, logged = NegativeLogLikelihood(model, 0.0, compiled=False)(images, noise)
    assert loss.item() == pytest.approx((counted - elbo.reconstruction.mean()).item(), rel=1e-6)
    expected = -again.log_prob.mean().item() / (64 * math.log(2))
    assert logged["bits_per_dim"].item() == pytest.approx(expected, rel=1e-6)
    measured = evaluate(model, split(), Setting(draws=2)).metrics["bits_per_dim"]["value"]
    assert evaluate(small(free_bits=0.0), split(), Setting(draws=2)).metrics["bits_per_dim"]["value"] == measured


def by_hand(model, images, draws):
    pixels = torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        drawn = [
            model.terms(
                pixels, evaluation_noise(0, "test", range(len(images)), draw, model.noise_shape, "normal")
            ).log_prob
            for draw in range(draws)
        ]
    return torch.stack(drawn).double()


def test_the_bound_and_the_importance_weighted_one_are_two_metrics_with_their_names():
    model, images = small().eval(), split()
    measured = evaluate(model, images, Setting(draws=3, importance=40, batch_size=4))
    log_weights = by_hand(model, images, 40)
    plain, weighted = measured.metrics["bits_per_dim"], measured.metrics["bits_per_dim_importance"]
    per_nat = -1 / (64 * math.log(2))
    bits = per_nat * log_weights[:3].mean(0)
    assert plain["value"] == pytest.approx(bits.mean().item(), rel=1e-5)
    assert plain["stderr"] == pytest.approx((bits.std() / math.sqrt(11)).item(), rel=1e-4)
    tight = per_nat * (log_weights.logsumexp(0) - math.log(40))
    assert weighted["value"] == pytest.approx(tight.mean().item(), rel=1e-5)
    assert weighted["value"] < plain["value"]
    assert 0 < weighted["monte_carlo_error"] < plain["value"] - weighted["value"]
    labels = ("bound", "dequantization", "draws", "K")
    assert [plain.get(label) for label in labels] == ["elbo", "none", 3, None]
    assert [weighted.get(label) for label in labels] == ["importance", "none", 1, 40]
    assert plain["terms"].keys() == {"reconstruction", "divergence"}
    assert sum(plain["terms"].values()) == pytest.approx(plain["value"], rel=1e-6)


def test_log_prob_of_the_module_draws_as_it_is_told():
    model = small().eval()
    images, _ = batch(model, 4)
    values = [model.log_prob(images, draws=20, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*values)
    generator = torch.Generator().manual_seed(0)
    drawn = [model.terms(images, torch.randn(4, *model.noise_shape, generator=generator)).log_prob for _ in range(20)]
    torch.testing.assert_close(values[0], torch.stack(drawn).mean(0), rtol=1e-5, atol=0)


def test_latents_are_white_where_they_are_drawn_from_the_prior_and_stand_for_what_is_decoded():
    model = small().eval()
    images, noise = batch(model, 3)
    white = model.encode(images, noise)
    assert white.shape == (3, *model.latent_shape)
    with torch.no_grad():
        torch.testing.assert_close(model.decoded_location(white), model.location(images, noise), rtol=0, atol=1e-5)
    decoded, broken = model.decode(white)
    assert (decoded.dtype, decoded.shape, broken.any()) == (torch.uint8, images.shape, False)
    for whole, parts, back in (
        (white, model.by_layer(white), model.from_layers),
        (white, model.by_scale(white), model.from_scales),
    ):
        assert torch.equal(back(parts), whole)
    assert [tuple(part.shape[1:]) for part in model.by_scale(white)] == [(4, 4, 4), (4, 2, 2)]


def test_samples_have_the_moments_that_importance_weights_say():
    model = small(shape=(1, 2, 2), levels=3, depth=1, blocks=1).eval()
    drawn = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    codes = (drawn.view(-1, 4).long() * torch.tensor([27, 9, 3, 1])).sum(1)
    likely = torch.bincount(codes, minlength=81).topk(3).indices
    images = torch.stack([likely // base % 3 for base in (27, 9, 3, 1)], dim=1).to(torch.uint8).view(3, 1, 2, 2)
    noise = torch.randn(3 * 4000, *model.noise_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        weights = model.terms(images.repeat_interleave(4000, dim=0), noise).log_prob.exp().view(3, 4000)
    shares = torch.bincount(codes, minlength=81)[likely] / 20_000
    errors = (shares * (1 - shares) / 20_000 + weights.var(1) / 4000).sqrt()
    assert ((shares - weights.mean(1)).abs() < 4 * errors).all()


@pytest.mark.parametrize(
    ("name", "parameters"), [("cifar10", 41_557_927), ("cifar10-small", 868_535), ("digits", 178_083)]
)
def test_presets_have_the_sizes_that_are_published_and_planned(name, parameters):
    experiment = load_experiment(f"iafvae/{name}")
    shape = SHAPE if name == "digits" else (3, 32, 32)
    with torch.device("meta"):
        model = experiment.model.build(shape, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    if name == "cifar10":
        assert (experiment.preset, experiment.train.ema, experiment.optim.lr) == ("paper", 0.999, 2e-3)


@pytest.mark.slow
def test_a_training_step_is_compiled_without_graph_breaks():
    model = small(free_bits=0.4)
    images, noise = batch(model, 4)
    eager, surplus = model.training_terms(images, noise)
    torch.compiler.reset()
    compiled, its = torch.compile(model.training_terms, fullgraph=True, backend="aot_eager")(images, noise)
    torch.compiler.reset()
    torch.testing.assert_close(compiled.log_prob, eager.log_prob, rtol=1e-5, atol=0)
    torch.testing.assert_close(its, surplus, rtol=1e-5, atol=0)


def test_a_free_location_goes_beyond_the_outermost_bins_and_a_clamped_one_does_not():
    images, noise = batch(small(), 3)
    ends = {}
    for clamp in (True, False):
        model = small(clamp=clamp)
        with torch.no_grad():
            model.x_dec.conv.b.fill_(-3.0)
            ends[clamp] = model.location(images, noise).min().item()
            assert (model.sample(3) == 0).all() == (not clamp)
            elbo = model.terms(images.clamp(max=0), noise)
            assert (elbo.reconstruction.abs().max().item() < 0.01) == (not clamp)
    assert ends[True] == pytest.approx(-0.5 + 0.5 / LEVELS)
    assert ends[False] < -2


def test_the_authors_defaults_have_as_many_parameters_as_their_program():
    with torch.device("meta"):
        model = IAFVAE((3, 32, 32), depth=2, blocks=2, latents=32, features=160)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_331_175


@pytest.mark.parametrize("name", ["x_dec.conv.b", "dec_log_stdv"])
def test_samples_that_are_not_numbers_are_no_black_images(name):
    model = small()
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan)
    with pytest.raises(WorkFailedError, match="3 of 3 samples are not numbers"):
        model.sample(3)
