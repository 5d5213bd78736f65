"""What is compiled runs compiled, however much was compiled before."""

import pytest
import torch

from flowbench.tasks.compilation import as_compiled, forget_compiled


def shifted(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@pytest.mark.slow
def test_torch_gives_up_on_the_ninth_version_of_a_function_unless_the_others_are_forgotten(monkeypatch) -> None:
    plain, graphs = torch.compile, []

    def backend(graph, inputs):
        graphs.append(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic, mode: plain(function, backend=backend))

    def compiled_versions(between) -> int:
        torch.compiler.reset()
        graphs.clear()
        for dimensions in range(1, 11):
            between()
            as_compiled(shifted, torch.device("cpu"))(torch.zeros((2,) * dimensions))
        return len(graphs)

    assert compiled_versions(forget_compiled) == 10
    assert compiled_versions(lambda: None) == 8
    torch.compiler.reset()
