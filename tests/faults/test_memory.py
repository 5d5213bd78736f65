"""Memory that runs out: the message says which batch size to try; what nobody chose is made smaller by itself."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.data import open_split
from flowbench.densities.model import DensityModel
from flowbench.errors import WorkFailedError, fitting_in_memory, is_out_of_memory
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.reported import Setting
from flowbench.reproduction.reproduce import failure, reproduce
from flowbench.system.processes import surviving
from flowbench.tasks.objectives import NegativeLogLikelihood
from flowbench.training.loop import train
from tests.faults.commands import FLOWBENCH, finish, start

TINY = ["model.features=4", "train.steps=2", "evaluate.draws=1"]


def full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_training_that_does_not_fit_names_the_batch_size_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NegativeLogLikelihood, "forward", full)
    with pytest.raises(WorkFailedError, match=r"data\.batch_size=64: try data\.batch_size=32"):
        train(load_experiment("real_nvp/digits", TINY), tmp_path / "run")
    assert "data.batch_size=32" in (tmp_path / "run" / "failure.json").read_text()


def test_so_does_the_row_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NegativeLogLikelihood, "forward", full)
    results = reproduce("quick", only=["digits"], out=tmp_path, overrides=["train.steps=2", "evaluate.draws=1"])
    failed = [row for row in results["rows"] if row["status"] == "failed"]
    assert {row["model"] for row in failed} == {"real_nvp", "glow", "pixelcnn"}
    assert all("try data.batch_size=" in row["reason"] for row in failed)
    assert any(row["status"] == "done" for row in results["rows"])
    error = failure(results)
    assert error is not None
    assert error.exit_code == 3


def test_an_evaluation_makes_its_batches_smaller_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_split("digits", "test")
    model = load_experiment("real_nvp/digits", ["model.features=4"]).model.build(images.shape, images.levels)
    setting = Setting(batch_norm="running", other_mode=False)
    whole = evaluate(model, images, setting)
    sizes: list[int] = []
    terms = type(model).terms

    def tight(self: DensityModel, batch: torch.Tensor, noise: torch.Tensor) -> Any:
        if len(batch) > 40:
            full()
        sizes.append(len(batch))
        return terms(self, batch, noise)

    monkeypatch.setattr(type(model), "terms", tight)
    measured = evaluate(model, images, setting)
    assert sum(sizes) == len(images)
    assert np.allclose(measured.bits_per_dim, whole.bits_per_dim, rtol=1e-6)
    monkeypatch.setattr(type(model), "terms", full)
    with pytest.raises(WorkFailedError, match="not even one image"):
        evaluate(model, images, setting)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError("cudaErrorMemoryAllocation"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("backend='inductor' raised:\nOutOfMemoryError: allocation failed"),
        torch.distributed.DistBackendError("ncclUnhandledCudaError: Last error:\nCuda failure 2 'out of memory'"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory"),
        RuntimeError("unable to mmap 2048 bytes from file </x>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: " ".join(str(error).split())[:40],
)
def test_every_library_s_words_for_memory_that_ran_out_are_known(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(WorkFailedError, match=r"try data\.batch_size=8"), fitting_in_memory(16), surviving(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_other_trouble_of_the_same_libraries_is_not_taken_for_it(error: Exception) -> None:
    with pytest.raises(type(error)), fitting_in_memory(16):
        raise error


def test_torch_s_own_words_on_the_cpu_are_known() -> None:
    with pytest.raises(WorkFailedError, match="the model itself is too large"), fitting_in_memory(1):
        torch.empty(2**60, dtype=torch.uint8)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.slow
def test_the_command_ends_with_one_line(tmp_path: Path) -> None:
    command = [*FLOWBENCH, "train", "real_nvp/digits", "model.features=3000000", "--run-dir", str(tmp_path / "run")]
    _, errors = finish(start(command), code=3)
    assert [line for line in errors.splitlines() if line.startswith("flowbench: out of memory")] != []
    assert "Traceback" not in errors
