"""What `flowbench data` does: list the sets, prepare one, check one."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from flowbench.config.registry import image_sets, series_sets
from flowbench.data.image_set import ImageSet, Options, Split, data_root
from flowbench.data.images import open_split
from flowbench.data.manifest import (
    MANIFEST,
    Manifest,
    SplitRecord,
    content_sha256,
    file_sha256,
    image_digests,
    read_manifest,
)
from flowbench.data.preparing.download import download as fetch
from flowbench.data.preparing.preparation import Progress, build
from flowbench.data.preparing.series import prepare_series
from flowbench.data.preparing.zipped import unpacked_folder
from flowbench.data.series import SeriesSet, series_path, series_status
from flowbench.errors import CheckFailedError, InputError, did_you_mean

__all__ = ["SetRow", "SplitState", "list_sets", "prepare", "progress_bar", "verify"]

DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class SplitState:
    """One split of a prepared set, as `prepare` and `verify` report it."""

    name: str
    split: str
    """`train`, `validation`, `test`; of a forecast set, the file."""
    count: int
    """Images, or rows."""
    fingerprint: str
    """`content_sha256`, or the file's SHA-256."""
    status: str
    """`verified`, `counts match` or `unverified`."""
    skipped: int
    """Broken images that were left out."""
    not_taken: Mapping[str, int] = field(default_factory=dict)
    """Pictures that were left out since their format is not taken, or they lay in no part, by kind."""
    also_in_train: int = 0
    """Images of another split that are among the training images."""
    replaced: str | None = None
    """Fingerprint of the other images that lay here before this preparation."""
    resample: str | None = None
    """How its images were resized; None where the set offers no choice."""


@dataclass(frozen=True)
class SetRow:
    """A line of `flowbench data list`."""

    name: str
    title: str
    counts: dict[str, int]
    """Images (or rows) per split, as published; of one's own images, as prepared."""
    download_bytes: int
    disk_bytes: int
    published: str
    licence: str
    citation: str
    present: bool
    status: str
    """`verified`, `counts match`, `unverified` (the least sure of the splits), `damaged`, or nothing."""
    command: str
    """What prepares it."""
    sources: str
    """What PATH in `--source PATH` may be."""
    by_hand: bool
    """Whether one must get it oneself: its publisher asks for registration or consent, or it is very large."""
    resample: str | None = None
    """How the images that are here were resized; None where the set offers no choice."""


def prepare(
    name: str,
    source: Path | None = None,
    download: bool = False,
    skip_broken: bool = False,
    resample: str | None = None,
    *,
    own_name: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
    timeout: float | None = None,
) -> list[SplitState]:
    """Prepare a set from `source`, or by download where its publisher allows one, under FLOWBENCH_DATA.

    Args:
        name: of the set.
        source: the folder, its parent, or the archive.
        download: fetch it; only for sets that ask for no registration.
        skip_broken: leave out images that cannot be used, and list them in the manifest.
        resample: how images are resized, where a set offers a choice.
        own_name: what a folder of one's own images is called from now on (`data.name`); None: `folder`.
        size: pixels of the shorter side, for a folder of one's own images.
        progress: told of the images done; see `progress_bar`.
        processes: how many to use; None: one a core.
        timeout: seconds after which a download is given up.

    Raises:
        InputError: unknown set, nothing found at `source`, damaged files, another known set's images.
        WorkFailedError: the disk is full, or a process was killed; the same call goes on where it stopped.
    """
    if source is not None and download:
        raise InputError("give either --source or --download, one of the two")
    source = None if source is None else source.expanduser()
    if name in series_sets:
        series: SeriesSet = series_sets[name]
        if own_name is not None:
            raise InputError(f"--name {own_name}: not for {name}; train on a file of your own with data.csv=FILE")
        of_images = {"--resample": resample, "--size": size, "--skip-broken": skip_broken or None}
        if given := [option for option, value in of_images.items() if value is not None]:
            raise InputError(f"{given[0]}: is for sets of images, and {name} is a series: leave it out")
        if source is None and not download:
            raise InputError(f"{name}: {series.how_to_get()}")
        prepare_series(series, source, timeout)
        return _series_states(series)
    known = _image_set(name) if own_name is None else _image_set(name).called(own_name)
    options = _options(known, resample, size, skip_broken=skip_broken)
    if known.embedded:
        if source is not None or download:
            raise InputError(f"{known.name}: comes with an installed package: leave out --source and --download")
        return [_state(known, split, open_split(known.name, split).fingerprint) for split in known.counts]
    if download and known.download is None:
        raise InputError(f"{known.name} is not downloaded by flowbench: {known.how_to_get()}")
    if source is None and not download:
        raise InputError(f"{known.name}: {known.how_to_get()}")
    archive = None
    if known.download is not None and source is None:
        archive = source = fetch(known.download, data_root() / DOWNLOADS, timeout)
    assert source is not None
    found = known.find(source, options)
    before = _fingerprints(known.name)
    manifest = build(known, found, skip_broken=skip_broken, progress=progress, processes=processes)
    shutil.rmtree(unpacked_folder(known.name), ignore_errors=True)
    if archive is not None:
        archive.unlink()
    states = _states(known, manifest)
    changed = {state.split for state in states if before.get(state.split) not in (None, state.fingerprint)}
    return [replace(state, replaced=before[state.split]) if state.split in changed else state for state in states]


