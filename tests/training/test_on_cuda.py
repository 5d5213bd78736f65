"""Every shipped model on a GPU, without one: nothing of it stays on the CPU, and the host waits only where it must."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from flowbench.config.experiments import load_experiment, shipped_folder
from flowbench.config.schema import Optim
from flowbench.data import Images
from flowbench.data.feed import Feed, batches_in_order
from flowbench.data.images import FixedPixels
from flowbench.densities.noise import training_noise
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.weights import WeightAverage
from flowbench.tasks.density import build_density, reported_setting
from flowbench.tasks.objectives import NegativeLogLikelihood
from flowbench.training.optimization import make_optimizer, take_step
from tests.fake_cuda import CUDA, backward, fake_cuda, on_cuda

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

BATCH = 4
SIZES = {
    "real_nvp": ["model.scales=2", "model.residual_blocks=1", "model.features=2"],
    "glow": ["model.levels=2", "model.steps=1", "model.hidden=4"],
    "nice": ["model.couplings=2", "model.residual_blocks=1", "model.features=2"],
    "independent": [],
    "pixelcnn": ["model.blocks=1", "model.filters=4", "model.components=2"],
    "iafvae": ["model.depth=2", "model.blocks=1", "model.latents=2", "model.features=4"],
    "tarflow": ["model.patch=2", "model.width=8", "model.head=4", "model.blocks=2", "model.layers=1"],
}
MODELS = [
    "real_nvp/cifar10-fast",
    "real_nvp/cifar10",
    "real_nvp/digits",
    "real_nvp/digits-1x1",
    "glow/cifar10",
    "glow/digits",
    "nice/digits",
    "nice/cifar10-small",
    "independent/digits",
    "pixelcnn/digits",
    "pixelcnn/cifar10-small",
    "pixelcnn/cifar10",
    "iafvae/digits",
    "iafvae/cifar10-small",
    "iafvae/cifar10",
    "tarflow/digits",
    "tarflow/cifar10-small",
]
"""The shipped models that differ in more than their size."""

# Where the host may wait for the device, and why.
FEEDING = {"data/feed.py:__init__ to the device"}  # once, when a set that fits moves there
FITTING = {"data/feed.py:batches_in_order to the device", "densities/flows/independent.py:fit to the host"} | {
    "densities/flows/independent.py:fit to the device"  # counted on the CPU, once
}
EVALUATING = FEEDING | {
    "data/feed.py:batches_in_order to the device",
    "evaluation/likelihood.py:_measure to the device",  # noise that does not depend on the device
    "evaluation/likelihood.py:_measure to the host",  # the figures of each image
    "evaluation/likelihood.py:<dictcomp> to the host",  # the same, in a function's name of its own until Python 3.12
}
SAMPLING = {
    "densities/flow_density.py:images_of .item()",  # are they numbers?
    "densities/model.py:check_samples .item()",
    "densities/flows/conv1x1.py:_condition svd",  # can it be inverted? Once for each change of the weights.
    "densities/flows/conv1x1.py:_condition .item()",
    "densities/flows/independent.py:sample multinomial",
}


def small(name: str) -> list[str]:
    return SIZES[name.partition("/")[0]]


@pytest.mark.slow
def test_every_shipped_model_is_one_of_these_but_for_its_size() -> None:
    shipped = {
        path.relative_to(shipped_folder()).with_suffix("").as_posix() for path in shipped_folder().rglob("*.yaml")
    }
    families = sorted(name for name in shipped if name.partition("/")[0] != "tables")
    densities = [name for name in families if load_experiment(name).kind == "density"]
    assert {name.partition("/")[0] for name in densities} == set(SIZES)
    kinds = {(str(e.model), e.train.precision) for e in (load_experiment(name, small(name)) for name in MODELS)}
    others = {name: load_experiment(name, small(name)) for name in densities}
    assert [name for name, e in others.items() if (str(e.model), e.train.precision) not in kinds] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_nothing_stays_on_the_cpu_and_the_host_waits_only_where_it_must(name: str) -> None:
    # One scale has all that is special about these two.
    experiment = load_experiment(
        name, small(name) + ["model.scales=1"] * (name in ("real_nvp/cifar10", "real_nvp/digits"))
    )
    shape = (1, 8, 8) if "digits" in name else (3, 8, 8)
    model = build_density(experiment, {"shape": shape, "levels": 16})
    pixels = np.zeros((2 * BATCH, *shape[1:], shape[0]), np.uint8)
    images = Images("random", "train", 16, "", "unverified", FixedPixels(pixels))
    with fake_cuda() as watched:
        on_cuda(model)

        def only(allowed: set[str], *tensors: Tensor) -> None:
            assert {tensor.device for tensor in tensors} <= {CUDA}
            assert (watched.leaks, set(watched.waits) - allowed) == ({}, set())
            watched.waits.clear()

        feed = Feed(images, batch_size=BATCH, seed=0, flip=True, device=CUDA)
        only(FEEDING)
        noise = training_noise(0, 0, (BATCH, *model.noise_shape), CUDA, distribution=model.noise)
        batch = feed.batch(0), noise
        only(set(), *batch)
        if model.fit(one for _, one in batches_in_order(images, BATCH, CUDA)):
            only(FITTING)
        else:
            model.initialize(*batch)
            average = WeightAverage(model, 0.9)
            model.train()
            loss, values = NegativeLogLikelihood(model, 1e-4, compiled=False)(*batch)
            backward(loss)
            average.update(1)
            gradients = [parameter.grad for parameter in model.parameters()]
            without = [name for name, one in model.named_parameters() if one.grad is None]
            # What the IAF-VAE's topmost layer would hand further up goes nowhere, in its authors' program neither.
            assert all(name.startswith("layers.1.up_conv3") for name in without)
            moved = [gradient for gradient in gradients if gradient is not None]
            only(set(), loss, *values.values(), *moved, *average.state_dict().values())
        setting = replace(reported_setting(experiment), training_batch_size=BATCH, weights="raw", other_mode=False)
        evaluate(model, images, setting, training=images)
        only(EVALUATING)
        if hasattr(model, "encode"):
            white = model.encode(*batch)
            only(set(), white)
            only(SAMPLING, *model.decode(white))
        only(SAMPLING, model.sample(2, generator=torch.Generator(CUDA)))
        only(set(), *model.state_dict().values())


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "adam-inside"])
def test_an_optimizer_step_waits_for_nothing(name: str) -> None:
    with fake_cuda() as watched:
        parameters = [nn.Parameter(torch.zeros(shape, device=CUDA)) for shape in ((), (3,), (2, 3, 3, 3))]
        optimizer = make_optimizer(parameters, Optim(name=name))  # type: ignore[arg-type]
        for rate in (1e-3, 1e-4):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            taken = take_step(optimizer, parameters, torch.zeros((), device=CUDA), 100)
            assert all(one.device == CUDA for one in taken)
    assert (watched.leaks, watched.waits) == ({}, {})


@pytest.mark.parametrize(
    ("how", "asks"),
    [
        (".item()", lambda x: float(x.sum())),
        (".item()", lambda x: x.sum().tolist()),
        ("to the host", lambda x: x.cpu()),
        ("to the host", lambda x: torch.zeros(3).copy_(x)),
        ("to the device", lambda x: torch.from_numpy(np.zeros(3)).to(CUDA)),
        ("to the device", lambda x: torch.from_numpy(np.zeros(3)).to(CUDA, non_blocking=True)),
        ("mask", lambda x: x[x > 0]),
        ("svd", lambda x: torch.linalg.svdvals(x.expand(3, 3))),
    ],
)
def test_what_the_host_waits_for_is_noticed(how: str, asks: Callable[[Tensor], object]) -> None:
    with fake_cuda() as watched, suppress(DynamicOutputShapeException):
        asks(torch.ones(3, device=CUDA))
    assert (watched.leaks, watched.waits) == ({}, {f"test {how}": 1})


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: torch.from_numpy(np.zeros(3)).pin_memory().to(CUDA, non_blocking=True),
        lambda x: x.masked_fill_(x > 0, 0),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x.double().sum(),
    ],
)
def test_what_the_host_does_not_wait_for_is_not(asks: Callable[[Tensor], object]) -> None:
    with fake_cuda() as watched:
        asks(torch.ones(3, device=CUDA))
    assert (watched.leaks, watched.waits) == ({}, {})


def test_a_tensor_on_the_cpu_is_noticed_even_where_torch_takes_it() -> None:
    with fake_cuda() as watched:
        torch.ones(3, device=CUDA) * torch.tensor(2.0)
    assert watched.leaks == {"test mul": 1}


def test_walking_back_node_by_node_gives_autograds_gradients() -> None:
    # Of broadcast shifts, halves that are put together again, work in place, and functions with gradients of their own.
    torch.manual_seed(0)
    experiment = load_experiment("nice/digits", [*SIZES["nice"], "model.dropout=0"])
    model = build_density(experiment, {"shape": (1, 4, 4), "levels": 16})
    images, noise = torch.randint(0, 16, (2, 1, 4, 4), dtype=torch.uint8), torch.rand(2, 1, 4, 4)
    found = []
    for way in (torch.autograd.backward, backward):
        model.zero_grad()
        way(NegativeLogLikelihood(model, 0.1, compiled=False)(images, noise)[0])
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)
