import gzip
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest

from flowbench.data.preparing import prepare
from flowbench.data.readers.arrays import pickled_images, planar_images, read_pickle
from flowbench.data.readers.files import tar_images, zip_images
from flowbench.data.readers.lmdb import lmdb_images
from flowbench.errors import InputError

from .make import cifar_batches, encoded, planes, random_images, write_folder, write_tar, write_zip

IMAGES = random_images(12)


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_batches_of_every_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "batch"
    content = {b"data": planes(IMAGES), b"labels": [1, 2], "mean": planes(IMAGES).mean(0), "one": np.float32(1)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert np.array_equal(planar_images(path, (3, 32, 32)).images(0, 12), IMAGES)
    with io.BytesIO(path.read_bytes()) as file:
        assert np.array_equal(pickled_images(file, path, (3, 32, 32)).images(0, 12), IMAGES)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "wrap", [lambda bad: bad, lambda bad: {"data": bad}, lambda bad: {"data": planes(IMAGES), "x": [bad]}]
)
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, protocol, wrap):
    proof = tmp_path / "proof"
    content = pickle.dumps(wrap(Malicious(f"touch {proof}")), protocol=protocol)
    with pytest.raises(InputError, match="refused"):
        read_pickle(io.BytesIO(content), Path("batch"))
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x82\x01.",
        b"Pname\n.",
        b"cnumpy\nload\n.",
        b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.",
        b"",
        b"\x80\x04",
        b"no pickle",
    ],
)
def test_other_pickles_are_one_line(content):
    with pytest.raises(InputError) as caught:
        read_pickle(io.BytesIO(content), Path("batch"))
    assert "\n" not in str(caught.value)


