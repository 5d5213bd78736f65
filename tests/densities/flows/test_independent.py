import itertools
import math

import numpy as np
import pytest
import torch

from flowbench.densities.flows.independent import Independent, IndependentConfig, best_smoothing

SHAPE, LEVELS = (1, 2, 2), 3


def training_images(n=40, seed=0, shape=SHAPE, levels=LEVELS):
    values = np.random.default_rng(seed).binomial(levels - 1, 0.3, (n, *shape))
    return torch.from_numpy(values.astype(np.uint8))


@pytest.mark.parametrize("smoothing", [0.5, 1.0, None])
def test_probabilities_of_all_images_sum_to_one(smoothing):
    model = Independent(SHAPE, LEVELS, smoothing)
    assert model.fit(training_images().split(7))
    every = torch.tensor(list(itertools.product(range(LEVELS), repeat=4)), dtype=torch.uint8).reshape(-1, *SHAPE)
    assert model.log_prob(every).double().exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_log_prob_is_the_smoothed_frequency_per_pixel():
    images = training_images()
    model = Independent(SHAPE, LEVELS, smoothing=0.5)
    model.fit([images])
    image = images[:1]
    expected = sum(
        math.log((int((images[:, 0, i, j] == image[0, 0, i, j]).sum()) + 0.5) / (40 + 0.5 * LEVELS))
        for i, j in itertools.product(range(2), range(2))
    )
    assert model.log_prob(image).item() == pytest.approx(expected, abs=1e-5)


def test_likelihood_is_exact_and_ignores_noise():
    model = Independent(SHAPE, LEVELS)
    model.fit([training_images()])
    images = training_images(5, seed=1)
    first, second = (model.terms(images, torch.full(images.shape, u)) for u in (0.1, 0.9))
    assert torch.equal(first.log_prob, second.log_prob)
    assert model.dequantization == "none"


def test_an_unfitted_model_is_uniform():
    images = training_images(5)
    bits = Independent(SHAPE, LEVELS).bits_per_dim(images)
    torch.testing.assert_close(bits, torch.full((5,), math.log2(LEVELS)))


def test_chosen_smoothing_has_the_best_leave_one_out_likelihood():
    images = training_images(12)

    def leave_one_out(a):
        total = 0.0
        for left_out in range(len(images)):
            model = Independent(SHAPE, LEVELS, a)
            model.fit([images[torch.arange(len(images)) != left_out]])
            total += model.log_prob(images[left_out : left_out + 1]).item()
        return total

    counts = np.stack([np.bincount(pixel, minlength=LEVELS) for pixel in images.flatten(1).T.numpy()])
    chosen = best_smoothing(counts)
    assert leave_one_out(chosen) >= max(leave_one_out(chosen * factor) for factor in (0.3, 0.8, 1.25, 3)) - 1e-4


def test_smoothing_of_next_to_nothing_is_laplaces():
    assert best_smoothing(np.array([[1, 0, 0]])) == 1.0
    assert best_smoothing(np.zeros((4, 3), dtype=np.int64)) == 1.0


def test_samples_follow_the_histograms_and_sharpen_with_temperature():
    model = Independent(SHAPE, LEVELS, smoothing=1.0)
    model.fit([training_images(200)])
    generator = torch.Generator().manual_seed(0)
    samples = model.sample(4000, generator=generator)
    assert samples.shape == (4000, *SHAPE)
    assert samples.dtype == torch.uint8
    frequencies = torch.stack([(samples.flatten(1) == level).double().mean(0) for level in range(LEVELS)], dim=1)
    torch.testing.assert_close(frequencies, model.log_probabilities.exp().double(), atol=0.04, rtol=0)
    mode = model.log_probabilities.argmax(1).reshape(1, *SHAPE)
    for cold in (0.0, 1e-200, 1e-12):
        assert (model.sample(3, temperature=cold) == mode).all()
    assert len(model.sample(4000, temperature=1e200, generator=generator).unique()) == LEVELS


def test_config_builds_it():
    model = IndependentConfig(name="independent", smoothing=0.25).build(SHAPE, LEVELS)
    assert isinstance(model, Independent)
    assert model.smoothing == 0.25
    assert not list(model.parameters())
