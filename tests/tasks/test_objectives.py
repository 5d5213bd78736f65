"""Flow-GAN's objective: whose gradients it gives, on every flow, and what it leaves alone."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from flowbench.config.experiments import load_experiment
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.normalization import FlowBatchNorm
from flowbench.errors import InputError
from flowbench.tasks.density import DensityTask, build_density
from flowbench.tasks.objectives import Adversarial, NegativeLogLikelihood, density_objective
from flowbench.training.opposition import Opposition

CPU = torch.device("cpu")
ADVERSARIAL = ["train.objective=adversarial", "critic.width=2", "model.dropout=0"]
FLOWS = {
    "real_nvp/digits": ["model.features=2"],
    "real_nvp/digits-1x1": ["model.features=2", "model.batch_norm=true"],
    "glow/digits": ["model.hidden=4", "model.steps=2"],
    "nice/digits": ["model.features=2"],
    "tarflow/digits": ["model.width=8", "model.head=4", "model.blocks=2", "model.layers=1"],
}
Made = tuple[FlowDensity, Adversarial, Opposition, tuple[Tensor, Tensor]]


def make(name: str, *overrides: str, dtype: torch.dtype = torch.float32) -> Made:
    """A flow with random parameters, its loss, what opposes it, and a batch."""
    torch.manual_seed(0)
    experiment = load_experiment(name, [*FLOWS[name], *ADVERSARIAL, *overrides])
    model = cast(FlowDensity, build_density(experiment, {"shape": (1, 8, 8), "levels": 17}).to(dtype))
    batch = torch.randint(0, 17, (6, 1, 8, 8), dtype=torch.uint8), torch.rand(6, 1, 8, 8, dtype=dtype)
    model.initialize(*batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    objective, opponent = density_objective(experiment, model)
    assert opponent is not None
    opponent.network.to(dtype)
    return model, cast(Adversarial, objective), Opposition(opponent, CPU), batch


@pytest.mark.parametrize("name", FLOWS)
def test_the_gradient_of_every_flow_is_the_slope_of_the_verdict_on_its_samples(name: str) -> None:
    model, objective, _, batch = make(name, dtype=torch.float64)
    model.eval()  # in training every pass moves the statistics of batch normalization

    def loss() -> Tensor:
        torch.manual_seed(1)
        found: Tensor = objective(*batch)[0]
        return found

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    known = [
        (parameter, gradient) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    ]
    assert len(known) > len(parameters) / 2
    directions = [torch.randn_like(parameter) for parameter, _ in known]
    slope = sum(float((gradient * way).sum()) for (_, gradient), way in zip(known, directions, strict=True))
    step = 1e-8  # with larger ones some ReLU turns on its way
    ends = []
    with torch.no_grad():
        for sign in (step, -2 * step):
            for (parameter, _), way in zip(known, directions, strict=True):
                parameter.add_(way, alpha=sign)
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_the_flow_wants_a_higher_verdict() -> None:
    model, objective, _, batch = make("real_nvp/digits")

    def of_the_same_latents() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(1)
        loss, logged = objective(*batch)
        return loss, logged

    loss, logged = of_the_same_latents()
    torch.autograd.backward(loss)
    torch.optim.SGD(model.parameters(), 1e-3).step()
    assert of_the_same_latents()[1]["verdict"] > logged["verdict"]


def test_the_flows_step_leaves_the_critic_alone() -> None:
    _, objective, opposition, batch = make("real_nvp/digits")
    torch.autograd.backward(objective(*batch)[0])
    assert all(not parameter.grad.any() for parameter in opposition._parameters if parameter.grad is not None)


def test_the_critics_steps_leave_the_flow_alone_and_tell_samples_from_images() -> None:
    model, _, opposition, batch = make("real_nvp/digits", "critic.lr=0.01", "critic.updates=20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = opposition.train(batch)["critic/wasserstein"]
    last = opposition.train(batch)["critic/wasserstein"]
    assert float(last) > float(first) > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_likelihood_has_its_weight_and_without_one_no_gradient() -> None:
    model, alone, _, batch = make("real_nvp/digits", "optim.scale_l2=0")
    (critic,) = alone._critic
    likelihood = NegativeLogLikelihood(model, 0.0, compiled=False)

    def gradient(objective: Callable[..., Any]) -> Tensor:
        model.zero_grad()
        torch.manual_seed(1)
        objective(*batch)[0].backward()
        moved = [(p, p.grad) for p in model.parameters() if p.requires_grad]
        return torch.cat([(torch.zeros_like(p) if grad is None else grad).flatten() for p, grad in moved])

    verdict, nats = gradient(alone), gradient(likelihood)
    torch.testing.assert_close(gradient(Adversarial(likelihood, critic, 0.5, 0.0)), verdict + 0.5 * nats)
    # The penalty on scales stands beside both: λ does not weigh it.
    scales = gradient(lambda *_: (0.3 * model.regularization(),))
    assert scales.any()
    for weight, rest in ((0.0, verdict), (0.5, verdict + 0.5 * nats)):
        torch.testing.assert_close(gradient(Adversarial(likelihood, critic, weight, 0.3)), rest + scales)
    assert float(alone(*batch)[1]["bits_per_dim"]) == pytest.approx(float(likelihood(*batch)[1]["bits_per_dim"]))


def test_moving_statistics_are_those_of_images_and_not_of_samples() -> None:
    model, objective, opposition, batch = make("real_nvp/digits-1x1")
    model.train()
    layers = [module for module in model.modules() if isinstance(module, FlowBatchNorm)]
    before = [int(layer.step) for layer in layers]
    opposition.train(batch)
    assert [int(layer.step) for layer in layers] == before
    objective(*batch)
    assert [int(layer.step) for layer in layers] == [step + 1 for step in before]
    assert model.training


def test_a_flow_is_initialized_from_images_before_it_meets_its_critic() -> None:
    experiment = load_experiment("glow/digits", [*FLOWS["glow/digits"], *ADVERSARIAL])
    task = DensityTask(experiment, CPU)
    task.prepare()
    model = cast(FlowDensity, task.model)
    first = next(module for module in model.modules() if isinstance(module, ActNorm))
    seen: list[Tensor] = []
    handle = first.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs[0]))
    with torch.no_grad():
        model.terms(*task.batch(0))
    handle.remove()
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(seen[0].shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0].std((0, 2, 3)), torch.ones(seen[0].shape[1]), rtol=0, atol=1e-2)


def test_the_opposition_comes_back_with_its_moments() -> None:
    _, _, one, batch = make("real_nvp/digits")
    torch.manual_seed(2)
    one.train(batch)
    _, _, other, _ = make("real_nvp/digits")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for side in (one, other):
        torch.manual_seed(3)
        side.train(batch)
    for mine, theirs in zip(one._parameters, other._parameters, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "override", "told"),
    [
        ("pixelcnn/digits", "train.objective=adversarial", "is for flows, and pixelcnn is none"),
        ("etth/nlinear", "train.objective=adversarial", "is for flows, and nlinear is none"),
        ("real_nvp/digits-adversarial", "train.compile=true", "cannot be compiled"),
        ("real_nvp/digits", "train.likelihood=1", "set train.objective: adversarial"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(name: str, override: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_experiment(name, [override])


@pytest.mark.parametrize(
    ("preset", "shape", "parameters", "critics"),
    [("digits", (1, 8, 8), 662_328, 52_545), ("cifar10-small", (3, 32, 32), 345_465, 1_080_065)],
)
def test_the_presets_are_known_flows_with_as_many_parameters(
    preset: str, shape: tuple[int, int, int], parameters: int, critics: int
) -> None:
    adversarial, plain = (load_experiment(f"real_nvp/{name}") for name in (f"{preset}-adversarial", preset))
    assert adversarial.model == plain.model
    model = build_density(adversarial, {"shape": shape, "levels": 17})
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    _, opponent = density_objective(adversarial, model)
    assert opponent is not None
    assert sum(parameter.numel() for parameter in opponent.network.parameters()) == critics
