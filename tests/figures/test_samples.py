import numpy as np
import pytest
import torch
from PIL import Image

from flowbench.figures.samples import draw_samples, image_grid, sample_figure
from flowbench.flows.independent import Independent


def test_grid_has_every_image_upright_in_its_place_and_colour():
    images = torch.randint(256, (5, 3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = image_grid(images, columns=3, levels=256)
    assert grid.shape == ((2 * 3 - 1) * 24, (3 * 4 - 1) * 24, 3)
    for place in range(5):
        row, column = divmod(place, 3)
        for i in range(2):
            for j in range(3):
                square = grid[
                    (row * 3 + i) * 24 : (row * 3 + i + 1) * 24, (column * 4 + j) * 24 : (column * 4 + j + 1) * 24
                ]
                assert (square == images[place, :, i, j].numpy()).all()
    assert (grid[3 * 24 :, 2 * 4 * 24 :] == 255).all()


@pytest.mark.parametrize("levels", [2, 17, 32, 256])
def test_grey_levels_fill_black_to_white(levels):
    images = torch.tensor([0, levels - 1], dtype=torch.uint8).reshape(2, 1, 1, 1)
    grid = image_grid(images, columns=2, levels=levels, gap=0)
    assert grid[0, 0].tolist() == [0, 0, 0]
    assert grid[0, -1].tolist() == [255, 255, 255]


def test_large_images_are_not_enlarged():
    assert image_grid(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 1, 256).shape == (64, 64, 3)


def fitted():
    model = Independent((1, 8, 8), 17)
    model.fit([torch.randint(17, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))])
    return model


def test_samples_are_a_function_of_the_seed_alone():
    torch.manual_seed(0)
    first = draw_samples(fitted(), 4, 1.0, seed=3)
    torch.manual_seed(1)
    assert torch.equal(first, draw_samples(fitted(), 4, 1.0, seed=3))
    assert not torch.equal(first, draw_samples(fitted(), 4, 1.0, seed=4))


def test_figure_is_a_readable_png_and_reproducible(tmp_path):
    paths = [
        sample_figure(fitted(), tmp_path / f"{name}.png", experiment="independent/digits", step=1234, n=4, columns=2)
        for name in ("a", "b")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    pixels = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert pixels.shape[1] > 1000
    assert 100 < pixels.mean() < 250
