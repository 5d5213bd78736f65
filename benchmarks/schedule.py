"""What Inductor would run on a GPU for a training step: its kernels and their traffic, by kind. No GPU is needed.

    python benchmarks/schedule.py real_nvp/cifar10-fast --batch 256 model.residual_blocks=1

The loss is traced on the CPU, as training compiles it for a GPU. Its two graphs move to fake tensors on a card that is
only described, and are lowered and scheduled for it; no code is generated and nothing runs. A region that is compiled
once counts as often as it is called.

Traffic is the size of every buffer that a kernel reads or writes, once for each kernel: what caches save is in it, what
a convolution reads twice is not. Kernels are those of Inductor's schedule that do anything: a convolution's backward
pass is one, for both gradients, whatever the library launches for it.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import torch
import torch._dynamo.device_interface
import torch._functorch.config
import torch._inductor.compile_fx
import torch._inductor.config
import torch.utils._triton
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx
from torch._inductor import ir
from torch._inductor import scheduler as inductor_scheduler
from torch._inductor.graph import GraphLowering
from torch._inductor.output_code import OutputCode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from flowbench.config.experiments import load_experiment
from flowbench.data.images import image_format
from flowbench.errors import InputError
from flowbench.tasks.compilation import as_compiled
from flowbench.tasks.density import build_density
from flowbench.tasks.objectives import NegativeLogLikelihood

GPU = torch.device("cuda", 0)
CARD = SimpleNamespace(
    name="NVIDIA H100",
    type="cuda",
    index=0,
    major=9,
    minor=0,
    cc=90,
    gcnArchName="",
    multi_processor_count=132,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    shared_memory_per_multiprocessor=228 * 2**10,
    is_integrated=0,
    clock_rate=1_980_000,
    memory_clock_rate=2_619_000,
    memory_bus_width=5120,
)
"""What torch and Inductor ask about the card that they compile for."""
SMALL = 1_000_000
"""Bytes that a card moves in less time than it needs to launch a kernel."""


@dataclass
class Schedule:
    """The kernels of one direction of a step."""

    kernels: Counter[str] = field(default_factory=Counter)
    """How many, by kind."""
    gigabytes: Counter[str] = field(default_factory=Counter)
    """What they read and write, by kind."""
    small: int = 0
    """How many of them move less than `SMALL`."""

    def add(self, kind: str, size: int) -> None:
        """Count a kernel that moves `size` bytes."""
        self.kernels[kind] += 1
        self.gigabytes[kind] += size / 1e9
        self.small += size < SMALL


@dataclass
class Step:
    """A training step, and how long it takes to compile it up to the generation of code, in seconds of one core."""

    forward: Schedule = field(default_factory=Schedule)
    backward: Schedule = field(default_factory=Schedule)
    dynamo: float = 0.0
    """Of the model's Python to a graph."""
    joint: float = 0.0
    """Of the graph to one of the loss and its gradients, by AOTAutograd."""
    partition: float = 0.0
    """Of that one to forward and backward pass."""
    scheduling: float = 0.0
    """Of both to kernels."""

    @property
    def tracing(self) -> float:
        """What passes before a kernel is thought of."""
        return self.dynamo + self.joint + self.partition

    @property
    def gigabytes(self) -> float:
        """Traffic of both directions."""
        return self.forward.gigabytes.total() + self.backward.gigabytes.total()

    @property
    def kernels(self) -> int:
        """Kernels of both directions."""
        return self.forward.kernels.total() + self.backward.kernels.total()


