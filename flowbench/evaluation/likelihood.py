"""Exact evaluation of a density model on a split: bits/dim of every image, with its labels and its error bars."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.data import Images
from flowbench.data.feed import Feed, batches_in_order
from flowbench.densities.flows.normalization import BatchStatistics, population_statistics
from flowbench.densities.model import DensityModel, evaluating
from flowbench.densities.noise import evaluation_noise, training_noise
from flowbench.errors import InputError, WorkFailedError, is_out_of_memory
from flowbench.evaluation.measuring import stem_of
from flowbench.evaluation.weights import WeightAverage
from flowbench.system.atomic import replacing, write_json
from flowbench.system.processes import place
from flowbench.system.progress import counted

__all__ = [
    "Measured",
    "Setting",
    "Values",
    "estimate_population",
    "evaluate",
    "evaluation_path",
    "explain_batch_norm",
    "reported_state",
    "write_evaluation",
]

POPULATION_BATCHES = 200
Mode = Literal["running", "population"]


@dataclass(frozen=True)
class Setting:
    """Everything that a figure depends on beside the model and the images."""

    seed: int = 0
    """Of the noise."""
    draws: int = 1
    """Draws of noise per image."""
    importance: int | None = None
    """K: also give the K-sample importance-weighted bound."""
    batch_norm: Mode = "population"
    weights: Literal["raw", "ema"] = "raw"
    training_batch_size: int = 64
    """Images in each batch over which population statistics are estimated: that of the training."""
    batch_size: int = 256
    """Images evaluated at once; no result depends on it."""
    samples: int | None = None
    """Also give FID and KID of that many samples (not by `evaluate`: see `sample_quality`)."""
    other_mode: bool = True
    """Give the figure in the other batch-norm mode beside the one asked for."""
    limit: int | None = None
    """Measure so many images only, and estimate population statistics on about as many."""


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
    normalized = any(isinstance(module, BatchStatistics) for module in model.modules())
    if setting.importance is not None and model.bound == "exact":
        raise InputError("importance: this model's likelihood is exact: there is no bound to tighten")
    if normalized and setting.weights == "ema" and setting.batch_norm == "running":
        raise InputError("batch_norm: running statistics belong to the raw weights: use population with weights ema")
    if normalized and setting.batch_norm == "population" and training is None:
        raise InputError(
            "batch_norm: population statistics are estimated on training images: give them, or use running"
        )

    def measured_in(setting: Setting) -> Measured:
        with _statistics(model, training if normalized else None, setting):
            values = _measure(model, images, setting, rank, ranks)
        parts = [values] if gather is None else gather(values)
        return _summarize(parts, model, images, setting, normalized)

    with _weights(average, setting.weights), evaluating(model), torch.no_grad():
        measured = measured_in(setting)
        if normalized and setting.other_mode and setting.weights == "raw" and training is not None:
            mode: Mode = "running" if setting.batch_norm == "population" else "population"
            try:
                other = measured_in(replace(setting, batch_norm=mode, importance=None)).metrics["bits_per_dim"]
                measured.metrics[f"bits_per_dim_{mode}"] = other
            except WorkFailedError as error:
                measured.notes.append(f"with {mode} batch-norm statistics: {error}")
    return measured


def estimate_population(
    model: DensityModel, training: Images, batch_size: int, seed: int, batches: int = POPULATION_BATCHES
) -> None:
    """Replace the batch-norm statistics by those of the whole training data under today's weights.

    One pass of min(all, `batches`) training batches, not flipped, with fixed noise: means of the means and of E[x²].
    Only the normalizations are in training mode: dropout would change the very variances that are estimated.

    Args:
        model: whose statistics are set.
        training: training images.
        batch_size: of the training.
        seed: of the batches and the noise.
        batches: how many, at most.
    """
    device = next(model.parameters()).device
    size = min(batch_size, len(training))
    # Statistics are those of all processes' parts together; where a batch cannot be split, each takes all of it.
    rank, ranks = place() if size % place()[1] == 0 else (0, 1)
    feed = Feed(training, batch_size=size, seed=seed, flip=False, device=device, rank=rank, ranks=ranks)
    with torch.no_grad(), population_statistics(model):
        steps = min(feed.steps_per_epoch, batches)
        for step in counted(range(steps), "batch-norm statistics", steps):
            batch = feed.batch(step)
            noise = training_noise(
                seed, step, (size, *model.noise_shape), device, stream="population", distribution=model.noise
            )
            model.terms(batch, noise[rank * len(batch) : (rank + 1) * len(batch)])


def explain_batch_norm(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], limit: float = 0.1) -> str | None:
    """Return one line if the two batch-norm modes disagree by more than `limit` bits/dim on some split, else None.

    Args:
        metrics: by split and metric, as in result.json, with the other mode's figure beside `bits_per_dim`.
        limit: bits/dim.
    """
    figures: dict[str, dict[str, float]] = {}
    for split, of_split in metrics.items():
        for metric in ("bits_per_dim", "bits_per_dim_running", "bits_per_dim_population"):
            if metric in of_split and of_split[metric]["batch_norm"] is not None:
                figures.setdefault(split, {})[of_split[metric]["batch_norm"]] = of_split[metric]["value"]
    both = {split: modes for split, modes in figures.items() if len(modes) == 2}
    if not any(abs(modes["running"] - modes["population"]) > limit for modes in both.values()):
        return None
    described = ", ".join(
        f"{split} {modes['running']:.4g} with running and {modes['population']:.4g} with population statistics"
        for split, modes in both.items()
    )
    return (
        f"bits/dim depend on the batch-norm statistics: {described}; the moving averages lag behind the weights: "
        "read the population figures, or train longer at a lower rate"
    )


def evaluation_path(
    folder: Path, images: Images, setting: Setting, *, part: str | None = None, foreign: bool = False
) -> Path:
    """Return where `write_evaluation` puts the JSON file; the bits/dim of every image lie beside it, `.npy`, (n,).

    Args:
        folder: the run's `evaluations/`.
        images: what is measured.
        setting: how.
        part: what a run calls them, where that is not their split: `holdout`.
        foreign: the images are not the run's own data: two contents never share a name.
    """
    stem = stem_of(images.name, images.fingerprint if foreign else None)
    parts = [part or images.split, stem, f"draws{setting.draws}", setting.batch_norm, setting.weights]
    if setting.importance is not None:
        parts.append(f"importance{setting.importance}")
    if setting.samples is not None:
        parts.append(f"samples{setting.samples}")
    if setting.limit is not None:
        parts.append(f"limit{setting.limit}")
    return folder / ("-".join(parts) + f"-seed{setting.seed}.json")


def write_evaluation(
    folder: Path,
    images: Images,
    setting: Setting,
    measured: Measured,
    *,
    part: str | None = None,
    foreign: bool = False,
) -> Path:
    """Write `<split>-….json` and, beside it, the bits/dim of every image as `.npy`; return the JSON file's path.

    Arguments as of `evaluation_path`.
    """
    path = evaluation_path(folder, images, setting, part=part, foreign=foreign)
    with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, measured.bits_per_dim)
    content = {
        "schema": 1,
        "dataset": images.name,
        "split": part or images.split,
        "data_fingerprint": images.fingerprint,
        "data_status": images.status,
        "seed": setting.seed,
        "metrics": {part or images.split: measured.metrics},
        "notes": measured.notes,
        "per_image": path.with_suffix(".npy").name,
    }
    write_json(path, content)
    return path


@contextmanager
def reported_state(
    model: DensityModel, setting: Setting, training: Images, average: WeightAverage | None
) -> Iterator[None]:
    """Inside the block, `model` has the weights and the batch-norm statistics that `setting` reports."""
    normalized = any(isinstance(module, BatchStatistics) for module in model.modules())
    with (
        _weights(average, setting.weights),
        evaluating(model),
        torch.no_grad(),
        _statistics(model, training if normalized else None, setting),
    ):
        yield


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


def _summarize(
    parts: list[Values], model: DensityModel, images: Images, setting: Setting, normalized: bool
) -> Measured:
    """Merge what all processes measured, check that it is everything, and put labels on it."""
    values = _together(parts)
    indices = values.indices
    order = np.argsort(indices)
    if not np.array_equal(indices[order], np.arange(len(images))) or len(images) == 0:
        raise WorkFailedError(f"{images.name} {images.split}: {len(indices)} of {len(images)} images were measured")
    log_prob = values.log_prob[order]
    broken = np.flatnonzero(~np.isfinite(log_prob).all(1))
    if len(broken):
        named = ", ".join(map(str, broken[:10])) + (", …" if len(broken) > 10 else "")
        raise WorkFailedError(
            f"{images.name} {images.split}: bits/dim is not finite for {len(broken)} of {len(images)} images ({named})"
        )
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
    bits = per_nat * log_prob[:, : setting.draws].mean(1)
    terms = per_nat * values.terms[order].mean(0)
    plain = {**_mean(bits), "draws": 1 if exact else setting.draws, **labels}
    for name, share in values.shares.items():
        plain[f"{name}_share"] = float(share.mean())
        if plain[f"{name}_share"] > 0:
            plain["bound"] = name
    plain["terms"] = dict(zip(model.summands, terms.tolist(), strict=True))
    metrics = {"bits_per_dim": plain}
    if setting.importance is not None:
        weighted, errors = _importance(log_prob[:, : setting.importance])
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


@contextmanager
def _statistics(model: DensityModel, training: Images | None, setting: Setting) -> Iterator[None]:
    """Put population statistics in place inside the block, where they are asked for, and the model's own back after."""
    if training is None or setting.batch_norm == "running":
        yield
        return
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        size, batches = setting.training_batch_size, POPULATION_BATCHES
        if setting.limit is not None:
            batches = min(batches, -(-setting.limit // size))
        estimate_population(model, training, size, setting.seed, batches)
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


@contextmanager
def _weights(average: WeightAverage | None, weights: Literal["raw", "ema"]) -> Iterator[None]:
    """Put the moving averages in the parameters' place inside the block, where they are asked for."""
    if weights == "raw":
        yield
        return
    if average is None:
        raise InputError("weights: ema asks for moving averages, but the training kept none (train.ema is 0)")
    with average.in_place():
        yield
