import io
import json
import math
import struct
import zlib

import lmdb
import numpy as np
import pytest
from PIL import Image
from skimage.transform import pyramid_reduce
from sklearn.datasets import load_sample_images

from flowbench.config.registry import image_sets
from flowbench.data import open_split
from flowbench.data.preparing import list_sets, prepare, verify
from flowbench.data.preparing.pictures import CropAndResize, Exactly, PyramidReduce, ShortSide, decode, tf1_bilinear
from flowbench.data.readers import lmdb as lmdb_reader
from flowbench.data.readers.source import BrokenImageError
from flowbench.errors import InputError

from .make import encoded, photograph, random_images, write_folder, write_zip


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def slow_tf1_bilinear(image, size):
    """The same, pixel by pixel, in exact integers: 148 / 64 = 37 / 16."""
    side = len(image)
    result = np.empty((size, size, 3), np.uint8)
    for row in range(size):
        for column in range(size):
            top, down = divmod(row * side, size)
            left, right = divmod(column * side, size)
            below, beside = min(top + 1, side - 1), min(left + 1, side - 1)
            for channel in range(3):
                corners = [int(image[r, c, channel]) for r in (top, below) for c in (left, beside)]
                upper = corners[0] * (size - right) + corners[1] * right
                lower = corners[2] * (size - right) + corners[3] * right
                total = upper * (size - down) + lower * down
                result[row, column, channel] = (2 * total + size * size) // (2 * size * size)
    return result


def triangle_resize(image, size):
    """Antialiased bilinear from its definition: a triangle as wide as the scale, normalized; rounded once a pass."""

    def weights(length, target):
        scale = max(length / target, 1)
        centres = (np.arange(target) + 0.5) * length / target
        table = np.maximum(0, 1 - np.abs((np.arange(length)[None] + 0.5 - centres[:, None]) / scale))
        return table / table.sum(1, keepdims=True)

    height, width = size
    across = np.einsum("ow,hwc->hoc", weights(image.shape[1], width), image.astype(np.float64))
    return np.einsum("oh,hwc->owc", weights(image.shape[0], height), np.floor(across + 0.5))


def test_tf1_bilinear_is_the_pixelwise_definition():
    image = random_images(1, 148)[0]
    assert np.array_equal(tf1_bilinear(image, 64), slow_tf1_bilinear(image, 64))


def test_the_window_of_celeba_is_rows_40_to_187_and_columns_15_to_162():
    image = random_images(1, 218)[0][:, :178]
    crop = CropAndResize((218, 178), 40, 15, 148, 64, "tf1-bilinear")
    assert np.array_equal(crop(encoded(image)), slow_tf1_bilinear(image[40:188, 15:163], 64))
    with pytest.raises(BrokenImageError, match="178x217, not 178x218"):
        crop(encoded(image[1:]))


def test_antialiased_resizing_is_a_triangle_filter():
    image = random_images(1, 218)[0][:, :178]
    found = CropAndResize((218, 178), 40, 15, 148, 64, "antialias")(encoded(image))
    expected = triangle_resize(image[40:188, 15:163], (64, 64))
    # Pillow's weights have 22 bits: a value next to a half may round the other way, by one grey level.
    assert np.abs(found - expected).max() < 1.01
    assert (np.abs(found - expected) <= 0.5001).mean() > 0.999


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(200, 300, (96, 144)), (301, 200, (144, 96)), (96, 131, (96, 131))]
)
def test_the_short_side_becomes_96(height, width, expected):
    image = photograph(height, width)
    found = ShortSide(96)(encoded(image))
    assert found.shape == (*expected, 3)
    # A tie may round the other way in each of the two passes.
    assert np.abs(found - triangle_resize(image, expected)).max() < 1.51


def released_way(image):
    """The formatter released with Real NVP in its own few steps, uint8 (height, width, channels)."""
    reduced = pyramid_reduce(image, min(image.shape[0] / 96.0, image.shape[1] / 96.0), channel_axis=-1)
    reduced *= 255.0
    return reduced.astype("uint8")


