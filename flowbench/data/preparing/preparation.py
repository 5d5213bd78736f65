"""Preparation of a set: pieces over processes, in bounded memory, restartable, and in place only when all is done."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from flowbench.data.image_set import ImageSet, Split, data_root
from flowbench.data.manifest import MANIFEST, Manifest, SourceRecord, SplitRecord, content_sha256, file_sha256
from flowbench.data.preparing.conversion import (
    Done,
    Task,
    convert,
    lay_out,
    load_done,
    shard_name,
    skip_header,
    state_of,
)
from flowbench.data.readers.source import SplitSource
from flowbench.errors import InputError, WorkFailedError
from flowbench.system.atomic import write_json
from flowbench.system.cores import cores
from flowbench.system.version import __version__

__all__ = ["Progress", "build", "staging_folder"]

Progress = Callable[[str, int, int], None]
"""Called with (what, images done, images in all)."""

# Small enough that all cores have work to the end, large enough that a set has few hundred shards: each takes an open
# file when it is mapped. Not by the number of cores: half-done work goes on with any.
PIECES = 256
MIN_PIECE_IMAGES = 512
MAX_PIECE_IMAGES = 8192
PIECE_BYTES = 2**28
SPARE_BYTES = 2**26
# Starting a process takes as long as decoding some thousands of small images.
INLINE_IMAGES = 2000


def build(
    known: ImageSet,
    sources: Mapping[Split, SplitSource],
    *,
    skip_broken: bool = False,
    progress: Progress | None = None,
    processes: int | None = None,
) -> Manifest:
    """Prepare all splits of a set from their sources and put the folder in place; return its manifest.

    Args:
        known: the set.
        sources: where each split is read from.
        skip_broken: leave out images that cannot be used, and list them in the manifest.
        progress: told of every piece that is done.
        processes: how many to use; None: as many as this process may use cores.

    Raises:
        InputError: a broken image (named), too little disk space, another preparation of this set at work.
        WorkFailedError: a process was killed, or the disk is full; a second call goes on where this one stopped.
    """
    empty = [split for split, source in sources.items() if len(source.reader) == 0]
    if empty:
        raise InputError(f"{known.name}: no images for {', '.join(empty)}")
    known.refuse_variant({split: len(source.reader) for split, source in sources.items()})
    folder = staging_folder(known.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(known.name):
        _start_or_resume(folder, sources)
        try:
            tasks = {split: _tasks(folder, split, source, skip_broken) for split, source in sources.items()}
            files = sorted({path for source in sources.values() for path in source.reader.files})
            processes = processes or cores()
            hashes = _work(known.name, tasks, files, progress, processes)
            manifest = _finish(folder, known, sources, tasks, hashes, processes)
        except BaseException:
            if not any(folder.glob("*.npz")):
                # Nothing is done that a second call could use.
                shutil.rmtree(folder, ignore_errors=True)
            raise
        _put_in_place(folder, data_root() / known.name)
    return manifest


def staging_folder(name: str) -> Path:
    """Return the folder in which a set is prepared before it is put in place."""
    return data_root() / f".preparing-{name}"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    lock = FileLock(data_root() / f".{name}.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{name} is being prepared by another process in {data_root()}: wait for it") from error


def _start_or_resume(folder: Path, sources: Mapping[Split, SplitSource]) -> None:
    plan = folder / "plan.json"
    wanted = _plan(sources)
    if plan.is_file() and plan.read_text() == json.dumps(wanted, indent=2) + "\n":
        # Stopped while gaps were closed: the rows as they were written are what is gone on with.
        for gaps in folder.glob("*.gaps"):
            gaps.replace(gaps.with_suffix(".npy"))
        return
    shutil.rmtree(folder, ignore_errors=True)
    needed = sum(len(source.reader) * source.estimate for source in sources.values()) + SPARE_BYTES
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise InputError(
            f"{folder.parent}: {free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB needed: "
            "free some, or set FLOWBENCH_DATA to a larger disk"
        )
    folder.mkdir()
    for split, source in sources.items():
        if source.shape is not None:
            lay_out(folder / f"{split}.npy", (len(source.reader), *source.shape))
    write_json(plan, wanted)


def _plan(sources: Mapping[Split, SplitSource]) -> dict[str, Any]:
    """Return what a half-done preparation must have in common with this one to be gone on with."""
    return {
        split: {
            "images": len(source.reader),
            "images_a_piece": _piece_images(source),
            "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in source.reader.files],
            "identity": source.reader.identity,
            "format": source.format,
            "transform": repr(source.transform),
            "shape": None if source.shape is None else list(source.shape),
        }
        for split, source in sources.items()
    }


def _tasks(folder: Path, split: Split, source: SplitSource, skip_broken: bool) -> list[Task]:
    count, step = len(source.reader), _piece_images(source)
    return [
        Task(
            folder=folder,
            split=split,
            number=number,
            first=first,
            count=min(step, count - first),
            piece=source.reader.piece(first, min(first + step, count)),
            transform=source.transform,
            shape=source.shape,
            skip_broken=skip_broken,
        )
        for number, first in enumerate(range(0, count, step))
    ]


def _piece_images(source: SplitSource) -> int:
    wanted = max(MIN_PIECE_IMAGES, len(source.reader) // PIECES)
    return max(1, min(wanted, MAX_PIECE_IMAGES, PIECE_BYTES // source.estimate))


def _work(
    name: str,
    tasks: Mapping[Split, list[Task]],
    files: list[Path],
    progress: Progress | None,
    processes: int,
) -> dict[Path, str]:
    """Do what is not done yet and hash the source's files; return the hashes."""
    every = [task for split in tasks.values() for task in split]
    total = sum(task.count for task in every)
    left = [task for task in every if not _is_done(task)]
    done = total - sum(task.count for task in left)
    if progress is not None:
        progress(name, done, total)
    hashes: dict[Path, str] = {}
    for result in _results(left, files, processes):
        if isinstance(result, int):
            done += result
            if progress is not None:
                progress(name, done, total)
        else:
            hashes[result[0]] = result[1]
    return hashes


