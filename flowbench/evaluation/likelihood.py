"""Exact evaluation of a density model on a split: bits/dim of every image, with its labels and its error bars."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.data import Images
from flowbench.data.feed import batches_in_order
from flowbench.densities.model import DensityModel
from flowbench.densities.modes import evaluating
from flowbench.densities.noise import evaluation_noise
from flowbench.errors import InputError, WorkFailedError, is_out_of_memory
from flowbench.evaluation.reported import Mode, Setting, is_normalized, reported_statistics
from flowbench.evaluation.weights import WeightAverage, reported_weights
from flowbench.system.progress import counted

__all__ = ["Measured", "Values", "evaluate"]


@dataclass(frozen=True)
class Values:
    """What one process measured on its part of the images."""

    indices: NDArray[np.int64]
    """Places of the images in the split, (k,)."""
    log_prob: NDArray[np.float64]
    """log p of each image under each draw of noise, in nats, (k, max(draws, K))."""
    terms: NDArray[np.float64]
    """The model's `summands`, means over `draws`, in nats, (k, len(summands))."""
    shares: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Of each image the part of log p that an approximation stands for (`DensityModel.terms_and_shares`), (k,)."""


@dataclass(frozen=True)
class Measured:
    """The figures of one split."""

    metrics: dict[str, dict[str, Any]]
    """Metric objects as in result.json: `bits_per_dim` and what was asked for beside it."""
    bits_per_dim: NDArray[np.float64]
    """Of every image in the split's order, the mean over draws, (n,)."""
    notes: list[str]
    """Lines that a reader of the figures should see."""
    rows: NDArray[np.int64] | None = None
    """Which images of the split as it lies prepared these are; None: all, in order."""


def evaluate(
    model: DensityModel,
    images: Images,
    setting: Setting,
    *,
    training: Images | None = None,
    average: WeightAverage | None = None,
    rank: int = 0,
    ranks: int = 1,
    gather: Callable[[Values], list[Values]] | None = None,
) -> Measured:
    """Measure every image of a split; the model comes out as it went in.

    −log w / (D log 2) is an upper bound of the bits/dim in expectation, with w = p(x + u), u uniform noise (Theis et
    al. 2016, section 3.1), or w = p(x, z) / q(z | x), z a draw of a posterior (Kingma & Welling 2014, eq. 3);
    −log (1/K Σ_k w_k) / (D log 2) is a tighter one (Burda et al. 2016, eq. 8).

    Args:
        model: its raw weights.
        images: the split.
        setting: what is measured and how.
        training: training images, for population statistics.
        average: the moving averages of the weights, for `weights: ema`.
        rank: which part of the batches is this process's.
        ranks: number of processes.
        gather: exchanges what the processes measured: every process gets the list of all.

    Raises:
        InputError: running statistics asked for averaged weights; population statistics without training images.
        WorkFailedError: some figure is not finite; the message names the images.
    """
    _check_draws(setting)
    normalized = is_normalized(model)
    if setting.importance is not None and model.bound == "exact":
        raise InputError("importance: this model's likelihood is exact: there is no bound to tighten")
    if normalized and setting.weights == "ema" and setting.batch_norm == "running":
        raise InputError("batch_norm: running statistics belong to the raw weights: use population with weights ema")
    if normalized and setting.batch_norm == "population" and training is None:
        raise InputError(
            "batch_norm: population statistics are estimated on training images: give them, or use running"
        )

    def measured_in(setting: Setting) -> Measured:
        with reported_statistics(model, training if normalized else None, setting):
            values = _measure(model, images, setting, rank, ranks)
        merged = _in_order([values] if gather is None else gather(values), images)
        return _summarize(merged, model, images, setting, normalized)

    with reported_weights(average, setting.weights), evaluating(model), torch.no_grad():
        measured = measured_in(setting)
        if normalized and setting.other_mode and setting.weights == "raw" and training is not None:
            mode: Mode = "running" if setting.batch_norm == "population" else "population"
            try:
                other = measured_in(replace(setting, batch_norm=mode, importance=None)).metrics["bits_per_dim"]
                measured.metrics[f"bits_per_dim_{mode}"] = other
            except WorkFailedError as error:
                measured.notes.append(f"with {mode} batch-norm statistics: {error}")
    return measured


def _check_draws(setting: Setting) -> None:
    if setting.draws < 1:
        raise InputError(f"draws is {setting.draws}: at least one is needed")
    if setting.importance is not None and setting.importance < 1:
        raise InputError(f"importance is {setting.importance}: at least one sample is needed")


