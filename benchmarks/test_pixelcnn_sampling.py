"""PixelCNN++ draws 16 images of 32x32: keeping what it saw of earlier pixels, or by a whole pass for each pixel."""

import time

import torch

from flowbench.config.experiments import load_experiment
from flowbench.densities.modes import evaluating

IMAGES = 16
AT_LEAST = 20
CALLS = 3
"""Of the 1,024 that the plain way needs: each is the same pass, whatever pixel it is for."""


def test_cached_sampling_of_pixelcnn_gives_the_plain_ways_images_many_times_as_fast():
    torch.manual_seed(0)
    model = load_experiment("pixelcnn/cifar10-small").model.build((3, 32, 32), 256)
    model = model.to(memory_format=torch.channels_last)
    some = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    model.initialize(some, some)
    u_mix = torch.rand(IMAGES, model.mixture.components, 32, 32).clamp_(1e-5, 1 - 1e-5)
    u_logistic = torch.rand(IMAGES, 3, 32, 32).clamp_(1e-5, 1 - 1e-5)
    with torch.no_grad(), evaluating(model):
        start = time.process_time()
        drawn = model.ancestral(u_mix, u_logistic)
        cached = time.process_time() - start

        # The plain way's images are those that give themselves: at every pixel the whole network, which sees the pixels
        # before it, and the same noise lead to the pixel that is there. By induction over the pixels there is one.
        again = model.mixture.draw(model.net(drawn), u_mix, u_logistic)
        assert torch.equal(model.mixture.rounded(again), model.mixture.rounded(drawn))

        start = time.process_time()
        for _ in range(CALLS):
            model.mixture.draw(model.net(drawn), u_mix, u_logistic)
        plain = (time.process_time() - start) / CALLS * 32 * 32
    print(f"\n16 images of 32x32: {cached:.2f} s, the plain way {plain:.1f} s: {plain / cached:.1f} times as fast")
    assert plain / cached >= AT_LEAST
