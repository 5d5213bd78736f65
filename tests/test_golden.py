"""Numbers of the original authors' programs, reproduced within the rounding of their float32."""

import math
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from flowbench.config.schema import Optim
from flowbench.densities.bases import StandardNormal, standard_normal_log_prob
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.conditioner import set_precision
from flowbench.densities.flows.glow import Glow
from flowbench.densities.flows.real_nvp import RealNVP
from flowbench.densities.flows.tarflow import TarFlow, images_of, patches_of
from flowbench.densities.flows.tarflow_block import Guidance
from flowbench.densities.flows.tarflow_density import NoisyFlowDensity, denoised
from flowbench.densities.preprocessing import Center, Logit, Symmetric
from flowbench.densities.variational.discretized_logistic import authors_log_prob
from flowbench.training.optimization import learning_rate, make_optimizer, take_step
from tests.densities.autoregressive.authors_pixelcnn import Authors, watched
from tests.densities.autoregressive.authors_pixelcnn import stored as authors_layout
from tests.densities.variational import golden_iafvae as iafvae
from tests.golden_files import golden_files

REAL_NVP = golden_files("realnvp_*.npz")
GLOW = golden_files("glow_*.npz")
SMALLEST_REAL_NVP = min(
    REAL_NVP, key=lambda parameter: parameter.values[0].path.stat().st_size if parameter.values[0] else 0
)
MODES = ["eval", "train"]
Z_TOLERANCE = {"eval": 1e-5, "train": 1e-4}
LOG_DET_TOLERANCE = {"eval": 1e-3, "train": 3e-3}
BITS_TOLERANCE = 5e-6
BFLOAT16_BITS_TOLERANCE = 5e-3


def real_nvp(golden):
    return RealNVP.from_authors(golden.under("var/"), golden.json("hparams"))


def real_nvp_density(golden):
    """The whole model, preprocessing and base included, its terms at the file's images and noise."""
    shape = tuple(golden["img_uint8"].shape[1:])
    alpha = (1 - golden.json("hparams")["data_constraint"]) / 2
    return FlowDensity(real_nvp(golden), Logit(alpha), StandardNormal(), shape, 256)


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance)