def gaussian_then_linear(image):
    """The same from its definition, in plain numpy: float (height, width, channels), before it is truncated."""

    def along_rows(values, factor):
        sigma = 2 * factor / 6
        radius = int(4 * sigma + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        padded = np.pad(values, ((radius, radius), (0, 0), (0, 0)), mode="symmetric")
        smooth = sum(k * padded[i : i + len(values)] for i, k in enumerate(kernel / kernel.sum()))
        target = math.ceil(len(values) / factor)
        places = (np.arange(target) + 0.5) * len(values) / target - 0.5
        low = np.floor(places).astype(int)
        part = (places - low)[:, None, None]
        return smooth[low] * (1 - part) + smooth[np.minimum(low + 1, len(values) - 1)] * part

    factor = min(image.shape[:2]) / 96
    across = along_rows(image.astype(np.float64).transpose(1, 0, 2), factor).transpose(1, 0, 2)
    return along_rows(across, factor)


def sample(width, height, number=0):
    """A real photograph of this size."""
    picture = Image.fromarray(load_sample_images().images[number])
    return np.asarray(picture.crop((0, 0, min(width, 640), min(height, 427))).resize((width, height)))


@pytest.mark.parametrize("form", ["WEBP", "JPEG", "PNG"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(341, 256, (96, 128)), (385, 256, (96, 145)), (256, 301, (113, 96)), (97, 640, (634, 96)), (427, 427, (96, 96))],
)
def test_pyramid_is_scikit_images_value_by_value(form, grey, width, height, expected):
    picture = Image.fromarray(sample(width, height, number=int(width > 300)))
    content = encoded(np.asarray(picture.convert("L").convert("RGB") if grey else picture), form, quality=75)
    image = np.asarray(Image.open(io.BytesIO(content)))
    found = PyramidReduce(96)(content)
    assert found.shape == (*expected, 3)
    assert np.array_equal(found, released_way(image))
    exact = gaussian_then_linear(image)
    # Truncated: where the value is an integer (a clear sky), its last bit decides.
    assert (np.floor(exact - 1e-9) <= found).all()
    assert (found <= np.floor(exact + 1e-9)).all()


def test_what_lsun_was_shrunk_by_before_is_another_image():
    content = encoded(sample(341, 256), "WEBP", quality=75)
    released, before = PyramidReduce(96)(content), ShortSide(96)(content).astype(float)
    assert (before != released).mean() > 0.5
    assert 0.3 < (before - released).mean() < 0.7


@pytest.mark.parametrize("shrink", [PyramidReduce(96), ShortSide(96, grey=True)])
def test_a_grey_picture_of_one_channel_is_the_same_in_three(shrink):
    grey = np.asarray(Image.fromarray(sample(150, 120)).convert("L"))
    assert np.array_equal(shrink(encoded(grey)), shrink(encoded(np.repeat(grey[:, :, None], 3, axis=2))))


@pytest.mark.parametrize("size", [(96, 130), (130, 96), (40, 300)])
def test_pyramid_shrinks_only_and_says_what_takes_small_images(size):
    with pytest.raises(BrokenImageError, match="--resample bilinear"):
        PyramidReduce(96)(encoded(photograph(*size)))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_pyramid_takes_colour_and_grey_alone(mode):
    with pytest.raises(BrokenImageError, match=f"mode {mode}, not RGB"):
        PyramidReduce(8)(saved(COLOURS.convert(mode), "JPEG" if mode == "CMYK" else "PNG"))


def test_lsun_from_a_real_lmdb_is_cropped_afresh_in_training_only(data_folder, source):
    photographs = {
        split: [photograph(100 + 7 * n, 140, seed) for n in range(5)] for seed, split in enumerate(("train", "val"))
    }
    for split, images in photographs.items():
        with (
            lmdb.open(str(source / f"church_outdoor_{split}_lmdb"), map_size=2**24) as database,
            database.begin(write=True) as t,
        ):
            for number, image in enumerate(images):
                form = "WEBP" if number % 2 else "JPEG"
                t.put(f"{number:040x}".encode(), encoded(image, form, quality=90))
    states = prepare("lsun-church_outdoor", source)
    assert [(state.split, state.count) for state in states] == [("train", 5), ("validation", 5)]
    images = open_split("lsun-church_outdoor", "validation")
    assert images.shape == (3, 64, 64)
    for number in range(5):
        content = encoded(photographs["val"][number], "WEBP" if number % 2 else "JPEG", quality=90)
        whole = released_way(np.asarray(Image.open(io.BytesIO(content))))
        assert np.array_equal(images.pixels.image(number), whole)
        cut = images.take(np.array([number]))[0]
        windows = np.lib.stride_tricks.sliding_window_view(whole, (64, 64), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        assert (windows == cut).all(axis=(2, 3, 4)).any()
    assert np.array_equal(images.array, open_split("lsun-church_outdoor", "validation").array)
    corner = np.array([[0.0, 0.0], [0.999999, 0.999999]])
    ends = images.take(np.array([2, 2]), corner)
    assert np.array_equal(ends[0], images.pixels.image(2)[:64, :64])
    assert np.array_equal(ends[1], images.pixels.image(2)[-64:, -64:])


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 50])
def test_an_lmdb_is_listed_in_parts_without_losing_a_key(source, monkeypatch, count):
    monkeypatch.setattr(lmdb_reader, "LISTED_AT_ONCE", 7)
    monkeypatch.setattr(lmdb_reader, "STRIDE", 3)
    # The longest keys that there can be, and one of a single zero.
    keys = [b"\0", *(bytes([number + 1]) * 511 for number in range(count - 1))][:count]
    with lmdb.open(str(source), map_size=2**24) as database, database.begin(write=True) as transaction:
        for number, key in enumerate(keys):
            transaction.put(key, b"%d" % number)
    reader = lmdb_reader.lmdb_images(source)
    assert len(reader) == count
    assert reader.starts == tuple(keys[::3])
    for first in {0, count // 2} if count else ():
        assert [payload for _, payload in reader.piece(first, count)] == [b"%d" % n for n in range(first, count)]


def test_lsun_from_folders(data_folder, source):
    write_folder(source / "tower_train", [photograph(120, 130, n) for n in range(4)], "webp")
    write_folder(source / "tower_val", [photograph(130, 120, n) for n in range(2)], "jpg")
    assert [state.count for state in prepare("lsun-tower", source)] == [4, 2]
    assert open_split("lsun-tower", "train").array.shape == (4, 64, 64, 3)


@pytest.mark.parametrize(("resample", "shrink"), [("pyramid", PyramidReduce(96)), ("bilinear", ShortSide(96))])
def test_how_lsun_was_shrunk_is_kept_and_told(data_folder, source, resample, shrink):
    image = photograph(130, 120)
    write_folder(source / "tower_train", [image])
    write_folder(source / "tower_val", [image])
    states = prepare("lsun-tower", source, resample=None if resample == "pyramid" else resample)
    images = open_split("lsun-tower", "validation")
    assert np.array_equal(images.pixels.image(0), shrink(encoded(image)))
    assert images.choices == {"resample": resample}
    assert {state.resample for state in (*states, *verify("lsun-tower"))} == {resample}
    assert {row.name: row.resample for row in list_sets()}["lsun-tower"] == resample


@pytest.mark.parametrize("name", [None, "antialiased bilinear"])
def test_an_lsun_manifest_that_names_no_way_is_of_the_way_before_there_was_a_choice(data_folder, source, name):
    for part in ("train", "val"):
        write_folder(source / f"tower_{part}", [photograph(130, 120)])
    prepare("lsun-tower", source, resample="bilinear")
    path = data_folder / "lsun-tower" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["preprocessing"]["resample"]
    if name is not None:
        manifest["preprocessing"]["resample"] = name
    path.write_text(json.dumps(manifest))
    assert open_split("lsun-tower", "train").choices == {"resample": "bilinear"}
    assert image_sets["lsun-tower"].numerics == 2


def test_a_damaged_lmdb_is_one_line(data_folder, source):
    for split in ("train", "val"):
        folder = source / f"tower_{split}_lmdb"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="tower_train_lmdb"):
        prepare("lsun-tower", source)