def schedule(experiment: str, batch: int, overrides: Sequence[str] = ()) -> Step:
    """Return what Inductor schedules for the loss of an experiment's training step and its gradients."""
    config = load_experiment(experiment, [*overrides, "train.compile=true"])
    shape, levels = image_format(config.data)
    model = build_density(config, {"shape": shape, "levels": levels}).train()
    images = torch.zeros((batch, *shape), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    step = Step()
    compiler = torch._inductor.compile_fx
    compile_fx, partition = compiler.compile_fx, compiler.min_cut_rematerialization_partition

    def compiled(*arguments: Any, **known: Any) -> Any:
        # A second call is the first one's, under the options of `GPU_OPTIONS`.
        step.dynamo = step.dynamo or time.process_time() - began
        return compile_fx(*arguments, **known)

    def partitioned(*arguments: Any, **known: Any) -> Any:
        began = time.process_time()
        try:
            return partition(*arguments, **known)
        finally:
            step.partition += time.process_time() - began

    def lower(graph: fx.GraphModule, inputs: Sequence[Any], *_: Any, **known: Any) -> OutputCode:
        began = time.process_time()
        backward = known.get("is_backward", False)
        with _described_card():
            _count(
                _lowered(graph, _moved(graph, inputs), backward=backward), step.backward if backward else step.forward
            )
        step.scheduling += time.process_time() - began
        if backward:
            raise _DoneError
        return _Nothing()

    began = time.process_time()
    with (
        mock.patch("flowbench.tasks.objectives.as_compiled", lambda function, _: as_compiled(function, GPU)),
        mock.patch("torch._inductor.compile_fx.compile_fx", compiled),
        mock.patch("torch._inductor.compile_fx.min_cut_rematerialization_partition", partitioned),
        mock.patch("torch._inductor.compile_fx.fx_codegen_and_compile", lower),
        torch._functorch.config.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False),
        torch._inductor.config.patch(fx_graph_cache=False, cpp_wrapper=False),
    ):
        torch.compiler.reset()
        objective = NegativeLogLikelihood(model, config.optim.scale_l2, compiled=True)
        try:
            objective(images, torch.zeros(batch, *model.noise_shape))
        except torch._dynamo.exc.BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, _DoneError):
                raise
        finally:
            torch.compiler.reset()
    step.joint = time.process_time() - began - step.dynamo - step.partition - step.scheduling
    return step


class _DoneError(Exception):
    """Ends a compilation when both directions are scheduled."""


class _Nothing(OutputCode):
    """Stands for the code of the forward pass, that the backward pass be compiled."""

    def post_compile(self, *_: Any) -> None: ...


@contextmanager
def _described_card() -> Iterator[None]:
    """Let torch and Inductor believe, inside the block, that `CARD` is there."""
    answers = {
        "get_device_properties": lambda *_: CARD,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "synchronize": lambda *_: None,
        "get_device_name": lambda *_: CARD.name,
        "get_device_capability": lambda *_: (CARD.major, CARD.minor),
        "get_compute_capability": lambda *_: CARD.cc,
        "get_raw_stream": lambda *_: 0,
    }
    with ExitStack() as believed:
        interface = torch._dynamo.device_interface.CudaInterface
        for owner in (torch.cuda, interface, interface.Worker):
            for name, answer in answers.items():
                if hasattr(owner, name):
                    value = answer if owner is torch.cuda else staticmethod(answer)
                    believed.enter_context(mock.patch.object(owner, name, value))
        for owner in (torch.utils._triton, inductor_scheduler, torch._inductor.utils):
            for name in ("has_triton", "has_triton_package"):
                if hasattr(owner, name):
                    believed.enter_context(mock.patch.object(owner, name, return_value=True))
        believed.enter_context(mock.patch.object(torch._C, "_conv_determine_backend_memory_format", _cudnns_format))
        yield


def _cudnns_format(x: Tensor, kernels: Tensor, _: Any) -> torch.memory_format:
    """Return how a convolution's results lie: as cuDNN, which torch takes where there is a card, would choose."""
    last = torch.channels_last
    return last if last in map(torch._prims_common.suggest_memory_format, (x, kernels)) else torch.contiguous_format


def _moved(graph: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """Let all that a graph makes lie on the GPU; return fake inputs that do."""
    for module in graph.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _to_gpu)  # type: ignore[assignment]
            module.recompile()
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    with mode:
        return [
            torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)
            if isinstance(value, Tensor)
            else value
            for value in inputs
        ]


def _to_gpu(argument: Any) -> Any:
    return GPU if isinstance(argument, torch.device) else argument


def _lowered(graph: fx.GraphModule, inputs: list[Any], *, backward: bool) -> GraphLowering:
    """Do what Inductor does between AOTAutograd and the generation of code."""
    compiler = torch._inductor.compile_fx
    compiler.view_to_reshape(graph)
    with torch.no_grad():
        mode = compiler.fake_tensor_prop(graph, inputs)
        _propagate_into_regions(graph, mode)
    compiler._recursive_record_original_output_strides(graph)
    with V.set_fake_mode(mode):
        compiler._recursive_post_grad_passes(graph, is_inference=False)
        lowering = GraphLowering(graph, example_inputs=inputs, shape_env=mode.shape_env, is_backward=backward)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            lowering.run(*inputs)
            lowering.init_wrapper_code()
            _schedule(lowering)
    return lowering


