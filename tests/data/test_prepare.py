import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from flowbench.config.registry import image_sets
from flowbench.data import open_split
from flowbench.data.manifest import content_sha256, image_digests
from flowbench.data.preparing import list_sets, preparation, prepare, verify
from flowbench.errors import CheckFailedError, InputError, WorkFailedError

from .make import cifar_batches, encoded, planes, random_images, same_set, write_folder, write_tar, write_zip

TRAIN, TEST = random_images(40), random_images(10, seed=1)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def write_npy(source: Path) -> None:
    np.save(source / "train.npy", TRAIN)
    np.save(source / "test.npy", TEST)


def write_batches(source: Path) -> None:
    folder = source / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in cifar_batches(TRAIN, TEST).items():
        (folder / name).write_bytes(content)


def write_archive(source: Path) -> None:
    files = {f"cifar-10-batches-py/{name}": content for name, content in cifar_batches(TRAIN, TEST).items()}
    write_tar(source / "cifar-10-python.tar.gz", files, "w:gz")


def write_folders(source: Path) -> None:
    write_folder(source / "train", TRAIN)
    write_folder(source / "test", TEST)


@pytest.mark.parametrize("write", [write_npy, write_batches, write_archive, write_folders])
@pytest.mark.parametrize("parent", [False, True])
def test_cifar10_from_each_format_and_its_parent(data_folder, source, write, parent):
    inner = source / "cifar10" if parent else source
    inner.mkdir(exist_ok=True)
    write(inner)
    states = prepare("cifar10", source)
    assert [(state.split, state.count, state.status) for state in states] == [
        ("train", 40, "unverified"),
        ("test", 10, "unverified"),
    ]
    assert same_set(open_split("cifar10", "train"), TRAIN)
    assert same_set(open_split("cifar10", "test"), TEST)
    assert states[0].fingerprint == content_sha256(image_digests(TRAIN))
    assert verify("cifar10") == states


def test_the_archive_itself_can_be_the_source(data_folder, source):
    write_archive(source)
    prepare("cifar10", source / "cifar-10-python.tar.gz")
    assert np.array_equal(open_split("cifar10", "train").array, TRAIN)


