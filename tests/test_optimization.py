"""The learning rate over a training."""

import pytest

from flowbench.optimization import learning_rate
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
