"""Folders of one's own images: parts by their names, what is left out, sets that live side by side."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowbench.config.experiments import load_experiment
from flowbench.config.registry import image_sets
from flowbench.config.schema import DensityData
from flowbench.data import open_images, open_split
from flowbench.data.manifest import image_digests
from flowbench.data.preparing import list_sets, prepare, verify
from flowbench.data.preparing.pictures import decode
from flowbench.errors import InputError
from flowbench.training.loop import train

from .make import Pixels, encoded, photograph, random_images, same_set, write_folder

TRAIN, OTHER = random_images(20, 8), random_images(8, 8, seed=1)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def write(folder: Path, images: Sequence[Pixels]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"p{number:03d}.png")


def test_a_folder_of_equal_images_is_split_once_and_for_all(data_folder, source):
    write_folder(source, random_images(20, 16))
    prepare("folder", source)
    train, test = open_split("folder", "train"), open_split("folder", "test")
    assert (len(train), len(test), train.shape) == (16, 4, (3, 16, 16))
    cropped = open_images(DensityData(name="folder", crop=8), "test")
    assert cropped.shape == (3, 8, 8)
    assert cropped.array.shape == (4, 8, 8, 3)


def test_a_folder_of_grey_images_has_one_channel(data_folder, source):
    write_folder(source / "train", random_images(6, 16, channels=1))
    write_folder(source / "test", random_images(3, 16, channels=1))
    prepare("folder", source)
    assert open_split("folder", "test").shape == (1, 16, 16)


def test_a_folder_of_photographs_is_resized_and_cropped(data_folder, source):
    write_folder(source / "train", [photograph(60, 80, seed) for seed in range(5)])
    write_folder(source / "test", [photograph(70, 50, seed) for seed in range(3)])
    shutil.copy(source / "test/class0/0000.png", source / "train/class0/0009.png")
    with pytest.raises(InputError, match="not 80x60"):
        prepare("folder", source)
    prepare("folder", source, size=24)
    images = open_images(DensityData(name="folder", size=24, crop=16), "train")
    assert images.shape == (3, 16, 16)
    assert len(images) == 6
    with pytest.raises(InputError, match="--size 32"):
        open_images(DensityData(name="folder", size=32), "train")
    with pytest.raises(InputError, match=r"data\.crop"):
        open_images(DensityData(name="folder", crop=25), "train")


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("training", "testing", "test"),
        ("train", "Test", "test"),
        ("train", "eval", "test"),
        ("Train", "test", "test"),
        ("TRAINING", "HoldOut", "test"),
        ("train", "val", "validation"),
        ("training", "Valid", "validation"),
        ("train", "dev", "validation"),
        ("data/train", "data/test", "test"),
    ],
)
def test_no_image_of_another_part_is_trained_on(data_folder, source, first, second, split):
    write(source / first, TRAIN)
    write(source / second, OTHER)
    prepare("folder", source)
    trained, other = open_split("folder", "train"), open_split("folder", split)
    assert (len(trained), len(other)) == (20, 8)
    digests = [{one.tobytes() for one in image_digests(images.array)} for images in (trained, other)]
    assert not digests[0] & digests[1]
    assert image_sets["folder"].report_split == split


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["train", "test", "eval"], "eval/ and test/ are two names for one part, test"),
        (["train", "Training", "test"], "two names for one part, train"),
        (["train", "val", "dev"], "two names for one part, validation"),
        (["train", "final"], "of final/, train/ only train/ is a part"),
        (["bus", "test", "tram"], "of bus/, test/, tram/ only test/ is a part"),
        (["train", "test_images"], "only train/ is a part"),
        ([".", "train"], r"of train/, p000\.png.* only train/ is a part"),
        (["test"], "no part to train on"),
        (["val", "test"], "no part to train on"),
        (["training_set", "test_set"], "test_set/, training_set/ in it read like parts"),
        (["trainA", "testB"], "read like parts"),
        (["train2017", "val2017"], "read like parts"),
        (["hold-out", "rest"], "hold-out/ in it read like parts"),
        (["cat/train", "cat/test", "dog/train"], "test/, train/ in it read like parts"),
    ],
)
def test_parts_that_cannot_be_told_apart_are_refused_by_name(data_folder, source, folders, said):
    for folder in folders:
        write(source / folder, TRAIN[:6])
    with pytest.raises(InputError, match=said) as caught:
        prepare("folder", source)
    assert "\n" not in str(caught.value)
    assert not (data_folder / "folder").exists()


def test_an_empty_part_is_no_reason_to_hold_out_training_images(data_folder, source):
    write(source / "train", TRAIN)
    (source / "test").mkdir()
    with pytest.raises(InputError, match="test: no images"):
        prepare("folder", source)


@pytest.mark.parametrize("folders", [["cat", "dog"], ["cat"], ["train/cat", "train/dog"], [".", "valley"]])
def test_classes_are_pooled_and_a_fifth_is_held_out(data_folder, source, folders):
    for number, folder in enumerate(folders):
        write(source / folder, TRAIN[number :: len(folders)])
    (source / "labels").mkdir()
    (source / "labels" / "all.csv").write_text("p000,cat\n")
    prepare("folder", source)
    parts = [open_split("folder", split).array for split in ("train", "test")]
    assert [len(part) for part in parts] == [16, 4]
    assert sorted(image.tobytes() for part in parts for image in part) == sorted(image.tobytes() for image in TRAIN)


def test_images_that_lie_in_two_parts_are_counted(data_folder, source):
    write(source / "train", TRAIN)
    write(source / "test", [*OTHER, *TRAIN[:3]])
    states = prepare("folder", source)
    assert [(state.split, state.also_in_train) for state in states] == [("train", 0), ("test", 3)]
    assert verify("folder") == states


def test_pictures_beside_the_parts_are_counted_and_left_out_on_request_only(data_folder, source):
    for folder in ("train", "test", "unlabelled"):
        write(source / folder, TRAIN[:6])
    write(source, TRAIN[:1])
    with pytest.raises(InputError, match=r"7 beside the parts \(unlabelled/p00"):
        prepare("folder", source)
    states = prepare("folder", source, skip_broken=True)
    assert [(state.split, state.count, state.not_taken) for state in states] == [
        ("train", 6, {"beside the parts": 7}),
        ("test", 6, {}),
    ]


def test_other_formats_are_counted_by_kind_and_left_out_on_request_only(data_folder, source):
    write(source, TRAIN[:10])
    for number, image in enumerate(TRAIN):
        Image.fromarray(image).save(source / f"q{number}.{'tif' if number < 10 else 'GIF'}")
    (source / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (source / "nameless").write_bytes(encoded(TRAIN[0]))
    with pytest.raises(InputError, match="--skip-broken") as caught:
        prepare("folder", source)
    said = str(caught.value)
    assert all(f" {kind} (" in said for kind in ("10 .tif", "10 .gif", "1 .heic", "1 without a suffix"))
    states = prepare("folder", source, skip_broken=True)
    assert [state.count for state in states] == [8, 2]
    assert states[0].not_taken == {".gif": 10, ".heic": 1, ".tif": 10, "without a suffix": 1}
    assert verify("folder") == states


def test_a_test_part_of_other_formats_is_not_made_of_training_images(data_folder, source):
    write(source / "train", TRAIN)
    (source / "test").mkdir()
    Image.fromarray(OTHER[0]).save(source / "test" / "0.tif")
    for skip_broken, said in ((False, "1 .tif"), (True, "no images for test")):
        with pytest.raises(InputError, match=said):
            prepare("folder", source, skip_broken=skip_broken)


def test_what_an_operating_system_leaves_is_no_image(data_folder, source):
    write(source / "train", TRAIN)
    write(source / "test", OTHER)
    for place in ("train", "__MACOSX/train", "train/__MACOSX", "test/.thumbnails"):
        (source / place).mkdir(parents=True, exist_ok=True)
        (source / place / "._p000.png").write_bytes(b"\0\5\x16\7")
        (source / place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    Image.fromarray(OTHER[0]).save(source / "test/.thumbnails/p000.png")
    assert [(state.count, state.not_taken) for state in prepare("folder", source)] == [(20, {}), (8, {})]


def test_a_link_to_a_folder_is_counted(data_folder, source, tmp_path):
    write(source / "cat", TRAIN[:6])
    write(tmp_path / "elsewhere", OTHER)
    (source / "dog").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"1 links to folders \(dog\)"):
        prepare("folder", source)


def turned(upright: Image.Image, orientation: int, form: str) -> bytes:
    """Store an image as a camera does that says by `orientation` how it is to be shown."""
    # Pillow's own table the other way round; 6 and 8 are each other's way back.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(form, orientation):
    upright = photograph(12, 8)
    assert np.array_equal(np.asarray(decode(turned(Image.fromarray(upright), orientation, form))), upright)


def test_damaged_exif_is_no_damaged_image():
    file = io.BytesIO()
    Image.fromarray(TRAIN[0]).save(file, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffrubbish")
    assert np.array_equal(np.asarray(decode(file.getvalue())), TRAIN[0])


@pytest.mark.parametrize("size", [None, 8])
def test_portraits_stored_sideways_are_portraits(data_folder, source, size):
    for number in range(10):
        upright = Image.fromarray(photograph(16, 12, number))
        (source / f"{number}.jpg").write_bytes(turned(upright, 6 if number % 2 else 1, "JPEG"))
    prepare("folder", source, size=size)
    shapes = {image.shape[:2] for split in ("train", "test") for image in open_split("folder", split).pixels.whole()}
    assert shapes == ({(16, 12)} if size is None else {(11, 8)})


def test_a_first_image_that_cannot_be_used_can_be_left_out(data_folder, source):
    write(source, TRAIN)
    Image.fromarray(TRAIN[0]).convert("RGBA").save(source / "a.png")
    with pytest.raises(InputError, match=r"a\.png: mode RGBA"):
        prepare("folder", source)
    assert sum(state.skipped for state in prepare("folder", source, skip_broken=True)) == 1
    shutil.rmtree(source)
    source.mkdir()
    for number in range(5):
        Image.fromarray(TRAIN[number]).convert("RGBA").save(source / f"{number}.png")
    with pytest.raises(InputError, match=r"no image that can be used .*mode RGBA"):
        prepare("folder", source, skip_broken=True)


def test_sets_of_ones_own_live_side_by_side(data_folder, source):
    write(source / "flowers" / "train", TRAIN)
    write(source / "flowers" / "test", OTHER)
    write(source / "birds", OTHER)
    prepare("folder", source / "flowers", own_name="flowers")
    states = prepare("folder", source / "birds", own_name="birds")
    assert [state.name for state in states] == ["birds", "birds"]
    assert not (data_folder / "folder").exists()
    assert same_set(open_split("flowers", "train"), TRAIN)
    assert {"folder", "flowers", "birds"} <= set(image_sets)
    rows = {row.name: row for row in list_sets()}
    assert (rows["flowers"].present, rows["flowers"].counts) == (True, {"train": 20, "test": 8})
    assert rows["flowers"].command == "flowbench data prepare folder --name flowers --source PATH"
    assert not rows["folder"].present
    assert [state.fingerprint for state in verify("birds")] == [state.fingerprint for state in states]
    assert [state.replaced for state in prepare("flowers", source / "flowers")] == [None, None]


def test_other_images_in_a_slot_are_told(data_folder, source):
    write(source / "a", TRAIN)
    write(source / "b", OTHER)
    before = prepare("folder", source / "a")
    after = prepare("folder", source / "b")
    assert [state.replaced for state in after] == [state.fingerprint for state in before]


@pytest.mark.parametrize(
    "name", ["cifar10", "CIFAR10", "digits", "etth1", "Flowers", "../x", "a/b", ".x", "x y", "", "2024", "null", "Yes"]
)
def test_names_that_are_taken_or_no_plain_names_are_refused(data_folder, source, name):
    write(source, TRAIN)
    prepare("folder", source, own_name="flowers")
    with pytest.raises(InputError, match="--name"):
        prepare("folder", source, own_name=name)
    assert sorted(path.name for path in data_folder.iterdir()) == [".flowers.lock", "flowers"]


@pytest.mark.parametrize("name", ["cifar10", "digits", "etth1"])
def test_published_sets_keep_their_names(data_folder, source, name):
    with pytest.raises(InputError, match="--name mine: not for"):
        prepare(name, source, own_name="mine")


def test_a_folder_that_is_no_prepared_set_is_never_replaced(data_folder):
    write(data_folder / "flowers", TRAIN)
    with pytest.raises(InputError, match="no prepared folder of images"):
        prepare("folder", data_folder / "flowers", own_name="flowers")
    assert len(list((data_folder / "flowers").iterdir())) == 20


def test_a_damaged_set_of_ones_own_is_named_and_prepared_again(data_folder, source):
    write(source, TRAIN)
    prepare("folder", source, own_name="flowers")
    (data_folder / "flowers" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"flowers/manifest\.json: damaged"):
        open_split("flowers", "train")
    assert {row.name: row.status for row in list_sets()}["flowers"] == "damaged"
    prepare("folder", source, own_name="flowers")
    assert len(open_split("flowers", "train")) == 16


def test_an_unknown_set_says_how_to_make_one(data_folder):
    with pytest.raises(InputError, match="data prepare folder --name"):
        open_split("flowrs", "train")


def test_a_training_on_train_and_val_reports_validation(data_folder, source, tmp_path):
    write(source / "train", TRAIN)
    write(source / "val", OTHER)
    prepare("folder", source, own_name="mine")
    result = train(load_experiment("independent/digits", ["data.name=mine", "data.batch_size=8"]), tmp_path / "run")
    assert (result["dataset"], list(result["metrics"])) == ("mine", ["validation", "train"])
    assert result["metrics"]["validation"]["bits_per_dim"]["n"] == 8


def test_a_missing_report_split_is_said_before_the_first_step(data_folder, source, tmp_path):
    write(source / "train", TRAIN)
    write(source / "test", OTHER)
    prepare("folder", source)
    (data_folder / "folder" / "test.npy").unlink()
    with pytest.raises(InputError, match=r"test\.npy"):
        train(load_experiment("independent/digits", ["data.name=folder", "data.batch_size=8"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
