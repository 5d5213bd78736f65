import pytest
import torch

from flowbench.figures.encoded import decode, encode, images_to_show
from flowbench.figures.kinds import NotDrawableError
from flowbench.figures.reconstructions import draw_compression, keep_coarser


@pytest.mark.parametrize("model", ["glow", "real_nvp", "iafvae"])
def test_only_the_finest_scales_are_replaced(subject, model):
    one = subject(model)
    flow = one.model
    _, latents = encode(one, images_to_show(one, 3))
    mixed = keep_coarser(flow, latents, torch.zeros_like(latents), 1)
    kept, before = flow.by_scale(mixed), flow.by_scale(latents)
    assert torch.equal(kept[-1], before[-1])
    assert (kept[0] == 0).all()
    assert (before[0] != 0).any()
    assert mixed.shape == latents.shape


@pytest.mark.parametrize("model", ["glow", "real_nvp", "nice"])
def test_images_come_back_from_their_latents(subject, model):
    one = subject(model)
    images, latents = encode(one, images_to_show(one, 5))
    decoded = decode(one.model, latents)
    assert torch.equal(decoded.images, images)
    assert (decoded.broken, decoded.note) == (0, "")


def test_a_single_scale_has_nothing_to_drop(subject):
    with pytest.raises(NotDrawableError, match="single scale"):
        draw_compression(subject("nice"))