@pytest.mark.parametrize("form", ["folder", "nested", "zip", "drive"])
@pytest.mark.parametrize("resample", [None, "antialias"])
def test_celeba_with_its_partition_file(data_folder, source, form, resample):
    faces = {f"{n:06d}.jpg": encoded(photograph(218, 178, n), "JPEG") for n in range(1, 7)}
    splits = [0, 0, 0, 1, 2, 2]
    lines = [f"{name} {split}\n" for name, split in zip(faces, splits, strict=True)]
    # The publisher's drive has the zip under Img/ and the partition under Eval/.
    for folder in ("Img", "Eval") if form == "drive" else ():
        (source / folder).mkdir()
    partition = source / "Eval" if form == "drive" else source
    (partition / "list_eval_partition.txt").write_text("".join(lines))
    if form in ("zip", "drive"):
        archive = (source / "Img" if form == "drive" else source) / "img_align_celeba.zip"
        write_zip(archive, {f"img_align_celeba/{name}": face for name, face in faces.items()})
    else:
        folder = source / "img_align_celeba" / ("img_align_celeba" if form == "nested" else "")
        folder.mkdir(parents=True)
        for name, face in faces.items():
            (folder / name).write_bytes(face)
    states = prepare("celeba", source, resample=resample)
    assert [(state.split, state.count) for state in states] == [("train", 3), ("validation", 1), ("test", 2)]
    first = np.asarray(Image.open(io.BytesIO(faces["000004.jpg"])))[40:188, 15:163]
    held = open_split("celeba", "validation").array[0]
    if resample is None:
        assert np.array_equal(held, slow_tf1_bilinear(first, 64))
    else:
        assert np.abs(held - triangle_resize(first, (64, 64))).max() < 1.01
    manifest = (data_folder / "celeba" / "manifest.json").read_text()
    assert (resample or "tf1-bilinear") in manifest
    assert open_split("celeba", "train").choices == {"resample": resample or "tf1-bilinear"}


