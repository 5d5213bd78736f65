"""The learning rate over a training, and a step."""

import pytest
import torch
from torch import nn

from flowbench.optimization import learning_rate, make_optimizer, take_step
from flowbench.schema import Optim


def test_exponential_decay_begins_after_the_epochs_that_hold_the_rate() -> None:
    decaying = Optim(lr=0.8, schedule="exponential", decay=0.5)
    assert [learning_rate(decaying, 0.5, epoch) for epoch in range(4)] == pytest.approx([0.8, 0.4, 0.2, 0.1])
    held = Optim(lr=0.8, schedule="exponential", decay=0.5, hold=1)
    assert [learning_rate(held, 0.5, epoch) for epoch in range(4)] == pytest.approx([0.8, 0.8, 0.4, 0.2])


def test_warm_up_rises_and_cosine_falls_to_nothing() -> None:
    config = Optim(lr=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(config, done, 0) for done in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([5e-4, 0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax"])
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
