"""The plan of one training: its costs counted, and measured on real steps where these are affordable."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from flowbench.config.experiments import config_sha256, dump_experiment, load_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.planning.costs import Counted, count, data_here
from flowbench.system.durations import in_words
from flowbench.system.load import busy
from flowbench.system.threads import ONE_THREAD

__all__ = ["PROCESS_BYTES", "Plan", "needed_memory", "plan", "stored_speed"]

PROBE_SECONDS = 10.0
SLOWEST_FLOPS = 5e9
"""Per second, of one core: a step that would take longer than `PATIENCE` at this speed is not tried."""
PATIENCE = 120.0
WORTH_A_WORD = 100 * 2**20
"""Bytes of training images from which on it matters where they lie."""
GOT_LITTLE = 0.9
"""Of a core's time: with less, the one thread that was timed had to wait for other programs."""
PROCESS_BYTES = 700 * 2**20
"""Of a process that has imported torch and trained nothing."""


@dataclass(frozen=True)
class Plan:
    """What a training will cost."""

    experiment: str
    seed: int
    config_sha256: str
    counted: Counted
    memory_bytes: int
    memory_how: str
    """`measured …` or `computed …`."""
    seconds: float | None
    """To the end, evaluation included; None where no speed is known."""
    time_how: str
    busy: str | None
    """What else the machine was doing when its steps were measured; None: nothing."""
    free_seconds: float | None
    """About how long it would take were that over; None: nothing to tell it from."""
    disk_bytes: int
    """Still to be written: checkpoints, values, and the data where they are not here."""

    @property
    def lines(self) -> list[str]:
        """The plan for people."""
        counted = self.counted
        hours = "unknown" if self.seconds is None else in_words(self.seconds)
        beside = []
        if self.busy is not None:
            free = "" if self.free_seconds is None else f", about {in_words(self.free_seconds)} on a free one"
            hours = f"at most {hours}"
            beside = [f"  busy        measured on a busy machine ({self.busy}), so too slow{free}"]
        return [
            f"{self.experiment}, seed {self.seed} (config {self.config_sha256[:12]})",
            f"  parameters  {counted.parameters:,}",
            f"  FLOPs/item  {counted.forward_flops:.3g} forward, {counted.training_flops:.3g} in training",
            f"  memory      {self.memory_bytes / 2**30:.2f} GiB in training ({self.memory_how})",
            *self._images,
            f"  time        {hours} for {counted.steps:,} steps and the evaluation ({self.time_how})",
            *beside,
            f"  disk        {self.disk_bytes / 1e6:,.1f} MB for checkpoints, values and data not yet here",
        ]

    @property
    def _images(self) -> list[str]:
        """The training images, where they are worth a word."""
        size = self.counted.training_bytes
        if size < WORTH_A_WORD:
            return []
        how = "held in memory" if self.counted.held else "streamed from disk: more than 40 % of the free memory"
        return [f"  images      {size / 2**30:.1f} GiB to train on, {how}"]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def plan(
    experiment: Experiment[Any, Any], speed: tuple[float, str] | None = None, *, one_thread: bool = False
) -> Plan:  # fmt: skip
    """Count and, where affordable, measure what an experiment costs; nothing is written.

    Args:
        experiment: the resolved experiment.
        speed: images/s in training of a named device, from `stored_speed`; None: measured here.
        one_thread: measure with one thread, as the runs of a table and of a study are trained.
    """
    counted = count(experiment)
    computed = _computed(counted)
    # Before it adds to the load itself.
    crowd = busy(1 if one_thread else torch.get_num_threads())
    probe = _probe(experiment, ONE_THREAD if one_thread else {}) if _affordable(experiment, counted, computed) else None
    if probe is None:
        memory, memory_how = computed, "computed: process, weights, optimizer, activations, training images"
    else:
        memory = probe["peak_bytes"] + counted.resident_bytes
        memory_how = f"measured on {probe['steps']} real steps, and the training images counted"
    seconds, time_how = _time(experiment, counted, probe, speed)
    timed = probe is not None and speed is None and probe["device_type"] == "cpu" and probe["step_seconds"] > 0
    share = probe["step_cpu_seconds"] / probe["step_seconds"] if probe is not None and timed else 1.0
    alone = timed and probe is not None and probe["threads"] == 1
    if timed and crowd is None and alone and share < GOT_LITTLE:
        crowd = f"it had {share:.0%} of a core"
    return Plan(
        experiment=experiment.name,
        seed=experiment.seed,
        config_sha256=config_sha256(experiment),
        counted=counted,
        memory_bytes=memory,
        memory_how=memory_how,
        seconds=seconds,
        time_how=time_how,
        busy=crowd if timed else None,
        free_seconds=seconds * share if alone and seconds is not None and share < GOT_LITTLE else None,
        disk_bytes=counted.checkpoint_bytes + (0 if data_here(experiment) else counted.data_bytes),
    )


