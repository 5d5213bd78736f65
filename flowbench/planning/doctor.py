"""Is this machine ready? One line for each thing that a training needs, and a remedy for each problem."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from flowbench.data import data_root
from flowbench.data.preparing import list_sets
from flowbench.system.cores import cores
from flowbench.system.device import bfloat16_units
from flowbench.system.environment import device_name
from flowbench.system.load import busy, load
from flowbench.system.version import __version__
from flowbench.tracking.probe import probe

__all__ = ["Finding", "examine"]

FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    words: str
    remedy: str | None = None
    """What mends it; None: nothing needs mending."""


def examine() -> list[Finding]:
    """Look at versions, devices, threads, data sets, tracking and disk; nothing is changed for good."""
    return [*_versions(), _device(), _bfloat16(), _threads(), *_data(), Finding("tracking", *probe()), *_disk()]


def _versions() -> Iterator[Finding]:
    yield Finding("flowbench", f"{__version__}, Python {platform.python_version()}")
    try:
        stated = [Requirement(line) for line in requires("flowbench") or []]
    except PackageNotFoundError:
        yield Finding("packages", "flowbench itself is not installed, only imported", "pip install -e .")
        return
    needed = [one for one in stated if one.marker is None or one.marker.evaluate({"extra": ""})]
    bad = []
    for requirement in needed:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = None
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            bad.append(f"{requirement.name}{requirement.specifier} (found {found or 'nothing'})")
    words = ", ".join(bad) or f"all {len(needed)} requirements are met, torch {torch.__version__}"
    yield Finding("packages", words, "pip install --upgrade flowbench" if bad else None)


def _device() -> Finding:
    if torch.cuda.is_available():
        cuda = torch.device("cuda")
        free, total = torch.cuda.mem_get_info(cuda)
        return Finding("device", f"{device_name(cuda)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    memory = psutil.virtual_memory()
    words = f"{device_name(torch.device('cpu'))}, {memory.available / 2**30:.1f} GiB of memory free"
    if Path("/proc/driver/nvidia").exists():
        return Finding("device", f"{words}; a GPU is here that torch cannot use", "install a CUDA build of torch")
    return Finding("device", f"{words}; no GPU")


def _bfloat16() -> Finding:
    units = bfloat16_units()
    without = "this processor has no units for it (AVX512-BF16, AMX): train.precision=bf16 is slow on it"
    return Finding("bf16", without if units is None else f"the processor's {units}")


def _threads() -> Finding:
    mine, threads = cores(), torch.get_num_threads()
    words = f"{threads} of torch on {mine} cores"
    if (known := load()) is not None:
        words += f", load {known[0]:.1f} on the machine's {known[1]}"
    if busy(threads):
        words += ": busy with other programs, so whatever is timed now comes out too slow"
    return Finding("threads", words, f"export OMP_NUM_THREADS={mine}" if threads > mine else None)


def _data() -> Iterator[Finding]:
    yield Finding("data root", str(data_root()))
    rows = list_sets()
    for row in rows:
        if row.present:
            # One's own images, which nobody published, cannot be verified by anything.
            bad = row.status == "damaged" or (row.status == "unverified" and row.citation != "")
            yield Finding(
                f"data: {row.name}", f"here, {row.status}", f"flowbench data verify {row.name}" if bad else None
            )
    absent = [row.name for row in rows if not row.present and row.name != "folder"]
    if absent:
        yield Finding("data: not here", f"{', '.join(absent)} (flowbench data list -v: how to get them)")


def _disk() -> Iterator[Finding]:
    for name, folder in (("working folder", Path()), ("data root", data_root())):
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        remedy = None
        if not os.access(place, os.W_OK):
            remedy = f"make {place} writable" + (
                "" if name != "data root" else ", or set FLOWBENCH_DATA to a place that is"
            )
        elif free < FREE_BYTES:
            remedy = "free some: a run keeps two checkpoints"
        yield Finding(f"disk: {name}", f"{free / 1e9:.1f} GB free", remedy)
