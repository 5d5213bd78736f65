import copy
import math
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import distributed, nn

from flowbench.densities.flows.coupling import checkerboard
from flowbench.densities.flows.normalization import (
    BatchNorm,
    FlowBatchNorm,
    batch_moments,
    population_statistics,
    record_together,
    recorded_afterwards,
)

EPSILON = 1e-4


def batches(n, shape=(4, 2, 3, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n)]


def test_training_mode_normalizes_by_the_biased_moments_of_the_batch():
    (x,) = batches(1)
    norm = BatchNorm(2).double()
    nn.init.normal_(norm.beta, generator=torch.Generator().manual_seed(1))
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    expected = (x - mean) / torch.sqrt(var + EPSILON) + norm.beta.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_moving_averages_move_by_a_tenth_towards_the_biased_moments():
    (x,) = batches(1)
    norm = BatchNorm(2).double()
    norm(x)
    torch.testing.assert_close(norm.mean, 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))
    assert int(norm.step) == 1


def moved(layers, inputs, context):
    with context():
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)
    return [layer.state_dict() for layer in layers]


def test_moments_recorded_afterwards_move_the_averages_as_each_alone_does():
    layers = [BatchNorm(2), FlowBatchNorm(2), BatchNorm(3)]
    inputs = [torch.randn(2, channels, 4, 4) for channels in (2, 2, 3)]
    inputs[1][0, 1, 0, 0] = torch.inf  # of one channel: the average forgets it
    expected = moved(copy.deepcopy(layers), inputs, nullcontext)
    found = moved(layers, inputs, recorded_afterwards)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float(found[0]["mean"].abs().max()) > 0
    together = copy.deepcopy(layers[:2])
    means, variances = torch.randn(2, 2), torch.rand(2, 2)
    with recorded_afterwards():
        record_together(together, means, variances)
        assert int(together[0].step) == 1
    record_together(layers[:2], means, variances)
    assert [int(layer.step) for layer in together] == [2, 2]
    torch.testing.assert_close(*([one.state_dict() for one in some[:2]] for some in (together, layers)), rtol=0, atol=0)


def test_moments_of_a_pass_that_fails_are_not_recorded_afterwards():
    layer = BatchNorm(2)
    with suppress(ZeroDivisionError), recorded_afterwards():
        layer(torch.randn(2, 2, 4, 4))
        raise ZeroDivisionError
    assert int(layer.step) == 0
    layer(torch.randn(2, 2, 4, 4))
    assert int(layer.step) == 1


def test_evaluation_mode_uses_the_moving_averages_and_leaves_them():
    (x,) = batches(1)
    norm = BatchNorm(2).double().eval()
    norm.mean += 1
    norm.var *= 4
    torch.testing.assert_close(norm(x), (x - 1) / math.sqrt(4 + EPSILON))
    assert int(norm.step) == 0


def test_gradients_flow_through_the_batch_moments():
    (x,) = batches(1, shape=(2, 1, 2, 2))
    norm, flow = BatchNorm(1).double(), FlowBatchNorm(1).double()
    assert torch.autograd.gradcheck(norm, x.requires_grad_())
    assert torch.autograd.gradcheck(flow, x)


def test_masked_flow_batch_norm_counts_passed_positions_as_zeros():
    (x,) = batches(1)
    mask = checkerboard((3, 5), 1).double()
    norm = FlowBatchNorm(2, mask)
    z, log_det = norm.double()(x)
    masked = x * mask
    mean, var = masked.mean((0, 2, 3)).view(1, -1, 1, 1), masked.var((0, 2, 3), correction=0).view(1, -1, 1, 1)
    normalized = (x - mean) / torch.sqrt(var + EPSILON)
    torch.testing.assert_close(z, torch.where(mask > 0, normalized, x))
    expected = -0.5 * torch.log(var + EPSILON).sum() * mask.sum()
    torch.testing.assert_close(log_det, expected.expand(4))


def test_inverse_of_the_flow_norm_uses_moving_averages_in_training_mode_too():
    (x,) = batches(1)
    norm = FlowBatchNorm(2).double().train()
    norm.mean += 1
    norm.var *= 4
    with pytest.warns(RuntimeWarning, match="moving statistics"):
        back, log_det = norm.inverse(x)
    torch.testing.assert_close(back, x * math.sqrt(4 + EPSILON) + 1)
    torch.testing.assert_close(log_det, torch.full((4,), 0.5 * math.log(4 + EPSILON) * x[0].numel()).double())
    assert int(norm.step) == 0


@pytest.mark.parametrize("norm", [BatchNorm(2), FlowBatchNorm(2)])
def test_population_statistics_are_the_mean_of_means_and_of_squares(norm):
    norm = norm.double().eval()
    data = batches(3)
    with population_statistics(norm):
        for x in data:
            norm(x)
    means = torch.stack([x.mean((0, 2, 3)) for x in data])
    squares = torch.stack([x.square().mean((0, 2, 3)) for x in data])
    torch.testing.assert_close(norm.mean, means.mean(0))
    torch.testing.assert_close(norm.var, squares.mean(0) - means.mean(0).square())
    assert not norm.training
    assert int(norm.step) == 0


def test_population_statistics_leave_dropout_out_and_put_every_mode_back():
    model = nn.Sequential(nn.Dropout(0.5), BatchNorm(2)).double().train()
    model[1].eval()
    (x,) = batches(1)
    with population_statistics(model):
        model(x)
    torch.testing.assert_close(model[1].mean, x.mean((0, 2, 3)))
    assert [module.training for module in model.modules()] == [True, True, False]


def test_population_statistics_that_fail_change_nothing():
    norm = BatchNorm(2).double()
    (x,) = batches(1)
    with pytest.raises(RuntimeError), population_statistics(nn.Sequential(norm, nn.Linear(1, 1).double())):
        nn.Sequential(norm, nn.Linear(1, 1).double())(x)
    assert torch.equal(norm.mean, torch.zeros(2).double())
    with population_statistics(norm):
        pass
    assert torch.equal(norm.var, torch.ones(2).double())


def moments_on(rank, folder, parts):
    """One process of two: moments of the whole batch, and the gradient of a loss that needs them, for its own part."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x = parts[rank].requires_grad_()
    loss = loss_of(x, *batch_moments(x), BatchNorm(2).double()(x))
    loss.backward()
    torch.save((batch_moments(x.detach()), x.grad), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def loss_of(x, mean, var, y):
    mean, var = mean.view(1, -1, 1, 1), var.view(1, -1, 1, 1)
    return ((x - mean).pow(3) / var).sum() + y.pow(3).sum()


def test_moments_and_gradients_are_those_of_the_whole_batch_on_two_processes():
    (x,) = batches(1, shape=(5, 2, 2, 2))
    parts = list(x.split([3, 2]))  # processes may hold unequal parts
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(moments_on, (folder, parts), nprocs=2)
        results = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    whole = x.clone().requires_grad_()
    loss_of(whole, *batch_moments(whole), BatchNorm(2).double()(whole)).backward()
    for (mean, var), _ in results:
        torch.testing.assert_close(mean, x.mean((0, 2, 3)))
        torch.testing.assert_close(var, x.var((0, 2, 3), correction=0))
    torch.testing.assert_close(torch.cat([gradient for _, gradient in results]), whole.grad)
