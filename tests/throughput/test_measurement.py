import json

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.throughput.device import Device
from flowbench.throughput.files import default_path, read_results
from flowbench.throughput.measurement import measure
from flowbench.throughput.passes import PASSES, image_shape, make_subject

CPU = torch.device("cpu")
TINY = ["model.features=2", "model.residual_blocks=1", "model.scales=1"]


def test_a_result_file_holds_what_the_design_says(monkeypatch):
    monkeypatch.setattr("flowbench.throughput.measurement.MIN_SAMPLE_SECONDS", 0.001)
    experiment = load_experiment("real_nvp/digits", TINY)
    seen = []
    content = measure(
        [experiment], passes=list(PASSES), batches=[2], device=CPU, repeats=5, report=lambda result: seen.append(result)
    )
    assert content["schema"] == 1
    assert content["environment"]["threads"] == torch.get_num_threads()
    assert seen == content["results"]
    assert [result["pass"] for result in content["results"]] == ["train", "forward", "inverse"]
    for result in content["results"]:
        assert result.keys() == {
            "experiment", "pass", "batch", "precision", "compiled", "images_per_second", "floor_ratio", "parameters",
            "flops_per_image", "peak_memory_bytes",
        }  # fmt: skip
        for name in ("images_per_second", "floor_ratio"):
            figure = result[name]
            assert len(figure["samples"]) == 5
            assert figure["low"] <= figure["median"] <= figure["high"]
            assert min(figure["samples"]) > 0
    train, forward, inverse = content["results"]
    assert train["flops_per_image"] > 2 * forward["flops_per_image"]
    assert forward["flops_per_image"] == inverse["flops_per_image"]
    json.dumps(content)


@pytest.mark.parametrize("name", ["real_nvp/digits", "glow/digits", "nice/digits"])
def test_passes_do_what_training_evaluation_and_sampling_do(name):
    subject = make_subject(load_experiment(name), 4, CPU)
    before = [parameter.detach().clone() for parameter in subject.model.parameters()]
    assert PASSES["forward"](subject, compiled=False)().shape == (4,)
    images = PASSES["inverse"](subject, compiled=False)()
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, tuple(subject.images.shape))
    assert all(torch.equal(a, b) for a, b in zip(before, subject.model.parameters(), strict=True))
    loss = PASSES["train"](subject, compiled=False)()
    assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, subject.model.parameters(), strict=True))


def test_sizes_of_images_come_from_the_set_or_from_the_crop():
    assert image_shape(load_experiment("real_nvp/cifar10").data) == (3, 32, 32)
    assert image_shape(load_experiment("real_nvp/cifar10", ["data.crop=16"]).data) == (3, 16, 16)
    assert image_shape(load_experiment("real_nvp/lsun-tower").data) == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "words"), [("etth/linear", "density models"), ("independent/digits", "no parameters")]
)
def test_what_has_no_passes_is_refused(name, words):
    with pytest.raises(InputError, match=words):
        make_subject(load_experiment(name), 4, CPU)


def test_peak_memory_sees_what_a_pass_takes():
    device = Device(CPU)
    little, much = (device.peak_memory(lambda size=size: torch.ones(size).sum()) for size in (1, 25_000_000))
    if little is None:
        pytest.skip("this system does not tell a process its peak")
    assert 80e6 < much - little < 150e6


def test_files_are_checked_before_they_are_used(tmp_path):
    path = tmp_path / "a.json"
    for text in ("{", "[]", '{"schema": 1, "results": [{"pass": "train"}], "environment": {}}', '{"schema": 2}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.json: not a throughput file"):
            read_results(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "missing.json")


def test_files_lie_by_device_and_are_named_by_time_and_commit():
    environment = {"device": "cpu", "device_name": "AMD EPYC (Zen 4)", "threads": 2, "flowbench": "0.1"}
    environment |= {"time": "2026-11-24T18:00:05+00:00", "commit": "0123456789abcdef"}
    expected = "reports/throughput/cpu-amd-epyc-zen-4-2-threads/20261124T180005-0123456789.json"
    assert default_path(environment).as_posix() == expected
