"""The learning rate over a training, and a step."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from flowbench.config.schema import Optim
from flowbench.training.optimization import _step_if, learning_rate, make_optimizer, take_step


def test_exponential_decay_begins_after_the_epochs_that_hold_the_rate() -> None:
    decaying = Optim(lr=0.8, schedule="exponential", decay=0.5)
    assert [learning_rate(decaying, 0.5, epoch) for epoch in range(4)] == pytest.approx([0.8, 0.4, 0.2, 0.1])
    held = Optim(lr=0.8, schedule="exponential", decay=0.5, hold=1)
    assert [learning_rate(held, 0.5, epoch) for epoch in range(4)] == pytest.approx([0.8, 0.8, 0.4, 0.2])


def test_warm_up_rises_and_cosine_falls_to_nothing() -> None:
    config = Optim(lr=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(config, done, 0) for done in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([5e-4, 0.5, 1.0, 0.5, 0.0])


def test_the_rate_may_fall_before_every_step() -> None:
    config = Optim(lr=0.8, schedule="exponential-steps", decay=0.5)
    assert [learning_rate(config, 0.5, 7, step) for step in range(3)] == pytest.approx([0.4, 0.2, 0.1])


def test_epsilon_inside_the_root_slows_small_gradients() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = make_optimizer([weight], Optim(name="adam-inside", lr=0.1, betas=(0.95, 0.9995), eps=1e-8))
    weight.grad.copy_(torch.tensor([1.0, 1e-4, 1e-6]))
    for step in (1, 2):
        optimizer.step()
        # g / √(g² + ε), the same in each step of a constant gradient.
        assert_close(weight.detach(), -0.1 * step * torch.tensor([1.0, 0.5**0.5, 0.01]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "adam-inside"])
def test_on_a_cpu_gradients_keep_their_place_and_begin_at_zero(name) -> None:
    torch.manual_seed(0)
    used, unused = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([used, unused], Optim(name=name, lr=0.1))
    places = [parameter.grad.data_ptr() for parameter in (used, unused)]
    for factor in (1.0, float("nan"), 1.0):
        before = used.detach().clone()
        loss = factor * used.square().sum()
        torch.autograd.backward(loss)
        _, taken = take_step(optimizer, [used, unused], loss, None)
        assert bool(taken) == (factor == 1.0) != torch.equal(used, before)
        assert [parameter.grad.data_ptr() for parameter in (used, unused)] == places
        assert not any(parameter.grad.any() for parameter in (used, unused))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("adamax", "Adamax")])
def test_a_step_is_the_one_of_torchs_own_optimizer_and_so_is_its_state(name, kind) -> None:
    torch.manual_seed(0)
    weights = torch.randn(7, 3)
    ours, theirs = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    config = Optim(name=name, lr=0.1, weight_decay=0.01)
    mine = make_optimizer([ours], config)
    own = getattr(torch.optim, kind)([theirs], lr=0.1, weight_decay=0.01, betas=config.betas, eps=config.eps)
    for step in range(4):
        for parameter, optimizer in ((ours, mine), (theirs, own)):
            loss = (parameter - step).pow(4).sum()
            torch.autograd.backward(loss)
            take_step(optimizer, [parameter], loss, None)
    assert_close(ours, theirs)
    assert not torch.equal(ours, weights)
    again = make_optimizer([nn.Parameter(weights.clone())], config)
    again.load_state_dict(own.state_dict())
    moments = again.state_dict()["state"][0]
    assert moments["step"] == 4
    assert all(torch.equal(moments[key], value) for key, value in own.state_dict()["state"][0].items())


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_tensors_that_are_collected_once_are_those_of_a_loaded_state_and_of_new_gradients(name) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(4, 3), torch.randn(3)]
    parameters, asked = ([nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    config = Optim(name=name, lr=0.1, weight_decay=0.01)
    optimizer = make_optimizer(parameters, config)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    own = kind(asked, lr=0.1, weight_decay=0.01, betas=config.betas, eps=config.eps, fused=True)
    for step in range(6):
        if step == 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if step == 4:  # somebody drops the gradients: the next ones lie elsewhere
            parameters[0].grad = parameters[1].grad = None
        for mine, theirs in zip(parameters, asked, strict=True):
            gradient = torch.randn_like(mine)
            theirs.grad = gradient.clone()
            mine.grad = gradient if mine.grad is None else mine.grad.copy_(gradient)
        optimizer.step()
        own.step()
    for mine, theirs in zip(parameters, asked, strict=True):
        assert torch.equal(mine, theirs)
        assert all(torch.equal(optimizer.state[mine][key], value) for key, value in own.state[theirs].items())


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "adam-inside"])
def test_on_a_gpu_no_step_waits_for_the_device(name) -> None:
    # A fake tensor has no values: whoever asks for one gets an error.
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in ((3, 2), ())]
        optimizer = make_optimizer(parameters, Optim(name=name))
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            loss = torch.empty((), device="cuda")
            results = take_step(optimizer, parameters, loss, clip_norm=100)
            assert all(result.is_cuda for result in results)
        state = [tensor for values in optimizer.state.values() for tensor in values.values()]
        assert len(state) == 6
        assert all(tensor.is_cuda for tensor in state)


@pytest.mark.parametrize("name", ["adamax", "adam-inside"])
def test_a_device_undoes_a_step_that_was_not_to_be_taken_to_the_last_bit(name) -> None:
    torch.manual_seed(0)
    weights = [
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.tensor([-0.0, 1e-40]),
        torch.ones(()),
    ]
    chosen, asked = ([nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    unused = nn.Parameter(torch.ones(2))
    config = Optim(name=name, lr=0.1, weight_decay=0.01)
    choosing, asking = make_optimizer([*chosen, unused], config), make_optimizer(asked, config)
    unused.grad = None
    for bad in (float("nan"), 0.0, 0.0, float("inf"), 0.0):
        gradients = [torch.randn_like(weight) + bad for weight in weights]
        for parameters in (chosen, asked):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        _step_if(torch.tensor(bad == 0), choosing, [*chosen, unused])
        if bad == 0:
            asking.step()
    for mine, theirs in zip(chosen, asked, strict=True):
        assert mine.stride() == theirs.stride()
        pairs = [(mine, theirs), *((choosing.state[mine][key], value) for key, value in asking.state[theirs].items())]
        assert len(pairs) == 4
        assert all(torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32)) for a, b in pairs)
    assert torch.equal(unused, torch.ones(2))
    assert unused not in choosing.state


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu() -> None:
    torch.manual_seed(0)
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    whole, resumed = (make_optimizer([one], Optim(name="adamax")) for one in (first, second))
    for parameter, optimizer in ((first, whole), (second, resumed)):
        parameter.grad = torch.arange(3.0)
        optimizer.step()
    state = copy.deepcopy(whole.state_dict())
    state["param_groups"][0]["capturable"] = True  # as it is on a GPU
    resumed.load_state_dict(state)
    for parameter, optimizer in ((first, whole), (second, resumed)):
        parameter.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(first, second)


COMPILER_FREE = """
import sys
sys.modules["torchmetrics"] = None  # of an extra; it imports the compiler
from flowbench.__main__ import main
sys.argv = ["flowbench", "train", "real_nvp/digits", "train.steps=2", "train.recompute=true", "model.residual_blocks=1"]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.slow
def test_a_training_does_not_import_torchs_compiler(tmp_path: Path) -> None:
    # It takes most of a second and 124 MB.
    environment = os.environ | {"FLOWBENCH_TRACKING": "off"}
    command = [sys.executable, "-c", COMPILER_FREE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").is_dir()
