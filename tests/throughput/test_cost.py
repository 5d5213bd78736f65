import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.throughput import measurement
from flowbench.throughput.cost import measure_costs

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(measurement, "MIN_SAMPLE_SECONDS", 0.001)


def test_every_pass_of_a_flow_has_its_operations_and_its_speed():
    tiny = ["model.features=2", "model.scales=1", "data.batch_size=4"]
    costs = measure_costs(load_experiment("real_nvp/digits", tiny), CPU)
    assert costs["batch"] == 4
    assert costs["environment"]["threads"] == torch.get_num_threads()
    train, forward, inverse = (costs["passes"][name] for name in ("train", "forward", "inverse"))
    assert train["flops_per_image"] > 2 * forward["flops_per_image"] == 2 * inverse["flops_per_image"] > 0
    for one in (train, forward, inverse):
        speed = one["images_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    against = measure_costs(
        load_experiment("real_nvp/digits-adversarial", [*tiny, "critic.width=2", "critic.updates=2"]), CPU
    )["passes"]
    assert against["forward"]["flops_per_image"] == forward["flops_per_image"]
    # Two samples for the critic's steps and one with its gradients, beside the likelihood that is logged.
    assert against["train"]["flops_per_image"] > 2 * inverse["flops_per_image"] + train["flops_per_image"]


def test_what_is_fitted_in_closed_form_is_not_trained():
    costs = measure_costs(load_experiment("independent/digits"), CPU)
    assert costs["passes"].keys() == {"forward", "inverse"}
    assert costs["passes"]["inverse"]["flops_per_image"] == 0
