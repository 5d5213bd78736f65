"""Where a training step's time goes: `python benchmarks/gpu_profile.py EXPERIMENT [KEY=VALUE …] --out profile.json`.

A step at the first batch size and the host's part of it, three steps by kind of kernel, each shape of convolution
alone, the widest normalizations by their throughput, and, last since each is compiled anew, steps at the other sizes.
Each part is written as it ends, and one that the file holds is not measured again. On a CPU it runs at toy size, as a
rehearsal.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.densities.flows.normalization import BatchNorm
from flowbench.errors import InputError
from flowbench.system.atomic import write_json
from flowbench.system.environment import describe_environment
from flowbench.throughput.convolutions import Floor, record
from flowbench.throughput.device import Device
from flowbench.throughput.jobs import pick_device
from flowbench.throughput.passes import PASSES, make_subject

PARTS = ("environment", "eager", "steps", "kinds", "convolutions", "normalizations", "other_batches")
WARM_UP, REPEATS, REPLAYS, WIDEST = 3, 10, 3, 3
SHORT_US = 5.0
# By the first pattern that a kernel's name has, or on a CPU an operator's. Inductor's names tell what was fused into a
# kernel, convolutions' neighbours among it: how it works comes first.
KINDS = {
    "reductions": r"^triton_(red|per)",
    "pointwise": r"^triton_poi",
    "convolutions, weight gradients": r"wgrad|backward_filter",
    "convolutions, data gradients": r"dgrad|backward_data",
    "convolutions, both gradients": r"convolution_backward",
    "convolutions, forward": r"fprop|convol|conv2d|winograd",
    "matrix products": r"gemm|gemv|cublas|triton_tem|aten::(mm|addmm|matmul|bmm)",
    "changes of layout": r"nchwToNhwc|nhwcToNchw|[Tt]ranspose",
    "copies by the driver": r"^Mem(cpy|set)",
    "other reductions": r"reduce|norm|aten::(sum|mean|var)",
    "other pointwise": r"elementwise|multi_tensor|CatArray|fused_adam|aten::",
}


class Profiling:
    """An experiment's training step on a device, at any batch size."""

    def __init__(self, experiment: Experiment[Any, Any], device: torch.device, batches: list[int]) -> None:
        self.experiment, self.clock, self.batches = experiment, Device(device), batches
        self._made: tuple[int, bool] | None = None
        self._run: Callable[[], object] | None = None

    def step(self, batch: int, compiled: bool) -> Callable[[], object]:
        """Return a training step that has run; the last one is kept: compiling takes minutes, and two may not fit."""
        if self._run is None or self._made != (batch, compiled):
            if self._run is not None and compiled:
                self._run = None
                torch.compiler.reset()
            self._made = batch, compiled
            self._run = PASSES["train"](make_subject(self.experiment, batch, self.clock.device), compiled=compiled)
            for _ in range(WARM_UP):
                self._run()
        return self._run

    def environment(self) -> dict[str, Any]:
        backends = torch.backends
        settings = {
            "cudnn.allow_tf32": backends.cudnn.allow_tf32,
            "matmul.allow_tf32": backends.cuda.matmul.allow_tf32,
            "cudnn.benchmark": backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "train.precision": self.experiment.train.precision,
        }
        return describe_environment(self.clock.device) | {"experiment": self.experiment.name, "settings": settings}

    def eager(self) -> list[dict[str, float]]:
        return [self._timed(self.batches[0], compiled=False)]

    def steps(self) -> list[dict[str, float]]:
        return [self._timed(self.batches[0], self.experiment.train.compile)]

    def other_batches(self) -> list[dict[str, float]]:
        return [self._timed(batch, self.experiment.train.compile) for batch in self.batches[1:]]

    def _timed(self, batch: int, compiled: bool) -> dict[str, Any]:
        run = self.step(batch, compiled)
        seconds = median(self.clock.time(run)[0] for _ in range(REPEATS))
        host = []
        for _ in range(REPEATS):
            self.clock.synchronize()
            began = time.perf_counter()
            run()
            host.append(time.perf_counter() - began)
        return {
            "batch": batch,
            "compiled": compiled,
            "seconds": seconds,
            "images_per_second": batch / seconds,
            "host_seconds": median(host),
        }

    def kinds(self) -> list[dict[str, Any]]:
        run = self.step(self.batches[0], self.experiment.train.compile)
        cuda = self.clock.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
            began = time.perf_counter()
            for _ in range(REPLAYS):
                run()
            self.clock.synchronize()
            span = (time.perf_counter() - began) * 1e6
        kernels = _kernels(profiler.events() or [], cuda)
        if cuda:
            span = max(end for _, _, end in kernels) - min(start for _, start, _ in kernels)
        seconds, counts, short = Counter[str](), Counter[str](), Counter[str]()
        for name, start, end in kernels:
            kind = kind_of(name)
            seconds[kind] += end - start
            counts[kind] += 1
            if end - start < SHORT_US:
                short[kind] += 1
        seconds["idle"] = max(span - seconds.total(), 0.0)
        return [
            {
                "kind": kind,
                "seconds": value / 1e6 / REPLAYS,
                "part": value / span,
                "kernels": counts[kind] / REPLAYS,
                f"under_{SHORT_US:.0f}_us": short[kind] / REPLAYS,
            }
            for kind, value in seconds.most_common()
        ]

    def convolutions(self) -> list[dict[str, Any]]:
        subject = make_subject(self.experiment, self.batches[0], self.clock.device)
        rows = []
        kept = torch.backends.cudnn.benchmark
        for call, count in record(PASSES["train"](subject, compiled=False)).items():
            seconds = {}
            for chooses, benchmark in (("heuristic", False), ("benchmark", True)):
                torch.backends.cudnn.benchmark = benchmark
                floor = Floor({call: 1}, self.clock.device, self.clock.synchronize)
                seconds[chooses] = median(self.clock.time(floor, 5)[1] for _ in range(REPEATS))
            with FlopCounterMode(display=False) as counter:
                floor()
            operator, arguments = call
            rows.append(
                {
                    "operator": operator.overloadpacket.__name__,
                    "tensors": [list(one[0]) for one in arguments if _is_tensor(one)],
                    "dtype": str(next(one[1] for one in arguments if _is_tensor(one))).removeprefix("torch."),
                    "count": count,
                    "seconds": seconds,
                    "teraflops_per_second": counter.get_total_flops() / min(seconds.values()) / 1e12,
                }
            )
        torch.backends.cudnn.benchmark = kept
        return sorted(rows, key=lambda row: -row["count"] * row["seconds"]["heuristic"])

    def normalizations(self) -> list[dict[str, Any]]:
        """Time relu(batch norm) of the widest inputs: they are read twice and written once."""
        subject = make_subject(self.experiment, self.batches[0], self.clock.device)
        inputs: dict[tuple[Any, ...], BatchNorm] = {}

        def note(module: Any, arguments: tuple[Tensor, ...]) -> None:
            inputs.setdefault((arguments[0].dtype, *arguments[0].shape), module)

        for module in subject.model.modules():
            if isinstance(module, BatchNorm):
                module.register_forward_pre_hook(note)
        # In evaluation mode: on a CPU, normalizations of training are part of the convolutions.
        with torch.no_grad():
            subject.model.eval().terms(subject.images, subject.noise(0))
        sizes = {key: torch.Size(key[1:]).numel() * key[0].itemsize for key in inputs}
        rows = []
        for key in sorted(inputs, key=lambda key: -sizes[key])[:WIDEST]:
            dtype, *shape = key
            x = torch.rand(shape, dtype=dtype, device=self.clock.device).contiguous(memory_format=torch.channels_last)
            layer = inputs[key].train()
            layer._forward_pre_hooks.clear()

            def both(x: Tensor = x, layer: BatchNorm = layer) -> Tensor:
                with torch.no_grad():
                    return layer(x).relu_()

            run = torch.compile(both) if self.experiment.train.compile else both
            run()
            seconds = median(self.clock.time(run, 5)[1] for _ in range(REPEATS))
            rows.append({"shape": shape, "dtype": str(dtype).removeprefix("torch."), "seconds": seconds})
            rows[-1]["gigabytes_per_second"] = 3 * sizes[key] / seconds / 1e9
        return rows


