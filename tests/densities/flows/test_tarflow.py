import math

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.densities.bases import StandardNormal, Uniform
from flowbench.densities.flows.conditioner import set_precision, set_recompute
from flowbench.densities.flows.tarflow import LearnedVariance, TarFlow, TarFlowConfig
from flowbench.densities.flows.tarflow_block import Guidance
from flowbench.densities.flows.tarflow_density import NoisyFlowDensity, denoised
from flowbench.densities.preprocessing import Symmetric, Unit
from flowbench.errors import InputError

SHAPE = (3, 4, 4)


def tarflow(perturbed=0.1, **changes):
    torch.manual_seed(0)
    flow = TarFlow(SHAPE, **({"patch": 2, "width": 8, "blocks": 2, "layers": 1, "head": 4} | changes)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += perturbed * torch.randn(parameter.shape, dtype=parameter.dtype)
    return flow.eval()


def batch(n=3, shape=SHAPE, seed=1):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_block_reads_earlier_tokens_alone_in_its_own_order():
    first, second = tarflow().layers()
    for block, backwards in ((first, False), (second, True)):
        tokens = batch(shape=(4, 12))[:1]

        def of(tokens, block=block):
            return block(tokens)[0]

        jacobian = torch.autograd.functional.jacobian(of, tokens)[0, :, :, 0]
        depends = jacobian.abs().amax((1, 3)) > 0
        expected = torch.ones(4, 4, dtype=torch.bool).tril()
        assert torch.equal(depends, expected.T if backwards else expected)


def test_images_are_cut_into_patches_in_the_rows_order_with_channels_first():
    x = torch.arange(48).view(1, *SHAPE).double()
    z, _ = TarFlow(SHAPE, patch=2, width=8, blocks=0, layers=1, head=4)(x)
    assert z[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23, 34, 35, 38, 39]


@pytest.mark.parametrize(
    ("labels", "said"), [([0, 1, 3], "the classes are 0 to 2"), ([1], r"has the shape \(1,\); one label for each of 3")]
)
def test_labels_that_no_image_has_are_refused(labels, said):
    flow, y = tarflow(classes=3), torch.tensor(labels)
    for way in (flow, flow.inverse):
        with pytest.raises(InputError, match=said):
            way(batch(), y)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"what": "c"}, {"temperature": 0.0}])
def test_guidance_that_would_do_nothing_or_harm_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Guidance(**wrong)


def test_variances_that_follow_raw_weights_are_not_scored_with_averaged_ones():
    with pytest.raises(InputError, match=r"variances that follow the raw weights: set evaluate\.weights: raw"):
        load_experiment("tarflow/digits", ["model.coupling=additive"])
    for way_out in ("evaluate.weights=raw", "train.ema=0"):
        assert load_experiment("tarflow/digits", ["model.coupling=additive", way_out]).model.coupling == "additive"


def test_without_a_label_the_mean_of_the_classes_vectors_counts():
    flow = tarflow(classes=3)
    x, none = batch(), torch.tensor([-1, -1, -1])
    assert torch.equal(flow(x)[0], flow(x, none)[0])
    mixed, _ = flow(x, torch.tensor([2, -1, 0]))
    torch.testing.assert_close(mixed[1], flow(x)[0][1])
    assert not torch.allclose(mixed[0], flow(x)[0][0])
    with pytest.raises(InputError, match="no classes"):
        tarflow()(x, none)


@pytest.mark.parametrize("classes", [0, 3])
def test_labels_and_guidance_reach_the_inverse(classes):
    flow = tarflow(classes=classes)
    y = torch.tensor([0, 2, 1]) if classes else None
    z, log_det = flow(batch(), y)
    back, inverse_log_det = flow.inverse(z, y)
    torch.testing.assert_close(back, batch())
    torch.testing.assert_close(inverse_log_det, -log_det)
    guided, _ = flow.inverse(z, y, Guidance(1.5, temperature=1.0 if classes else 0.7))
    assert not torch.allclose(guided, back)
    # The same pass twice pushes nowhere.
    same, _ = flow.inverse(z, None, Guidance(1.5))
    torch.testing.assert_close(same, flow.inverse(z)[0])


def test_the_inverse_hands_gradients_on():
    flow = tarflow()
    z = flow(batch())[0].detach().requires_grad_()
    x, _ = flow.inverse(z)
    (gradient,) = torch.autograd.grad(x.square().sum(), z)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 8)])
