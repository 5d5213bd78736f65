import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.densities.flows.nice import DiagonalScaling, NICEConfig
from flowbench.errors import InputError


def test_only_the_last_scaling_changes_volumes():
    torch.manual_seed(0)
    flow = NICEConfig(couplings=3, residual_blocks=1, features=2).flow((1, 4, 4)).double()
    *couplings, scaling = flow.layers()
    assert isinstance(scaling, DiagonalScaling)
    with torch.no_grad():
        scaling.s += torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = flow(x)
    assert len(couplings) == 3
    torch.testing.assert_close(log_det, scaling.s.sum().expand(5))
    assert not torch.allclose(z, x * scaling.s.exp(), atol=1e-2)


def test_an_experiment_file_is_all_that_a_flow_of_shared_blocks_needs():
    from flowbench.config.experiments import load_experiment
    from flowbench.densities.flows.conv1x1 import LUConv1x1

    nice = load_experiment("nice/digits").model.flow((1, 8, 8))
    assert all((coupling(torch.randn(2, 1, 8, 8))[1] == 0).all() for coupling in list(nice.layers())[:-1])
    mixed = load_experiment("real_nvp/digits-1x1").model.flow((1, 8, 8))
    assert sum(isinstance(layer, LUConv1x1) for layer in mixed.layers()) == 3


def test_scales_are_weighed_where_there_are_some_and_refused_elsewhere():
    flow = load_experiment("nice/digits", ["model.features=2"]).model.flow((1, 8, 8))
    magnitudes = [value for name, value in flow.named_parameters() if name.endswith(".magnitude")]
    assert magnitudes
    torch.testing.assert_close(flow.regularization(), sum(value.square().sum() for value in magnitudes))
    for name in ("tarflow/digits", "pixelcnn/digits", "iafvae/digits", "independent/digits"):
        with pytest.raises(InputError, match=r"optim\.scale_l2: \w+ as it is set has no scales"):
            load_experiment(name, ["optim.scale_l2=1e-4"])
    for name in ("nice/digits", "real_nvp/digits", "glow/digits"):
        assert load_experiment(name, ["optim.scale_l2=1e-4"]).optim.scale_l2 == 1e-4
