"""Batches for training and evaluation: pure functions of (seed, step), from the device's memory or streamed to it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.data.images import Images, VariedPixels
from flowbench.errors import InputError

__all__ = ["RESIDENT_PART", "Feed", "batches_in_order", "channels_first", "fits", "held", "streaming_bytes"]

RESIDENT_PART = 0.4
"""Part of the device's free memory that a resident set may take."""
PREFETCH = 4
PIECE = 4096
"""Images that are copied to the device at once when a set becomes resident."""
STREAM = 0x66656564 << 32


class Feed:
    """Shuffled training batches; every process that asks for the same (seed, step) gets the same images.

    Each epoch has its own permutation of the whole set, flips and crops. The ragged tail of the permutation is left
    out: with another permutation each epoch, no image is left out for good.

    Args:
        images: what to feed.
        batch_size: images of the global batch, over all ranks.
        seed: of order, flips and crops.
        flip: mirror each image left to right with probability 1/2.
        device: where the batches are wanted.
        rank: which part of the global batch is this process's.
        ranks: number of processes; batch_size must divide among them.
        resident: keep the set in the device's memory; None: if it takes no more than 40 % of what is free.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        device: torch.device | str,
        rank: int = 0,
        ranks: int = 1,
        resident: bool | None = None,
    ) -> None:
        if batch_size > len(images):
            raise InputError(
                f"data.batch_size: {batch_size} is more than the {len(images)} images of {images.name}: "
                "give at most that many"
            )
        if batch_size % ranks:
            raise InputError(f"data.batch_size: {batch_size} does not divide among {ranks} processes")
        self.steps_per_epoch = len(images) // batch_size
        """Whole batches in an epoch."""
        device = torch.device(device)
        plan = _Plan(len(images), batch_size, seed, flip, images.window is not None, rank, ranks)
        self.resident = fits(images, device) if resident is None else resident
        """Whether the images lie in the device's memory."""
        self._source: _Source = (
            (_ResidentWindows(images, plan, device) if images.window is not None else _Resident(images, plan, device))
            if self.resident
            else _Streamed(images, plan, device)
        )

    def batch(self, step: int) -> Tensor:
        """Return this rank's images of a step: uint8 (batch_size / ranks, channels, height, width), channels last."""
        return channels_first(self._source.batch(step))


def channels_first(batch: Tensor) -> Tensor:
    """Return images as stored, (k, height, width, channels), seen as (k, channels, height, width), without a copy.

    That is the layout which convolutions like best, and the one that compiled code is made for.
    """
    return batch.permute(0, 3, 1, 2)


def fits(images: Images, device: torch.device) -> bool:
    """Say whether `images` take at most 40 % of the device's free memory."""
    return held(images.nbytes, device)


def held(size: int, device: torch.device) -> bool:
    """Say whether a set of `size` bytes will lie in the device's memory; otherwise it is streamed from disk."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size <= RESIDENT_PART * free


def streaming_bytes(batch: int) -> int:
    """Return the bytes that a streamed set takes at a time, of batches of `batch` bytes."""
    return (PREFETCH + 1) * batch


def batches_in_order(
    images: Images, batch_size: int, device: torch.device | str, *, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield every image once, in order: (indices (k,), uint8 (k, channels, height, width)); the last may be smaller.

    Crops are at their fixed places, nothing is flipped. Batch b belongs to rank b modulo `ranks`.
    """
    for start in range(rank * batch_size, len(images), ranks * batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        yield indices, channels_first(torch.from_numpy(images.take(indices)).to(device))


@dataclass(frozen=True)
class _Draw:
    """What a rank's batch is made of; all on the CPU, rows by place in the batch."""

    indices: NDArray[np.int64]
    mirrored: int
    """How many images, the first of the batch, are mirrored."""
    places: NDArray[np.float64] | None


class _Plan:
    """Order, flips and crop places of every step."""

    def __init__(self, count: int, batch_size: int, seed: int, flip: bool, crop: bool, rank: int, ranks: int) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._flip, self._crop = flip, crop
        self._steps = count // batch_size
        self._local = batch_size // ranks
        self._first = rank * self._local
        # Two epochs: prefetching looks across the border while the last batches of the old one are still asked for.
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def draw(self, step: int) -> _Draw:
        epoch, place = divmod(step, self._steps)
        start = place * self._batch_size + self._first
        part = slice(start, start + self._local)
        order, mirrored, places = self._epoch(epoch)
        own = min(max(int(mirrored[place]) - self._first, 0), self._local)
        return _Draw(order[part], own, None if places is None else places[part])

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
        generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, STREAM + epoch], np.uint64)))
        order = generator.permutation(self._count)
        # Which images come first in a batch is a matter of chance already: mirroring the first k of it, k binomial,
        # is mirroring each with probability 1/2, and these lie together.
        mirrored = generator.binomial(self._batch_size, 0.5 if self._flip else 0.0, self._steps)
        return order, mirrored, generator.random((self._count, 2)) if self._crop else None


