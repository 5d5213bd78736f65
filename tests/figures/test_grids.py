import pytest
import torch

from flowbench.figures.grids import image_grid, show_rows
from flowbench.figures.kinds import NotDrawableError
from flowbench.figures.theme import new_figure, themed


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


@pytest.mark.parametrize(("side", "rows"), [(8, 2), (8, 7), (64, 3)])
def test_labels_stand_at_the_middle_of_their_rows(side, rows):
    images = [torch.full((2, 1, side, side), row, dtype=torch.uint8) for row in range(rows)]
    with themed():
        axes = new_figure(2, 2).subplots()
        show_rows(axes, images, [str(row) for row in range(rows)], levels=256)
    grid = image_grid(torch.cat(images), 2, 256)
    for row, place in enumerate(axes.get_yticks()):
        assert grid[round(place), 0].tolist() == [row] * 3
        first = int((grid[:, 0, 0] == row).argmax())
        height = int((grid[:, 0, 0] == row).sum())
        assert abs(place - (first + height / 2)) < height / 4


def test_images_of_other_than_one_or_three_channels_cannot_be_drawn():
    with pytest.raises(NotDrawableError, match="pictures are of 1 or 3 channels: these images have 4"):
        image_grid(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), 2, 256)
