"""The device that is computed on, that its float32 is float32, and that memory is kept from step to step."""

import os
import warnings

import torch

from flowbench.system.memory import keep_freed_memory

__all__ = ["bfloat16_units", "default_device", "float32_arithmetic", "keep_float32", "prepare_to_compute"]


def default_device() -> torch.device:
    """Return CUDA where there is a GPU, else the CPU; the process is prepared for either."""
    prepare_to_compute()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bfloat16_units() -> str | None:
    """Return what this machine's processor multiplies bfloat16 with, as a name; None: nothing, and it emulates it.

    Of processors of the x86 family, the ones that oneDNN has such kernels for.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    return "AMX" if torch.cpu._is_amx_tile_supported() else "AVX512-BF16"


def prepare_to_compute() -> None:
    """Let this process compute as all of flowbench does, trainings, evaluations, samples, pictures and forecasts."""
    keep_float32()
    keep_freed_memory()


def keep_float32() -> None:
    """Let float32 be multiplied as float32 in this process, not as TF32 with its 10 bits of mantissa.

    TF32 is torch's default for convolutions and recurrent networks on CUDA. 96 steps of Glow do not come back from it:
    an eighth of the pixels were others (emulated, 2026-11). `train.precision: bf16` is the one way to compute less
    exactly, and the conditioner networks the one place.
    """
    # NVIDIA's libraries read it when they are first used; 1, which some clusters set, overrules all that torch asks.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # The same in torch's older words: part of its compiler still reads those, and they are an error where both differ.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API")  # some versions of torch advise
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")


def float32_arithmetic(device: torch.device) -> str:
    """Return how torch multiplies float32 on a device: "ieee", or its names for what is less exact, as "tf32"."""
    backends = torch.backends
    matmul = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul  # type: ignore[attr-defined]
    library = backends.cudnn if device.type == "cuda" else backends.mkldnn
    ways = {operation.fp32_precision for operation in (library.conv, library.rnn, matmul)}
    return ", ".join(sorted(ways - {"ieee", "none"})) or "ieee"
