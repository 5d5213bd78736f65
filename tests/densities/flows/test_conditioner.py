import copy

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.densities.flows.conditioner import Conditioner, set_precision, set_recompute
from flowbench.densities.flows.normalization import population_statistics
from flowbench.tasks.objectives import NegativeLogLikelihood
from flowbench.throughput.passes import make_subject
from flowbench.training.optimization import make_optimizer, take_step

SMALL = {
    "real_nvp/digits": ["model.features=8", "model.batch_norm=true", "model.dropout=0.2"],
    "glow/digits": ["model.steps=2", "model.hidden=16", "model.network=convolutions", "model.dropout=0.3"],
    "iafvae/digits": ["model.blocks=1", "model.latents=4", "model.features=16"],
}
FLOWS = [name for name in SMALL if name != "iafvae/digits"]
CPU = torch.device("cpu")


def gradients(model, images, noise):
    torch.manual_seed(1)  # of dropout
    loss, _ = NegativeLogLikelihood(model, 0.0, compiled=False)(images, noise)
    loss.backward()
    return loss, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("name", [*SMALL, *(f"{name} in bf16" for name in FLOWS)])
def test_recomputing_changes_no_loss_no_gradient_and_no_statistic(name):
    name, _, reduced = name.partition(" in ")
    # Without dropout Real NVP's blocks are computed in one operation each.
    keys = [*SMALL[name], f"train.precision={reduced}", "model.dropout=0.0"] if reduced else SMALL[name]
    subject = make_subject(load_experiment(name, keys), 8, CPU)
    plain, again = subject.model.train(), copy.deepcopy(subject.model)
    set_recompute(again, True)
    first, second = (gradients(model, subject.images, subject.noise(0)) for model in (plain, again))
    assert torch.equal(first[0], second[0])
    for one, other in zip(first[1], second[1], strict=True):
        assert one is other is None or torch.equal(one, other)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name


@pytest.fixture(scope="module", params=FLOWS)
def trained(request):
    """A small model after 60 steps on digits, and images that it has not seen."""
    from flowbench.data import open_images

    experiment = load_experiment(request.param, [*SMALL[request.param], "optim.lr=0.003"])
    images = torch.from_numpy(open_images(experiment.data, "train").array).movedim(3, 1).contiguous()
    subject = make_subject(experiment, 64, CPU)
    model, objective = subject.model.train(), NegativeLogLikelihood(subject.model, 0.0, compiled=False)
    optimizer = make_optimizer(model.parameters(), experiment.optim)
    for step in range(60):
        batch = images[64 * (step % 16) : 64 * (step % 16) + 64]
        loss, _ = objective(batch, subject.noise(step))
        loss.backward()
        take_step(optimizer, list(model.parameters()), loss, 100)
    with torch.no_grad(), population_statistics(model):
        for step in range(8):
            model.terms(images[64 * step : 64 * step + 64], subject.noise(step))
    return model.eval(), images[1024:1408]


@torch.no_grad()
def test_bfloat16_networks_change_bits_per_dim_by_at_most_5_thousandths_and_invert_nearly(trained):
    model, images = trained
    bits, errors = {}, {}
    for precision in (32, "bf16"):
        set_precision(model, precision)
        generator = torch.Generator().manual_seed(0)
        bits[precision] = model.bits_per_dim(images, draws=2, generator=generator).mean()
        y, _ = model.flow_input(images, torch.full(images.shape, 0.5))
        z, _ = model.flow(y)
        errors[precision] = (model.flow.inverse(z.reshape(y.shape))[0] - y).abs().max()
    set_precision(model, 32)
    assert bits[32] < 4.5  # it has learnt: uniform noise over 17 levels has 4.09 bits, and an untrained model more
    assert 0 < abs(bits["bf16"] - bits[32]) <= 0.005
    assert errors[32] < 1e-4
    # The networks see what they saw, up to float32's rounding: bfloat16 costs the inverse a few digits, not its sense.
    assert errors["bf16"] < 0.05


@pytest.mark.parametrize("precision", [32, "bf16"])
@pytest.mark.parametrize("name", SMALL)
def test_weights_that_diverged_have_no_finite_figure(name, precision):
    # oneDNN's ReLU, fused into a convolution, makes 0 of what is not a number.
    subject = make_subject(load_experiment(name, [*SMALL[name], f"train.precision={precision}"]), 4, CPU)
    model, noise = subject.model.eval(), subject.noise(0)

    def figures():
        with torch.no_grad():
            return model.terms(subject.images, noise).log_prob

    before = figures()
    assert before.isfinite().all()
    for network in [one for one in model.modules() if isinstance(one, Conditioner)][:2]:
        for weights in (one for one in network.parameters() if one.ndim == 4):
            place, kept = (0,) * 4, weights.detach().clone()
            with torch.no_grad():
                weights[place] = torch.nan
                assert figures().isnan().all(), tuple(weights.shape)
                weights.copy_(kept)
            assert torch.equal(figures(), before)
