import pytest
import torch
from torch import Tensor, nn

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.coupling import ChannelCoupling, CheckerboardCoupling, checkerboard


class Constant(Conditioner):
    """A net that says the same everywhere and keeps what it was asked."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.value = nn.Parameter(torch.arange(1.0, channels_out + 1))
        self.asked = torch.zeros(())

    def net(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels_in
        self.asked = x.detach()
        return self.value.view(1, -1, 1, 1).expand(x.shape[0], -1, *x.shape[2:])


def image(channels=2, height=3, width=4, seed=0):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


def test_checkerboard_is_one_where_the_indices_sum_to_the_parity():
    even = checkerboard((3, 4), 0)
    assert even.shape == (1, 1, 3, 4)
    assert even[0, 0].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert torch.equal(checkerboard((3, 4), 1), 1 - even)


@pytest.mark.parametrize("parity", [0, 1])
def test_checkerboard_coupling_shifts_then_scales_the_pixels_it_does_not_pass(parity):
    coupling = CheckerboardCoupling(2, (3, 4), parity, Constant, batch_norm=False)
    nn.init.constant_(coupling.rescaling_scale, 0.5)
    nn.init.constant_(coupling.scale_shift, 0.25)
    x = image()
    z, log_det = coupling(x)
    shift = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    log_scale = 0.5 * torch.tanh(torch.tensor([3.0, 4.0])).view(1, 2, 1, 1) + 0.25
    moved = checkerboard((3, 4), 1 - parity)
    torch.testing.assert_close(z, torch.where(moved > 0, (x + shift) * log_scale.exp(), x))
    torch.testing.assert_close(log_det, (moved * log_scale).sum().expand(2))


def test_checkerboard_net_sees_the_passed_pixels_their_negative_and_the_mask():
    coupling = CheckerboardCoupling(2, (3, 4), 1, Constant, batch_norm=False)
    x = image()
    coupling(x)
    mask = checkerboard((3, 4), 1)
    h = x * mask
    assert torch.equal(coupling.net.asked, torch.cat((h.relu(), (-h).relu(), mask.expand(2, -1, -1, -1)), dim=1))


def test_batch_normalized_input_of_a_checkerboard_net_is_doubled():
    coupling = CheckerboardCoupling(2, (3, 4), 0, Constant).eval()
    nn.init.constant_(coupling.bn_in.beta, 0.75)
    coupling.bn_in.var.fill_(1 - 1e-4)
    x = image()
    coupling(x)
    h = 2 * (x * checkerboard((3, 4), 0) + 0.75)
    torch.testing.assert_close(coupling.net.asked[:, :4], torch.cat((h.relu(), (-h).relu()), dim=1))


def test_batch_normalized_input_of_a_channel_net_is_not_doubled():
    coupling = ChannelCoupling(4, Constant, pass_first=True).eval()
    nn.init.constant_(coupling.bn_in.beta, 0.75)
    coupling.bn_in.var.fill_(1 - 1e-4)
    x = image(channels=4)
    coupling(x)
    h = x[:, :2] + 0.75
    torch.testing.assert_close(coupling.net.asked, torch.cat((h.relu(), (-h).relu()), dim=1))


@pytest.mark.parametrize("pass_first", [True, False])
def test_channel_coupling_keeps_the_halves_in_their_places(pass_first):
    coupling = ChannelCoupling(4, Constant, pass_first=pass_first, batch_norm=False)
    nn.init.constant_(coupling.scale, 0.5)
    x = image(channels=4)
    z, log_det = coupling(x)
    passed, moved = (slice(0, 2), slice(2, 4)) if pass_first else (slice(2, 4), slice(0, 2))
    shift = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    log_scale = 0.5 * torch.tanh(torch.tensor([3.0, 4.0])).view(1, 2, 1, 1)
    assert torch.equal(z[:, passed], x[:, passed])
    assert torch.equal(coupling.net.asked, torch.cat((x[:, passed].relu(), (-x[:, passed]).relu()), dim=1))
    torch.testing.assert_close(z[:, moved], (x[:, moved] + shift) * log_scale.exp())
    torch.testing.assert_close(log_det, (12 * log_scale.sum()).expand(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CheckerboardCoupling(4, (3, 4), 0, Constant, affine=False, batch_norm=False),
        lambda: ChannelCoupling(4, Constant, pass_first=True, affine=False, batch_norm=False),
    ],
)
def test_additive_couplings_preserve_volume_and_have_no_scales(make):
    coupling = make()
    x = image(channels=4)
    z, log_det = coupling(x)
    assert not torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(2))
    assert [name for name, _ in coupling.named_parameters()] == ["net.value"]


def test_scales_start_as_the_authors_start_them():
    checkers = CheckerboardCoupling(2, (3, 4), 0, Constant, batch_norm=False)
    channels = ChannelCoupling(4, Constant, pass_first=True, batch_norm=False)
    starts = [checkers.rescaling_scale, checkers.scale_shift, channels.scale, channels.scale_shift]
    assert [float(start.detach()) for start in starts] == [0, 0, 1, 0]


def test_masks_stay_out_of_checkpoints():
    assert not any(
        "passed" in key or "mask" in key for key in CheckerboardCoupling(2, (3, 4), 0, Constant).state_dict()
    )