def transposed(value):
    """From TensorFlow's layout of kernels to PyTorch's."""
    value = torch.from_numpy(np.array(value))
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_logit(golden):
    model = real_nvp_density(golden)
    y, transform_cost = model.flow_input(golden["img_uint8"], golden["dequant_u"])
    close(y, golden["logit_x"], 1e-5)
    close(transform_cost, golden["transform_cost"], 5e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_latents_and_log_determinants(golden, mode):
    model = real_nvp(golden).train(mode == "train")
    z, log_det = model(golden["logit_x"])
    close(z, golden[f"{mode}/z_out"], Z_TOLERANCE[mode])
    close(log_det, golden[f"{mode}/log_diff_sum"], LOG_DET_TOLERANCE[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_bits_per_dim(golden, mode):
    model = real_nvp_density(golden).train(mode == "train")
    terms = model.terms(golden["img_uint8"], golden["dequant_u"])
    # Sums over all values of an image, in float32 on both sides.
    tolerance = BITS_TOLERANCE * model.dimensions
    close(terms.prior, golden[f"{mode}/prior_ll"], tolerance)
    close(-(terms.prior + terms.log_det + terms.preprocessing), golden[f"{mode}/cost_per_image"], tolerance)
    bits = -terms.log_prob.mean() / (model.dimensions * math.log(2))
    close(bits, golden[f"{mode}/bits_per_dim"], BITS_TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_bits_per_dim_in_bfloat16(golden, mode):
    model = real_nvp_density(golden).train(mode == "train")
    set_precision(model, "bf16")
    with torch.set_grad_enabled(mode == "train"):
        terms = model.terms(golden["img_uint8"], golden["dequant_u"])
    bits = -terms.log_prob.mean() / (model.dimensions * math.log(2))
    close(bits, golden[f"{mode}/bits_per_dim"], BFLOAT16_BITS_TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_every_coupling(golden, mode):
    model = real_nvp(golden).train(mode == "train")
    outputs = {}
    for name, coupling in model.couplings().items():
        coupling.register_forward_hook(lambda _module, _input, output, name=name: outputs.__setitem__(name, output))
    with torch.no_grad():
        model(golden["logit_x"])
    assert list(outputs) == golden.json("coupling_order")
    for name, (out, log_det) in outputs.items():
        key = f"{mode}/coupling/{name}"
        # TensorFlow's batch variances are float32 sums, off by up to 1.1e-5 on 64x64 images, and count once for every
        # position: our float64 differs from the files by as much as our float32. Over the couplings that cancels.
        tolerance = 2e-5 * out[0].numel() if mode == "train" else LOG_DET_TOLERANCE["eval"]
        close(log_det, golden[f"{key}/log_diff_sum"], tolerance)
        torch.testing.assert_close(out.abs().sum((1, 2, 3)), golden[f"{key}/out_abs_sum"], rtol=1e-5, atol=0)
        if f"{key}/out" in golden:
            close(out, golden[f"{key}/out"], Z_TOLERANCE[mode])
    ours = sum(log_det.double() for _, log_det in outputs.values())
    theirs = sum(golden[f"{mode}/coupling/{name}/log_diff_sum"].double() for name in outputs)
    close(ours, theirs, 1e-6 * golden["logit_x"][0].numel() if mode == "train" else LOG_DET_TOLERANCE["eval"])


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_decoder(golden):
    model = real_nvp(golden).eval()
    with torch.no_grad():
        x, log_det = model.inverse(golden["eval/z_out"])
        sample, _ = model.inverse(golden["sample/z"])
    close(x, golden["eval/reconstruction"], 1e-5)
    close(x, golden["logit_x"], 1e-5)
    close(log_det, golden["eval/decoder_log_diff_sum"], LOG_DET_TOLERANCE["eval"])
    close(sample, golden["sample/x_eval"], 1e-5)


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_decoder_with_batch_statistics_in_the_networks(golden):
    if "sample/x_trainmode" not in golden:
        pytest.skip("the file has no sample of this kind")
    x, _ = real_nvp(golden).train().inverse(golden["sample/z"])
    close(x, golden["sample/x_trainmode"], 1e-4)


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_moving_statistics_after_one_step(golden):
    model = real_nvp(golden).train()
    model(golden["logit_x"])
    buffers = {name for name in golden.json("var_names") if name not in golden.json("trainable_names")}
    moved = golden.under("moving_after/")
    assert moved.keys() == buffers
    ours = model.authors_variables()
    for name, value in moved.items():
        close(ours[name].float(), transposed(value), 2e-5)


def gradients(golden, dtype=torch.float32):
    """The model and, by the authors' names, the gradients of the mean cost and the penalty on scales, in nats."""
    model = real_nvp_density(golden).train().to(dtype)
    terms = model.terms(golden["img_uint8"], golden["dequant_u"].to(dtype))
    cost = -(terms.prior + terms.log_det + terms.preprocessing).mean()
    penalty = model.regularization()
    torch.testing.assert_close(penalty.detach().float(), golden["train/l2_reg"], rtol=1e-5, atol=0)
    (cost + golden.json("hparams")["l2_coeff"] * penalty).backward()
    parameters = {n: p for n, p in model.flow.authors_variables().items() if isinstance(p, nn.Parameter)}
    assert parameters.keys() == set(golden.json("trainable_names"))
    return model, parameters


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_gradients(golden):
    # Through float64: in float32 a pre-activation within rounding of zero falls on either side of its ReLU, by
    # processor, and moves the gradients of all that lies before it. The files' own flips stay, and so do the bounds.
    _, parameters = gradients(golden, torch.float64)
    zero = set(golden.json("zero_grad_names"))
    errors = []
    for name, value in golden.under("grad/").items():
        if name not in zero:
            expected = transposed(value)
            errors.append(float((parameters[name].grad.float() - expected).norm() / expected.norm()))
    assert np.median(errors) < 1e-5
    assert max(errors) < 1e-2


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_gradient_norms(golden):
    _, parameters = gradients(golden)
    names = golden.json("grad_norms/names")
    ours = {name: float(parameters[name].grad.double().norm()) for name in names}
    theirs = dict(zip(names, golden["grad_norms/l2"].tolist(), strict=True))
    zero = set(golden.json("zero_grad_names"))
    errors = [abs(ours[name] / theirs[name] - 1) for name in names if name not in zero]
    assert np.median(errors) < 1e-5
    assert max(errors) < 1e-2
    overall = math.sqrt(sum(norm**2 for norm in ours.values()))
    assert overall == pytest.approx(float(golden["train/grad_global_norm"]), rel=1e-4)
    assert all(ours[name] < 5e-3 for name in zero)


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_adam_step(golden):
    model, parameters = gradients(golden, torch.float64)  # as in test_real_nvp_gradients
    hparams = golden.json("hparams")
    nn.utils.clip_grad_norm_(model.parameters(), hparams["clip_gradient"])
    # TensorFlow adds ε before the bias correction, PyTorch after it: equal at the first step with this ε.
    betas = (1 - hparams["momentum"], 1 - hparams["decay"])
    epsilon = hparams["adam_epsilon"] / math.sqrt(1 - betas[1])
    torch.optim.Adam(model.parameters(), hparams["learning_rate"], betas, epsilon).step()
    for name, value in golden.under("adam_step1/").items():
        if name in parameters and name not in golden.json("zero_grad_names"):
            gradient = parameters[name].grad.abs()
            clear = gradient > 1e-3 * gradient.max()
            close(parameters[name].float()[clear], transposed(value)[clear], 1e-6)
    terms = model.terms(golden["img_uint8"], golden["dequant_u"].double())
    bits = -terms.log_prob.mean() / (model.dimensions * math.log(2))
    close(bits.float(), golden["adam_step2/bits_per_dim_after_train"], 5e-5)


@pytest.mark.parametrize("golden", REAL_NVP)
def test_real_nvp_initial_values(golden):
    variables = golden.under("var/")
    hparams = golden.json("hparams")
    shape = tuple(golden["img_uint8"].shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RealNVP(
            shape,
            scales=hparams["n_scale"],
            residual_blocks=hparams["residual_blocks"],
            features=hparams["base_dim"],
            bottleneck=bool(hparams["bottleneck"]),
            skip=bool(hparams["skip"]),
            batch_norm=bool(hparams["use_batch_norm"]),
            affine=bool(hparams["use_aff"]),
        )
    ours = model.authors_variables()
    assert ours.keys() == variables.keys()
    for name, (low, high) in golden.json("init_leaf").items():
        if name.endswith("/weights"):
            limit = math.sqrt(2 / ours[name].shape[1])
            largest = float(ours[name].detach().abs().max())
            assert largest <= limit
            # Both samples fill the interval: the largest of n uniform values is below limit · (1 − 20/n) once in e²⁰.
            assert min(largest, max(-low, high)) >= limit * (1 - 20 / ours[name].numel())
        else:
            assert low == high
            close(ours[name].float(), torch.full(ours[name].shape, low), 1e-7)


@contextmanager
def fresh_compiler():
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", [SMALLEST_REAL_NVP])
def test_real_nvp_compiled_without_graph_breaks(golden, mode):
    model = real_nvp(golden).train(mode == "train")
    with fresh_compiler(), torch.set_grad_enabled(mode == "train"):
        z, log_det = torch.compile(model, fullgraph=True)(golden["logit_x"])
    close(z, golden[f"{mode}/z_out"], Z_TOLERANCE[mode])
    close(log_det, golden[f"{mode}/log_diff_sum"], LOG_DET_TOLERANCE[mode])
    if mode == "train":
        for name, value in golden.under("moving_after/").items():
            close(model.authors_variables()[name].float(), transposed(value), 2e-5)


GLOW_STATES = {"init": "var_init/", "pert": "var/"}
GLOW_Z_TOLERANCE = 1e-4
GLOW_OBJECTIVE_TOLERANCE = 5e-3
GLOW_BITS_TOLERANCE = 1e-5

glow_states = pytest.mark.parametrize("state", GLOW_STATES)
glow_files = pytest.mark.parametrize("golden", GLOW)


def glow(golden, state="pert"):
    return Glow.from_authors(golden.under(GLOW_STATES[state]), golden.json("hparams"))


def glow_density(golden, flow):
    """The whole model at the file's number of grey levels, and the file's images reduced to them."""
    bits = golden.json("hparams")["n_bits_x"]
    model = FlowDensity(flow, Center(), None, flow.image_shape, 2**bits)
    return model, golden["img_uint8"] // 2 ** (8 - bits)


def like(tensor, value):
    """The authors' array in the layout of our tensor."""
    value = torch.from_numpy(np.array(value))
    return value.permute(3, 2, 0, 1) if tensor.ndim == 4 else value.reshape(tensor.shape)


@glow_states
@glow_files
def test_glow_preprocessing(golden, state):
    model, images = glow_density(golden, glow(golden, state))
    y, jacobian = model.flow_input(images, golden["dequant_u"])
    close(y, golden[f"{state}/x_in"], 1e-6)
    assert not jacobian.any()


@glow_states
@glow_files
def test_glow_latents(golden, state):
    flow = glow(golden, state)
    z, _ = flow(golden[f"{state}/x_in"])
    assert z.shape == (len(golden["img_uint8"]), math.prod(flow.image_shape))
    eps, top = flow.unpack(z)
    close(top, golden[f"{state}/z_top"], GLOW_Z_TOLERANCE)
    assert len(eps) == golden.json("hparams")["n_levels"] - 1
    for level, white in enumerate(eps):
        close(white, golden[f"{state}/eps_{level}"], GLOW_Z_TOLERANCE)
    assert torch.equal(flow.pack(eps, top), z)


@glow_states
@glow_files
def test_glow_objective_and_bits(golden, state):
    flow = glow(golden, state)
    model, images = glow_density(golden, flow)
    terms = model.terms(images, golden["dequant_u"])
    close(terms.log_prob, golden[f"{state}/objective"], GLOW_OBJECTIVE_TOLERANCE)
    close(-terms.log_prob / (model.dimensions * math.log(2)), golden[f"{state}/bits_x"], GLOW_BITS_TOLERANCE)
    z, log_det = flow(golden[f"{state}/x_in"])
    eps, _ = flow.unpack(z)
    before_prior = terms.quantization + log_det + sum(standard_normal_log_prob(white) for white in eps)
    close(before_prior, golden[f"{state}/objective_before_prior"], GLOW_OBJECTIVE_TOLERANCE)
    close(terms.log_prob - before_prior, golden[f"{state}/logp_top"], GLOW_OBJECTIVE_TOLERANCE)


@glow_files
def test_glow_bits_in_bfloat16(golden):
    model, images = glow_density(golden, glow(golden))
    set_precision(model, "bf16")
    with torch.no_grad():
        bits = -model.terms(images, golden["dequant_u"]).log_prob / (model.dimensions * math.log(2))
    # Perturbed at random, one of them codes 5 bits in 9: what rounds there is no trained model's.
    close(bits.mean(), golden["pert/bits_x"].mean(), 2 * BFLOAT16_BITS_TOLERANCE)


@glow_states
@glow_files
def test_glow_every_step(golden, state):
    flow = glow(golden, state)
    outputs = {}
    for name, step in flow.steps().items():
        step.register_forward_hook(lambda _module, _input, output, name=name: outputs.__setitem__(name, output))
    with torch.no_grad():
        flow(golden[f"{state}/x_in"])
    assert list(outputs) == golden.json("step_order")
    for name, (z, _) in outputs.items():
        close(z, golden[f"{state}/step/{name}/z"], GLOW_Z_TOLERANCE)
    for earlier, later in pairwise(outputs):
        if earlier.split("/")[0] == later.split("/")[0]:
            gained = golden[f"{state}/step/{later}/objective"] - golden[f"{state}/step/{earlier}/objective"]
            close(outputs[later][1], gained, GLOW_OBJECTIVE_TOLERANCE)


@glow_states
@glow_files
def test_glow_reconstruction(golden, state):
    flow = glow(golden, state)
    eps = [golden[f"{state}/eps_{level}"] for level in range(golden.json("hparams")["n_levels"] - 1)]
    with torch.no_grad():
        x, _ = flow.inverse(flow.pack(eps, golden[f"{state}/z_top"]))
    close(x, golden[f"{state}/reconstruction"], 1e-4)
    close(x, golden[f"{state}/x_in"], 1e-4)


@glow_files
def test_glow_data_dependent_initialization(golden):
    flow = glow(golden, "init")
    model, _ = glow_density(golden, flow)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, ActNorm):
                module.b.fill_(0.7)
                module.logs.fill_(-0.4)
    model.initialize(golden["img_init_uint8"] // (256 // model.levels), golden["dequant_u"])
    variables = golden.under("var_init/")
    for name, value in flow.authors_variables().items():
        close(value, like(value, variables[name]), 1e-5)


def glow_gradients(golden):
    flow = glow(golden)
    model, images = glow_density(golden, flow)
    bits = -model.terms(images, golden["dequant_u"]).log_prob.mean() / (model.dimensions * math.log(2))
    bits.backward()
    return bits, flow.authors_variables()


@glow_files
def test_glow_gradients(golden):
    _, variables = glow_gradients(golden)
    expected = golden.under("grad/")
    assert expected
    for name, value in expected.items():
        value = like(variables[name], value)
        actual = torch.zeros_like(value) if variables[name].grad is None else variables[name].grad
        assert float((actual - value).norm()) <= 1e-4 * float(value.norm()) + 1e-9, name


@glow_files
def test_glow_adamax_steps(golden):
    # The authors' Adamax has Adam's √(1 − β₂ᵗ), so it is written out here; torch's, which trains our models, has not.
    hparams = golden.json("hparams")
    beta1, beta2, rate = hparams["beta1"], hparams["beta2"], hparams["adamax_lr"]
    _, variables = glow_gradients(golden)
    before = {name: value.detach().clone() for name, value in variables.items()}
    for name, value in golden.under("adamax_step1/").items():
        if name not in variables:
            continue
        gradient = variables[name].grad
        mean, largest = (1 - beta1) * gradient, gradient.abs()
        step = rate * math.sqrt(1 - beta2) / (1 - beta1) * mean / (largest + hparams["adamax_eps"])
        clear = gradient.abs() > 1e-2 * gradient.abs().max()
        close((before[name] - step)[clear], like(variables[name], value)[clear], 1e-6)


SMALLEST_GLOW = min(GLOW, key=lambda parameter: parameter.values[0].path.stat().st_size if parameter.values[0] else 0)


@pytest.mark.slow
@pytest.mark.parametrize("golden", [SMALLEST_GLOW])
def test_glow_compiled_without_graph_breaks(golden):
    flow = glow(golden)
    with fresh_compiler():
        z, _ = torch.compile(flow, fullgraph=True)(golden["pert/x_in"])
    close(flow.unpack(z)[1], golden["pert/z_top"], GLOW_Z_TOLERANCE)


PIXELCNN = golden_files("pixelcnn_*.npz")

pixelcnn_files = pytest.mark.parametrize("golden", PIXELCNN)


def block_of(tensor, stored):
    """The leading images and rows that a file holds of a map, both as (batch, channels, height, width, ...)."""
    return tensor[: stored.shape[0], :, : stored.shape[2]]


@pixelcnn_files
def test_pixelcnn_has_the_authors_variables_in_their_order(golden):
    model = Authors(golden).model()
    assert list(model.authors_variables()) == golden.json("var_names")
    assert sum(parameter.numel() for parameter in model.parameters()) == int(golden.json("n_params"))


@pixelcnn_files
def test_pixelcnn_data_dependent_initialization(golden):
    authors = Authors(golden)
    model, outputs = authors.initialized()
    for name, value in golden.under("var_init/").items():
        close(model.authors_variables()[name], authors_layout(name, value), 1e-5)
    close(block_of(outputs, golden["init/l"]), golden["init/l"], 3e-5)
    sums = outputs.abs().double().sum((1, 2, 3))
    torch.testing.assert_close(sums, golden["init/l_abs_sum"].double(), rtol=1e-6, atol=0)


@pixelcnn_files
def test_pixelcnn_every_activation(golden):
    authors = Authors(golden)
    model = authors.model()
    close(model.mixture.scaled(authors.images, torch.float32), golden["x_in"], 1e-7)
    with watched(model) as found, torch.no_grad():
        outputs = model.outputs(authors.images, authors.labels)
    names = golden.json("act_names")
    assert found.keys() == set(names)
    sums = torch.stack([found[name].abs().double().sum((1, 2, 3)) for name in names])
    torch.testing.assert_close(sums, golden["act_abs_sum"], rtol=1e-6, atol=0)
    for name, value in golden.under("act/").items():
        close(found[name], torch.from_numpy(value).permute(0, 3, 1, 2), 3e-5)
    close(block_of(outputs, golden["l"]), golden["l"], 3e-5)
    sums = outputs.abs().double().sum((1, 2, 3))
    torch.testing.assert_close(sums, golden["l_abs_sum"].double(), rtol=1e-6, atol=0)


@pixelcnn_files
def test_pixelcnn_log_likelihood(golden):
    authors = Authors(golden)
    model = authors.model()
    with torch.no_grad():
        log_prob = model.log_prob(authors.images, labels=authors.labels)
    torch.testing.assert_close(log_prob, golden["log_likelihood"], rtol=2e-5, atol=5e-2)
    torch.testing.assert_close(-log_prob.sum(), golden["loss_sum"], rtol=2e-5, atol=0.2)
    close(authors.bits(model).float(), golden["bits_per_dim"], 1e-4)


@pixelcnn_files
def test_pixelcnn_terms_of_the_mixture_and_their_branches(golden):
    authors = Authors(golden)
    model = authors.model()
    with torch.no_grad():
        outputs = model.outputs(authors.images, authors.labels)
        by_component = model.mixture.by_component(outputs, authors.images)
        branches = model.mixture.branches(model.mixture.parameters(outputs), authors.images)
        _, shares = model.terms_and_shares(authors.images, authors.images, authors.labels)
    expected = golden["loss/log_probs_mix"]
    torch.testing.assert_close(block_of(by_component, expected), expected, rtol=1e-4, atol=5e-2)
    # (batch, height, width, channels, components) there, (batch, channels, components, height, width) here.
    theirs = golden["loss/branch"].permute(0, 3, 4, 1, 2)
    assert int((branches.branch != theirs).sum()) <= 20
    if "loss/log_probs_channel" in golden:
        expected = golden["loss/log_probs_channel"].permute(0, 3, 4, 1, 2)
        torch.testing.assert_close(branches.log_probs, expected, rtol=1e-4, atol=5e-2)
    assert 0 < float(shares["density_branch"].mean()) < 1


@pixelcnn_files
def test_pixelcnn_gradients(golden):
    authors = Authors(golden)
    gradients = authors.gradients(authors.model())
    errors = {}
    for name, value in golden.under("grad_mean/").items():
        expected = authors_layout(name, value)
        # A variable behind ReLUs that are all closed has no gradient, in either program.
        errors[name] = float((gradients[name] - expected).norm() / expected.norm().clamp(min=1e-12))
    assert errors.keys() == set(golden.json("selected"))
    assert max(errors.values()) < 5e-3
    assert np.median(list(errors.values())) < 5e-4
    norms = torch.stack([gradients[name].double().norm() for name in authors.names])
    torch.testing.assert_close(norms, golden["grad_norms/l2"].double(), rtol=5e-3, atol=0)
    totals = torch.stack([gradients[name].double().sum() for name in authors.names])
    # A sum is off by at most the norm of the error times the root of the number of values.
    roots = torch.tensor([gradients[name].numel() for name in authors.names]).double().sqrt()
    assert bool(((totals - golden["grad_norms/sum"]).abs() <= 5e-3 * roots * norms).all())


@pixelcnn_files
def test_pixelcnn_gradient_of_the_loss_by_the_outputs(golden):
    if "grad_mean_l" not in golden:
        pytest.skip("the file has no gradient by the outputs")
    authors = Authors(golden)
    outputs = authors.model().outputs(authors.images, authors.labels).detach().requires_grad_()
    model = authors.model()
    (-model.mixture.log_prob(outputs, authors.images).mean()).backward()
    expected = golden["grad_mean_l"]
    assert float((outputs.grad - expected).norm() / expected.norm()) < 1e-3


@pixelcnn_files
def test_pixelcnn_two_steps_of_the_authors_adam(golden):
    authors = Authors(golden)
    model = authors.model()
    optimizer, config = authors.optimizer(model)
    seen = golden["train_bits_per_dim_seen_by_step"]
    close(authors.bits(model).float(), seen[0], 1e-4)
    before = {name: value.detach().clone() for name, value in model.authors_variables().items()}
    gradients = authors.step(model, optimizer, config, 0)
    ours, clear = model.authors_variables(), {}
    for name, value in golden.under("adam_step1/").items():
        clear[name] = gradients[name].abs() > 1e-3 * gradients[name].abs().max()
        close(ours[name][clear[name]], authors_layout(name, value)[clear[name]], 2e-6)
    moved = torch.stack([(ours[name].detach() - before[name]).double().norm() for name in authors.names])
    # Of all variables together: an element whose gradient is rounding noise may step the other way.
    torch.testing.assert_close(moved.norm(), golden["adam_step1_delta_sum/l2"].double().norm(), rtol=1e-3, atol=0)
    whole = golden.under("adam_step1/").keys() == set(authors.names)
    if whole:
        # Restarted from the stored first step, with moments of the stored gradients.
        with torch.no_grad():
            for name, value in ours.items():
                value.copy_(authors_layout(name, golden.arrays[f"adam_step1/{name}"]))
                gradient = authors_layout(name, golden.arrays[f"grad_mean/{name}"])
                state = optimizer.state[value]
                state["exp_avg"].copy_((1 - config.betas[0]) * gradient)
                state["exp_avg_sq"].copy_((1 - config.betas[1]) * gradient.square())
    close(authors.bits(model).float(), seen[1], 1e-4 if whole else 5e-4)
    second = authors.step(model, optimizer, config, 1)
    for name, value in golden.under("adam_step2/").items():
        large = clear[name] & (second[name].abs() > 1e-3 * second[name].abs().max())
        close(ours[name][large], authors_layout(name, value)[large], 1e-5 if whole else 2e-4)
    close(authors.bits(model).float(), golden["after_step2/bits_per_dim"], 1e-4 if whole else 5e-4)


@pixelcnn_files
def test_pixelcnn_moving_averages(golden):
    authors = Authors(golden)
    averages = {name: value.detach() for name, value in authors.uninitialized().authors_variables().items()}
    selected = golden.json("selected")
    for number in (1, 2):
        after = golden.under(f"adam_step{number}/")
        averages = authors.averages(
            {name: averages[name] for name in selected},
            {name: authors_layout(name, after[name]) for name in selected},
        )
        for name, value in golden.under(f"ema_step{number}/").items():
            close(averages[name], authors_layout(name, value), 5e-6)
    if set(selected) == set(authors.names):
        model = authors.model("ema_step2/")
        close(authors.bits(model).float(), golden["after_step2/bits_per_dim_test_ema"], 1e-4)


@pixelcnn_files
def test_pixelcnn_adam_alone(golden):
    if "unit/adam_grad" not in golden:
        pytest.skip("the file has no steps of Adam alone")
    authors = Authors(golden)
    parameters = torch.from_numpy(golden.arrays["unit/adam_param"])
    weight = nn.Parameter(parameters[0].clone())
    hp = authors.hparams
    config = Optim(
        name="adam-inside",
        lr=hp["learning_rate"],
        betas=(hp["mom1"], hp["mom2"]),
        schedule="exponential-steps",
        decay=hp["lr_decay"],
    )
    optimizer = make_optimizer([weight], config)
    for number, gradient in enumerate(golden.arrays["unit/adam_grad"]):
        weight.grad = torch.from_numpy(gradient).clone()
        optimizer.param_groups[0]["lr"] = learning_rate(config, 0.0, 0, number)
        optimizer.step()
        close(weight, parameters[number + 1], 1e-6)


@pixelcnn_files
def test_pixelcnn_sampler(golden):
    authors = Authors(golden)
    model = authors.model()
    noise = golden["sample/u_mix"], golden["sample/u_logistic"]
    with torch.no_grad():
        outputs = model.outputs(authors.images, authors.labels)
    close(model.mixture.draw(outputs, *noise, rounded=False), golden["sample/x_from_l"], 5e-5)
    drawn = model.ancestral(*noise, authors.labels, rounded=False)
    close(drawn, golden["sample/ancestral"], 1e-4 if model.image_shape[1] <= 16 else 1e-3)


IAFVAE_FILES = golden_files("iafvae_*.npz")
IAFVAE_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# By what a value is: within float32, and within float64 where the page has a tighter one.
IAFVAE_TOLERANCES = {
    "activation": (1e-5, 1e-5),
    "log-sd": (3e-6, 3e-6),
    "log density": (1e-4, 1e-4),
    "kl by channel": (2e-4, 2e-4),
    "kl": (5e-4, 5e-4),
    "log sum": (1e-3, 1e-3),
    "nats": (5e-2, 1e-2),
    "bits": (2e-4, 3e-5),
    "relative objective": (2e-5, 3e-6),
    "largest gradient": (1e-4, 2e-5),
}
IAFVAE_KINDS = {
    "p_logsd": "log-sd",
    "q_logsd": "log-sd",
    "qz_logsd": "log-sd",
    "logq": "log density",
    "logp": "log density",
    "kl_bc": "kl by channel",
    "kl_cost": "kl",
    "logq_sum": "log sum",
    "logp_sum": "log sum",
}

iafvae_files = pytest.mark.parametrize("golden", IAFVAE_FILES)
iafvae_dtypes = pytest.mark.parametrize("dtype", IAFVAE_DTYPES)


def iafvae_close(actual, expected, kind, dtype):
    tolerance = IAFVAE_TOLERANCES[kind][dtype == "float64"]
    torch.testing.assert_close(actual.detach().double(), expected.double(), rtol=0, atol=tolerance)


def iafvae_at(golden, dtype, stage="train", **options):
    """The model, its images and its noise in one of the stages, train or iw."""
    model = iafvae.model_of(golden, **options).to(IAFVAE_DTYPES[dtype])
    samples = golden.json("hparams")["k" if stage == "train" else "K_iw"]
    noise = iafvae.noise(golden, model, stage + "/{}/post").to(IAFVAE_DTYPES[dtype])
    return model, iafvae.images(golden, samples), noise


@iafvae_files
def test_iafvae_parameters(golden):
    model = iafvae.model_of(golden)
    variables = model.authors_variables()
    assert variables.keys() == set(golden.json("var_names"))
    assert sum(value.numel() for value in variables.values()) == int(golden.arrays["num_trainable"])


@iafvae_files
def test_iafvae_data_dependent_initialization(golden):
    model = iafvae.model_of(golden, "var_init/")
    variables = model.authors_variables()
    with torch.no_grad():
        for name, value in variables.items():
            if name.endswith(("/g", "/b")):
                value.fill_(0.3)
    images = iafvae.images(golden, golden.json("hparams")["k"], "img_init_uint8")
    found = iafvae.initialization(golden, model, images, iafvae.noise(golden, model, "init/{}/prior"))
    for name, value in golden.under("init/").items():
        close(found[name], torch.from_numpy(value), 1e-5)
    for name, value in golden.under("var_init/").items():
        expected = transposed(value)
        close(variables[name], expected, 3e-6 * max(1.0, float(expected.abs().max())))


@iafvae_dtypes
@iafvae_files
def test_iafvae_every_layer(golden, dtype):
    model, images, noise = iafvae_at(golden, dtype)
    with torch.no_grad():
        found = iafvae.intermediates(golden, model, images, noise)
    names = [key for key in golden.under("train/") if "/" in key and not key.endswith(("kl_obj", "kl_free"))]
    assert {name.partition("/")[0] for name in names} == set(golden.json("down_order"))
    for name in [*names, "x_rec"]:
        kind = IAFVAE_KINDS.get(name.rpartition("/")[2], "activation")
        iafvae_close(found[name], iafvae.array(golden, f"train/{name}"), kind, dtype)


@iafvae_dtypes
@iafvae_files
def test_iafvae_free_bits_and_objective(golden, dtype):
    model, images, noise = iafvae_at(golden, dtype)
    k = golden.json("hparams")["k"]
    elbo, surplus = model.training_terms(images, noise)
    iafvae_close(elbo.reconstruction, iafvae.array(golden, "train/log_pxz"), "nats", dtype)
    iafvae_close(-elbo.divergence, iafvae.array(golden, "train/kl_cost_total"), "kl", dtype)
    free = (
        [golden.arrays[f"train/{name}/kl_free"].sum() for name in golden.json("down_order")] if model.free_bits else []
    )
    assert (surplus is None) == (not free)
    counted = -elbo.divergence.mean() + (0 if surplus is None else surplus)
    objectives = [iafvae.array(golden, f"train/{name}/kl_obj") for name in golden.json("down_order")]
    iafvae_close(counted, sum(objectives).mean(), "kl", dtype)
    if free:
        iafvae_close(counted, torch.tensor(sum(free)), "kl", dtype)
    objective = len(images) * (-elbo.log_prob.mean() + (0 if surplus is None else surplus))
    expected = iafvae.array(golden, "train/obj")
    relative = IAFVAE_TOLERANCES["relative objective"][dtype == "float64"]
    assert objective.item() == pytest.approx(float(expected), rel=relative)
    loss = iafvae.mean_bound(elbo.log_prob, k)
    iafvae_close(loss, iafvae.array(golden, "train/loss_per_image"), "nats", dtype)
    bits = loss.mean() / (model.dimensions * math.log(2))
    iafvae_close(bits, iafvae.array(golden, "train/bits_per_dim"), "bits", dtype)


@iafvae_files
def test_iafvae_pixels(golden):
    if "train/logp_pixel" not in golden:
        pytest.skip("the file has no single pixels")
    model, images, noise = iafvae_at(golden, "float32")
    log_prob = authors_log_prob(images, model.location(images, noise), model.dec_log_stdv, model.levels)
    close(log_prob.exp(), iafvae.array(golden, "train/logp_pixel").exp(), 5e-7)


@iafvae_dtypes
@iafvae_files
def test_iafvae_importance_weighted_bound(golden, dtype):
    model, images, noise = iafvae_at(golden, dtype, "iw")
    k = golden.json("hparams")["K_iw"]
    with torch.no_grad():
        elbo = model.eval().terms(images, noise)
    iafvae_close(elbo.reconstruction, iafvae.array(golden, "iw/log_pxz"), "nats", dtype)
    iafvae_close(-elbo.divergence, iafvae.array(golden, "iw/kl_cost_total"), "kl", dtype)
    loss = iafvae.mean_bound(elbo.log_prob, k)
    iafvae_close(loss, iafvae.array(golden, "iw/loss_per_image"), "nats", dtype)
    bits = loss.mean() / (model.dimensions * math.log(2))
    iafvae_close(bits, iafvae.array(golden, "iw/bits_per_dim"), "bits", dtype)


@iafvae_files
def test_iafvae_samples(golden):
    model = iafvae.model_of(golden).eval()
    noise = iafvae.noise(golden, model, "sample/{}/prior")
    with torch.no_grad():
        found = iafvae.intermediates(golden, model, torch.empty(0), noise)
    expected = golden.under("sample/")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        close(found[name], torch.from_numpy(value), 1e-5)


def iafvae_gradients(model, images, noise):
    """By the authors' names, the gradients of their objective: the sum over the batch."""
    elbo, surplus = model.training_terms(images, noise)
    model.zero_grad()
    (len(images) * (-elbo.log_prob.mean() + (0 if surplus is None else surplus))).backward()
    return elbo, {name: parameter.grad for name, parameter in model.authors_variables().items()}


@iafvae_dtypes
@iafvae_files
def test_iafvae_gradients(golden, dtype):
    _, gradients = iafvae_gradients(*iafvae_at(golden, dtype))
    assert {name for name, value in gradients.items() if value is None} == set(golden.json("no_grad_names"))
    errors = []
    for name, value in golden.under("grad/").items():
        expected = transposed(value).double()
        errors.append(float((gradients[name].double() - expected).abs().max() / max(float(expected.abs().max()), 1e-3)))
    assert np.median(errors) < 2e-6
    assert max(errors) < IAFVAE_TOLERANCES["largest gradient"][dtype == "float64"]
    names = golden.json("grad_norms/names")
    norms = torch.tensor([float(gradients[name].double().norm()) for name in names], dtype=torch.float64)
    torch.testing.assert_close(norms, iafvae.array(golden, "grad_norms/l2"), rtol=1e-4, atol=0)


@iafvae_files
def test_iafvae_adamax_steps_and_averages(golden):
    # The authors' Adamax corrects no bias and adds ε inside the maximum: written out here; torch's trains our models.
    model, images, noise = iafvae_at(golden, "float32")
    hparams = golden.json("hparams")
    variables = model.authors_variables()
    kept = golden.json("hparams")["posterior"] == "diag_by_weights"
    moved = {n: p for n, p in variables.items() if not (kept and "ar_multiconv2d" in n)}
    momenta = {name: torch.zeros_like(value) for name, value in variables.items()}
    largest = {name: torch.zeros_like(value) for name, value in variables.items()}
    shadows = {name: value.detach().clone() for name, value in variables.items()}
    clear = {}
    for step in (1, 2):
        elbo, gradients = iafvae_gradients(model, images, noise)
        k = hparams["k"]
        bits = iafvae.mean_bound(elbo.log_prob, k).mean() / (model.dimensions * math.log(2))
        iafvae_close(bits, iafvae.array(golden, f"adamax_step{step}/bits_per_dim_seen"), "bits", "float32")
        with torch.no_grad():
            for name, variable in moved.items():
                if (gradient := gradients[name]) is not None:
                    clear.setdefault(name, gradient.abs() > 1e-3 * gradient.abs().max())
                    momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
                    largest[name] = torch.maximum(0.999 * largest[name] + 1e-8, gradient.abs())
                    variable -= hparams["learning_rate"] * momenta[name] / largest[name]
                shadows[name] -= (1 - hparams["ema_decay"]) * (shadows[name] - variable)
        for prefix, ours in ((f"adamax_step{step}/", variables), (f"ema_step{step}/", shadows)):
            stored = {name: value for name, value in golden.under(prefix).items() if name.startswith("model/")}
            assert stored
            for name, value in stored.items():
                where = clear.get(name, torch.ones_like(ours[name], dtype=torch.bool))
                close(ours[name][where], transposed(value)[where], 2e-6)
    elbo = model.terms(images, noise)
    bits = iafvae.mean_bound(elbo.log_prob, k).mean() / (model.dimensions * math.log(2))
    iafvae_close(bits, iafvae.array(golden, "after_step2/bits_per_dim"), "bits", "float32")


TARFLOW = golden_files("tarflow_*.npz")
TARFLOW_LIKELIHOODS = {"eval": "x_uniform", "eval_y": "x_uniform", "eval_dropped": "x_uniform", "train": "x_gauss"}
tarflow_files = pytest.mark.parametrize("golden", TARFLOW)


def tarflow(golden):
    variables = golden.under("param/") | {"var": golden.arrays["buffer/var"]}
    return TarFlow.from_authors(variables, golden.json("hparams"))


def tarflow_array(golden, key):
    """An array as it lies in the file: these images are NCHW already."""
    return torch.from_numpy(np.array(golden.arrays[key]))


def tarflow_labels(golden, group):
    """The labels under which a group was computed; None: without."""
    if "y" not in golden:
        return None
    key = {"eval_y": "y", "plain": "y", "eval_dropped": "y_dropped", "train": "y_dropped"}.get(group)
    return None if key is None else tarflow_array(golden, key).long()


def tarflow_loss(golden, flow, group):
    """The authors' loss of each image, whose prior is N(0, 1) whatever the variances are, without its constant."""
    z, log_det = flow(tarflow_array(golden, TARFLOW_LIKELIHOODS[group]), tarflow_labels(golden, group))
    return 0.5 * z.square().flatten(1).mean(1) - log_det / z[0].numel(), z, log_det


def related(actual, expected, tolerance):
    """Compare as the files' page does: with the error over the largest entry."""
    assert float((actual.detach() - expected).abs().max()) <= tolerance * float(expected.abs().max())


@tarflow_files
def test_tarflow_input(golden):
    model = NoisyFlowDensity(tarflow(golden), Symmetric(), None, tuple(golden.arrays["img_uint8"].shape[1:]), 256, 0)
    images = tarflow_array(golden, "img_uint8")
    y, jacobian = model.flow_input(images, tarflow_array(golden, "dequant_u"))
    close(y, tarflow_array(golden, "x_uniform"), 1e-6)
    close(patches_of(y, model.flow.patch), tarflow_array(golden, "patches"), 1e-6)
    close(jacobian, torch.full((len(y),), model.dimensions * math.log(2)), 1e-3)
    assert torch.equal(images_of(patches_of(y, model.flow.patch), model.image_shape, model.flow.patch), y)
    # Training for samples: no dequantization, and a grid of 2/255.
    model.noise_std = golden.json("hparams")["noise_std"]
    uniform = torch.special.ndtr(tarflow_array(golden, "gauss_eps").double())
    noise = (uniform - 2.0**-17) / (1 - 2.0**-16)
    assert model.training
    near = (noise >= 0) & (noise < 1)
    noisy, _ = model.flow_input(images, noise.clamp(0, 1 - 2.0**-40))
    assert near.double().mean() > 0.99
    close(noisy[near].float(), tarflow_array(golden, "x_gauss")[near], 1e-6)
    clean, _ = model.flow_input(images, torch.full_like(noise, 0.5))
    close(clean.float(), tarflow_array(golden, "x_norm"), 1e-6)


@pytest.mark.parametrize("group", TARFLOW_LIKELIHOODS)
@tarflow_files
def test_tarflow_likelihood(golden, group):
    if f"{group}/z" not in golden:
        pytest.skip("the file has no labels")
    flow = tarflow(golden)
    blocks = []
    for block in flow.layers():
        block.register_forward_hook(lambda _module, _input, output: blocks.append(output))
    with torch.no_grad():
        loss, z, log_det = tarflow_loss(golden, flow, group)
    size = z[0].numel()

    def held(key, actual, tolerance):
        expected = tarflow_array(golden, f"{group}/{key}")
        close(actual.to(expected.dtype), expected, tolerance)

    held("z", z, 1e-5)
    held("logdets", log_det / size, 1e-6)
    held("loss_per_image", loss, 1e-6)
    held("loss", loss.mean(), 1e-6)
    for number, (out, increment) in enumerate(blocks):
        if f"{group}/block/{number}/out" in golden:
            held(f"block/{number}/out", out, 1e-5)
            held(f"block/{number}/logdet", increment / size, 1e-6)
    if group == "train":
        norms = torch.stack([out.square().mean() for out, _ in blocks]).double()
        torch.testing.assert_close(norms, tarflow_array(golden, "train/layer_norms"), rtol=1e-5, atol=0)
    # The authors' figures: prior N(0, 1), with or without learned variances.
    prior = standard_normal_log_prob(z) - size * math.log(128)
    torch.testing.assert_close(prior, tarflow_array(golden, f"{group}/prior_log_p"), rtol=1e-6, atol=0)
    bits = -(prior + log_det) / (size * math.log(2))
    held("nll_per_dim", bits * math.log(2), 5e-6)
    held("bits_per_dim", bits, 5e-6)
    held("bits_per_dim_mean", bits.mean(), 5e-6)
    nats = tarflow_array(golden, f"{group}/log_likelihood_nats").float()
    torch.testing.assert_close(prior + log_det, nats, rtol=1e-6, atol=0)
    # Ours: the density of the flow, whose latents follow N(0, var).
    proper = flow.eval().base.log_prob(z) - size * math.log(128) + log_det
    expected = tarflow_array(golden, f"{group}/log_likelihood_nats_var").float()
    torch.testing.assert_close(proper, expected, rtol=1e-6, atol=0)


@tarflow_files
def test_tarflow_reports_the_density_under_its_own_prior(golden):
    flow = tarflow(golden)
    shape = tuple(golden.arrays["img_uint8"].shape[1:])
    model = NoisyFlowDensity(flow, Symmetric(), None, shape, 256, golden.json("hparams")["noise_std"]).eval()
    images, noise = tarflow_array(golden, "img_uint8"), tarflow_array(golden, "dequant_u")
    nats = model.terms(images, noise).log_prob
    expected = tarflow_array(golden, "eval/log_likelihood_nats_var").float()
    torch.testing.assert_close(nats.detach(), expected, rtol=1e-6, atol=0)
    theirs = tarflow_array(golden, "eval/bits_per_dim")
    ours = -nats.detach() / (model.dimensions * math.log(2))
    assert bool(((ours - theirs).abs() > 1e-3).all()) is (not golden.json("hparams")["nvp"])


@tarflow_files
def test_tarflow_inside_a_block(golden):
    if "inside0/hidden_in" not in golden:
        pytest.skip("the file has no insides")
    block = next(iter(tarflow(golden).layers()))
    seen = {}

    def keep(name):
        return lambda _module, _input, output: seen.__setitem__(name, output)

    for number, layer in enumerate(block.transformer.attn_blocks):
        layer.register_forward_hook(keep(f"layer/{number}/out"))
        for part in ("attention", "mlp"):
            getattr(layer, part).register_forward_hook(keep(f"layer/{number}/{part}"))
    block.transformer.register_forward_hook(keep("proj_out"))
    block.transformer.register_forward_pre_hook(lambda _module, given: seen.__setitem__("hidden_in", given[0]))
    labels = tarflow_labels(golden, "eval_dropped")
    block(patches_of(tarflow_array(golden, "x_uniform"), golden.json("hparams")["patch_size"]), labels)
    expected = golden.under("inside0/")
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        close(seen[name], torch.from_numpy(value), 1e-5)


@tarflow_files
def test_tarflow_initial_values(golden):
    hparams, init = golden.json("hparams"), golden.under("init/")
    shape = (hparams["in_channels"], hparams["img_size"], hparams["img_size"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TarFlow(
            shape,
            patch=hparams["patch_size"],
            width=hparams["channels"],
            blocks=hparams["num_blocks"],
            layers=hparams["layers_per_block"],
            head=hparams["head_dim"],
            affine=hparams["nvp"],
            classes=hparams["num_classes"],
        )
    ours = dict(flow.authors_variables())
    ours.pop("var", None)
    assert {name: list(value.shape) for name, value in ours.items()} == golden.json("param_shapes")
    for name, (low, high) in golden.json("init_range").items():
        value = ours[name].detach()
        if low == high:
            close(value, torch.full_like(value, low), 0)
        elif name.endswith(("pos_embed", "class_embed")):
            assert float(value.abs().max()) < 0.06
            # 4.5 standard errors of a deviation: a few classes of narrow vectors are few values.
            assert float(value.std()) == pytest.approx(0.01, rel=max(0.3, 4.5 / math.sqrt(2 * value.numel())))
        else:
            # Uniform within ±1/√fan_in on both sides; a bias has its weight's.
            limit = 1 / math.sqrt(ours[name.removesuffix("bias").removesuffix("weight") + "weight"].shape[1])
            assert max(float(value.abs().max()), -low, high) <= limit
            assert min(float(value.abs().max()), max(-low, high)) >= limit * (1 - 20 / value.numel())
    with torch.no_grad():
        for number, block in enumerate(flow.layers()):
            block.transformer.proj_out.bias.copy_(torch.from_numpy(init[f"proj_out_bias/{number}"]))
        z, log_det = flow(tarflow_array(golden, "x_uniform"))
    close(z, tarflow_array(golden, "init/z"), 1e-5)
    close(log_det / z[0].numel(), tarflow_array(golden, "init/logdets"), 1e-6)
    loss = 0.5 * z.square().mean() - log_det.mean() / z[0].numel()
    close(loss, tarflow_array(golden, "init/loss"), 1e-6)
    bits = (0.5 * z.square() + 0.5 * math.log(2 * math.pi)).flatten(1).mean(1) - log_det / z[0].numel()
    close(bits / math.log(2) + 7, tarflow_array(golden, "init/bits_per_dim"), 5e-6)
    close((bits / math.log(2) + 7).mean().double(), tarflow_array(golden, "init/bits_per_dim_mean"), 5e-6)


def tarflow_gradients(golden, group="train"):
    flow = tarflow(golden)
    loss, _, _ = tarflow_loss(golden, flow, group)
    loss.mean().backward()
    parameters = {name: value for name, value in flow.authors_variables().items() if value.requires_grad}
    assert list(parameters) == golden.json("param_names")
    return flow, parameters


def without_key_bias(name, value):
    """Drop what softmax ignores: its gradient is 0, and what is stored of it is rounding."""
    return torch.cat((value.chunk(3)[0], value.chunk(3)[2])) if name.endswith("qkv.bias") else value


@tarflow_files
def test_tarflow_gradients(golden):
    _, parameters = tarflow_gradients(golden)
    stored = golden.under("grad/")
    assert sorted(stored) == sorted(golden.json("grad_names"))
    for name, value in stored.items():
        expected = without_key_bias(name, torch.from_numpy(value))
        related(without_key_bias(name, parameters[name].grad), expected, 1e-5)
    grads = [value.grad.double() for value in parameters.values()]
    norms = torch.stack([grad.norm() for grad in grads])
    torch.testing.assert_close(norms, tarflow_array(golden, "grad_norms/l2"), rtol=1e-5, atol=0)
    sums = torch.stack([grad.sum() for grad in grads])
    absolute = torch.stack([grad.abs().sum() for grad in grads])
    assert bool(((sums - tarflow_array(golden, "grad_norms/sum")).abs() <= 1e-5 * absolute).all())


@tarflow_files
def test_tarflow_gradient_norms_on_dequantized_images(golden):
    flow = tarflow(golden)
    z, log_det = flow(tarflow_array(golden, "x_uniform"), tarflow_labels(golden, "train"))
    (0.5 * z.square().mean() - log_det.mean() / z[0].numel()).backward()
    norms = [p.grad.double().norm() for p in flow.authors_variables().values() if p.requires_grad]
    torch.testing.assert_close(torch.stack(norms), tarflow_array(golden, "grad_norms_uniform/l2"), rtol=1e-5, atol=0)


def tarflow_rate(settings, step):
    """The authors' rate of a step, counted from 1: linear from a lowest one, then a cosine back to it."""
    low, high = settings["sched_min_lr"], settings["sched_max_lr"]
    warm, total, done = settings["sched_warmup_steps"], settings["sched_total_steps"], step - 1
    if done <= warm:
        return low + done / warm * (high - low)
    return low + 0.5 * (1 + math.cos(math.pi * (done - warm) / (total - warm))) * (high - low)


@pytest.mark.parametrize("mode", ["const", "sched"])
@tarflow_files
def test_tarflow_adamw_steps(golden, mode):
    if f"adamw_{mode}/lr" not in golden:
        pytest.skip("the file has no steps of this kind")
    settings = golden.json("adamw_settings")
    rates = [settings["const_lr"] if mode == "const" else tarflow_rate(settings, step) for step in (1, 2)]
    np.testing.assert_allclose(golden.arrays[f"adamw_{mode}/lr"], rates, rtol=1e-6)
    flow = tarflow(golden)
    parameters = {name: value for name, value in flow.authors_variables().items() if value.requires_grad}
    optim = Optim(
        name="adamw", betas=tuple(settings["betas"]), eps=settings["eps"], weight_decay=settings["weight_decay"]
    )
    optimizer = make_optimizer(parameters.values(), optim)
    losses, clear = [], {}
    for step in (1, 2):
        loss = tarflow_loss(golden, flow, "train")[0].mean()
        losses.append(loss)
        loss.backward()
        before = {name: value.detach().clone() for name, value in parameters.items()}
        gradients = {name: value.grad.clone() for name, value in parameters.items()}
        optimizer.param_groups[0]["lr"] = rates[step - 1]
        take_step(optimizer, list(parameters.values()), loss, None)
        for name, value in golden.under(f"adamw_{mode}_step{step}/").items():
            gradient = without_key_bias(name, gradients[name]).abs()
            # A weight lies where all steps so far have moved it: of a gradient of 3e-6 of the largest the first went
            # where rounding (and eps) would, 1e-6 further off with AVX2 than with AVX-512.
            now = (gradient > 1e-3 * gradient.max()) | (gradient == 0)
            clear[name] = clear.get(name, True) & now
            actual = without_key_bias(name, parameters[name].detach())
            expected = without_key_bias(name, torch.from_numpy(value))
            if mode == "const":
                close(actual[clear[name]], expected[clear[name]], 1e-6)
                close(actual[now], expected[now], step * 1e-6)
            else:
                close(actual, expected, 2e-7)
        # At a rate of 1e-6 the first step is near the spacing of the weights: its length is good to 3 %.
        tolerance = 0.03 if (mode, step) == ("sched", 1) else 1e-4
        lengths = golden.arrays[f"adamw_{mode}_step{step}_delta/l2"]
        for name, length in zip(parameters, lengths, strict=True):
            if not name.endswith("qkv.bias"):
                moved = (parameters[name].detach() - before[name]).double().norm()
                assert float(moved) == pytest.approx(float(length), rel=tolerance), name
    losses.append(tarflow_loss(golden, flow, "train")[0].mean())
    close(torch.stack(losses).double(), tarflow_array(golden, f"adamw_{mode}/loss_seen"), 1e-6)


@tarflow_files
def test_tarflow_schedule(golden):
    rates = golden.arrays["schedule/lr"]
    expected = [tarflow_rate(golden.json("adamw_settings"), step + 1) for step in range(len(rates))]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


@tarflow_files
def test_tarflow_learned_variances(golden):
    flow = tarflow(golden)
    if "update_prior/var_after1" not in golden:
        assert bool((tarflow_array(golden, "buffer/var") == 1).all())
        return
    z, _ = flow(tarflow_array(golden, "x_gauss"), tarflow_labels(golden, "train"))
    for times in (1, 2):
        flow.base.log_prob(z)
        close(flow.base.var, tarflow_array(golden, f"update_prior/var_after{times}"), 1e-6)


@tarflow_files
def test_tarflow_samples(golden):
    flow = tarflow(golden).eval()
    latents = tarflow_array(golden, "sample/latent")
    for name, given in golden.json("sample_settings").items():
        guidance = Guidance(given["guidance"], given["guide_what"], given["attn_temp"], given["annealed_guidance"])
        y = tarflow_array(golden, "y").long() if given["y"] == "y" else None
        tolerance = 1e-4 if given["guidance"] else 3e-5
        expected = tarflow_array(golden, f"sample/{name}/x")
        # With a cache that is written in place, and with the one that autograd follows.
        for recorded in (False, True):
            with torch.set_grad_enabled(recorded):
                x, _ = flow.inverse(flow.base.color(latents), y, guidance)
            close(x, expected, tolerance)


@tarflow_files
def test_tarflow_undoes_block_by_block(golden):
    flow = tarflow(golden).eval()
    y = tarflow_labels(golden, "plain")
    sequence = tarflow_array(golden, "sample/plain/sequence")
    with torch.no_grad():
        tokens = flow.base.color(patches_of(sequence[0], flow.patch))
        for block, expected in zip(reversed(list(flow.layers())), sequence[1:], strict=True):
            tokens, _ = block.inverse(tokens, y)
            close(images_of(tokens, flow.image_shape, flow.patch), expected, 3e-5)


@tarflow_files
def test_tarflow_reconstruction(golden):
    flow = tarflow(golden).eval()
    group = "eval_y" if "eval_y/z" in golden else "eval"
    z = tarflow_array(golden, f"{group}/z")
    with torch.no_grad():
        x, log_det = flow.inverse(flow.base.color(flow.base.whiten(z)), tarflow_labels(golden, group))
    close(x, tarflow_array(golden, "reconstruction/x"), 1e-5)
    close(x, tarflow_array(golden, "x_uniform"), 1e-5)
    close(-log_det / z[0].numel(), tarflow_array(golden, f"{group}/logdets"), 1e-6)


@tarflow_files
def test_tarflow_denoising(golden):
    flow = tarflow(golden).eval()
    x, y = tarflow_array(golden, "sample/plain/x"), tarflow_labels(golden, "plain")
    noise_std = golden.json("hparams")["noise_std"]
    z, log_det = flow(x, y)
    close(0.5 * z.square().mean() - log_det.mean() / z[0].numel(), tarflow_array(golden, "denoise/loss"), 1e-6)
    assert float(tarflow_array(golden, "denoise/lr")) == pytest.approx(x.numel() * noise_std**2, rel=1e-6)
    # The authors' prior here is N(0, 1), where variances are learned as well.
    clean = denoised(flow, StandardNormal(), x, noise_std, y)
    close(clean, tarflow_array(golden, "denoise/x"), 1e-5)
    gradient = (x - clean) / tarflow_array(golden, "denoise/lr")
    related(gradient, tarflow_array(golden, "denoise/grad"), 1e-4)
