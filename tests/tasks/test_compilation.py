"""What is compiled runs compiled, however much was compiled before."""

import pytest
import torch

from flowbench.tasks.compilation import GPU_OPTIONS, NEWER_OPTIONS, as_compiled, forget_compiled


def shifted(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def test_what_is_compiled_for_a_gpu_is_launched_as_a_graph_and_computes_again_what_is_cheap(monkeypatch) -> None:
    import torch._functorch.config as aot

    rules = (
        "ban_recompute_used_far_apart",
        "ban_recompute_long_fusible_chains",
        "autograd_cache_allow_custom_autograd_functions",
    )
    asked = []

    def compiled(function, *, dynamic, options=None):
        def run(*arguments):
            asked.append((dynamic, options, [getattr(aot, rule) for rule in rules]))
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    for device in ("cuda", "cpu"):
        assert as_compiled(shifted, torch.device(device))(torch.zeros(1)) == 1
    known = {name: value for name, value in GPU_OPTIONS.items() if name in torch._inductor.list_options()}
    assert asked == [(False, known, [False, False, True]), (False, None, [True, True, True])]
    assert GPU_OPTIONS["triton.cudagraphs"]


@pytest.mark.slow
def test_torch_knows_the_options_of_a_gpu() -> None:
    assert set(GPU_OPTIONS) - NEWER_OPTIONS <= set(torch._inductor.list_options())


@pytest.mark.slow
def test_torch_gives_up_on_the_ninth_version_of_a_function_unless_the_others_are_forgotten(monkeypatch) -> None:
    plain, graphs = torch.compile, []

    def backend(graph, inputs):
        graphs.append(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic: plain(function, backend=backend))

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