def kind_of(kernel: str) -> str:
    """Return the kind of work that a kernel does, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel)), "others")


def _is_tensor(described: Any) -> bool:
    return isinstance(described, tuple) and len(described) == 2 and isinstance(described[1], torch.dtype)


def _kernels(events: Any, cuda: bool) -> list[tuple[str, float, float]]:
    """Return (name, start, end) of the device's kernels; on a CPU of its operators, less those that they call."""
    if cuda:
        on_device = [one for one in events if one.device_type == torch.autograd.DeviceType.CUDA]
        return [(one.name, one.time_range.start, one.time_range.end) for one in on_device if not one.is_user_annotation]
    return [(one.name, 0.0, one.self_cpu_time_total) for one in events if one.self_cpu_time_total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batches", default="256,512")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        experiment = load_experiment(options.experiment, options.keys)
        device = pick_device(options.device)
    except InputError as error:
        parser.error(str(error))
    profiling = Profiling(experiment, device, [int(batch) for batch in options.batches.split(",")])
    content = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    where = describe_environment(device)
    of = {"experiment": options.experiment, "keys": options.keys, "batches": options.batches, "device": str(device)}
    of |= {"device_name": where["device_name"], "commit": where["commit"]}
    if content.setdefault("of", of) != of:
        parser.error(f"{options.out}: holds a profile of {json.dumps(content['of'])}: give another --out")
    for part in options.parts.split(","):
        if part not in PARTS:
            parser.error(f"--parts {part}: one of {', '.join(PARTS)}")
        if part in content:
            print(f"{part}: in {options.out} already")
            continue
        content[part] = getattr(profiling, part)()
        write_json(options.out, content)
        rows = content[part] if isinstance(content[part], list) else [content[part]]
        print(f"== {part}", *map(json.dumps, rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
