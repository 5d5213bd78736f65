import hashlib

import numpy as np
import pytest
import scipy.stats
import torch

from flowbench.densities.noise import evaluation_noise, training_noise
from flowbench.densities.preprocessing import dequantize

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


def sfc64(state, count):
    """Chris Doty-Humphrey's small fast counting generator, written down from PractRand's sfc.cpp."""
    a, b, c = state
    counter, words, mask = 1, [], 2**64 - 1
    for _ in range(12 + count):
        word = (a + b + counter) & mask
        counter += 1
        a = b ^ (b >> 11)
        b = (c + (c << 3)) & mask
        c = (((c << 24) | (c >> 40)) + word) & mask
        words.append(word)
    return words[12:]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 1, 3, 1), (1, 3, 1, 7), (5, 2, 3), (0, 3, 4, 4)])
def test_training_noise_is_sfc64_in_quarters_with_channels_last(shape):
    digest = hashlib.blake2b(repr(("training", 3, 10)).encode(), digest_size=8).digest()
    count = int(np.prod(shape))
    state = np.random.SeedSequence(int.from_bytes(digest, "little")).generate_state(3, np.uint64)
    words = sfc64([int(word) for word in state], -(-count // 4))
    expected = [(word >> 16 * quarter & 0xFFFF) / 2**16 for word in words for quarter in range(4)][:count]
    noise = training_noise(3, 10, shape, "cpu")
    assert noise.shape == shape
    assert noise.dtype == torch.float32
    assert noise.movedim(1, -1).flatten().tolist() == expected


def test_training_noise_is_uniform_and_independent_between_places_and_steps():
    noise = torch.stack([training_noise(0, step, (64, 3, 8, 8), "cpu") for step in range(40)])
    parts = (noise.flatten() * 2**16).long()
    assert scipy.stats.chisquare(torch.bincount(parts >> 8, minlength=256)).pvalue > 1e-4
    assert scipy.stats.chisquare(torch.bincount(parts & 255, minlength=256)).pvalue > 1e-4
    places = np.corrcoef(noise[:, :, 0, 0].reshape(-1, 8).T)
    steps = np.corrcoef(noise.flatten(1))
    assert np.abs(places - np.eye(8)).max() < 0.1
    assert np.abs(steps - np.eye(40)).max() < 0.05
    rows = np.corrcoef(noise.transpose(0, 1).flatten(1))
    assert np.abs(rows - np.eye(64)).max() < 0.06


def test_the_brightest_pixel_stays_below_one_with_all_training_noise():
    drawn = training_noise(0, 0, (4, 3, 256, 256), "cpu")
    assert drawn.min() == 0
    assert drawn.max() == 1 - 2**-16
    noise = torch.tensor([[0, 2**-16, 0.5, 1 - 2**-16]])
    for levels in range(2, 257):
        pixels = torch.arange(levels, dtype=torch.uint8)[:, None]
        x = dequantize(pixels.expand(-1, 4), noise.expand(levels, -1), levels)
        assert x.max() < 1
        # The sum is exact, only the division rounds: no noise is lost, and none carries a pixel to the next grey level.
        assert torch.equal(x, ((pixels + noise.double()) / levels).float())
        assert len(x.unique()) == 4 * levels


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    training_noise(0, 0, (2, *SHAPE), "cpu")
    evaluation_noise(0, "test", [0], 0, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
