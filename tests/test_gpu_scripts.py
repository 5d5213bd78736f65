"""The half hour on a borrowed GPU, rehearsed by the same commands on the CPU at toy size; and who enters the board."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder
from tests.data.make import random_images

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks").glob("*.py"))
TOY = (
    "model.scales=1 model.residual_blocks=1 model.features=2 data.batch_size=8 train.compile=false train.log_every=1 "
    "train.precision=32"
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def leaderboard() -> ModuleType:
    return script("leaderboard")


def gpu(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        # A batch system's own: nothing is written there.
        "OUT": str(folder / "not here"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLOWBENCH_GPU_DIR": str(folder / "gpu"),
        "FLOWBENCH_GPU_DEVICE": "cpu",
        "FLOWBENCH_GPU_KEYS": TOY,
        "FLOWBENCH_GPU_BUDGET": "1s",
        "FLOWBENCH_GPU_BATCHES": "4,8",
        "FLOWBENCH_GPU_CASES": "nice/digits and not train",
        "FLOWBENCH_GPU_SOURCE": str(folder / "source"),
        **variables,
    }
    # A pytest inside of a test is no worker of the outer one.
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    environment.pop("FLOWBENCH_DATA", None)
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_what_there_is_can_be_taken_home_at_any_moment(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "train.log").write_text("step 1\n")
    done = gpu(tmp_path, "pack")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "gpu" / "pack" / "small.tar.gz") as archive:
        assert archive.getnames() == ["train.log"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="setsid, timeout and tail --pid are Linux's")
def test_the_half_hour_on_a_cpu_at_toy_size(tmp_path: Path) -> None:
    conftest = script("conftest")
    (tmp_path / "source").mkdir()
    for split, count in (("train", 24), ("test", 8)):
        np.save(tmp_path / "source" / f"{split}.npy", random_images(count))
    folder = tmp_path / "gpu"
    assert gpu(tmp_path, "watch").returncode == 2
    # As if the machine had been taken away after one pass.
    measured = {"case": "test_pass[nice/digits-64-32-eager-cpu-forward]", **conftest.where_it_runs()["cpu"]}
    earlier = {**measured, "case": "test_pass[nice/digits-64-32-eager-cpu-inverse]", "commit": "of-another-commit"}
    # In the middle of the next one's line.
    (folder / "passes.jsonl").write_text(f'{json.dumps(measured)}\n{json.dumps(earlier)}\n{{"case": "test_pa')
    steps = ("check", "data", "train", "watch", "bench", "profile", "pack")
    done = {step: gpu(tmp_path, step) for step in steps}
    assert {step: one.returncode for step, one in done.items()} == dict.fromkeys(steps, 0), done
    assert json.loads((folder / "run" / "result.json").read_text())["metrics"]["test"]["bits_per_dim"]["n"] == 8
    assert '"train/bits_per_dim"' in done["watch"].stdout
    first, second, line = map(json.loads, (folder / "passes.jsonl").read_text().splitlines())
    assert [first, second] == [measured, earlier]
    assert line["commit"] == measured["commit"]
    assert line["case"] == "test_pass[nice/digits-64-32-eager-cpu-inverse]"
    assert line["images_per_second"]["median"] > 0
    profile = json.loads((folder / "profile.json").read_text())
    assert [row["batch"] for part in ("steps", "other_batches") for row in profile[part]] == [4, 8]
    assert sum(row["part"] for row in profile["kinds"]) == pytest.approx(1, abs=0.05)
    assert all(row["teraflops_per_second"] > 0 for row in profile["convolutions"])
    assert all(row["gigabytes_per_second"] > 0 for row in profile["normalizations"])
    packed = {path.name for path in (folder / "pack").iterdir()}
    assert packed == {"small.tar.gz", "weights-bf16.pt.00"}
    assert not (tmp_path / "not here").exists()
    assert "is prepared already" in gpu(tmp_path, "data").stdout


def made(folder: Path, **changes: Any) -> RunFolder:
    figure = {"value": 3.6, "stderr": 0.01, "n": 10_000} | changes.pop("figure", {})
    result = {
        "experiment": "real_nvp/cifar10-fast",
        "dataset": "cifar10",
        "data_status": "verified",
        "train_seconds": 720.0,
        "config_sha256": "c" * 64,
        "metrics": {"test": {"bits_per_dim": figure}},
    }
    environment = {"device": "cuda", "device_name": "NVIDIA H100", "commit": "a" * 40, "dirty": False}
    for name, content in (("result", result), ("environment", environment)):
        known = {key: changes.get(key, value) for key, value in content.items()}
        (folder / f"{name}.json").write_text(json.dumps(known))
    (folder / "config.yaml").touch()
    return RunFolder(folder)


def test_a_run_that_reaches_a_target_enters_the_board_in_order_and_once(
    tmp_path: Path, leaderboard: ModuleType
) -> None:
    board = tmp_path / "board.md"
    board.write_text((ROOT / "reports" / "leaderboard.md").read_text())
    after = board.read_text().partition("A line is made by")[2]
    slow, fast, best = (
        leaderboard.row(made(tmp_path, train_seconds=seconds, figure={"value": value}))
        for seconds, value in ((900.0, 3.6), (120.0, 3.65), (1700.0, 3.48))
    )
    for line in (slow, fast, best, slow):
        leaderboard.enter(line, board)
    assert [line for line in board.read_text().splitlines() if "H100" in line] == [best, fast, slow]
    assert leaderboard.NONE_YET not in board.read_text()
    assert board.read_text().endswith(after)
    assert fast == (
        "| 3.65 | NVIDIA H100 | 2.0 | 3.650 ± 0.010 | real_nvp/cifar10-fast (cccccccccccc) | aaaaaaaaaaaa |"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"figure": {"value": 3.651}},
        {"figure": {"n": 500}},
        {"device": "cpu"},
        {"dirty": True},
        {"commit": None},
        {"data_status": "damaged"},
        {"dataset": "digits"},
    ],
)
def test_what_is_no_such_figure_does_not(tmp_path: Path, leaderboard: ModuleType, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        leaderboard.row(made(tmp_path, **changes))


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
            "convolutions, forward",
        ),
        (
            "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized_bf16>",
            "convolutions, data gradients",
        ),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16_f32_nhwckrsc", "convolutions, weight gradients"),
        ("void implicit_convolve_sgemm<float, float, 1024>", "convolutions, forward"),
        ("triton_red_fused__to_copy_native_batch_norm_backward_threshold_backward_12", "reductions"),
        ("triton_poi_fused_convolution_backward_relu_3", "pointwise"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "changes of layout"),
        ("nvjet_tst_64x8_64x16_gemm", "matrix products"),
        ("void at::native::vectorized_elementwise_kernel<4, AddFunctor>", "other pointwise"),
        ("Memcpy DtoD (Device -> Device)", "copies by the driver"),
        ("something_new", "others"),
    ],
)
def test_a_kernels_kind_is_told_by_its_name(kernel: str, kind: str) -> None:
    assert script("gpu_profile").kind_of(kernel) == kind


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="this build of torch knows no GPU")
def test_a_step_of_one_residual_block_moves_no_more_memory_than_it_did() -> None:
    step = script("schedule").schedule("real_nvp/cifar10-fast", 256, ["model.scales=1", "model.residual_blocks=1"])
    # Of 24: the last of each network is taken by the kernel that computes its input.
    assert step.forward.kernels["convolution"] + step.forward.kernels["addmm"] == 20
    assert step.backward.kernels["convolution_backward"] == 20
    # Measured with torch 2.14.1 (2026-11).
    assert step.forward.gigabytes.total() <= 2.66 * 1.01
    assert step.backward.gigabytes.total() <= 3.68 * 1.01
    assert step.kernels <= 193


def test_the_json_of_a_schedule_is_its_table() -> None:
    schedule = script("schedule")
    step = schedule.Step(dynamo=0.5, joint=0.75, partition=0.25)
    for direction, size in ((step.forward, 2_000_000), (step.backward, 500_000), (step.backward, 1_500_000)):
        direction.add("pointwise", size)
    printed = json.loads(json.dumps(schedule._as_json(step)))
    assert printed["forward"] == {"kernels": {"pointwise": 1}, "gigabytes": {"pointwise": 0.002}, "small": 0}
    assert printed["backward"] == {"kernels": {"pointwise": 2}, "gigabytes": {"pointwise": 0.002}, "small": 1}
    assert printed["total"] == {"gigabytes": 0.004, "kernels": 3}
    assert (printed["tracing"], printed["scheduling"]) == (1.5, 0.0)


def test_only_what_is_compiled_has_a_schedule() -> None:
    with pytest.raises(InputError, match="is for models of images"):
        script("schedule").schedule("etth/dlinear", 256)


def test_every_benchmark_can_be_read_in() -> None:
    """None of them is run by the tests: what they import may have moved."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "benchmarks", *SCRIPTS]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 5), done.stdout  # 5: a file without tests alone
    assert "error" not in done.stdout.lower()
