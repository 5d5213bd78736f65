import numpy as np
import pytest
import torch

from flowbench.noise import evaluation_noise, training_noise

SHAPE = (3, 4, 5)
FIRST_NOISE = [0.819699347, 0.31353128, 0.941609621]


def test_evaluation_noise_does_not_depend_on_the_batch():
    together = evaluation_noise(7, "test", [0, 5, 9, 2], 3, SHAPE)
    for row, index in enumerate([0, 5, 9, 2]):
        assert torch.equal(evaluation_noise(7, "test", [index], 3, SHAPE)[0], together[row])


@pytest.mark.parametrize("other", [(8, "test", 0), (7, "train", 0), (7, "test", 1)])
def test_evaluation_noise_differs_by_seed_split_and_draw(other):
    seed, split, draw = other
    assert not torch.equal(evaluation_noise(7, "test", [4], 0, SHAPE), evaluation_noise(seed, split, [4], draw, SHAPE))


def test_evaluation_noise_is_uniform_and_independent_between_images_and_draws():
    noise = torch.stack([evaluation_noise(0, "test", range(400), draw, (50,)) for draw in range(2)]).double()
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noise.var().item() == pytest.approx(1 / 12, abs=0.002)
    correlations = np.corrcoef(noise.reshape(800, 50).T.numpy()[:, :40].T)
    assert np.abs(correlations - np.eye(40)).max() < 0.75
    assert noise.dtype == torch.float64
    assert evaluation_noise(0, "test", [1], 0, SHAPE).dtype == torch.float32


def test_evaluation_noise_is_the_same_today_and_tomorrow():
    # Stored results stand on these very numbers: a change raises the models' `numerics`.
    first = evaluation_noise(0, "test", [0], 0, (3,))[0]
    assert first.tolist() == pytest.approx(FIRST_NOISE, abs=1e-7)


def test_training_noise_is_a_function_of_seed_step_and_stream():
    noise = training_noise(3, 10, (2, *SHAPE), "cpu")
    assert torch.equal(noise, training_noise(3, 10, (2, *SHAPE), "cpu"))
    assert noise.min() >= 0
    assert noise.max() < 1
    for other in (
        training_noise(4, 10, noise.shape, "cpu"),
        training_noise(3, 11, noise.shape, "cpu"),
        training_noise(3, 10, noise.shape, "cpu", stream="population"),
    ):
        assert not torch.equal(noise, other)


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    training_noise(0, 0, SHAPE, "cpu")
    evaluation_noise(0, "test", [0], 0, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