def verify(name: str) -> list[SplitState]:
    """Recompute all hashes and fingerprints of a set.

    Raises:
        CheckFailedError: the files differ from the manifest; those of a series or of an embedded set from the published
            ones. Other images than the published ones are no failure: their status says so, here and in every table.
        InputError: not prepared, or files that cannot be read.
    """
    if name in series_sets:
        series: SeriesSet = series_sets[name]
        path = series_path(name)
        if series_status(name) != "verified":
            raise CheckFailedError(f"{path}: differs from the published file: {series.how_to_get()}")
        return _series_states(series)
    known = _image_set(name)
    if known.embedded:
        states = [_state(known, split, open_split(name, split).fingerprint) for split in known.counts]
        changed = [state.split for state in states if state.status == "unverified"]
        if changed:
            raise CheckFailedError(f"{name}: {', '.join(changed)}: other images than flowbench knows")
        return states
    folder = data_root() / name
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{name} is not prepared in {data_root()}: {known.how_to_get()}")
    manifest = read_manifest(folder)
    for split, record in manifest.splits.items():
        _verify_split(folder, name, split, record)
    return _states(known, manifest)


def list_sets() -> list[SetRow]:
    """Return a row for each set that flowbench knows, image sets first."""
    return [_image_row(image_sets[name]) for name in image_sets] + [_series_row(series_sets[n]) for n in series_sets]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give a callback that draws a bar on stderr; silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    with bars:
        yield show


def _image_set(name: str) -> ImageSet:
    if name not in image_sets:
        meant = did_you_mean(name, [*image_sets, *series_sets])
        raise InputError(f"no data set named {name!r}{meant}{image_sets.way_out}")
    return cast(ImageSet, image_sets[name])


def _options(known: ImageSet, resample: str | None, size: int | None, *, skip_broken: bool) -> Options:
    if resample is not None and resample not in known.resamples:
        choices = f"one of: {', '.join(known.resamples)}" if known.resamples else "its images are not resized by choice"
        raise InputError(f"--resample {resample}: not for {known.name}; {choices}")
    if size is not None and known.shape is not None:
        raise InputError(f"--size {size}: not for {known.name}: its size is {known.shape[1]}")
    chosen = resample or (known.resamples[0] if known.resamples else None)
    return Options(resample=chosen, size=size, skip_broken=skip_broken)


def _fingerprints(name: str) -> dict[str, str]:
    """Return the fingerprint of each split that is prepared under this name; none where it is damaged or not here."""
    try:
        splits = read_manifest(data_root() / name).splits
    except InputError:
        return {}
    return {split: record.content_sha256 for split, record in splits.items()}


def _verify_split(folder: Path, name: str, split: Split, record: SplitRecord) -> None:
    # Opened first: a truncated file is bad input, not a failed check.
    images = open_split(name, split)
    for file, expected in record.files.items():
        if file_sha256(folder / file) != expected:
            raise CheckFailedError(f"{folder / file}: its SHA-256 differs from the manifest's: prepare {name} again")
    if content_sha256(image_digests(images.pixels.whole())) != record.content_sha256:
        raise CheckFailedError(f"{folder / MANIFEST}: {split}: its content_sha256 is not that of the images")


def _states(known: ImageSet, manifest: Manifest) -> list[SplitState]:
    resample = known.choices(manifest.preprocessing).get("resample")
    states = [_state(known, split, record.content_sha256, record) for split, record in manifest.splits.items()]
    return [replace(state, resample=resample) for state in states]


def _state(known: ImageSet, split: Split, fingerprint: str, record: SplitRecord | None = None) -> SplitState:
    count = known.counts[split] if record is None else record.shape[0]
    status = known.status(split, count, fingerprint)
    if record is None:
        return SplitState(known.name, split, count, fingerprint, status, skipped=0)
    skipped = len(record.skipped)
    return SplitState(known.name, split, count, fingerprint, status, skipped, record.not_taken, record.also_in_train)


def _series_states(known: SeriesSet) -> list[SplitState]:
    path = series_path(known.name)
    with path.open("rb") as file:
        rows = sum(1 for line in file if line.strip()) - 1
    return [SplitState(known.name, path.name, rows, file_sha256(path), series_status(known.name), 0)]


def _image_row(known: ImageSet) -> SetRow:
    present, status = known.embedded, ""
    counts: dict[str, int] = {str(split): count for split, count in known.counts.items()}
    states: list[SplitState] = []
    try:
        if known.embedded:
            states = [_state(known, split, open_split(known.name, split).fingerprint) for split in known.counts]
        elif (data_root() / known.name / MANIFEST).is_file():
            present = True
            states = _states(known, read_manifest(data_root() / known.name))
        status = _least_sure([state.status for state in states])
        counts = counts or {state.split: state.count for state in states}
    except InputError:
        status = "damaged"
    way = "" if known.embedded else " --download" if known.download else " --source PATH"
    return SetRow(
        name=known.name,
        title=known.title,
        counts=counts,
        download_bytes=known.download_bytes,
        disk_bytes=known.disk_bytes,
        published=known.published,
        licence=known.licence,
        citation=known.citation,
        present=present,
        status=status,
        command="" if known.embedded else f"{known.command}{way}",
        sources=known.sources,
        by_hand=known.download_bytes > 0 and known.download is None,
        resample=next((state.resample for state in states), None),
    )


def _series_row(known: SeriesSet) -> SetRow:
    present = (data_root() / known.name / known.file).is_file()
    return SetRow(
        name=known.name,
        title=known.title,
        counts={"rows": known.rows},
        download_bytes=known.disk_bytes,
        disk_bytes=known.disk_bytes,
        published=known.published,
        licence=known.licence,
        citation=known.citation,
        present=present,
        status=series_status(known.name) if present else "",
        command=f"flowbench data prepare {known.name} --download",
        sources=known.file,
        by_hand=False,
    )


def _least_sure(statuses: list[str]) -> str:
    order = ["verified", "counts match", "own data", "unverified"]
    return max(statuses, key=order.index) if statuses else ""