def _measure(model: DensityModel, images: Images, setting: Setting, rank: int, ranks: int) -> Values:
    """Return log p of this process's images under all draws of noise."""
    # The noise belongs to an image's place in the whole split, also where only a part of it is measured.
    places = np.arange(len(images)) if images.rows is None else images.rows
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    exact = model.bound == "exact"
    draws = 1 if exact else max(setting.draws, setting.importance or 0)
    parts: list[Values] = []
    batches = batches_in_order(images, setting.batch_size, device, rank=rank, ranks=ranks)
    count = -(-len(images) // (setting.batch_size * ranks))
    for indices, batch in counted(batches, f"evaluating {images.name} {images.split}", count):
        log_prob = np.empty((len(indices), draws))
        terms = np.zeros((len(indices), len(model.summands)))
        for draw in range(draws):
            noise = evaluation_noise(setting.seed, images.split, places[indices], draw, model.noise_shape, model.noise)
            fitting, approximated = _terms_that_fit(model, batch, noise.to(device))
            drawn = fitting.double().cpu().numpy()
            log_prob[:, draw] = drawn.sum(1)
            if draw < setting.draws:
                terms += drawn / (1 if exact else setting.draws)
        shares = {name: share.double().cpu().numpy() for name, share in approximated.items()}
        parts.append(Values(indices, log_prob, terms, shares))
    if not parts:
        return Values(np.empty(0, np.int64), np.empty((0, draws)), np.empty((0, len(model.summands))))
    return _together(parts)


def _together(parts: list[Values]) -> Values:
    names = {name: None for part in parts for name in part.shares}
    return Values(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.log_prob for part in parts]),
        np.concatenate([part.terms for part in parts]),
        {name: np.concatenate([part.shares[name] for part in parts if len(part.indices)]) for name in names},
    )


def _terms_that_fit(model: DensityModel, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each image's terms, (k, len(summands)), and its shares, halving a batch that does not fit into memory.

    Nobody chose this batch's size, and no result depends on it.
    """
    try:
        terms, shares = model.terms_and_shares(images, noise)
        return torch.stack(list(terms), dim=1), shares
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            raise WorkFailedError("out of memory: not even one image can be evaluated: take another machine") from error
    # Outside the handler: the error's traceback holds the tensors that did not fit.
    half = len(images) // 2
    first, second = (_terms_that_fit(model, images[part], noise[part]) for part in (slice(half), slice(half, None)))
    return torch.cat([first[0], second[0]]), {name: torch.cat([first[1][name], second[1][name]]) for name in first[1]}


def _in_order(parts: list[Values], images: Images) -> Values:
    """Merge what all processes measured, in the images' order.

    Raises:
        WorkFailedError: it is not every image, or not finite for some.
    """
    values = _together(parts)
    order = np.argsort(values.indices)
    if not np.array_equal(values.indices[order], np.arange(len(images))) or len(images) == 0:
        raise WorkFailedError(
            f"{images.name} {images.split}: {len(values.indices)} of {len(images)} images were measured"
        )
    broken = np.flatnonzero(~np.isfinite(values.log_prob[order]).all(1))
    if len(broken):
        named = ", ".join(map(str, broken[:10])) + (", …" if len(broken) > 10 else "")
        raise WorkFailedError(
            f"{images.name} {images.split}: bits/dim is not finite for {len(broken)} of {len(images)} images ({named})"
        )
    shares = {name: share[order] for name, share in values.shares.items()}
    return Values(values.indices[order], values.log_prob[order], values.terms[order], shares)


def _summarize(values: Values, model: DensityModel, images: Images, setting: Setting, normalized: bool) -> Measured:
    """Return bits/dim of values in the images' order, with their labels."""
    exact = model.bound == "exact"
    per_nat = -1 / (model.dimensions * math.log(2))
    labels = {
        "levels": model.levels,
        "dequantization": model.dequantization,
        "bound": model.bound,
        "batch_norm": setting.batch_norm if normalized else None,
        "weights": setting.weights,
        **images.choices,
    }
    bits = per_nat * values.log_prob[:, : setting.draws].mean(1)
    terms = per_nat * values.terms.mean(0)
    plain = {**_mean(bits), "draws": 1 if exact else setting.draws, **labels}
    for name, share in values.shares.items():
        plain[f"{name}_share"] = float(share.mean())
        if plain[f"{name}_share"] > 0:
            plain["bound"] = name
    plain["terms"] = dict(zip(model.summands, terms.tolist(), strict=True))
    metrics = {"bits_per_dim": plain}
    if setting.importance is not None:
        weighted, errors = _importance(values.log_prob[:, : setting.importance])
        metrics["bits_per_dim_importance"] = {
            **_mean(per_nat * weighted),
            "draws": 1,
            **labels,
            "bound": "importance",
            "K": setting.importance,
            "monte_carlo_error": float(-per_nat * np.sqrt((errors**2).sum()) / len(images)),
        }
    return Measured(metrics, bits, [])


def _mean(bits: NDArray[np.float64]) -> dict[str, Any]:
    stderr = float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else None
    return {"value": float(bits.mean()), "stderr": stderr, "n": len(bits)}


def _importance(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log (1/K Σ_k w_k) of each image and its Monte-Carlo standard error by the delta method, (n,) each.

    Var[log w̄] ≈ Var[w] / (K w̄²), with the sample variance (ddof 1) of the K weights; unknown (0) for K = 1.
    """
    from scipy.special import logsumexp  # half a second that few evaluations need

    k = log_weights.shape[1]
    log_mean = logsumexp(log_weights, axis=1) - math.log(k)
    if k == 1:
        return log_mean, np.zeros_like(log_mean)
    relative = np.exp(log_weights - log_mean[:, None])
    return log_mean, relative.std(axis=1, ddof=1) / math.sqrt(k)
