"""One quick try to get the data of a row that may be left out."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

from flowbench.data.image_set import data_root
from flowbench.errors import InputError
from flowbench.system import atomic

__all__ = ["quick_download"]

DOWNLOAD_SECONDS = 10


def quick_download(dataset: str) -> None:
    """Try once to get a data set within ten seconds in all; a failure is remembered, and later calls fail at once.

    Raises:
        InputError: it could not be had, with the command that gets it without hurry.
    """
    way_out = f"get it with `flowbench data prepare {dataset} --download`"
    if os.environ.get("FLOWBENCH_OFFLINE") == "1":
        raise InputError(f"{dataset} is not here and FLOWBENCH_OFFLINE=1: {way_out}")
    memory = data_root() / f".{dataset}-not-downloaded"
    if memory.exists():
        raise InputError(f"{dataset} is not here and an earlier quick download failed: {way_out}")
    command = [sys.executable, "-m", "flowbench", "data", "prepare", dataset, "--download"]
    try:
        # A process of its own, since a name look-up that hangs can only be killed.
        done = subprocess.run(command, capture_output=True, timeout=DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        for left in (data_root() / dataset).glob(".download-*"):  # it was killed, and could not clean up
            shutil.rmtree(left, ignore_errors=True)
        problem = f"was not downloaded within {DOWNLOAD_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        problem = "could not be downloaded"
    with suppress(OSError):  # a root that cannot be written is asked again
        atomic.write_text(memory, problem + "\n")
    raise InputError(f"{dataset} {problem}: {way_out}")