def test_the_manifest_says_what_the_files_are(data_folder, source):
    write_npy(source)
    prepare("cifar10", source)
    manifest = json.loads((data_folder / "cifar10" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["shape"] == [40, 32, 32, 3]
    assert set(manifest["source"]["files"]) == {"train.npy", "test.npy"}
    assert sorted(path.name for path in (data_folder / "cifar10").iterdir()) == [
        "manifest.json",
        "test.npy",
        "train.npy",
    ]
    assert np.load(data_folder / "cifar10" / "train.npy").dtype == np.uint8


@pytest.mark.parametrize("variant", ["pickle", "npz", "npz-compressed", "zip"])
def test_chrabaszcz_from_batches(data_folder, source, variant):
    import io
    import pickle

    images, held = random_images(30), random_images(7, seed=2)
    parts = {f"train_data_batch_{n}": part for n, part in enumerate(np.array_split(images, 10), 1)} | {"val_data": held}
    files = {}
    for name, part in parts.items():
        batch = {"data": planes(part), "labels": [1] * len(part), "mean": planes(part).mean(0)}
        content = io.BytesIO()
        if variant.startswith("npz"):
            (np.savez if variant == "npz" else np.savez_compressed)(content, **batch)
            files[f"{name}.npz"] = content.getvalue()
        else:
            files[name] = pickle.dumps(batch, protocol=3)
    if variant == "zip":
        write_zip(source / "Imagenet32_train.zip", {f: c for f, c in files.items() if f != "val_data"})
        write_zip(source / "Imagenet32_val.zip", {"val_data": files["val_data"]})
    else:
        for name, content in files.items():
            (source / name).write_bytes(content)
    prepare("imagenet32-chrabaszcz", source)
    assert np.array_equal(open_split("imagenet32-chrabaszcz", "train").array, images)
    assert np.array_equal(open_split("imagenet32-chrabaszcz", "validation").array, held)
    assert not list(data_folder.glob(".unpacked*"))


@pytest.mark.parametrize("side", [32, 64])
def test_oord_imagenet_from_tars(data_folder, source, side):
    images, held = random_images(9, side), random_images(4, side, seed=3)
    for split, part in (("train", images), ("valid", held)):
        name = f"{split}_{side}x{side}"
        write_tar(source / f"{name}.tar", {f"{name}/{n:05d}.png": encoded(image) for n, image in enumerate(part)})
    prepare(f"imagenet{side}", source)
    assert np.array_equal(open_split(f"imagenet{side}", "train").array, images)
    assert np.array_equal(open_split(f"imagenet{side}", "validation").array, held)
    assert open_split(f"imagenet{side}", "train").status == "unverified"


def test_the_other_imagenet_is_refused_by_its_count(data_folder, source):
    png = encoded(np.zeros((1, 1, 3), np.uint8))
    write_tar(source / "train_32x32.tar", {"0.png": png})
    # One entry is written, the rest are copies of its 1,024 bytes of header and content: 50,000 members in a moment.
    one = (source / "train_32x32.tar").read_bytes()[:1024]
    (source / "valid_32x32.tar").write_bytes(one * 50_000 + bytes(1024))
    with pytest.raises(InputError, match="Chrabaszcz") as caught:
        prepare("imagenet32", source)
    assert "imagenet32-chrabaszcz" in str(caught.value)
    assert not (data_folder / "imagenet32").exists()


def test_counts_as_published_are_said_to_match():
    assert image_sets["imagenet32"].status("train", 1_281_149, "0" * 64) == "counts match"
    assert image_sets["imagenet32"].status("train", 1_281_148, "0" * 64) == "unverified"
    assert image_sets["cifar10"].status("train", 50_000, "0" * 64) == "unverified"


def test_a_broken_image_is_named_and_nothing_is_left(data_folder, source):
    write_folders(source)
    broken = sorted((source / "train").rglob("*.png"))[5]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError) as caught:
        prepare("cifar10", source)
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (data_folder / "cifar10").exists()
    assert not list(data_folder.glob(".preparing*"))


def test_broken_images_are_left_out_on_request_and_recorded(data_folder, source):
    write_folders(source)
    names = sorted((source / "train").rglob("*.png"))
    kept = [np.asarray(Image.open(path)) for n, path in enumerate(names) if n not in (5, 39)]
    for index in (5, 39):
        names[index].write_bytes(b"no image")
    states = prepare("cifar10", source, skip_broken=True)
    assert (states[0].count, states[0].skipped) == (38, 2)
    assert np.array_equal(open_split("cifar10", "train").array, kept)
    manifest = json.loads((data_folder / "cifar10" / "manifest.json").read_text())
    assert [skipped["image"] for skipped in manifest["splits"]["train"]["skipped"]] == [str(names[5]), str(names[39])]
    assert verify("cifar10") == states


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((33, 32, 3), np.uint8), "32x33"),
        (np.zeros((32, 32), np.uint8), "mode L"),
        (np.zeros((32, 32, 4), np.uint8), "mode RGBA"),
    ],
)
def test_a_wrong_size_or_mode_is_an_error_that_names_the_image(data_folder, source, image, said):
    write_folders(source)
    wrong = sorted((source / "test").rglob("*.png"))[3]
    Image.fromarray(image).save(wrong)
    with pytest.raises(InputError, match=said) as caught:
        prepare("cifar10", source)
    assert str(wrong) in str(caught.value)


