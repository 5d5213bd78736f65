import pytest

from flowbench.tracking import system
from flowbench.tracking.system import SystemSampler


def test_a_sample_is_taken_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(system.time, "monotonic", lambda: clock[0])
    sampler = SystemSampler()
    assert sampler.sample() == {}
    clock[0] = 10.0
    values = sampler.sample()
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert sampler.sample() == {}


def test_gpus_are_read_where_mlflow_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Monitor:
        def clear_metrics(self) -> None: ...

        def collect_metrics(self) -> None: ...

        def aggregate_metrics(self) -> dict[str, float]:
            return {"gpu_0_utilization_percentage": 97.0}

    monkeypatch.setattr(system, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(system, "_gpu_monitor", Monitor)
    assert SystemSampler().sample()["system/gpu_0_utilization_percentage"] == 97.0
