"""Costs that are counted rather than timed: parameters, FLOPs, activations, bytes on disk, passes over images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import Experiment
from flowbench.data.feed import held, streaming_bytes
from flowbench.data.image_set import data_root
from flowbench.data.images import image_format
from flowbench.densities.flows.normalization import BatchStatistics
from flowbench.errors import InputError
from flowbench.evaluation.flops import MOST_COUNTED, flops_per_item
from flowbench.evaluation.reported import POPULATION_BATCHES
from flowbench.system.device import default_device
from flowbench.tasks.density import TRAIN_FIGURE_IMAGES, build_density
from flowbench.tasks.objectives import density_objective
from flowbench.tasks.task import make_task

__all__ = ["Counted", "count", "data_here"]

FEW = 2
"""Images of the batch on which activations are counted."""
MOST_COMPUTED = 10**8
"""Parameters of a model that is computed for its count: of a larger one only the shapes are. `tarflow/imagenet64` would
take 20 GB and minutes."""


@dataclass(frozen=True)
class Counted:
    """What follows from the experiment alone."""

    parameters: int
    forward_flops: int
    """Of one image or window (`flops`)."""
    training_flops: int
    """Of one image or window, forward and backward."""
    state_bytes: int
    """Weights, gradients, optimizer and averages."""
    activation_bytes: int
    """Kept for the backward pass, of a whole batch."""
    steps: int
    evaluated: int
    """Images (each draw of each counts) or windows that the evaluation passes through the model."""
    normalized_steps: int
    """Forward passes of a training batch that estimate batch statistics for the evaluation."""
    data_bytes: int
    """On disk; 0 where nothing need lie there."""
    training_bytes: int
    """Of the whole training set, as it lies on disk."""
    held: bool
    """Whether that lies in the device's memory; otherwise it is streamed."""
    resident_bytes: int
    """Of the training set in memory, its memory map included: all of it, or the batches that are read ahead."""
    checkpoint_bytes: int
    """Of the two that are kept, and of the figures' values."""


def count(experiment: Experiment[Any, Any]) -> Counted:
    """Count what an experiment costs; a density model needs no data for it, a forecaster its file."""
    torch.manual_seed(experiment.seed)
    density = experiment.kind == "density"
    return _density(experiment) if density else _forecast(experiment)


