from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbench.data.preparing import prepare
from flowbench.planning import doctor
from flowbench.planning.doctor import Finding, examine


def found(subject: str) -> Finding:
    return next(finding for finding in examine() if finding.subject == subject)


def test_a_ready_machine_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("FLOWBENCH_TRACKING", raising=False)
    findings = {finding.subject: finding for finding in examine()}
    assert findings["threads"].remedy is None
    assert findings["data: digits"] == Finding("data: digits", "here, verified")
    assert "cifar10, " in findings["data: not here"].words
    assert "flowbench data list -v" in findings["data: not here"].words
    assert findings["tracking"].words.endswith("can be written")
    assert torch.__version__ in findings["packages"].words


def test_each_problem_has_a_remedy(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.delenv("FLOWBENCH_TRACKING", raising=False)
    assert "flowbench track import" in (found("tracking").remedy or "")
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 10_000)
    assert "OMP_NUM_THREADS" in (found("threads").remedy or "")
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=99", "no-such-package", "pytest; extra == 'dev'"])
    packages = found("packages")
    assert "torch>=99" in packages.words
    assert "no-such-package (found nothing)" in packages.words
    assert packages.remedy == "pip install --upgrade flowbench"
    monkeypatch.setattr(doctor, "FREE_BYTES", 2**80)
    assert "free some" in (found("disk: working folder").remedy or "")


def test_what_the_processor_multiplies_bfloat16_with_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    for amx, units in ((False, "AVX512-BF16"), (True, "AMX")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert found("bf16") == Finding("bf16", f"the processor's {units}")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert "no units for it" in found("bf16").words
    assert found("bf16").remedy is None  # a machine without them is as good as another


def test_tracking_that_is_off_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    assert found("tracking") == Finding("tracking", "off (FLOWBENCH_TRACKING)")


def test_images_of_ones_own_need_no_verification(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    for number in range(5):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    prepare("folder", tmp_path, own_name="mine")
    assert found("data: mine") == Finding("data: mine", "here, unverified")
    (data_folder / "mine" / "manifest.json").write_text("{")
    assert found("data: mine").remedy == "flowbench data verify mine"