def test_celeba_says_which_image_or_line_is_wrong(data_folder, source):
    (source / "img_align_celeba").mkdir()
    (source / "img_align_celeba" / "000001.jpg").write_bytes(encoded(photograph(218, 178), "JPEG"))
    (source / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n")
    with pytest.raises(InputError, match="000002"):
        prepare("celeba", source)
    (source / "list_eval_partition.txt").write_text("000001.jpg 0\n<html>quota exceeded</html>\n")
    with pytest.raises(InputError, match="line 2"):
        prepare("celeba", source)
    with pytest.raises(InputError, match="tf1-bilinear, antialias"):
        prepare("celeba", source, resample="lanczos")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("header", ["", "image_id,partition"])
def test_kaggles_partition_file_gives_the_publishers_splits(data_folder, source, header, begin, end):
    (source / "img_align_celeba").mkdir()
    names = [f"{n:06d}.jpg" for n in range(1, 7)]
    for number, name in enumerate(names):
        (source / "img_align_celeba" / name).write_bytes(encoded(photograph(218, 178, number), "JPEG"))
    lines = [(name, split) for name, split in zip(names, (2, 0, 0, 1, 1, 0), strict=True)]
    (source / "list_eval_partition.txt").write_text("".join(f"{name} {split}\n" for name, split in lines))
    expected = prepare("celeba", source)
    (source / "list_eval_partition.txt").unlink()
    text = begin + end.join([*([header] if header else []), *(f"{name},{split}" for name, split in lines), ""])
    (source / "list_eval_partition.csv").write_bytes(text.encode())
    assert prepare("celeba", source) == expected


def test_an_image_in_two_splits_is_refused(data_folder, source):
    (source / "img_align_celeba").mkdir()
    (source / "img_align_celeba" / "000001.jpg").write_bytes(encoded(photograph(218, 178), "JPEG"))
    (source / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000001.jpg,2\n")
    with pytest.raises(InputError, match=r"line 3: 000001\.jpg stands twice"):
        prepare("celeba", source)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(BrokenImageError, match="bomb"):
        decode(bomb)


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a" + bytes(50)])
def test_only_plain_pixel_formats_are_decoded(content):
    with pytest.raises(BrokenImageError, match="known format"):
        decode(content)


def deep_png():
    """16 bits per channel: Pillow would open it as RGB and drop the lower half."""
    rows = b"".join(b"\0" + bytes(range(96)) for _ in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def saved(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


COLOURS = Image.fromarray(random_images(1, 16)[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encoded(np.asarray(COLOURS.convert("L"))), "mode L,"),
        (encoded(np.asarray(COLOURS.convert("RGBA"))), "mode RGBA"),
        (encoded(np.arange(256, dtype=np.uint16).reshape(16, 16)), "mode I;16"),
        (deep_png(), "16 bits"),
        (b"P6\n16 16\n1023\n" + bytes(range(256)) * 6, "16 bits"),
    ]
    + [(saved(COLOURS.convert(mode), form), f"mode {mode}") for mode, form in (("P", "PNG"), ("CMYK", "JPEG"))],
)
@pytest.mark.parametrize("transform", [Exactly((16, 16, 3)), ShortSide(8)])
def test_images_of_another_mode_are_refused(transform, content, said):
    with pytest.raises(BrokenImageError, match=said):
        transform(content)


def test_a_bitmap_whose_rows_have_516_bytes_is_not_taken_for_a_deep_one():
    image = random_images(1, 172)[0]
    assert np.array_equal(Exactly((172, 172, 3))(encoded(image, "BMP")), image)


def test_every_truncation_of_an_image_is_a_broken_image():
    whole = encoded(random_images(1, 16)[0])
    for length in range(0, len(whole) - 20, 37):
        with pytest.raises(BrokenImageError):
            Exactly((16, 16, 3))(whole[:length])
