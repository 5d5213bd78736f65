"""What becomes of one image: decoded safely, cropped and resized exactly as a set's preprocessing says."""

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flowbench.data.readers.source import BrokenImageError, Payload

__all__ = [
    "FORMATS",
    "CropAndResize",
    "Exactly",
    "PyramidReduce",
    "ShortSide",
    "decode",
    "tf1_bilinear",
]

# Only formats that are pixels: Pillow's others include some that run programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
MAX_PIXELS = 2**26


def decode(payload: Payload) -> Image.Image:
    """Decode an image file's bytes, upright as its EXIF orientation says.

    Raises:
        BrokenImageError: it is damaged, of another format or unreasonably large.
    """
    if not isinstance(payload, bytes):
        return Image.fromarray(payload)
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is checked before any pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(payload), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise BrokenImageError(f"{size} pixels, more than {MAX_PIXELS:,}: refused as a decompression bomb")
            # Pillow keeps the upper 8 of 16 bits in silence: other images than the file's.
            if image.mode == "RGB" and any(_deep(tile.codec_name, tile.args) for tile in image.tile):
                raise BrokenImageError("16 bits per channel, not 8")
            image.load()
    except UnidentifiedImageError as error:
        raise BrokenImageError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError("refused as a decompression bomb") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BrokenImageError(f"damaged or truncated ({reason})") from error
    _turn_upright(image)
    return image


def _turn_upright(image: Image.Image) -> None:
    # Damaged EXIF, which fails in any of its parser's ways, is no damaged image: every viewer shows it as it lies.
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        ImageOps.exif_transpose(image, in_place=True)


def _deep(codec: str, arguments: object) -> bool:
    """Say whether Pillow is about to read more than 8 bits a channel: PNG's raw mode, PPM's largest value."""
    if codec == "ppm" and isinstance(arguments, tuple):
        return any(isinstance(value, int) and value > 255 for value in arguments)
    return isinstance(arguments, str) and arguments.endswith("16B")


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    _check_mode(image, channels)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _check_mode(image: Image.Image, channels: int) -> None:
    mode = {1: "L", 3: "RGB"}[channels]
    if image.mode != mode:
        raise BrokenImageError(f"mode {image.mode}, not {mode}")


def _in_colour(image: Image.Image) -> Image.Image:
    """Return a grey picture as three equal channels, as LSUN's own WebP files hold it, and others as they are."""
    return image.convert("RGB") if image.mode == "L" else image


@dataclass(frozen=True)
class Exactly:
    """Take images that have this (height, width, channels) already, as they are."""

    shape: tuple[int, int, int]

    def __call__(self, payload: Payload) -> NDArray[np.uint8]:
        """Return the image unchanged; BrokenImageError if its size or mode is another."""
        height, width, channels = self.shape
        pixels = _pixels(decode(payload), channels) if isinstance(payload, bytes) else payload
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            found = f"{pixels.shape[1]}x{pixels.shape[0]}" if pixels.ndim == 3 else f"shape {pixels.shape}"
            raise BrokenImageError(f"{found} {pixels.dtype}, not {width}x{height} with {channels} channels, uint8")
        return pixels


@dataclass(frozen=True)
class ShortSide:
    """Resize the shorter side to `size` pixels, keeping the aspect ratio; antialiased bilinear (a triangle filter).

    Args:
        size: pixels of the shorter side.
        channels: of every image.
        grey: take grey pictures, too, as three equal channels.
    """

    size: int
    channels: int = 3
    grey: bool = False

    def __call__(self, payload: Payload) -> NDArray[np.uint8]:
        """Return uint8 (height, width, channels) with min(height, width) = size."""
        image = decode(payload)
        if self.grey:
            image = _in_colour(image)
        _check_mode(image, self.channels)
        short = min(image.size)
        # Rounded half up: round() would go to even, another size for 1 in 2 halves.
        width, height = ((2 * side * self.size + short) // (2 * short) for side in image.size)
        if width * height > MAX_PIXELS:
            raise BrokenImageError(f"{image.width}x{image.height}: too long and thin to resize")
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return _pixels(image, self.channels)


@dataclass(frozen=True)
class PyramidReduce:
    """Shrink the shorter side to `size` pixels as the LSUN formatter released with Real NVP does.

    scikit-image's `pyramid_reduce` on floats in [0, 1]: each channel through a Gaussian with σ = 2 f / 6 for the factor
    f = shorter side / size, then interpolated linearly at (i + 1/2) · (old side / new side) − 1/2, the new sides being
    the old ones over f, rounded up. Times 255, and truncated. Source: `lsun_formatting.py`, tensorflow/models.
    """

    size: int

    def __call__(self, payload: Payload) -> NDArray[np.uint8]:
        """Return uint8 (height, width, 3) with min(height, width) = size; BrokenImageError if that does not shrink."""
        # Imported here: it takes half a second, and only LSUN needs it.
        from skimage.transform import pyramid_reduce

        pixels = _pixels(_in_colour(decode(payload)), 3)
        height, width, _ = pixels.shape
        if min(height, width) <= self.size:
            raise BrokenImageError(
                f"{width}x{height}: pyramid only shrinks, to {self.size} pixels on the shorter side; "
                "--resample bilinear takes images of any size"
            )
        # In one call: channel by channel is a third faster, but may round another way where a channel is constant.
        factor = min(height / self.size, width / self.size)
        reduced = pyramid_reduce(pixels, factor, channel_axis=-1)  # type: ignore[no-untyped-call]
        return cast(NDArray[np.uint8], (reduced * 255).astype(np.uint8))


@dataclass(frozen=True)
class CropAndResize:
    """Cut a fixed window out of images of one size and resize it to a square (CelebA).

    Args:
        source: (height, width) that every image must have.
        top: first row of the window.
        left: first column of the window.
        side: height and width of the window.
        size: height and width of the result.
        resample: `tf1-bilinear` or `antialias`.
    """

    source: tuple[int, int]
    top: int
    left: int
    side: int
    size: int
    resample: str

    def __call__(self, payload: Payload) -> NDArray[np.uint8]:
        """Return uint8 (size, size, 3)."""
        image = decode(payload)
        if (image.height, image.width) != self.source:
            height, width = self.source
            raise BrokenImageError(f"{image.width}x{image.height}, not {width}x{height}")
        window = _pixels(image, 3)[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.resample == "tf1-bilinear":
            return tf1_bilinear(window, self.size)
        resized = Image.fromarray(window).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(resized)


def tf1_bilinear(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize as TensorFlow 1's resize_bilinear did, then round by floor(v + 1/2).

    Output pixel i looks at input i · side / size (top-left aligned: no half-pixel centres, no antialiasing) and
    interpolates between its floor and the pixel after it, the last one repeated. The authors of Real NVP left these
    values unrounded, to which uniform noise on [0, 1) is no proper dequantization.

    Args:
        image: uint8 (side, side, channels).
        size: height and width of the result.

    Returns:
        uint8 (size, size, channels).
    """
    side = image.shape[0]
    place = np.arange(size) * (side / size)
    low = np.minimum(place.astype(np.int64), side - 1)
    high = np.minimum(low + 1, side - 1)
    part = place - low
    pixels = image.astype(np.float64)
    rows_low, rows_high = pixels[low], pixels[high]
    across = part[None, :, None]
    top = rows_low[:, low] + (rows_low[:, high] - rows_low[:, low]) * across
    bottom = rows_high[:, low] + (rows_high[:, high] - rows_high[:, low]) * across
    value = top + (bottom - top) * part[:, None, None]
    return cast(NDArray[np.uint8], np.floor(value + 0.5).astype(np.uint8))