class _Source(Protocol):
    def batch(self, step: int) -> Tensor:
        """Return uint8 (k, height, width, channels) on the device."""


class _Resident:
    """The whole set lies in the device's memory as one array; a batch is gathered and flipped there."""

    def __init__(self, images: Images, plan: _Plan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._images = torch.empty((len(images), *_channels_last(images.shape)), dtype=torch.uint8, device=device)
        # In pieces: beside what lies on the device, the whole set is never in memory a second time.
        for start in range(0, len(images), PIECE):
            indices = np.arange(start, min(start + PIECE, len(images)))
            self._images[start : start + PIECE] = torch.from_numpy(images.take(indices))

    def batch(self, step: int) -> Tensor:
        draw = self._plan.draw(step)
        batch = self._images.index_select(0, _to_device(draw.indices, self._device))
        return _flip(batch, draw.mirrored)


class _ResidentWindows:
    """The whole set lies in the device's memory as flat bytes; crops are gathered there for the batch at once."""

    def __init__(self, images: Images, plan: _Plan, device: torch.device) -> None:
        self._plan, self._device, self._of = plan, device, images
        channels, side, _ = images.shape
        self._divisor = images.divisor
        if isinstance(images.pixels, VariedPixels):
            parts = list(images.pixels.shards)
            bases = np.concatenate([[0], np.cumsum([shard.size for shard in images.pixels.shards])])
            offsets = bases[images.pixels.index[:, 0]] + images.pixels.index[:, 1]
            widths = images.pixels.index[:, 3]
        else:
            array = images.pixels.array
            parts = [array[start : start + PIECE].reshape(-1) for start in range(0, len(array), PIECE)]
            offsets = np.arange(len(array)) * int(np.prod(array.shape[1:]))
            widths = np.full(len(array), array.shape[2])
        flat = torch.empty(sum(part.size for part in parts), dtype=torch.uint8, device=device)
        place = 0
        for part in parts:
            flat[place : place + part.size] = torch.from_numpy(np.array(part))
            place += part.size
        # A row for each place where a line of a window may begin: whole lines are copied, and there is an index for
        # each line, not for each byte (100x faster on a CPU, 2026-11).
        line = side * channels
        self._lines = flat.as_strided((flat.numel() - line + 1, line), (1, 1))
        self._offsets, self._widths = offsets, widths
        self._channels = channels
        self._steps = np.arange(side)
        self._shape = (-1, side, side, channels)

    def batch(self, step: int) -> Tensor:
        draw = self._plan.draw(step)
        assert draw.places is not None
        rows = draw.indices if self._of.rows is None else self._of.rows[draw.indices]
        corners = self._of.corners(rows, draw.places)
        widths = self._widths[rows]
        starts = self._offsets[rows] + (corners[:, 0] * widths + corners[:, 1]) * self._channels
        lines = starts[:, None] + (widths * self._channels)[:, None] * self._steps
        batch = self._lines.index_select(0, _to_device(lines.reshape(-1), self._device)).view(self._shape)
        if self._divisor != 1:
            batch = torch.div(batch, self._divisor, rounding_mode="floor")
        return _flip(batch, draw.mirrored)


class _Streamed:
    """The set stays on disk; a background thread reads batches ahead, into pinned memory if a GPU wants them."""

    def __init__(self, images: Images, plan: _Plan, device: torch.device) -> None:
        self._images, self._plan, self._device = images, plan, device
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._ahead: dict[int, Future[tuple[Tensor, int]]] = {}

    def batch(self, step: int) -> Tensor:
        wanted = range(step, step + 1 + PREFETCH)
        for stale in [ahead for ahead in self._ahead if ahead not in wanted]:
            self._ahead.pop(stale).cancel()
        for ahead in wanted:
            if ahead not in self._ahead:
                self._ahead[ahead] = self._thread.submit(self._read, ahead)
        batch, mirrored = self._ahead.pop(step).result()
        return _flip(batch.to(self._device, non_blocking=True), mirrored)

    def _read(self, step: int) -> tuple[Tensor, int]:
        draw = self._plan.draw(step)
        # Crops are cut here, before the copy: a window has a third of the bytes of its image.
        tensor = torch.from_numpy(self._images.take(draw.indices, draw.places))
        # The pinned buffer goes back to torch's cache only when the copy to the device is done: no ring of our own.
        return (tensor.pin_memory() if self._device.type == "cuda" else tensor), draw.mirrored


def _channels_last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[1], shape[2], shape[0]


def _to_device(values: NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _flip(batch: Tensor, mirrored: int) -> Tensor:
    batch[:mirrored] = batch[:mirrored].flip(2)
    return batch