def stored_speed(path: Path, experiment: Experiment[Any, Any]) -> tuple[float, str] | None:
    """Return items/s of a training from a file of `flowbench throughput run`, and the device's name.

    Args:
        path: of the file.
        experiment: is found by its model, batch size, precision and whether it is compiled.

    Returns:
        None where the file has no training pass of it.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        environment = content["environment"]
        device = str(environment.get("device_name") or environment.get("device"))
        data, train = experiment.data, experiment.train
        wanted = ("train", data.batch_size, train.precision, train.compile)
        for one in content["results"]:
            found = (one["pass"], one["batch"], one["precision"], one["compiled"])
            if found == wanted and _is_model_of(one["experiment"], experiment):
                return float(one["images_per_second"]["median"]), device
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no results of flowbench throughput run ({type(error).__name__})") from error
    return None


def _is_model_of(words: str, experiment: Experiment[Any, Any]) -> bool:
    """Say whether `NAME KEY=VALUE …` is an experiment's name with the model and the data that it has."""
    name, *overrides = words.split()
    if name != experiment.name:
        return False
    try:
        other = load_experiment(name, overrides)
    except InputError:  # of another version
        return False
    return bool(other.model == experiment.model and other.data.name == experiment.data.name)


def needed_memory(experiment: Experiment[Any, Any]) -> int:
    """Return the bytes that a process needs at its height to train an experiment: computed, nothing is trained.

    Without its data, which a training then says in its first second, it needs no more than any process.
    """
    try:
        return _computed(count(experiment))
    except InputError:
        return PROCESS_BYTES


def _affordable(experiment: Experiment[Any, Any], counted: Counted, computed: int) -> bool:
    step = counted.training_flops * experiment.data.batch_size / SLOWEST_FLOPS
    return bool(step < PATIENCE and computed < 0.8 * psutil.virtual_memory().available)


def _probe(experiment: Experiment[Any, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(dump_experiment(experiment), encoding="utf-8")
        command = [sys.executable, "-m", "flowbench.planning.probe", str(config), str(PROBE_SECONDS)]
        environment = os.environ | variables
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["killed: out of memory?"]
        raise InputError(f"{experiment.name}: a real step failed: {last[0][:300]}")
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def _time(
    experiment: Experiment[Any, Any], counted: Counted, probe: dict[str, Any] | None, speed: tuple[float, str] | None
) -> tuple[float | None, str]:
    """Return the seconds to the end and where they come from."""
    size = experiment.data.batch_size
    if speed is not None:
        # Forward passes alone: in the ratio of their FLOPs to those of training.
        step = size / speed[0]
        item = step / size * counted.forward_flops / max(counted.training_flops, 1)
        how = f"from stored throughput: {speed[0]:,.0f} items/s on {speed[1]}"
    elif probe is not None:
        step, item = probe["step_seconds"], probe["item_seconds"]
        how = f"measured here: {step:.3f} s a step on {probe['device']}, {probe['threads']} threads"
    else:
        return None, "a step here would take minutes: give --throughput FILE of a faster device"
    population = counted.normalized_steps * size * item
    return counted.steps * step + counted.evaluated * item + population, how


def _computed(counted: Counted) -> int:
    return PROCESS_BYTES + counted.state_bytes + counted.activation_bytes + counted.resident_bytes
