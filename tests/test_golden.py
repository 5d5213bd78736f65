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
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.glow import Glow
from flowbench.densities.flows.real_nvp import RealNVP
from flowbench.densities.model import FlowDensity
from flowbench.densities.preprocessing import Center, Logit
from flowbench.densities.variational.discretized_logistic import authors_log_prob
from flowbench.training.optimization import learning_rate, make_optimizer
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
        errors[name] = float((gradients[name] - expected).norm() / expected.norm())
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
