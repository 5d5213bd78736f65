import pytest
import torch

from flowbench.system import threads
from flowbench.system.threads import one_thread, processes_at_a_time


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_gpu_is_one_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes_at_a_time() == 16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes_at_a_time() == 1
