"""Pictures of pixels as small files: WebP, without loss where that is cheap, else at the size that a page shows."""

import io
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

from flowbench.figures.theme import description_of

__all__ = ["as_webp", "is_wide", "webp_of"]

LOSSLESS_BYTES = 15_000
"""Pictures of small images, such as the digits, take less without loss than with any."""
QUALITY = 75
WIDE, NARROW = 800, 640
"""Pixels: what a wide picture and another one may take on a page."""
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>'
)


def webp_of(path: Path) -> bytes:
    """Return a PNG or WebP file as WebP, with what it says that it shows; OSError where it is no picture."""
    words = description_of(path)
    with Image.open(path) as image:
        return as_webp(image, words)


def as_webp(image: Image.Image, description: str = "") -> bytes:
    """Return a picture as WebP: without loss within `LOSSLESS_BYTES`, else scaled to what a page shows of it."""
    image = image.convert("RGBA") if image.has_transparency_data else image.convert("RGB")
    xmp = XMP.format(escape(description)).encode() if description else b""
    exact = _encoded(image, xmp, lossless=True, method=4)  # more effort takes seconds and saves nothing
    if len(exact) <= LOSSLESS_BYTES:
        return exact
    most = WIDE if is_wide(image.size) else NARROW
    if image.width > most:
        image = image.resize((most, round(image.height * most / image.width)), Image.Resampling.LANCZOS)
    return _encoded(image, xmp, quality=QUALITY, method=6)


def is_wide(size: tuple[int, int]) -> bool:
    """Say whether a picture of (width, height) needs the whole width of a page."""
    return size[1] > 0 and size[0] / size[1] > 2


def _encoded(image: Image.Image, xmp: bytes, **settings: int) -> bytes:
    content = io.BytesIO()
    image.save(content, "WEBP", xmp=xmp, **settings)
    return content.getvalue()
