"""Float32 is float32 on a GPU, whatever torch's defaults are and whoever asked for less before."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import flowbench
from flowbench.system import device as module
from flowbench.system import environment
from flowbench.system.device import default_device, float32_arithmetic, keep_float32
from flowbench.system.environment import describe_environment
from flowbench.system.processes import join
from flowbench.throughput.jobs import pick_device

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def torch_s_defaults() -> None:
    torch.backends.cudnn.allow_tf32 = True


def all_that_can_be_asked_for() -> None:
    torch.backends.fp32_precision = "tf32"
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")


def the_same_in_newer_words() -> None:
    for operation in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        operation.fp32_precision = "tf32"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU, as far as torch is asked for one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    yield
    keep_float32()


@pytest.mark.parametrize("ask", [torch_s_defaults, all_that_can_be_asked_for, the_same_in_newer_words])
@pytest.mark.parametrize("choose", [default_device, join, lambda: pick_device(None), lambda: pick_device("cuda")])
def test_whoever_takes_the_gpu_computes_in_float32_and_says_so(
    gpu: None, choose: Callable[[], torch.device], ask: Callable[[], None]
) -> None:
    ask()
    assert float32_arithmetic(CUDA) == describe_environment(CUDA)["float32"] == "tf32"
    assert choose().type == "cuda"
    assert float32_arithmetic(CUDA) == describe_environment(CUDA)["float32"] == "ieee"
    # The words that torch's own compiler asks with; the two kinds raise where they disagree.
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.backends.cudnn.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == "highest"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize("choose", [default_device, join, lambda: pick_device(None)])
def test_whoever_computes_keeps_the_memory_that_a_step_frees(
    monkeypatch: pytest.MonkeyPatch, choose: Callable[[], torch.device]
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: kept.append(True))
    choose()
    assert kept


def test_what_is_less_exact_on_a_cpu_is_told_too() -> None:
    torch.set_float32_matmul_precision("high")
    assert describe_environment(CPU)["float32"] == "tf32"
    keep_float32()
    assert describe_environment(CPU)["float32"] == "ieee"


def test_on_a_cpu_nothing_changes() -> None:
    x, kernels = torch.randn(4, 16, 8, 8), torch.randn(16, 16, 3, 3)

    def figures() -> list[torch.Tensor]:
        return [F.conv2d(x, kernels, padding=1), x.flatten(1) @ kernels.view(-1, 36)[:, :1].repeat(16, 8).view(1024, 8)]

    torch.backends.fp32_precision = "none"
    torch_s_defaults()
    before = figures()
    keep_float32()
    assert all(torch.equal(one, other) for one, other in zip(figures(), before, strict=True))


def test_no_module_takes_a_gpu_by_itself() -> None:
    package = Path(flowbench.__file__).parent
    takers = {path.name for path in package.rglob("*.py") if re.search(r'device\("cuda"( if|, )', path.read_text())}
    assert takers == {"device.py", "processes.py"}


def test_a_tree_without_its_history_is_told_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "flowbench" / "system" / "environment.py"))
    monkeypatch.delenv("FLOWBENCH_COMMIT", raising=False)
    assert describe_environment(CPU)["commit"] is None
    monkeypatch.setenv("FLOWBENCH_COMMIT", "a" * 40)
    assert [describe_environment(CPU)[key] for key in ("commit", "dirty")] == ["a" * 40, False]
