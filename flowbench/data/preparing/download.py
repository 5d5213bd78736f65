"""Downloads of the few files that may be fetched without asking anybody, checked against their publisher's hash."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from flowbench.data.image_set import Download
from flowbench.data.manifest import has_checksum
from flowbench.errors import InputError

__all__ = ["download"]


def download(what: Download, folder: Path, timeout: float | None = None) -> Path:
    """Download a file into `folder` unless it is there already; return its path.

    Args:
        what: the file and its checksum: `md5:…`, `sha256:…`, or `git:…` (the id of the file as a git blob).
        folder: where it is put, once it is whole and has the right hash.
        timeout: give up after so many seconds in all, name look-up included; None: as long as it takes.

    Raises:
        InputError: FLOWBENCH_OFFLINE is set, no connection, another hash, or no time left.
    """
    target = folder / what.file
    if target.is_file() and has_checksum(target, what.checksum):
        return target
    if os.environ.get("FLOWBENCH_OFFLINE") == "1":
        raise InputError(f"{what.url}: not downloaded, since FLOWBENCH_OFFLINE=1; give it by --source instead")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-", ignore_cleanup_errors=True) as temporary:
        path = Path(temporary) / what.file
        _within(timeout, lambda: _fetch(what.url, path, timeout), what.url)
        if not has_checksum(path, what.checksum):
            raise InputError(f"{what.url}: the file has another checksum than its publisher's: not kept")
        shutil.move(path, target)
    return target


def _fetch(url: str, path: Path, timeout: float | None) -> None:
    import pooch

    # pooch's own log would come between the lines of the progress bar.
    pooch.get_logger().setLevel("ERROR")
    fetch = pooch.HTTPDownloader(timeout=timeout or 60)
    fetch(url, str(path), None)


def _within(seconds: float | None, work: Callable[[], None], url: str) -> None:
    failure: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            failure.append(error)

    if seconds is None:
        run()
    else:
        # A name look-up cannot be interrupted: the thread is left behind, and as a daemon it holds nothing up.
        thread = threading.Thread(target=run, daemon=True, name="download")
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise InputError(f"{url}: no answer within {seconds:g} s; give the file by --source instead")
    if failure:
        reason = " ".join(str(failure[0]).split())[:200]
        raise InputError(f"{url}: cannot be downloaded ({reason}); give the file by --source instead")
