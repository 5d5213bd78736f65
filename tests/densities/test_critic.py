"""The critic and its loss, against closed forms."""

import pytest
import torch
from torch import Tensor, nn

from flowbench.densities.critic import Critic, critic_loss, held_fixed


class Linear(nn.Module):
    """D(x) = w · x, whose slope is w everywhere."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.slope).flatten(1).sum(1)


def test_the_loss_of_a_linear_critic_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    slope, real, made = (torch.rand((n, 2, 3, 3), generator=generator, dtype=torch.float64) for n in (1, 5, 5))
    critic = Linear(slope)
    loss, distance = critic_loss(critic, real, made, penalty=10)
    norm = slope.square().sum().sqrt()
    expected = (slope * (real.mean(0) - made.mean(0))).sum()
    assert distance.item() == pytest.approx(float(expected))
    assert loss.item() == pytest.approx(float(10 * (norm - 1) ** 2 - expected))
    torch.autograd.backward(loss)
    gradient = 20 * (norm - 1) * slope / norm - (real.mean(0) - made.mean(0))
    assert critic.slope.grad is not None
    torch.testing.assert_close(critic.slope.grad, gradient, rtol=1e-9, atol=1e-9)


def test_a_critic_learns_to_prefer_the_real_ones() -> None:
    torch.manual_seed(0)
    critic = Critic((1, 8, 8), 4)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    real, made = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    made[:, :, :4] = 0
    for _ in range(10):
        optimizer.zero_grad()
        torch.autograd.backward(critic_loss(critic, real, made, 10)[0])
        optimizer.step()
    assert critic(real).mean() > critic(made).mean() + 1


@pytest.mark.parametrize(("shape", "convolutions"), [((1, 8, 8), 2), ((3, 32, 32), 4), ((3, 2, 2), 1), ((1, 5, 9), 3)])
def test_it_takes_any_shape_and_ends_in_one_number_an_image(shape: tuple[int, int, int], convolutions: int) -> None:
    critic = Critic(shape, 2)
    assert sum(isinstance(layer, nn.Conv2d) for layer in critic.layers) == convolutions
    assert critic(torch.rand(3, *shape)).shape == (3,)


def test_an_images_verdict_does_not_depend_on_the_others() -> None:
    critic, images = Critic((1, 8, 8), 2), torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(critic(images)[:2], critic(images[:2]))


def test_what_is_held_fixed_has_gradients_for_its_input_alone() -> None:
    critic, images = Critic((1, 8, 8), 2), torch.rand(2, 1, 8, 8, requires_grad=True)
    frozen = critic.layers[0].weight.requires_grad_(False)
    with held_fixed(critic):
        verdict = critic(images).sum()
    torch.autograd.backward(verdict)
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in critic.parameters() if parameter is not frozen)
