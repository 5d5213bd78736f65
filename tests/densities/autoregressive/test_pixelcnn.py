"""PixelCNN++: what sees what, its initialization, its classes, its sampler."""

import itertools
import math

import pytest
import torch
from torch import nn

from flowbench.config.experiments import load_experiment
from flowbench.densities.autoregressive.layers import GatedResnet, Normed, ShiftedDeconv
from flowbench.densities.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from flowbench.densities.flows.conditioner import set_precision, set_recompute
from flowbench.densities.initialization import initializing
from flowbench.errors import InputError, WorkFailedError


def small(shape=(1, 8, 8), levels=17, **options):
    torch.manual_seed(0)
    model = PixelCNN(shape, levels, **{"blocks": 1, "filters": 4, "components": 2, **options})
    images = random_images(4, shape, levels)
    labels = torch.arange(4) if options.get("classes") else None
    model.initialize(images, images, labels)
    return model


def random_images(n, shape, levels, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (n, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("nonlinearity", ["concat_elu", "elu", "relu"])
def test_a_pixels_distribution_depends_on_pixels_before_it_its_neighbours_among_them_and_on_no_other(nonlinearity):
    width = 12
    model = small((2, 8, width), 256, nonlinearity=nonlinearity).double()
    x = torch.rand(1, 2, 8, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x.requires_grad_()
    outputs = model.net(x).abs().sum(1).flatten()
    for place in (0, 1, 11, 12, 17, 40, 95):
        (gradient,) = torch.autograd.grad(outputs[place], x, retain_graph=True)
        seen = gradient.abs().sum(1).flatten() > 0
        assert not seen[place:].any()
        row, column = divmod(place, width)
        above = [place - width + shift for shift in (-1, 0, 1) if row and 0 <= column + shift < width]
        assert seen[[*above, *([place - 1] if column else [])]].all()


@pytest.mark.parametrize(("channels", "levels"), [(1, 17), (3, 2), (2, 5), (1, 256)])
def test_a_uniform_model_gives_log2_of_the_levels(channels, levels):
    # A component as narrow as can be on every value that a pixel can have.
    values = torch.tensor(list(itertools.product(range(levels), repeat=channels)))
    model = small((channels, 4, 4), levels, components=len(values))
    with torch.no_grad():
        model.net.out.g.zero_()
        model.net.out.b.zero_()
        rows = model.net.out.b[len(values) :].view(-1, len(values))
        rows[model.mixture._rows["mean"]] = model.mixture.scaled(values, torch.float32).T
        rows[model.mixture._rows["scale"]] = -7.0
    bits = model.bits_per_dim(random_images(6, (channels, 4, 4), levels))
    torch.testing.assert_close(bits, torch.full((6,), math.log2(levels)), rtol=0, atol=1e-5)


def test_after_the_initialization_every_layer_gives_mean_0_and_its_standard_deviation():
    model = small((3, 8, 8), 256, filters=5)
    images, found = random_images(4, (3, 8, 8), 256), {}

    def keep(layer, inputs, _output):
        found[layer] = layer.raw(inputs[0], layer.kernels(), layer.b)

    layers = [module for module in model.modules() if isinstance(module, Normed)]
    for layer in layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        model.outputs(images)
    assert found.keys() == set(layers)
    for layer, raw in found.items():
        mean, var = raw.mean((0, 2, 3)), raw.var((0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
        torch.testing.assert_close(var.sqrt(), torch.full_like(var, layer.init_scale), rtol=1e-4, atol=0)
    assert sorted({layer.init_scale for layer in layers}) == [0.1, 1.0]


def test_transposed_kernels_are_normalized_for_each_output_channel():
    layer = ShiftedDeconv("down", 3, 5)
    kernels = layer.kernels()
    assert kernels.shape == (3, 5, 2, 3)
    torch.testing.assert_close(kernels.square().sum((0, 2, 3)), torch.ones(5))
    assert layer(torch.randn(2, 3, 4, 6)).shape == (2, 5, 8, 12)


@pytest.mark.parametrize(("stream", "columns"), [("down", {1, 2, 3}), ("down_right", {2, 3})])
def test_what_is_doubled_lies_over_what_it_comes_from(stream, columns):
    layer = ShiftedDeconv(stream, 1, 1)
    with torch.no_grad():
        layer.V.fill_(1.0)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1.0
    reached = layer(x)[0, 0].nonzero().tolist()
    assert {column for _, column in reached} == columns
    assert {row for row, _ in reached} == {2, 3}


def test_dropout_acts_inside_the_residual_networks_alone_and_in_training_alone():
    model = small(dropout=0.5)
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    blocks = [module for module in model.modules() if isinstance(module, GatedResnet)]
    assert len(dropouts) == len(blocks) == 16
    images = random_images(2, (1, 8, 8), 17)
    torch.manual_seed(0)
    assert not torch.equal(model.log_prob(images), model.log_prob(images))
    model.eval()
    assert torch.equal(model.log_prob(images), model.log_prob(images))


def test_classes_change_the_distribution_and_must_be_given():
    model = small(classes=4).eval()
    images = random_images(3, (1, 8, 8), 17)
    with torch.no_grad():
        one, other = (model.log_prob(images, labels=torch.full((3,), label)) for label in (0, 3))
        mixed = model.log_prob(images, labels=torch.tensor([0, 3, 0]))
    assert not torch.isclose(one, other).any()
    torch.testing.assert_close(mixed, torch.stack([one[0], other[1], one[2]]))
    with pytest.raises(InputError, match=r"labels are missing.*4 classes"):
        model.log_prob(images)
    with pytest.raises(InputError, match=r"labels have shape \(2,\), but there are 3 images"):
        model.log_prob(images, labels=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="labels reach 4"):
        model.log_prob(images, labels=torch.tensor([0, 4, 1]))
    with pytest.raises(InputError, match="model without classes"):
        small().log_prob(images, labels=torch.zeros(3))
    drawn = model.sample(2, generator=torch.Generator().manual_seed(0), labels=torch.tensor([1, 2]))
    assert drawn.shape == (2, 1, 8, 8)


def pixel_by_pixel(model, u_mix, u_logistic, h=None):
    """Ancestral sampling as it is written down: the whole network for every pixel."""
    x = torch.zeros(len(u_mix), *model.image_shape)
    for i in range(model.image_shape[1]):
        for j in range(model.image_shape[2]):
            whole = model.mixture.draw(model.net(x, h), u_mix, u_logistic)
            x[:, :, i, j] = whole[:, :, i, j]
    return x


@pytest.mark.parametrize(
    ("shape", "levels", "options"),
    [
        ((1, 8, 8), 17, {}),
        ((3, 8, 4), 256, {"blocks": 2, "nonlinearity": "elu"}),
        ((2, 4, 12), 5, {"classes": 4, "nonlinearity": "relu"}),
    ],
)
@torch.no_grad()
def test_the_sampler_gives_the_images_of_the_whole_network_to_the_last_level(shape, levels, options):
    model = small(shape, levels, dropout=0.5, **options)
    generator = torch.Generator().manual_seed(3)
    uniforms = [torch.rand(3, k, *shape[1:], generator=generator) for k in (2, shape[0])]
    u_mix, u_logistic = (u.clamp_(1e-5, 1 - 1e-5) for u in uniforms)
    labels = torch.tensor([0, 3, 1]) if options.get("classes") else None
    drawn = model.mixture.rounded(model.ancestral(u_mix, u_logistic, labels))
    assert model.training  # as it was
    plain = pixel_by_pixel(model.eval(), u_mix, u_logistic, model._one_hot(labels, 3))
    assert torch.equal(drawn, model.mixture.rounded(plain))
    assert len(drawn.unique()) > 2
    again = model.sample(3, generator=torch.Generator().manual_seed(3), labels=labels)
    assert torch.equal(again, drawn)


def test_samples_of_none_and_of_no_temperature():
    model = small()
    assert model.sample(0).shape == (0, 1, 8, 8)
    cold = model.sample(2, temperature=0.0)
    assert torch.equal(cold[0], cold[1])
    with pytest.raises(InputError, match="temperature"):
        model.sample(1, temperature=-1.0)


def test_recomputing_and_bfloat16_are_those_of_the_residual_networks():
    images = random_images(4, (1, 8, 8), 17)

    def gradients(model):
        torch.manual_seed(5)  # of the dropout
        model.zero_grad()
        (-model.terms(images, images).log_prob.mean()).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model = small(dropout=0.5)
    plain = gradients(model)
    set_recompute(model, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(model), strict=True))
    set_recompute(model, False)
    exact = model.eval().bits_per_dim(images)
    set_precision(model, "bf16")
    rounded = model.bits_per_dim(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 53_659_080), ({"classes": 10}, 53_863_880), ({"nonlinearity": "elu"}, 27_393_480)],
)
def test_the_authors_models_have_their_numbers_of_parameters(options, expected):
    with torch.device("meta"):
        model = PixelCNN((3, 32, 32), blocks=5, filters=160, components=10, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_the_preset_is_the_authors():
    experiment = load_experiment("pixelcnn/cifar10")
    with torch.device("meta"):
        model = experiment.model.build((3, 32, 32), 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 53_659_080
    assert (experiment.preset, experiment.data.bits, experiment.data.holdout) == ("paper", 8, 0)
    optim = experiment.optim
    assert (optim.name, optim.lr, optim.betas, optim.decay) == ("adam-inside", 1e-3, (0.95, 0.9995), 0.999995)
    assert optim.eps == 1e-8 / experiment.data.batch_size**2
    assert (experiment.model.dropout, experiment.train.ema) == (0.5, 0.9995)


@pytest.mark.parametrize(
    ("name", "shape", "expected"), [("digits", (1, 8, 8), 547_974), ("cifar10-small", (3, 32, 32), 577_060)]
)
def test_small_presets(name, shape, expected):
    model = load_experiment(f"pixelcnn/{name}").model.build(shape, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_sides_that_cannot_be_halved_twice_are_an_error():
    with pytest.raises(InputError, match="6x8 pixels are no multiples of 4"):
        PixelCNNConfig(blocks=1, filters=2).build((1, 6, 8), 17)


def test_no_images_to_initialize_from_are_an_error():
    with pytest.raises(InputError, match="the first batch is empty"):
        small().initialize(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0))


def test_initializing_ends_with_its_block():
    model = small()
    with initializing(model):
        assert all(module.initializing for module in model.modules() if isinstance(module, Normed))
    assert not any(module.initializing for module in model.modules() if isinstance(module, Normed))


def test_variables_that_do_not_belong_are_errors():
    hparams = {
        "image_size": 8,
        "nr_resnet": 1,
        "nr_filters": 4,
        "nr_logistic_mix": 2,
        "resnet_nonlinearity": "concat_elu",
    }
    model = PixelCNN((3, 8, 8), blocks=1, filters=4, components=2)
    theirs = {}
    for name, tensor in model.authors_variables().items():
        value = tensor.detach().numpy()
        kernel = value.ndim == 4
        value = value[:, :, 0, 0].T if "dense" in name and kernel else value.transpose(2, 3, 1, 0) if kernel else value
        theirs[name] = value
    again = PixelCNN.from_authors(theirs, hparams)
    images = random_images(2, (3, 8, 8), 256)
    assert torch.equal(again.log_prob(images), model.log_prob(images))
    with pytest.raises(InputError, match="hparams: nr_filters is missing"):
        PixelCNN.from_authors(theirs, {key: value for key, value in hparams.items() if key != "nr_filters"})
    with pytest.raises(InputError, match="model/dense_0/g is missing"):
        PixelCNN.from_authors({k: v for k, v in theirs.items() if k != "model/dense_0/g"}, hparams)
    with pytest.raises(InputError, match=r"model/more .* belongs to nothing"):
        PixelCNN.from_authors({**theirs, "model/more": theirs["model/conv2d_0/g"]}, hparams)
    with pytest.raises(InputError, match=r"model/conv2d_0/V has shape \(2, 3, 4, 4\)"):
        PixelCNN.from_authors(theirs, {**hparams, "nr_filters": 8})
    with pytest.raises(InputError, match="resnet_nonlinearity 'gelu'"):
        PixelCNN.from_authors(theirs, {**hparams, "resnet_nonlinearity": "gelu"})


def test_samples_that_are_not_numbers_are_no_black_images():
    model = small()
    with torch.no_grad():
        model.net.out.b.fill_(math.nan)
    with pytest.raises(WorkFailedError, match="3 of 3 samples are not numbers"):
        model.sample(3)
    assert small().sample(0).shape == (0, 1, 8, 8)
