import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from flowbench.config.experiments import load_experiment
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.glow import Glow
from flowbench.densities.initialization import initializing
from flowbench.runs.folder import RunFolder
from flowbench.training.loop import train


def batch(*shape, seed=0):
    return 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_initialization_gives_every_channel_mean_0_and_deviation_1():
    x = batch(5, 3, 4, 2)
    norm = ActNorm(3).double()
    with initializing(norm):
        z, log_det = norm(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    expected = -8 * x.var((0, 2, 3), correction=0).sqrt().log().sum()
    torch.testing.assert_close(log_det, expected.expand(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_outside_the_block_nothing_depends_on_the_data(training):
    norm = ActNorm(3).double().train(training)
    x = batch(5, 3, 4, 2)
    assert torch.equal(norm(x)[0], x)
    with initializing(norm):
        norm(x)
    before = norm.b.clone()
    norm(batch(5, 3, 4, 2, seed=1))
    assert torch.equal(norm.b, before)


def test_one_pass_initializes_every_layer_of_a_glow_by_what_reaches_it():
    torch.manual_seed(0)
    flow = Glow((1, 8, 8), levels=2, steps=2, hidden=4).double()
    outputs = []
    layers = [module for module in flow.modules() if isinstance(module, ActNorm)]
    assert len(layers) == 4 * 3  # one in each step, two in each network
    hooks = [layer.register_forward_hook(lambda _, __, result: outputs.append(result[0].clone())) for layer in layers]
    with initializing(flow):
        flow(batch(30, 1, 8, 8))
    for hook in hooks:
        hook.remove()
    for z in outputs:
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]).double(), atol=1e-8, rtol=0)
        torch.testing.assert_close(z.var((0, 2, 3)), torch.ones(z.shape[1]).double(), atol=1e-2, rtol=0)


def initialized(x):
    torch.manual_seed(0)
    flow = Glow((1, 4, 4), levels=1, steps=2, hidden=3).double()
    with initializing(flow):
        flow(x)
    return flow.state_dict()


def initialized_on(rank, folder, parts):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(initialized(parts[rank]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_every_process_gets_the_values_of_the_whole_batch():
    x = batch(7, 1, 4, 4)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(initialized_on, (folder, list(x.split([4, 3]))), nprocs=2)
        states = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    for name, value in initialized(x).items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value)


def test_a_resumed_training_keeps_its_values_and_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    changes = [
        "model.steps=1",
        "model.hidden=4",
        "model.network=convolutions",
        "train.steps=6",
        "train.checkpoint_every=2",
        "evaluate.draws=1",
    ]
    experiment = load_experiment("glow/digits", changes)
    whole = train(experiment, tmp_path / "whole")
    from flowbench.tasks.density import DensityTask

    draw = DensityTask.batch
    with monkeypatch.context() as patch:

        def dying(task, step):
            if step == 4:
                raise KeyboardInterrupt
            return draw(task, step)

        patch.setattr(DensityTask, "batch", dying)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, tmp_path / "torn")

    def never(layer, x):
        raise AssertionError("initialized again")

    monkeypatch.setattr(ActNorm, "_initialize", never)
    resumed = train(experiment, tmp_path / "torn", resume=True)
    assert resumed["metrics"] == whole["metrics"]
    states = [RunFolder(tmp_path / name).load_checkpoint()[0]["model"] for name in ("whole", "torn")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
