import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flowbench.figures.theme import description_of
from flowbench.report.raster import as_webp, webp_of


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_small_images_lose_nothing() -> None:
    grid = noise(8, 8).resize((480, 480), Image.Resampling.NEAREST)
    with Image.open(io.BytesIO(as_webp(grid))) as again:
        assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(grid))


@pytest.mark.parametrize(("size", "shown"), [((1440, 600), (800, 333)), ((960, 1050), (640, 700)), ((300, 300),) * 2])
def test_photographs_are_as_large_as_a_page_shows_them(size: tuple[int, int], shown: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(as_webp(noise(*size)))) as again:
        assert again.size == shown


def test_a_picture_still_says_what_it_shows(tmp_path: Path) -> None:
    words = "μ < σ & “z”, 4×4"
    metadata = PngImagePlugin.PngInfo()
    metadata.add_itxt("Description", words)
    noise(9, 9).save(tmp_path / "a.png", pnginfo=metadata)
    (tmp_path / "a.webp").write_bytes(webp_of(tmp_path / "a.png"))
    assert description_of(tmp_path / "a.webp") == words
    (tmp_path / "b.webp").write_bytes(as_webp(noise(9, 9)))
    assert description_of(tmp_path / "b.webp") == ""


def test_what_is_transparent_stays_so(tmp_path: Path) -> None:
    image = noise(9, 9).convert("RGBA")
    image.putalpha(0)
    with Image.open(io.BytesIO(as_webp(image))) as again:
        assert again.getchannel("A").getextrema() == (0, 0)
