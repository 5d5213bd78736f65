"""Preparing an LSUN category from an LMDB of JPEGs: images/s with 1 and 2 processes, both ways, and peak memory.

FLOWBENCH_BENCHMARK_IMAGES=100000 pytest benchmarks/test_preparation.py -n 0 --benchmark-enable -s

Rounds with one and two processes alternate, so that other work on the machine meets both; the ratio of the pairs is
what counts.
"""

import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import numpy as np
import psutil
import pytest
from PIL import Image

from flowbench.data import open_split
from flowbench.data.preparing import prepare

COUNT = int(os.environ.get("FLOWBENCH_BENCHMARK_IMAGES", "10000"))
ROUNDS = int(os.environ.get("FLOWBENCH_BENCHMARK_ROUNDS", "1"))
DIFFERENT = 500
BEDROOM = 3_033_042
GIB = 2**30


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An LMDB of COUNT JPEGs, 256 pixels high and 341 wide: 500 different photographs, each under many keys."""
    folder: Path = tmp_path_factory.mktemp("lsun")
    # In a process of its own: a transaction of all images is the largest thing that this one would ever hold.
    work = multiprocessing.get_context("spawn").Process(target=write_source, args=(folder,))
    work.start()
    work.join()
    assert work.exitcode == 0
    return folder


def write_source(folder: Path) -> None:
    generator = np.random.default_rng(0)
    photographs = []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((341, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        photographs.append(file.getvalue())
    for split, count in (("train", COUNT), ("val", 300)):
        with (
            lmdb.open(str(folder / f"tower_{split}_lmdb"), map_size=2**33) as database,
            database.begin(write=True) as transaction,
        ):
            for number in range(count):
                transaction.put(f"{number:040x}".encode(), photographs[number % DIFFERENT], append=True)


@pytest.mark.parametrize("resample", ["pyramid", "bilinear"])
def test_preparing_scales_with_the_cores_in_bounded_memory(benchmark, source, tmp_path, monkeypatch, resample):
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, float] = {1: 0.0, 2: 0.0}
    peaks: dict[str, int] = {}

    def both() -> None:
        for processes in (1, 2):
            with watched() as peak:
                start, used = time.perf_counter(), cpu_seconds()
                states = prepare("lsun-tower", source, resample=resample, processes=processes)
                seconds[processes].append(time.perf_counter() - start)
                cpu[processes] += cpu_seconds() - used
            assert [state.count for state in states] == [COUNT, 300]
            for name, value in peak.items():
                peaks[name] = max(value, peaks.get(name, 0))

    benchmark.pedantic(both, rounds=ROUNDS)
    assert len(open_split("lsun-tower", "train")) == COUNT
    ratio = statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    found = {
        "images": COUNT,
        "images_per_second": {str(n): round(COUNT / statistics.median(of)) for n, of in seconds.items()},
        "two processes over one": round(ratio, 2),
        "images_per_cpu_second": {str(n): round(COUNT * ROUNDS / of) for n, of in cpu.items()},
        "cores in use": {str(n): round(of / sum(seconds[n]), 2) for n, of in cpu.items()},
        "peak MiB": {name: value // 2**20 for name, value in peaks.items()},
    }
    benchmark.extra_info.update(found)
    print(found)
    assert max(peaks.values()) < GIB


FINISH = """
import pathlib, resource, sys
import numpy as np
from flowbench.data.preparing import preparation
from flowbench.data.preparing.conversion import shard_name
from flowbench.data.readers.lmdb import LmdbReader
from flowbench.data.manifest import Manifest
from flowbench.data.sets.lsun import _split
from flowbench.config.registry import image_sets

folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
counts = {"train": count, "validation": 300}
sources = {split: _split(LmdbReader(folder, n, (b"",) * (n // 256 + 1)), "pyramid") for split, n in counts.items()}
tasks = {split: preparation._tasks(folder, split, source, False) for split, source in sources.items()}
generator = np.random.default_rng(0)
for of in tasks.values():
    for task in of:
        digests = generator.integers(0, 256, (task.count, 32), dtype=np.uint8)
        places = np.zeros((task.count, 3), np.int64)
        none = np.array([], np.str_)
        np.savez(task.record, digests=digests, originals=digests, places=places, skipped=none, reasons=none)
        (folder / shard_name(task.split, task.number)).write_bytes(b"pixels")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest = preparation._finish(folder, image_sets["lsun-bedroom"], sources, tasks, {folder / "data.mdb": "0" * 64}, 2)
assert manifest.splits["train"].shape[0] == count
print(len(tasks["train"]), before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_finishing_three_million_images_is_bounded(benchmark, tmp_path):
    """The end of LSUN bedroom's preparation, where the digests of all images meet: peak resident memory, MiB."""
    command = [sys.executable, "-c", FINISH, str(tmp_path), str(BEDROOM)]
    run = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=True), rounds=1)
    shards, before, peak = map(int, run.stdout.split())
    benchmark.extra_info.update({"images": BEDROOM, "shards": shards, "peak MiB": peak})
    print({"images": BEDROOM, "shards": shards, "MiB before": before, "peak MiB": peak})
    assert peak < 1024


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its ended children: what other work on the machine cannot stretch."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Give the largest resident memory, in bytes, of this process and of the largest of its children."""
    me, stop = psutil.Process(), threading.Event()
    peak = {"parent": 0, "worker": 0}

    def watch() -> None:
        while not stop.wait(0.05):
            peak["parent"] = max(peak["parent"], me.memory_info().rss)
            for child in me.children():
                try:
                    peak["worker"] = max(peak["worker"], child.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