def _propagate_into_regions(graph: fx.GraphModule, mode: FakeTensorMode) -> None:
    """Let what regions compute lie where their arguments do: of a region torch looks at the results alone."""
    regions = {}
    for node in graph.graph.nodes:
        if node.target is torch.ops.higher_order.invoke_subgraph:
            regions[node.args[0].target] = [argument.meta["val"] for argument in node.args[2:]]
            node.meta.pop("eager_input_vals", None)  # they lie where they were traced
    for name, arguments in regions.items():
        FakeTensorProp(getattr(graph, name), mode).propagate_dont_convert_inputs(*arguments)


def _schedule(lowering: GraphLowering) -> None:
    """Let Inductor fuse and order what a graph computes, and what the regions that it calls do."""
    with V.set_graph_handler(lowering):
        lowering._update_scheduler()
    for region in {id(region): region for region in _regions(lowering)}.values():
        region.wrapper_code = lowering.wrapper_code
        region.device_ops = lowering.device_ops
        _schedule(region)


def _regions(lowering: GraphLowering) -> Iterator[GraphLowering]:
    """Yield the graph of a region for each of its calls."""
    return (node.subgraph.graph for node in lowering.operations if isinstance(node, ir.InvokeSubgraph))


def _count(lowering: GraphLowering, schedule: Schedule) -> None:
    """Add the kernels of a graph, and of the regions that it calls, to a schedule."""
    with V.set_graph_handler(lowering):
        for node in lowering.scheduler.nodes:
            if kind := _kind(node):
                schedule.add(kind, node.get_read_write_buffers_sizes())
    for region in _regions(lowering):
        _count(region, schedule)


def _kind(node: inductor_scheduler.BaseSchedulerNode) -> str | None:
    """Name a kernel; None for what launches none."""
    match node:
        case inductor_scheduler.NopKernelSchedulerNode():
            return None
        case inductor_scheduler.ExternKernelSchedulerNode(node=ir.MultiOutput() | ir.InvokeSubgraph()):
            return None
        case inductor_scheduler.ExternKernelSchedulerNode():
            name = getattr(node.node, "python_kernel_name", None) or type(node.node).__name__
            return name.removeprefix("extern_kernels.").removeprefix("torch.ops.aten.").removesuffix(".default")
        case inductor_scheduler.ForeachKernelSchedulerNode():
            return "several in one"
        case _:
            return "reduction" if node.is_reduction() else "pointwise"


def _as_json(step: Step) -> dict[str, Any]:
    # Not `asdict`: it makes a Counter anew of its pairs, and counts these.
    directions = {name: vars(getattr(step, name)) for name in ("forward", "backward")}
    return {
        **vars(step),
        **directions,
        "tracing": step.tracing,
        "total": {"gigabytes": step.gigabytes, "kernels": step.kernels},
    }


def _as_table(step: Step) -> Table:
    table = Table("", "kernels", "GB", show_edge=False)
    for direction in ("forward", "backward"):
        found: Schedule = getattr(step, direction)
        for kind, size in found.gigabytes.most_common():
            table.add_row(f"{direction}: {kind}", f"{found.kernels[kind]:,}", f"{size:.2f}")
        small = f"{found.kernels.total():,} ({found.small:,} below {SMALL / 1e6:.0f} MB)"
        table.add_row(direction, small, f"{found.gigabytes.total():.2f}", end_section=True, style="bold")
    table.add_row("step", f"{step.kernels:,}", f"{step.gigabytes:.2f}", style="bold")
    return table


def main(
    arguments: Annotated[
        list[str], typer.Argument(help="An experiment, then KEY=VALUE overrides.", metavar="EXPERIMENT")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what Inductor would run on a GPU for a training step: kernels and traffic, by kind."""
    torch.set_num_threads(1)
    try:
        step = schedule(arguments[0], batch, arguments[1:])
    except InputError as error:
        typer.echo(f"benchmarks/schedule.py: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(_as_json(step)))
        return
    Console(highlight=False).print(_as_table(step))
    parts = ", ".join(f"{getattr(step, part):.0f} {part}" for part in ("dynamo", "joint", "partition", "scheduling"))
    typer.echo(f"{step.tracing + step.scheduling:.0f} s of one core up to code: {parts}")


if __name__ == "__main__":
    typer.run(main)