def _density(experiment: Experiment[Any, Any]) -> Counted:
    known = image_sets[experiment.data.name]
    if "train" not in known.counts:
        raise InputError(f"--dry-run: how many images {experiment.data.name} has is known only when they are prepared")
    shape, levels = image_format(experiment.data)
    known_shape = {"shape": list(shape), "levels": levels}
    data, config = experiment.data, experiment.train
    with torch.device("meta" if _by_shapes(experiment, known_shape) else "cpu"):
        model = build_density(experiment, known_shape)
        images = torch.zeros(MOST_COUNTED, *shape, dtype=torch.uint8)
        noise = torch.rand(MOST_COUNTED, *model.noise_shape)
        closed_form = bool(model.fit([images]))
        if not closed_form:
            model.initialize(images, noise)
        objective, opponent = density_objective(experiment, model)
        forward, training = _flops(objective, (images, noise), learns=not closed_form)
        if opponent:
            training += opponent.config.updates * _flops(opponent.objective, (images, noise), learns=True)[1]
        activations = _activations(objective, (images[:FEW], noise[:FEW]), learns=not closed_form)
    trained = max(known.counts["train"] - data.holdout, 1)
    steps = config.steps if config.steps is not None else (config.epochs or 0) * (trained // data.batch_size)
    normalized = any(isinstance(module, BatchStatistics) for module in model.modules())
    modes = 2 if normalized and experiment.weights == "raw" else 1
    limit = experiment.evaluate.limit or max(known.counts.values())
    measured = min(known.counts[known.report_split], limit) + min(TRAIN_FIGURE_IMAGES, trained, limit)
    draws = 1 if model.bound == "exact" else experiment.evaluate.draws
    validations = steps // config.validate_every if isinstance(config.validate_every, int) else config.epochs or 0
    populations = (3 + (validations if data.holdout else 0)) if normalized else 0
    pixels = shape[0] * shape[1] * shape[2]
    # What lies on disk may be larger than what is fed: LSUN's images are cropped afresh.
    share = known.counts["train"] / sum(known.counts.values())
    whole = known.counts["train"] * pixels if known.embedded else round(known.disk_bytes * share)
    device = default_device()
    stays = held(whole, device)
    return Counted(
        forward_flops=forward,
        training_flops=training,
        activation_bytes=activations * data.batch_size // FEW,
        steps=0 if closed_form else steps,
        evaluated=draws * (measured * modes + validations * min(data.holdout, limit)),
        normalized_steps=populations
        * min(POPULATION_BATCHES, trained // data.batch_size, -(-limit // data.batch_size)),
        data_bytes=0 if known.embedded else known.disk_bytes,
        training_bytes=whole,
        held=stays,
        resident_bytes=_resident(
            whole, data.batch_size * pixels, stays, mapped=not known.embedded and device.type == "cpu"
        ),
        **_states(experiment, model, values=8 * measured),
    )


def _by_shapes(experiment: Experiment[Any, Any], shape: dict[str, Any]) -> bool:
    """Say whether a model is so large that only its shapes are computed."""
    if not type(experiment.model).__module__.startswith("flowbench."):
        return False  # other people's modules may look at values, and there are none
    with torch.device("meta"):
        model = build_density(experiment, shape)
    return sum(parameter.numel() for parameter in model.parameters()) > MOST_COMPUTED


def _resident(whole: int, batch: int, stays: bool, *, mapped: bool) -> int:
    if not stays:
        return streaming_bytes(batch)
    return 2 * whole if mapped else whole


def _forecast(experiment: Experiment[Any, Any]) -> Counted:
    task = make_task(experiment, torch.device("cpu"))
    closed_form = task.prepare()
    batch = task.batch(0)
    shapes = (
        (experiment.data.lookback, len(task.data["inputs"])),
        (experiment.data.horizon, len(task.data["targets"])),
    )
    forward, training = _flops(
        task.objective, tuple(torch.zeros(MOST_COUNTED, *shape) for shape in shapes), learns=not closed_form
    )
    activations = _activations(task.objective, batch, learns=not closed_form)
    config, windows = experiment.train, task.data["windows"]
    steps = config.steps if config.steps is not None else (config.epochs or 0) * task.steps_per_epoch
    validations = steps // config.validate_every if isinstance(config.validate_every, int) else config.epochs or 0
    name, limit = experiment.data.name, experiment.evaluate.limit or max(windows.values())
    measured = {split: min(number, limit) for split, number in windows.items()}
    return Counted(
        forward_flops=forward,
        training_flops=training,
        activation_bytes=activations,
        steps=0 if closed_form else steps,
        evaluated=measured["test"] + measured["validation"] * (1 + validations),
        normalized_steps=0,
        data_bytes=series_sets[name].disk_bytes if name else Path(experiment.data.csv).stat().st_size,
        training_bytes=0,
        held=True,
        resident_bytes=0,
        **_states(experiment, task.model, values=16 * (measured["test"] + measured["validation"])),
    )


def _states(experiment: Experiment[Any, Any], model: nn.Module, values: int) -> dict[str, int]:
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    averages = 4 * parameters if experiment.train.ema else 0
    # Weights, gradients and the two moments of every optimizer that ships.
    return {
        "parameters": parameters,
        "state_bytes": stored + 3 * 4 * parameters + averages,
        "checkpoint_bytes": 2 * (stored + 2 * 4 * parameters + averages) + values,
    }


def _flops(objective: nn.Module, items: tuple[Tensor, ...], *, learns: bool) -> tuple[int, int]:
    """Return FLOPs of one item forward, and forward and backward.

    Args:
        items: `MOST_COUNTED` of them, as the objective takes them.
        learns: False: there is no backward pass.
    """
    objective.train()
    loss = torch.zeros(())

    def forward(size: int) -> None:
        nonlocal loss
        loss, _ = objective(*(part[:size] for part in items))

    def backward(size: int) -> None:
        if learns and loss.requires_grad:
            torch.autograd.backward(loss)

    there, back = flops_per_item(forward, backward)
    return there, there + back


def _activations(objective: nn.Module, batch: tuple[Tensor, ...], *, learns: bool) -> int:
    """Return the bytes kept for the backward pass of the batch."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    if not learns:
        return 0
    objective.train()
    own = {parameter.untyped_storage()._cdata for parameter in objective.parameters()}
    with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        objective(*batch)
    return sum(size for place, size in kept.items() if place not in own)


class _FusedAttention(TorchFunctionMode):
    """Lets attention of tensors without content keep what fused kernels keep: torch takes it apart for them."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is scaled_dot_product_attention and args[0].is_meta:
            return _Attention.apply(*args[:3])
        return function(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out


def data_here(experiment: Experiment[Any, Any]) -> bool:
    """Say whether the experiment's data need no more disk: they are prepared, embedded, or a file of one's own."""
    name = experiment.data.name
    if name is None or (name in image_sets and image_sets[name].embedded):
        return True
    return bool((data_root() / name).is_dir())
