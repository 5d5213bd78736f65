import pytest
import torch

from flowbench.densities.flows.coupling import ChannelCoupling
from flowbench.densities.flows.derived import Derived
from flowbench.densities.flows.glow import Glow
from flowbench.densities.flows.real_nvp import RealNVP
from flowbench.densities.flows.resnet import ResidualNet

FLOWS = {
    "real_nvp": lambda: RealNVP((1, 4, 4), scales=2, residual_blocks=1, features=2),
    "glow": lambda: Glow((1, 4, 4), levels=2, steps=2, hidden=4),
    "glow, plain": lambda: Glow((1, 4, 4), levels=1, steps=2, hidden=4, mixing="plain"),
    "glow, additive": lambda: Glow((1, 4, 4), levels=1, steps=2, hidden=4, affine=False),
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=FLOWS)
def flow(request):
    """A flow in evaluation mode with random weights, statistics included."""
    made = FLOWS[request.param]().double().eval()
    disturb(made)
    return made


@torch.no_grad()
def disturb(model):
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith((".var", ".mean")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and not name.endswith((".P", ".sign", "mask", "passed", "transformed")):
            tensor += 0.1 * torch.randn_like(tensor)


def same(a, b):
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def both_ways(flow, x, gradients):
    with torch.set_grad_enabled(gradients):
        z, log_det = flow(x)
        return z.detach(), log_det.detach(), *(part.detach() for part in flow.inverse(z))


def test_what_is_folded_is_what_is_computed_step_by_step(flow):
    x = torch.randn(3, 1, 4, 4).double()
    same(both_ways(flow, x, gradients=False), both_ways(flow, x, gradients=True))


def test_every_change_of_weights_and_statistics_is_seen(flow):
    x = torch.randn(3, 1, 4, 4).double()
    both_ways(flow, x, gradients=False)
    disturb(flow)
    same(both_ways(flow, x, gradients=False), both_ways(flow, x, gradients=True))
    other = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    disturb(flow)
    both_ways(flow, x, gradients=False)
    flow.load_state_dict(other)
    same(both_ways(flow, x, gradients=False), both_ways(flow, x, gradients=True))
    flow.float()
    assert both_ways(flow, x.float(), gradients=False)[0].dtype == torch.float32


def test_nothing_derived_is_saved(flow):
    names = set(flow.state_dict())
    both_ways(flow, torch.randn(3, 1, 4, 4).double(), gradients=False)
    assert set(flow.state_dict()) == names


def test_a_value_is_computed_once_until_a_source_changes_and_afresh_with_gradients():
    source, calls = torch.zeros(3), []
    derived = Derived()

    def get():
        return derived.get(lambda: calls.append(0) or float(source.sum()), source, None)

    with torch.no_grad():
        assert [get(), get(), len(calls)] == [0, 0, 1]
        source += 1
        assert [get(), get(), len(calls)] == [3, 3, 2]
    assert [get(), get(), len(calls)] == [3, 3, 4]
    with torch.no_grad():
        assert [get(), len(calls)] == [3, 5]


def test_hooks_on_the_layers_of_a_step_are_called_and_change_nothing():
    flow = FLOWS["glow"]().double()
    disturb(flow)
    x = torch.randn(3, 1, 4, 4).double()
    fused = flow(x)
    seen = []
    for layer in flow.layers():
        layer.register_forward_hook(lambda layer, _, result: seen.append(layer))
    same(flow(x), fused)
    assert seen == list(flow.layers())


def test_training_keeps_no_second_copy_of_the_weights():
    net = ResidualNet(6, 6, features=4, blocks=1)
    coupling = ChannelCoupling(6, lambda *_: net, pass_first=True).eval()
    x = torch.randn(2, 6, 4, 4)
    kept = [module for module in net.modules() if hasattr(module, "_kernels")]
    with torch.no_grad():
        coupling(x)
    assert any(module._kernels._value is not None for module in kept)
    coupling.train()(x)
    assert all(module._kernels._value is None and module._folded._value is None for module in kept)
