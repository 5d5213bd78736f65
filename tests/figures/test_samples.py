import pytest
import torch

from flowbench.densities.flows.independent import Independent
from flowbench.figures.kinds import NotDrawableError
from flowbench.figures.samples import resized, sample


def fitted():
    model = Independent((1, 8, 8), 17)
    model.fit([torch.randint(17, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))])
    return model


def test_samples_are_a_function_of_the_seed_alone():
    torch.manual_seed(0)
    first = sample(fitted(), 4, 1.0, seed=3)
    torch.manual_seed(1)
    assert torch.equal(first.images, sample(fitted(), 4, 1.0, seed=3).images)
    assert not torch.equal(first.images, sample(fitted(), 4, 1.0, seed=4).images)


def test_samples_of_a_flow_are_its_samples(subject):
    model = subject("glow").model
    expected = model.sample(3, 0.7, torch.Generator().manual_seed(5))
    assert torch.equal(sample(model, 3, 0.7, seed=5).images, expected)


def test_samples_that_are_not_numbers_are_white_and_counted(subject):
    one = subject("real_nvp")
    inverse = one.model.flow.inverse

    def overflowing(z):
        x, log_det = inverse(z)
        x[1, 0, 0, 0] = torch.nan
        return x, log_det

    one.model.flow.inverse = overflowing
    drawn = sample(one.model, 4, 1.0, seed=0)
    assert (drawn.images[1] == 16).all()
    assert (drawn.images[[0, 2, 3]] < 16).any()
    assert drawn.note == "\n(1 of 4 not numbers: white)"


@pytest.mark.parametrize("model", ["glow", "real_nvp"])
def test_a_convolutional_flow_is_the_same_function_at_any_size(subject, model):
    one = subject(model)
    larger = resized(one, 2)
    assert larger.image_shape == (1, 16, 16)
    assert sample(larger, 2, 1.0, seed=0).images.shape == (2, 1, 16, 16)
    images = torch.randint(17, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(larger.decode(larger.encode(images, noise))[0], images)
    # A corner of the larger image that no border reaches is what the model at its own size would make of it.
    same = resized(one, 1)
    torch.testing.assert_close(same.terms(images[..., :8, :8], noise[..., :8, :8]).log_prob,
                               one.model.terms(images[..., :8, :8], noise[..., :8, :8]).log_prob)  # fmt: skip


def test_parameters_of_single_pixels_rule_out_other_sizes(subject):
    with pytest.raises(NotDrawableError, match=r"nice is not convolutional: its flow\..*\.s belongs to 8x8 pixels"):
        resized(subject("nice"), 2)