def _is_done(task: Task) -> bool:
    if not task.record.is_file():
        return False
    done = load_done(task.record)
    # Broken images may have been mended since, or may not be left out any more.
    return not done.skipped and done.state == state_of(task.piece)


def _results(tasks: list[Task], files: list[Path], processes: int) -> Iterator[int | tuple[Path, str]]:
    try:
        if min(processes, len(tasks)) <= 1 or sum(task.count for task in tasks) <= INLINE_IMAGES:
            yield from map(convert, tasks)
            yield from map(_hash, files)
            return
        # Spawned, not forked: the parent has threads (torch, progress), and a forked lock may be held for ever.
        context = multiprocessing.get_context("spawn")
        workers = min(processes, len(tasks))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
            # Hashes first: one of a large file, begun last, would keep a single core at work while the others wait.
            futures: list[Future[Any]] = [pool.submit(_hash, path) for path in files]
            futures += [pool.submit(convert, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool as error:
        raise WorkFailedError(
            "a preparing process was killed (out of memory?) or crashed on a damaged file; "
            "the same command goes on where it stopped"
        ) from error
    except OSError as error:
        what = error.filename or data_root()
        raise WorkFailedError(
            f"{what}: {error.strerror or error}; the same command goes on where it stopped"
        ) from error


def _hash(path: Path) -> tuple[Path, str]:
    return path, file_sha256(path)


def _follow_parent() -> None:
    # Ctrl-C reaches the whole group: the parent cancels what is left, and pieces at work end well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Killed, a parent says nothing: the pool's processes would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _finish(
    folder: Path,
    known: ImageSet,
    sources: Mapping[Split, SplitSource],
    tasks: Mapping[Split, list[Task]],
    hashes: Mapping[Path, str],
    processes: int,
) -> Manifest:
    splits: dict[Split, SplitRecord] = {}
    trained = np.empty(0, "S32")
    originals: list[NDArray[np.uint8]] = []
    for split, source in sources.items():
        done = [load_done(task.record) for task in tasks[split]]
        if not hashes:
            originals += [piece.originals for piece in done]
        files = _gather(folder, split, tasks[split], done)
        digests = np.concatenate([piece.digests for piece in done])
        if not len(digests):
            raise InputError(f"{known.name}: every image of {split} was left out: {done[0].skipped[0].reason}")
        # As in content_sha256: one value a digest.
        values = np.ascontiguousarray(digests).view("S32").ravel()
        trained = values if split == "train" else trained
        height, width = (None, None) if source.shape is None else source.shape[:2]
        splits[split] = SplitRecord(
            shape=(len(digests), height, width, source.channels),
            files=dict(zip(files, _hashes([folder / name for name in files], processes), strict=True)),
            content_sha256=content_sha256(digests),
            skipped=[skipped for piece in done for skipped in piece.skipped],
            not_taken=dict(source.not_taken),
            also_in_train=0 if split == "train" else int(np.isin(values, trained).sum()),
        )
    named = _named(hashes)
    if not named:
        named = {f"{sum(map(len, originals))} images": content_sha256(np.concatenate(originals))}
    first = next(iter(sources.values()))
    manifest = Manifest(
        schema=1,
        name=known.name,
        levels=known.levels,
        splits=splits,
        source=SourceRecord(format=first.format, files=named),
        preprocessing=first.preprocessing,
        licence=known.licence,
        flowbench=__version__,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", by_alias=True))
    return manifest


def _named(hashes: Mapping[Path, str]) -> dict[str, str]:
    """Return the digests of source files by name, with their folder's where several have one (LMDBs: data.mdb)."""
    names = [path.name for path in hashes]
    return {
        path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}": digest
        for path, digest in hashes.items()
    }


def _hashes(paths: Sequence[Path], threads: int) -> list[str]:
    # Threads are enough: hashing lets go of the interpreter.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(file_sha256, paths))


def _gather(folder: Path, split: Split, tasks: list[Task], done: list[Done]) -> list[str]:
    """Make the split's files from what the pieces left; return their names."""
    if tasks[0].shape is not None:
        if any(piece.skipped for piece in done):
            _close_gaps(folder / f"{split}.npy", tasks, done)
        return [f"{split}.npy"]
    index = [
        np.column_stack([np.full(len(piece.places), task.number), piece.places])
        for task, piece in zip(tasks, done, strict=True)
    ]
    with (folder / f"{split}-index.npy").open("wb") as file:
        np.save(file, np.concatenate(index).astype(np.int64), allow_pickle=False)
    return [*(shard_name(split, task.number) for task in tasks), f"{split}-index.npy"]


def _close_gaps(path: Path, tasks: list[Task], done: list[Done]) -> None:
    # The rows as they were written stay until all is done: killed in between, this is simply done again.
    gaps = path.with_suffix(".gaps")
    if not gaps.exists():
        path.rename(gaps)
    shape = tasks[0].shape
    assert shape is not None
    row = int(np.prod(shape))
    lay_out(path, (sum(len(piece.digests) for piece in done), *shape))
    with path.open("r+b") as file, gaps.open("rb") as old:
        skip_header(file)
        skip_header(old)
        start = old.tell()
        for task, piece in zip(tasks, done, strict=True):
            old.seek(start + task.first * row)
            file.write(old.read(len(piece.digests) * row))


def _put_in_place(staging: Path, target: Path) -> None:
    manifest = json.loads((staging / MANIFEST).read_text())
    keep = {MANIFEST} | {name for split in manifest["splits"].values() for name in split["files"]}
    for path in staging.iterdir():
        if path.name not in keep:
            path.unlink()
    old = target.with_name(f".replaced-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
