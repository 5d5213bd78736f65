"""Noise, of dequantization or of latents: a function of names and numbers alone, never of what was drawn before."""

import hashlib
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Distribution", "evaluation_noise", "step_seed", "training_noise"]

Distribution = Literal["uniform", "normal"]
"""uniform: in [0, 1); normal: N(0, 1)."""


def evaluation_noise(
    seed: int,
    split: str,
    indices: Iterable[int],
    draw: int,
    shape: tuple[int, ...],
    distribution: Distribution = "uniform",
) -> Tensor:
    """Return the noise of some images of a split in one draw: the same whatever the batch and the number of processes.

    Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), keyed by (seed, split), with the
    image's index and the draw in the upper half of the counter: each image has 2^128 blocks of its own.

    Args:
        seed: of the evaluation.
        split: the name of the split.
        indices: places of the images in the split.
        draw: number of the draw, from 0.
        shape: of one image's noise: (channels, height, width) where it is added to the image.
        distribution: of every value.

    Returns:
        float32 on the CPU, (len(indices), *shape).
    """
    key = np.array([_word("evaluation", seed), _word("evaluation", split)], dtype=np.uint64)
    places = [int(index) for index in indices]
    noise = np.empty((len(places), *shape), dtype=np.float32)
    for row, index in enumerate(places):
        counter = np.array([0, 0, index, draw], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(counter=counter, key=key))
        if distribution == "normal":
            generator.standard_normal(out=noise[row], dtype=np.float32)
        else:
            generator.random(out=noise[row], dtype=np.float32)
    return torch.from_numpy(noise)


def training_noise(
    seed: int,
    step: int,
    shape: tuple[int, ...],
    device: torch.device | str,
    stream: str = "training",
    distribution: Distribution = "uniform",
) -> Tensor:
    """Return the noise of one step's global batch, drawn where it is used.

    On the CPU, uniform: multiples of 2^-16, the words of SFC64 (Doty-Humphrey, PractRand) under numpy's seeding, cut in
    four. Finer noise is lost where it is used: pixel + noise fills the 24 bits of a float32 already, is exact, and
    stays below the number of levels, where 255 + (1 - 2^-23) is 256. In training, torch's own generator takes 5 times
    as long (2026-11). Normal: numpy's ziggurat over the same words.

    Args:
        seed: of the run.
        step: number of the training step.
        shape: of the global batch, (batch, channels, height, width) or (batch, values); a process takes its rows of it.
        device: where the noise is drawn; the CPU and each kind of accelerator have numbers of their own.
        stream: other uses of the same steps (population statistics) have noise of their own.
        distribution: of every value.

    Returns:
        float32, `shape`; channels last on the CPU, as batches are fed.
    """
    word = _word(stream, seed, step)
    if torch.device(device).type != "cpu":
        drawn = torch.randn if distribution == "normal" else torch.rand
        return drawn(shape, generator=torch.Generator(device).manual_seed(word >> 1), device=device)
    batch, channels, *sides = shape
    count = math.prod(shape)
    bits = np.random.SFC64(word)
    if distribution == "normal":
        noise = np.random.Generator(bits).standard_normal(count, dtype=np.float32)
    else:
        words = bits.random_raw(-(-count // 4))
        noise = words.astype("<u8", copy=False).view("<u2")[:count].astype(np.float32)
        noise *= np.float32(2**-16)
    return torch.from_numpy(noise.reshape(batch, *sides, channels)).movedim(-1, 1)


def step_seed(stream: str, seed: int, step: int, *places: int) -> int:
    """Return the seed of a torch generator for one step of a stream, in [0, 2^63).

    Hashed, never shifted together: torch's CPU generator (the Mersenne Twister) reads the lower 32 bits of its seed
    alone, so that of (seed << 32) + step nothing but the step is left (torch 2.11 and 2.14).

    Args:
        stream: what is drawn: streams of one step have numbers of their own.
        seed: of the run.
        step: number of the training step.
        places: what else the numbers belong to, for example one process of several.
    """
    return _word(stream, seed, step, *places) >> 1


def _word(*parts: object) -> int:
    """Return 64 well-mixed bits: neighbouring seeds and steps must not give related streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