def test_processes_give_the_same_as_one(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    monkeypatch.setattr(preparation, "INLINE_IMAGES", 0)
    write_folders(source)
    seen = []
    one = prepare("cifar10", source, processes=1)
    two = prepare("cifar10", source, processes=2, progress=lambda *step: seen.append(step))
    assert one == two
    assert seen[0] == ("cifar10", 0, 50)
    assert seen[-1] == ("cifar10", 50, 50)


def test_preparation_goes_on_where_it_stopped(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    write_folders(source)
    names = sorted((source / "train").rglob("*.png"))
    good = names[30].read_bytes()
    stamp = names[30].stat()
    names[30].write_bytes(b"no image")
    with pytest.raises(InputError):
        prepare("cifar10", source, processes=1)
    done = sorted(path.name for path in (data_folder / ".preparing-cifar10").glob("*.npz"))
    assert done == [f"train-{number:05d}.npz" for number in range(4)]
    names[30].write_bytes(good)
    os.utime(names[30], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    converted = []
    convert = preparation.convert
    monkeypatch.setattr(preparation, "convert", lambda task: converted.append(task.number) or convert(task))
    states = prepare("cifar10", source, processes=1)
    assert converted == [4, 5, 0, 1]
    shutil.rmtree(data_folder)
    assert prepare("cifar10", source) == states


def test_what_was_left_out_before_a_stop_is_looked_at_again(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    write_folders(source)
    broken = sorted((source / "train").rglob("*.png"))[2]
    good, stamp = broken.read_bytes(), broken.stat()
    broken.write_bytes(b"no image")

    finish = preparation._finish

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("cifar10", source, skip_broken=True, processes=1)
    monkeypatch.setattr(preparation, "_finish", finish)
    assert list((data_folder / ".preparing-cifar10").glob("*.npz"))
    with pytest.raises(InputError, match=broken.name):
        prepare("cifar10", source, processes=1)
    broken.write_bytes(good)
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    states = prepare("cifar10", source, skip_broken=True, processes=1)
    assert [(state.count, state.skipped) for state in states] == [(40, 0), (10, 0)]
    assert same_set(open_split("cifar10", "train"), TRAIN)


def test_pieces_of_files_that_are_others_now_are_made_again(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    write_folders(source)
    names = sorted((source / "train").rglob("*.png"))
    contents = [name.read_bytes() for name in names]
    names[30].write_bytes(b"no image")
    with pytest.raises(InputError):
        prepare("cifar10", source, processes=1)
    for name, content in zip(names, reversed(contents), strict=True):  # another export, under the same names
        name.write_bytes(content)
    states = prepare("cifar10", source, processes=1)
    shutil.rmtree(data_folder)
    assert prepare("cifar10", source) == states


def test_stopped_while_gaps_were_closed_it_goes_on_with_the_rows_as_they_were(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    write_folders(source)
    names = sorted((source / "train").rglob("*.png"))
    contents = [name.read_bytes() for name in names]
    for number in (2, 11):
        names[number].write_bytes(b"no image")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        lay_out = preparation.lay_out
        patch.setattr(preparation, "lay_out", lambda path, shape: full() if shape[0] == 38 else lay_out(path, shape))
        with pytest.raises(OSError, match="No space left"):
            prepare("cifar10", source, skip_broken=True, processes=1)
    assert list((data_folder / ".preparing-cifar10").glob("*.gaps"))
    names[2].write_bytes(contents[2])
    states = prepare("cifar10", source, skip_broken=True, processes=1)
    shutil.rmtree(data_folder)
    assert prepare("cifar10", source, skip_broken=True) == states


def test_unpacked_batches_are_those_of_their_own_source(data_folder, source, tmp_path):
    def write(folder, seed, held):
        folder.mkdir(parents=True)
        for number, part in enumerate(np.array_split(random_images(30, seed=seed), 10), 1):
            np.savez_compressed(folder / f"train_data_batch_{number}.npz", data=planes(part))
        (folder / "val_data.npz").write_bytes(held)

    content = io.BytesIO()
    np.savez_compressed(content, data=planes(random_images(7, seed=2)))
    write(tmp_path / "one", 0, b"no npz")
    with pytest.raises(InputError):
        prepare("imagenet32-chrabaszcz", tmp_path / "one")
    write(tmp_path / "other", 1, content.getvalue())
    prepare("imagenet32-chrabaszcz", tmp_path / "other")
    assert np.array_equal(open_split("imagenet32-chrabaszcz", "train").array, random_images(30, seed=1))


@pytest.mark.parametrize("option", [{"resample": "pyramid"}, {"size": 32}, {"skip_broken": True}])
def test_a_series_has_no_options_of_images(data_folder, source, option):
    with pytest.raises(InputError, match="is for sets of images, and etth1 is a series"):
        prepare("etth1", source, **option)


def test_pieces_of_another_size_are_not_gone_on_with(data_folder, source, monkeypatch):
    write_npy(source)
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    finish = preparation._finish

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("cifar10", source)
    monkeypatch.setattr(preparation, "_finish", finish)
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 9)
    assert [state.count for state in prepare("cifar10", source)] == [40, 10]
    assert verify("cifar10")[0].fingerprint == content_sha256(image_digests(TRAIN))


SMALL_PIECES = """
from flowbench.__main__ import main
from flowbench.data.preparing import preparation
preparation.MAX_PIECE_IMAGES, preparation.INLINE_IMAGES, preparation.cores = 5, 0, lambda: 2
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle_it_leaves_no_process_and_goes_on(data_folder, source, monkeypatch, number):
    write_folders(source)
    script = source / "prepare.py"
    script.write_text(SMALL_PIECES)
    command = [sys.executable, str(script), "data", "prepare", "cifar10", "--source", str(source)]
    work = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((data_folder / ".preparing-cifar10").glob("*.npz")):
        assert work.poll() is None
        assert time.monotonic() < deadline
    children = psutil.Process(work.pid).children(recursive=True)
    work.send_signal(number)
    out, said = work.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert (work.returncode, out) == (128 + number, "")
        assert said == "flowbench: cifar10: stopped: the same command goes on with what is prepared\n"
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not (data_folder / "cifar10").exists()
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 5)
    prepare("cifar10", source, processes=1)
    assert same_set(open_split("cifar10", "train"), TRAIN)
    assert sorted(path.name for path in data_folder.iterdir()) == [".cifar10.lock", "cifar10"]


def test_a_disk_that_fills_up_is_named(data_folder, source, monkeypatch):
    write_npy(source)

    def full(task):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preparation, "convert", full)
    with pytest.raises(WorkFailedError, match=f"{data_folder}: No space left"):
        prepare("cifar10", source)
    assert [path.name for path in data_folder.iterdir()] == [".cifar10.lock"]


def test_two_preparations_of_a_set_do_not_meet(data_folder, source):
    write_npy(source)
    data_folder.mkdir()
    with FileLock(data_folder / ".cifar10.lock"), pytest.raises(InputError, match="another process"):
        prepare("cifar10", source)
    prepare("cifar10", source)


def test_another_source_does_not_go_on_with_the_first_ones_pieces(data_folder, source, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_PIECE_IMAGES", 7)
    write_folders(source)
    sorted((source / "test").rglob("*.png"))[0].write_bytes(b"no image")
    with pytest.raises(InputError):
        prepare("cifar10", source, processes=1)
    other = source / "other"
    other.mkdir()
    np.save(other / "train.npy", TRAIN[::-1])
    np.save(other / "test.npy", TEST)
    prepare("cifar10", other)
    assert np.array_equal(open_split("cifar10", "train").array, TRAIN[::-1])


def test_too_small_a_disk_is_said_before_the_work(data_folder, source, monkeypatch):
    write_npy(source)
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="GB free"):
        prepare("cifar10", source)
    assert not list(data_folder.glob(".preparing*"))


def test_a_second_preparation_replaces_the_first(data_folder, source):
    write_npy(source)
    prepare("cifar10", source)
    np.save(source / "train.npy", TRAIN[:20])
    prepare("cifar10", source)
    assert len(open_split("cifar10", "train")) == 20
    assert sorted(path.name for path in data_folder.iterdir()) == [".cifar10.lock", "cifar10"]


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b[:50], lambda b: b"", lambda b: b"x" * 500])
def test_a_damaged_npy_is_one_line(data_folder, source, damage):
    write_npy(source)
    path = source / "train.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"train\.npy") as caught:
        prepare("cifar10", source)
    assert "\n" not in str(caught.value)
    assert not (data_folder / "cifar10").exists()


def test_verify_finds_a_flipped_bit_and_a_truncated_file(data_folder, source):
    write_npy(source)
    prepare("cifar10", source)
    path = data_folder / "cifar10" / "test.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckFailedError, match=r"test\.npy"):
        verify("cifar10")
    path.write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"test\.npy"):
        verify("cifar10")
    with pytest.raises(InputError, match=r"test\.npy"):
        open_split("cifar10", "test")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "splits": {"train": 3}}'])
def test_a_damaged_manifest_is_one_line(data_folder, source, content):
    write_npy(source)
    prepare("cifar10", source)
    (data_folder / "cifar10" / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        open_split("cifar10", "test")
    assert {row.name: row.status for row in list_sets()}["cifar10"] == "damaged"


def test_a_manifest_cannot_lead_elsewhere(data_folder, source):
    write_npy(source)
    prepare("cifar10", source)
    path = data_folder / "cifar10" / "manifest.json"
    path.write_text(path.read_text().replace('"test.npy"', '"../test.npy"'))
    with pytest.raises(InputError, match=r"manifest\.json"):
        open_split("cifar10", "test")


@pytest.mark.parametrize("name", ["imagenet32", "lsun-bedroom", "celeba", "imagenet64-chrabaszcz"])
def test_sets_with_terms_are_never_downloaded(data_folder, name):
    with pytest.raises(InputError, match="--source PATH"):
        prepare(name, download=True)


def test_the_official_archive_is_downloaded_checked_and_prepared(data_folder, source, monkeypatch):
    monkeypatch.delenv("FLOWBENCH_OFFLINE")
    write_archive(source)
    content = (source / "cifar-10-python.tar.gz").read_bytes()
    known = image_sets["cifar10"]
    asked = []

    class Publisher(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Say nothing."""

    def publish(server, md5):
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        there = replace(known, download=replace(known.download, url=url, checksum=f"md5:{md5}"))
        monkeypatch.setitem(image_sets._entries, "cifar10", there)

    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        publish(server, "0" * 32)
        with pytest.raises(InputError, match="another checksum"):
            prepare("cifar10", download=True)
        assert not (data_folder / "cifar10").exists()
        publish(server, hashlib.md5(content).hexdigest())
        assert [state.count for state in prepare("cifar10", download=True)] == [40, 10]
        server.shutdown()
    assert len(asked) == 2
    assert same_set(open_split("cifar10", "train"), TRAIN)
    assert not list((data_folder / ".downloads").iterdir())


def test_missing_data_says_how_to_get_it(data_folder, source):
    with pytest.raises(InputError, match=r"flowbench data prepare cifar10 --download"):
        open_split("cifar10", "train")
    with pytest.raises(InputError, match="looked for"):
        prepare("cifar10", source)
    with pytest.raises(InputError, match="no such file"):
        prepare("cifar10", source / "nowhere")
    with pytest.raises(InputError, match="did you mean cifar10"):
        prepare("cifar1", source)
    with pytest.raises(InputError, match="FLOWBENCH_OFFLINE"):
        prepare("cifar10", download=True)


def test_the_list_has_every_set_with_its_way(data_folder):
    rows = {row.name: row for row in list_sets()}
    assert {"digits", "cifar10", "imagenet32", "imagenet64-chrabaszcz", "lsun-tower", "celeba", "etth1"} <= set(rows)
    assert rows["digits"].present
    assert rows["digits"].status == "verified"
    assert not rows["celeba"].present
    assert rows["celeba"].counts == {"train": 162_770, "validation": 19_867, "test": 19_962}
    assert rows["celeba"].command == "flowbench data prepare celeba --source PATH"
    assert all(row.published and row.licence for row in rows.values())


@pytest.mark.data
@pytest.mark.parametrize("form", ["npy", pytest.param("png", marks=pytest.mark.slow)])
def test_the_real_cifar10_has_the_known_fingerprints(require_data, tmp_path, monkeypatch, form):
    folder = require_data("cifar10")
    if form == "png":
        for split in ("train", "test"):
            images = np.load(folder / f"{split}.npy", mmap_mode="r")
            for start in range(0, len(images), 5000):
                place = tmp_path / "source" / split / f"{start:05d}"
                place.mkdir(parents=True)
                for number, image in enumerate(images[start : start + 5000]):
                    Image.fromarray(image).save(place / f"{number}.png", compress_level=0)
        folder = tmp_path / "source"
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "data"))
    assert [(state.split, state.count, state.status) for state in prepare("cifar10", folder)] == [
        ("train", 50_000, "verified"),
        ("test", 10_000, "verified"),
    ]
    assert [state.status for state in verify("cifar10")] == ["verified", "verified"]