def test_no_truncation_of_a_batch_crashes(tmp_path):
    path = tmp_path / "batch"
    whole = cifar_batches(IMAGES, IMAGES)["test_batch"]
    for length in (0, 1, 10, 100, 200, 1000, len(whole) // 2, len(whole) - 50):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="batch"):
            planar_images(path, (3, 32, 32))


def test_a_malicious_archive_of_cifar10_is_refused(data_folder, tmp_path):
    files = {f"cifar-10-batches-py/{n}": c for n, c in cifar_batches(IMAGES, IMAGES).items()}
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps(Malicious(f"touch {tmp_path / 'proof'}"))
    write_tar(tmp_path / "cifar-10-python.tar.gz", files, "w:gz")
    with pytest.raises(InputError, match="data_batch_3"):
        prepare("cifar10", tmp_path / "cifar-10-python.tar.gz")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_names_that_lead_outside_are_refused(tmp_path, data_folder, name):
    png = encoded(IMAGES[0])
    write_tar(tmp_path / "x.tar", {name: png})
    write_zip(tmp_path / "x.zip", {name: png})
    write_tar(tmp_path / "x.tar.gz", {name: png}, "w:gz")
    with pytest.raises(InputError, match="refused"):
        tar_images(tmp_path / "x.tar")
    with pytest.raises(InputError, match="refused"):
        zip_images(tmp_path / "x.zip")
    with pytest.raises(InputError, match="refused"):
        prepare("cifar10", tmp_path / "x.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, data_folder, kind):
    member = tarfile.TarInfo("a.png")
    member.type, member.linkname = kind, "/etc/passwd"
    for path, mode in ((tmp_path / "x.tar", "w"), (tmp_path / "x.tar.gz", "w:gz")):
        with tarfile.open(path, mode) as archive:
            archive.addfile(member)
    with pytest.raises(InputError, match="refused"):
        tar_images(tmp_path / "x.tar")
    with pytest.raises(InputError, match="refused"):
        prepare("cifar10", tmp_path / "x.tar.gz")


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match="link"):
        zip_images(tmp_path / "x.zip")


def test_a_zip_bomb_of_a_batch_is_refused(tmp_path, data_folder):
    write_zip(tmp_path / "Imagenet32_train.zip", {"train_data_batch_1": bytes(2**22)})
    with pytest.raises(InputError, match="bomb"):
        prepare("imagenet32-chrabaszcz", tmp_path)


def tar_header(name, size, kind):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**27, -512])
def test_a_header_of_unreasonable_size_is_refused_unread(tmp_path, data_folder, kind, size):
    # tarfile takes such a header in one piece: 3 MB of .tar.gz became 3 GB of memory.
    content = tar_header("x", size, kind) + bytes(2**21) + tar_header("y", 0, tarfile.REGTYPE) + bytes(1024)
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb") as file:
        file.write(content)
    with pytest.raises(InputError, match=r"python\.tar\.gz.*bomb"):
        prepare("cifar10", tmp_path)
    (tmp_path / "train_32x32.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"train_32x32\.tar.*bomb"):
        tar_images(tmp_path / "train_32x32.tar")


def test_an_archive_of_many_large_files_is_not_unpacked_to_its_end(tmp_path, data_folder):
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb", compresslevel=1) as file:
        for number in range(9):
            file.write(tar_header(f"x{number}", 2**26, tarfile.REGTYPE))
            for _ in range(64):
                file.write(bytes(2**20))
        file.write(bytes(1024))
    with pytest.raises(InputError, match="bomb"):
        prepare("cifar10", tmp_path)


# 4,096: between the first image and the second, where a tar looks whole.
@pytest.mark.parametrize("keep", [0, 300, 1500, 4000, 4096])
def test_a_truncated_tar_is_one_line(tmp_path, data_folder, keep):
    for split in ("train", "valid"):
        write_tar(tmp_path / f"{split}_32x32.tar", {f"{n}.png": encoded(image) for n, image in enumerate(IMAGES[:2])})
    path = tmp_path / "train_32x32.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train_32x32\.tar") as caught:
        prepare("imagenet32", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (data_folder / "imagenet32").exists()


@pytest.mark.parametrize("keep", [100, 4096, 8192, 0.5, 0.99])
def test_a_truncated_lmdb_is_one_line_and_not_the_end_of_the_process(tmp_path, keep):
    folder = tmp_path / "tower_train_lmdb"
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for number in range(50):
            transaction.put(f"{number:040x}".encode(), encoded(IMAGES[number % 12]))
    path = folder / "data.mdb"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(InputError, match="tower_train_lmdb") as caught:
        lmdb_images(folder)
    assert "\n" not in str(caught.value)


WEB_PAGE = b"<!DOCTYPE html><html><title>Quota exceeded</title></html>"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("celeba", "img_align_celeba.zip"),
        ("celeba", "list_eval_partition.txt"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "train.npy"),
        ("imagenet32", "train_32x32.tar"),
        ("imagenet32-chrabaszcz", "Imagenet32_train.zip"),
        ("imagenet32-chrabaszcz", "train_data_batch_1"),
        ("imagenet32-chrabaszcz", "train_data_batch_1.npz"),
        ("lsun-tower", "tower_train_lmdb/data.mdb"),
        ("etth1", "ETTh1.csv"),
    ],
)
def test_a_web_page_in_the_place_of_a_file_is_called_one(tmp_path, data_folder, name, file):
    files = {"train_32x32.tar": "valid_32x32.tar", "train.npy": "test.npy"}
    files |= {"tower_train_lmdb/data.mdb": "tower_val_lmdb/data.mdb"}
    if name == "celeba":
        write_zip(tmp_path / "img_align_celeba.zip", {"img_align_celeba/000001.jpg": encoded(IMAGES[0])})
        (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    if name.endswith("chrabaszcz"):
        for batch in ["val_data", *(f"train_data_batch_{number}" for number in range(2, 11))]:
            (tmp_path / batch).write_bytes(pickle.dumps({"data": planes(IMAGES)}))
    for path in (tmp_path / file, tmp_path / files.get(file, file)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(WEB_PAGE)
    with pytest.raises(InputError, match=f"{file.split('/')[0].replace('.', '[.]')}.*a web page"):
        prepare(name, tmp_path)
    assert not (data_folder / name).exists()


@pytest.mark.parametrize("kind", ["pipe", "nowhere"])
def test_what_is_no_file_in_a_folder_is_named_and_not_waited_for(tmp_path, data_folder, kind):
    for split in ("train", "test"):
        write_folder(tmp_path / split, IMAGES[:3])
    path = sorted((tmp_path / "train").rglob("*.png"))[1]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=path.name):
        prepare("cifar10", tmp_path)