def test_uniform_images_cost_the_logarithm_of_the_levels(levels, shape):
    flow = TarFlow(shape, patch=2, width=8, blocks=2, layers=1, head=4)
    with torch.no_grad():
        for block in flow.layers():
            block.transformer.proj_out.bias.zero_()
    model = NoisyFlowDensity(flow, Unit(), Uniform(), shape, levels, 0.0)
    images = torch.randint(0, levels, (5, *shape), dtype=torch.uint8)
    torch.testing.assert_close(model.bits_per_dim(images).detach(), torch.full((5,), math.log2(levels)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("levels", "shape"), [(17, (1, 4, 4)), (256, (2, 4, 4))])
def test_the_density_of_an_image_is_that_of_its_dequantized_self(levels, shape, affine):
    """Against the whole Jacobian of image + noise to white latents, in float64."""
    torch.manual_seed(0)
    flow = TarFlow(shape, patch=2, width=8, blocks=2, layers=1, head=4, affine=affine)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        if not affine:
            flow.base.var.copy_(torch.exp(torch.randn(flow.base.var.shape)))
    model = NoisyFlowDensity(flow.double(), Symmetric(), None, shape, levels, 0.05).eval()
    images = torch.randint(0, levels, (1, *shape), dtype=torch.uint8)
    noise = torch.rand(1, *shape, dtype=torch.float64)

    def white(continuous):
        z, _ = flow(2 * continuous.view(1, *shape) / levels - 1)
        return flow.base.whiten(z).flatten()

    x = (images + noise).flatten()
    jacobian = torch.autograd.functional.jacobian(white, x)
    expected = torch.distributions.Normal(0, 1).log_prob(white(x)).sum() + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(model.terms(images, noise).log_prob[0], expected, rtol=0, atol=1e-8)


def test_learned_variances_move_after_the_loss_is_taken_and_forget_what_is_not_finite():
    base = LearnedVariance((4, 12), 2)
    z = 2 * batch(shape=(4, 12)).float().requires_grad_()
    before = StandardNormal().log_prob(z)
    log_prob = base.log_prob(z)
    torch.testing.assert_close(log_prob, before)
    log_prob.sum().backward()
    torch.testing.assert_close(base.var, (0.9 + 0.1 * z.square().mean(0)).detach())
    moved = base.var.clone()
    base.log_prob(torch.full_like(z, torch.inf))
    assert torch.equal(base.var, moved)
    base.eval().log_prob(z)
    assert torch.equal(base.var, moved)


def test_denoising_is_a_step_along_the_score():
    """Of noisy points N(0, 1 + s²), the expected clean one is x / (1 + s²) (blocks = 0: z = x)."""
    flow = TarFlow(SHAPE, patch=2, width=8, blocks=0, layers=1, head=4)
    sigma = 0.6
    base = LearnedVariance((4, 12), 2).eval()
    base.var.fill_(1 + sigma**2)
    torch.testing.assert_close(denoised(flow, base, batch().float(), sigma), batch().float() / (1 + sigma**2))


def test_gaussian_noise_is_of_training_alone_and_its_samples_lie_on_the_levels():
    config = TarFlowConfig(patch=2, width=8, blocks=2, layers=1, head=4, noise_std=0.05)
    model = config.build(SHAPE, 17)
    images = torch.randint(0, 17, (64, *SHAPE), dtype=torch.uint8)
    noise = torch.rand(64, *SHAPE)
    x, _ = model.flow_input(images, noise)
    error = x - (images / 8.0 - 1)
    assert float(error.std()) == pytest.approx(0.05, rel=0.05)
    assert bool(torch.isfinite(model.flow_input(images, torch.zeros_like(noise))[0]).all())
    y, _ = model.eval().flow_input(images, noise)
    torch.testing.assert_close(y, 2 * (images + noise) / 17 - 1)
    sampled = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert (sampled.dtype, sampled.shape) == (torch.uint8, (3, *SHAPE))
    assert int(sampled.max()) < 17


@pytest.mark.parametrize("affine", [True, False])
def test_reduced_precision_stays_inside_the_networks(affine):
    flow = tarflow(affine=affine).float()
    exact, _ = flow(batch().float())
    set_precision(flow, "bf16")
    z, log_det = flow(batch().float())
    assert z.dtype == log_det.dtype == torch.float32
    assert not torch.equal(z, exact)
    back, _ = flow.inverse(z)
    torch.testing.assert_close(back, batch().float(), atol=0.05, rtol=0)


def test_activations_computed_again_give_the_same_gradients():
    def gradients(recompute):
        flow = tarflow(dropout=0.2).train()
        set_recompute(flow, recompute)
        torch.manual_seed(3)
        z, log_det = flow(batch())
        (z.square().sum() - log_det.sum()).backward()
        return [parameter.grad for parameter in flow.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("digits", 407_328), ("cifar10-small", 1_693_568), ("cifar10", 455_424_192), ("imagenet64", 460_142_784)],
)
def test_presets_have_the_parameters_that_they_say(name, parameters):
    shape = {"digits": (1, 8, 8), "imagenet64": (3, 64, 64)}.get(name, (3, 32, 32))
    with torch.device("meta"):
        flow = load_experiment(f"tarflow/{name}").model.flow(shape)
    assert sum(parameter.numel() for parameter in flow.parameters()) == parameters


@pytest.mark.parametrize(("changes", "key"), [({"patch": 3}, "patch"), ({"head": 3}, "head")])
def test_what_does_not_divide_is_an_error(changes, key):
    with pytest.raises(InputError, match=f"model.{key}"):
        tarflow(**changes)


def test_noise_on_pixels_and_a_logit_exclude_each_other():
    with pytest.raises(InputError, match="noise_std"):
        load_experiment("tarflow/digits", ["model.noise_std=0.05"])
