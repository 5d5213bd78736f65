import math
import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from flowbench.config.registry import density_models
from flowbench.densities.bases import standard_normal_log_prob
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.conditioner import set_precision
from flowbench.densities.flows.coupling import ChannelCoupling
from flowbench.densities.flows.normalization import population_statistics
from flowbench.densities.flows.real_nvp import RealNVP, RealNVPConfig
from flowbench.errors import InputError

TINY = {"scales": 2, "residual_blocks": 1, "features": 2}
HPARAMS = {
    "image_size": 4,
    "n_scale": 2,
    "base_dim": 2,
    "residual_blocks": 1,
    "bottleneck": 0,
    "skip": 1,
    "use_batch_norm": 1,
    "use_aff": 1,
    "recursion_type": 2,
    "bn_epsilon": 1e-4,
    "learning_rate": 0.001,
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.no_grad()
def perturbed(flow, amount=0.3):
    for parameter in flow.parameters():
        parameter += amount * torch.randn_like(parameter)
    return flow


def authors_arrays(flow):
    """The flow's tensors as the authors' program would store them."""
    arrays = {}
    for name, tensor in flow.authors_variables().items():
        value = tensor.detach().float()
        arrays[name] = (value.permute(2, 3, 1, 0) if value.ndim == 4 else value).numpy()
    return arrays


@pytest.mark.parametrize(
    ("side", "scales", "features", "blocks", "parameters"),
    [
        pytest.param(32, 2, 64, 8, 19_609_545, id="CIFAR-10"),
        pytest.param(32, 4, 32, 4, 46_220_359, id="ImageNet 32x32"),
        pytest.param(64, 5, 32, 2, 96_363_237, id="64x64, paper"),
        pytest.param(64, 5, 32, 4, 185_898_341, id="64x64, authors' README"),
        pytest.param(64, 4, 32, 2, 23_965_127, id="authors' defaults"),
    ],
)
def test_parameter_counts_are_the_authors(side, scales, features, blocks, parameters):
    with torch.device("meta"):
        flow = RealNVPConfig(scales=scales, features=features, residual_blocks=blocks).flow((3, side, side))
    assert sum(parameter.numel() for parameter in flow.parameters()) == parameters


def test_couplings_come_in_the_order_of_the_forward_pass():
    flow = RealNVP((3, 8, 8), scales=3, residual_blocks=1, features=2)
    called = []
    for name, coupling in flow.couplings().items():
        coupling.register_forward_hook(lambda *_, name=name: called.append(name))
    flow(torch.randn(2, 3, 8, 8))
    assert called == list(flow.couplings())
    inner = [f"coupling_{j}" for j in (0, 1, 2, 4, 5, 6)]
    expected = [f"scale_{k}/{j}" for k in range(2) for j in inner] + [f"scale_2/coupling_{j}" for j in range(4)]
    assert called == expected


def test_couplings_pass_what_the_authors_pass():
    flow = RealNVP((3, 8, 8), scales=2, residual_blocks=1, features=2)
    passed = {}
    for name, coupling in flow.couplings().items():
        if isinstance(coupling, ChannelCoupling):
            passed[name] = "first half" if coupling.pass_first else "second half"
        else:
            passed[name] = "even" if coupling.passed[0, 0, 0, 0] == 1 else "odd"
    checkers, channels = ["even", "odd", "even", "odd"], ["first half", "second half", "first half"]
    assert list(passed.values()) == [*checkers[:3], *channels, *checkers]


def test_off_diagonal_pixels_are_factored_out_after_the_first_scale():
    flow = perturbed(RealNVP((1, 8, 8), **TINY)).eval()
    x = torch.randn(2, 1, 8, 8)
    before, _ = flow(x)
    for name, coupling in flow.couplings().items():
        if name.startswith("scale_1"):
            perturbed(coupling)
    after, _ = flow(x)
    changed = (before != after).any(dim=0)[0]
    diagonal = torch.eye(2, dtype=torch.bool).repeat(4, 4)
    assert torch.equal(changed, diagonal)


def test_density_in_two_dimensions_integrates_to_one():
    flow = perturbed(RealNVP((1, 1, 2), scales=1, residual_blocks=1, features=4)).double().eval()
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    with torch.no_grad():
        z, log_det = flow(grid)
    mass = float((standard_normal_log_prob(z) + log_det).exp().sum()) * float(axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


def test_untrained_flow_without_batch_norm_is_the_identity_on_checkerboards():
    flow = RealNVP((3, 4, 4), scales=1, residual_blocks=1, features=2, batch_norm=False)
    _, log_det = flow(torch.randn(2, 3, 4, 4))
    assert torch.equal(log_det.detach(), torch.zeros(2))


def test_regularization_is_of_magnitudes_and_checkerboard_scales_alone():
    flow = perturbed(RealNVP((3, 4, 4), **TINY))
    expected = sum(
        float(tensor.detach().square().sum())
        for name, tensor in flow.authors_variables().items()
        if name.endswith(("/magnitude", "/rescaling_scale"))
    )
    assert float(flow.regularization().detach()) == pytest.approx(expected, rel=1e-5)
    flow.regularization().backward()
    touched = {name for name, p in flow.authors_variables().items() if p.requires_grad and p.grad is not None}
    assert {name.rpartition("/")[2] for name in touched} == {"magnitude", "rescaling_scale"}
    channelwise = sum(name.endswith("/scale") for name in flow.authors_variables())
    assert channelwise == 3


def test_log_determinants_stay_in_full_precision():
    flow = perturbed(RealNVP((3, 4, 4), **TINY)).eval()
    set_precision(flow, "bf16")
    x = torch.randn(2, 3, 4, 4)
    z, log_det = flow(x)
    back, _ = flow.inverse(z)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def test_population_statistics_of_one_batch_reproduce_the_training_pass():
    flow = perturbed(RealNVP((3, 8, 8), **TINY, dropout=0.0)).double()
    x = torch.randn(8, 3, 8, 8).double()
    z, log_det = flow.train()(x)
    with population_statistics(flow):
        flow(x)
    frozen, frozen_log_det = flow.eval()(x)
    torch.testing.assert_close(frozen, z)
    torch.testing.assert_close(frozen_log_det, log_det)


def test_inverting_in_training_mode_is_told_once():
    flow = RealNVP((1, 4, 4), **TINY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            flow.eval().inverse(flow(torch.randn(3, 1, 4, 4))[0])
        assert told == []
        for _ in range(2):
            flow.train().inverse(flow(torch.randn(3, 1, 4, 4))[0])
        assert [warning.category for warning in told] == [RuntimeWarning]
        assert "moving statistics" in str(told[0].message)
        assert told[0].filename == __file__
        RealNVP((1, 4, 4), **TINY, batch_norm=False).train().inverse(torch.randn(3, 1, 4, 4))
        assert len(told) == 1


def test_sampling_and_population_statistics_in_training_mode_are_no_reason_to_warn():
    model = density_models["real_nvp"](**TINY).build((1, 4, 4), 17).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(2)
        with population_statistics(model):
            model.log_prob(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert model.training


def test_config_builds_the_density_model():
    config = density_models["real_nvp"](**TINY, coupling="additive")
    model = config.build((3, 4, 4), 256)
    assert isinstance(model, FlowDensity)
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    assert bool(torch.isfinite(model.eval().log_prob(images)).all())
    affine = [name for name in model.flow.authors_variables() if name.endswith("scale")]
    assert affine == [
        "model/scale_0/coupling_2/rescaling_scale",
        "model/scale_0/coupling_6/scale",
        "model/scale_1/coupling_2/rescaling_scale",
        "model/scale_1/coupling_3/rescaling_scale",
    ]


@pytest.mark.parametrize("wrong", [{"scales": 0}, {"features": 2.5}, {"coupling": "afine"}, {"dropout": 1.0}])
def test_config_refuses_values_without_meaning(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RealNVPConfig(**wrong)


@pytest.mark.parametrize(("size", "scales", "most"), [((28, 28), 4, 3), ((32, 20), 4, 3), ((7, 8), 2, 1)])
def test_scales_that_do_not_fit_the_image_are_refused(size, scales, most):
    with pytest.raises(InputError, match=rf"model\.scales: {scales} .*model\.scales={most} or fewer"):
        RealNVPConfig(scales=scales).flow((3, *size))
    RealNVP((1, *size), scales=most, residual_blocks=1, features=1)


def test_loads_its_own_variables_back():
    flow = perturbed(RealNVP((3, 4, 4), **TINY))
    arrays = authors_arrays(flow)
    loaded = RealNVP.from_authors(arrays, HPARAMS)
    assert authors_arrays(loaded).keys() == arrays.keys()
    assert all(np.array_equal(value, arrays[name]) for name, value in authors_arrays(loaded).items())


def test_loading_ignores_what_optimizers_leave():
    arrays = authors_arrays(RealNVP((3, 4, 4), **TINY))
    name = "model/scale_0/coupling_0/resnet/h_in/biases"
    leftovers = {f"{name}/Adam": arrays[name], f"{name}/Adam_1": arrays[name], "beta1_power": np.float32(0.9)}
    loaded = authors_arrays(RealNVP.from_authors({**arrays, **leftovers}, HPARAMS))
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[name], value) for name, value in arrays.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model/scale_0/coupling_6/scale": None}, "model/scale_0/coupling_6/scale is missing"),
        ({"model/scale_0/coupling_0/resnet/h_in/weights": None}, "h_in/weights is missing"),
        ({"model/scale_7/coupling_0/beta": np.zeros(3)}, "model/scale_7/coupling_0/beta .* belongs to nothing"),
        ({"model/scale_0/coupling_6/scale": np.zeros(3)}, r"coupling_6/scale has shape \(3,\)"),
    ],
)
def test_variables_that_do_not_fit_are_refused(change, message):
    arrays = authors_arrays(RealNVP((3, 4, 4), **TINY)) | change
    with pytest.raises(InputError, match=message):
        RealNVP.from_authors({name: value for name, value in arrays.items() if value is not None}, HPARAMS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recursion_type": 3}, "recursion_type is 3"),
        ({"bn_lag": 0.5}, "bn_lag is 0.5"),
        ({"n_scale": 1}, "scale_0/coupling_3/.* is missing"),
        ({"residual_blocks": 2}, "block_1/.* is missing"),
        ({"base_dim": 3}, "has shape"),
        ({"use_aff": 0}, "has shape|belongs to nothing"),
    ],
)
def test_hparams_that_do_not_fit_are_refused(change, message):
    arrays = authors_arrays(RealNVP((3, 4, 4), **TINY))
    with pytest.raises(InputError, match=message):
        RealNVP.from_authors(arrays, HPARAMS | change)


def test_missing_hparam_is_named():
    arrays = authors_arrays(RealNVP((3, 4, 4), **TINY))
    with pytest.raises(InputError, match="n_scale is missing"):
        RealNVP.from_authors(arrays, {key: value for key, value in HPARAMS.items() if key != "n_scale"})


def test_samples_of_the_base_come_back_as_images_of_the_same_shape():
    flow = perturbed(RealNVP((3, 4, 4), **TINY), 0.1).eval()
    z = torch.randn(3, 3, 4, 4)
    x, log_det = flow.inverse(z)
    assert x.shape == z.shape
    assert math.isfinite(float(log_det.sum().detach()))
