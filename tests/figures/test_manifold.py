import math

import pytest
import torch

from flowbench.figures import manifold as module
from flowbench.figures.encoded import decode, encode, images_to_show
from flowbench.figures.manifold import draw_interpolation, draw_manifold, manifold, on_the_line, on_the_sphere


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_manifold_is_equation_19():
    corners = normal(4, 2, 3)
    phi, phi_prime = normal(5, seed=1), normal(7, seed=2)
    points = manifold(corners, phi, phi_prime)
    assert points.shape == (5, 7, 2, 3)
    for i, a in enumerate(phi.tolist()):
        for j, b in enumerate(phi_prime.tolist()):
            expected = math.cos(a) * (math.cos(b) * corners[0] + math.sin(b) * corners[1])
            expected += math.sin(a) * (math.cos(b) * corners[2] + math.sin(b) * corners[3])
            torch.testing.assert_close(points[i, j], expected)


def test_manifold_passes_through_its_images():
    corners, ends = normal(4, 6), torch.tensor([0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(manifold(corners, ends, ends).flatten(0, 1), corners, atol=1e-12, rtol=0)


@pytest.mark.parametrize("way", [on_the_line, on_the_sphere])
def test_ways_begin_and_end_at_their_images(way):
    start, end = normal(2, 5), normal(2, 5, seed=1)
    points = way(start, end, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(points[[0, 2]], torch.stack((start, end)), atol=1e-7, rtol=0)
    torch.testing.assert_close(on_the_line(start, end, torch.tensor([0.5]))[0], (start + end) / 2)


def test_the_sphere_keeps_the_length_and_the_line_does_not():
    start, end = (point / point.norm() for point in (normal(9), normal(9, seed=1)))
    places = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(on_the_sphere(start, end, places).norm(dim=1), torch.ones(11, dtype=torch.float64))
    assert on_the_line(start, end, places)[5].norm() < 0.95


@pytest.mark.parametrize("sign", [1, -1])
def test_the_way_between_parallel_points_is_the_line(sign):
    start, places = normal(4), torch.tensor([0.25])
    assert torch.isfinite(on_the_sphere(start, sign * start, places)).all()
    torch.testing.assert_close(on_the_sphere(start, 2 * start, places), on_the_line(start, 2 * start, places))


@pytest.mark.parametrize(("draw", "n"), [(draw_manifold, 4), (draw_interpolation, 2 * module.PAIRS)])
def test_the_images_themselves_are_in_the_picture(subject, monkeypatch, draw, n):
    shown = []

    def watched(flow, latents):
        decoded = decode(flow, latents)
        shown.append(decoded.images)
        return decoded

    monkeypatch.setattr(module, "decode", watched)
    glow = subject("glow")
    draw(glow)
    images, _ = encode(glow, images_to_show(glow, n))
    assert all(any(torch.equal(image, other) for other in torch.cat(shown)) for image in images)
