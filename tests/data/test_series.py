import shutil
import socket
import time

import pytest

from flowbench.data import series_path
from flowbench.data.image_set import Download
from flowbench.data.preparing import download, prepare, verify
from flowbench.errors import CheckFailedError, InputError


@pytest.fixture
def small(monkeypatch):
    """etth1 with a file of three rows in the place of the published one."""
    import dataclasses
    import hashlib

    from flowbench.config.registry import series_sets

    content = b"date,OT\n2016-07-01 00:00:00,1\n2016-07-01 01:00:00,2\n2016-07-01 02:00:00,3\n"
    known = series_sets["etth1"]
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    changed = dataclasses.replace(known, download=dataclasses.replace(known.download, checksum=checksum))
    monkeypatch.setitem(series_sets._entries, "etth1", changed)
    return content


@pytest.mark.parametrize("place", ["ETTh1.csv", "", "etth1/ETTh1.csv", "ETT-small/ETTh1.csv"])
def test_a_series_from_its_file_or_a_folder_around_it(data_folder, tmp_path, small, place):
    path = tmp_path / "source" / (place or "ETTh1.csv")
    path.parent.mkdir(parents=True)
    path.write_bytes(small)
    states = prepare("etth1", path if place == "ETTh1.csv" else tmp_path / "source")
    assert [(state.count, state.status) for state in states] == [(3, "verified")]
    assert series_path("etth1") == data_folder / "etth1" / "ETTh1.csv"
    assert series_path("etth1").read_bytes() == small
    assert verify("etth1") == states
    series_path("etth1").write_bytes(small + b"x")
    with pytest.raises(CheckFailedError, match=r"ETTh1\.csv"):
        verify("etth1")


def test_another_file_is_refused(data_folder, tmp_path):
    (tmp_path / "ETTh1.csv").write_text("date,OT\n")
    with pytest.raises(InputError, match="not the published"):
        prepare("etth1", tmp_path)
    with pytest.raises(InputError, match=r"no ETTh2\.csv in it"):
        prepare("etth2", tmp_path)
    with pytest.raises(InputError, match="--download"):
        series_path("etth1")


def test_a_git_blob_id_is_a_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert download.has_checksum(path, "git:ce013625030ba8dba906f756967f9e9ca394464a")
    assert not download.has_checksum(path, "git:" + "0" * 40)


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWBENCH_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        what = Download(f"http://127.0.0.1:{silent.getsockname()[1]}/x.csv", "x.csv", "md5:0")
        start = time.monotonic()
        with pytest.raises(InputError, match="--source"):
            download.download(what, tmp_path / "to", timeout=0.3)
        assert time.monotonic() - start < 5
    assert not (tmp_path / "to" / "x.csv").exists()


def test_a_page_instead_of_the_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWBENCH_OFFLINE", raising=False)
    monkeypatch.setattr(download, "_fetch", lambda url, path, timeout: path.write_text("<html>quota</html>"))
    with pytest.raises(InputError, match="checksum"):
        download.download(Download("http://example.invalid/x", "x", "md5:0"), tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.data
def test_the_real_etth1_is_verified(require_data, tmp_path, monkeypatch):
    shutil.copy(require_data("etth1") / "ETTh1.csv", tmp_path)
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "data"))
    assert [(state.count, state.status) for state in prepare("etth1", tmp_path)] == [(17_420, "verified")]
