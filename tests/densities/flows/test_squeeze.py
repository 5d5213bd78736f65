import pytest
import torch

from flowbench.densities.flows.squeeze import OrderedSqueeze, Squeeze

IMAGE = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)


def test_plain_squeeze_interleaves_the_positions_of_each_channel():
    z, log_det = Squeeze()(IMAGE)
    assert z.shape == (2, 12, 2, 3)
    for channel in range(3):
        for h in range(2):
            for w in range(2):
                assert torch.equal(z[:, 4 * channel + 2 * h + w], IMAGE[:, channel, h::2, w::2])
    assert torch.equal(log_det, torch.zeros(2))


def test_ordered_squeeze_puts_the_diagonal_pixels_first():
    z, log_det = OrderedSqueeze()(IMAGE)
    assert z.shape == (2, 12, 2, 3)
    for k, (h, w) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
        assert torch.equal(z[:, 3 * k : 3 * k + 3], IMAGE[:, :, h::2, w::2])
    assert torch.equal(log_det, torch.zeros(2))


@pytest.mark.parametrize("squeeze", [Squeeze(), OrderedSqueeze()])
def test_squeezes_are_undone_exactly(squeeze):
    assert torch.equal(squeeze.inverse(squeeze(IMAGE)[0])[0], IMAGE)
