import gc
import json
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import flowbench
from flowbench.config.experiments import load_experiment
from flowbench.data import Images
from flowbench.data.feed import Feed, batches_in_order
from flowbench.data.images import FixedPixels, image_format
from flowbench.densities.model import DensityModel, Terms
from flowbench.errors import InputError
from flowbench.throughput import passes
from flowbench.throughput.device import Device
from flowbench.throughput.files import default_path, read_results
from flowbench.throughput.measurement import measure, prepare_pass
from flowbench.throughput.passes import PASSES, make_subject

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


@pytest.mark.parametrize("name", ["real_nvp/digits", "glow/digits", "nice/digits", "iafvae/digits", "tarflow/digits"])
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


@pytest.fixture
def compile_calls(monkeypatch):
    """What was compiled, as (function, options); it runs uncompiled, and says that it did."""
    calls = []

    def compiled(function, *, dynamic, options=None):
        assert not dynamic

        def run(*arguments):
            calls[place] = (function.__qualname__, options, True)
            return function(*arguments)

        place = len(calls)
        calls.append((function.__qualname__, options, False))
        return run

    monkeypatch.setattr(torch, "compile", compiled)
    return calls


FUNCTIONS = {"train": "DensityModel.training_terms", "forward": "FlowDensity.terms", "inverse": "RealNVP.inverse"}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_that_says_compiled_runs_what_was_compiled_in_the_one_way(name, compile_calls):
    entry = prepare_pass(load_experiment("real_nvp/digits", [*TINY, "train.compile=true"]), name, 2, Device(CPU))
    assert entry.facts["compiled"]
    assert compile_calls == [(FUNCTIONS[name], None, True)]


def test_what_was_compiled_for_one_pass_is_forgotten_at_the_next(compile_calls, monkeypatch):
    order = []
    monkeypatch.setattr("flowbench.throughput.measurement.forget_compiled", lambda: order.append(len(compile_calls)))
    for _ in range(2):
        prepare_pass(load_experiment("real_nvp/digits", [*TINY, "train.compile=true"]), "forward", 2, Device(CPU))
    assert order == [0, 1]


@pytest.mark.slow
def test_the_compiled_inverse_is_one_graph_and_gives_the_same_images(monkeypatch):
    plain = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: plain(function, dynamic=False, backend="aot_eager", fullgraph=True)
    )
    tiny = ["model.levels=2", "model.steps=1", "model.hidden=4"]
    subject = make_subject(load_experiment("glow/digits", tiny), 4, CPU)
    eager = PASSES["inverse"](subject, compiled=False)()
    assert torch.equal(PASSES["inverse"](subject, compiled=True)(), eager)
    torch.compiler.reset()


class Foreign(DensityModel):
    """A density that samples in a way of its own."""

    def __init__(self):
        super().__init__((1, 8, 8), 17)
        self.logits = nn.Parameter(torch.zeros(17))

    def terms(self, images, noise):
        values = self.logits.log_softmax(0)[images.long()].flatten(1).sum(1)
        return Terms(values, *(torch.zeros_like(values) for _ in range(3)))

    def sample(self, n, temperature=1.0, generator=None):
        drawn = torch.multinomial(self.logits.softmax(0), n * self.dimensions, True, generator=generator)
        return drawn.view(n, *self.image_shape).to(torch.uint8)


def test_what_cannot_be_compiled_does_not_say_so(compile_calls, monkeypatch):
    monkeypatch.setattr("flowbench.throughput.passes.build_density", lambda experiment, data: Foreign())
    experiment = load_experiment("real_nvp/digits", [*TINY, "train.compile=true"])
    said = {name: prepare_pass(experiment, name, 2, Device(CPU)).facts["compiled"] for name in PASSES}
    assert said == {"train": True, "forward": True, "inverse": False}


def test_nothing_of_the_eager_pass_lies_beside_the_compiled_one(compile_calls, monkeypatch):
    made, alive = [], []
    make = passes.make_optimizer
    monkeypatch.setattr(passes, "make_optimizer", lambda *arguments: noted(make(*arguments)))

    def noted(optimizer):
        made.append(weakref.ref(optimizer))
        return optimizer

    def peak_memory(self, run):
        gc.collect()
        alive.extend(reference() for reference in made)
        return 0

    monkeypatch.setattr(Device, "peak_memory", peak_memory)
    prepare_pass(load_experiment("real_nvp/digits", [*TINY, "train.compile=true"]), "train", 2, Device(CPU))
    assert [optimizer is None for optimizer in alive] == [True, False]


@pytest.mark.parametrize("name", ["real_nvp/digits", "real_nvp/cifar10"])
def test_images_lie_in_memory_as_training_is_fed(name):
    subject = make_subject(load_experiment(name, TINY), 3, CPU)
    channels, height, width = subject.images.shape[1:]
    stored = np.zeros((5, height, width, channels), np.uint8)
    images = Images("made", "train", 256, "", "unverified", FixedPixels(stored))
    fed = Feed(images, batch_size=3, seed=0, flip=True, device=CPU).batch(0)
    ((_, evaluated),) = batches_in_order(images.subset(np.arange(3)), 3, CPU)
    for batch in (fed, evaluated):
        assert (batch.shape, batch.stride(), batch.dtype) == (
            subject.images.shape, subject.images.stride(), subject.images.dtype,
        )  # fmt: skip


def test_sizes_of_images_come_from_the_set_or_from_the_crop():
    assert image_format(load_experiment("real_nvp/cifar10").data) == ((3, 32, 32), 256)
    assert image_format(load_experiment("real_nvp/cifar10", ["data.crop=16", "data.bits=5"]).data) == ((3, 16, 16), 32)
    assert image_format(load_experiment("real_nvp/lsun-tower").data) == ((3, 64, 64), 256)
    folder = ["data.name=folder", "data.levels=17"]
    assert image_format(load_experiment("real_nvp/cifar10", [*folder, "data.crop=8"]).data) == ((3, 8, 8), 17)
    assert image_format(load_experiment("real_nvp/cifar10", folder).data, (1, 9, 9)) == ((1, 9, 9), 17)
    with pytest.raises(InputError, match="the images of folder have no size of their own"):
        image_format(load_experiment("real_nvp/cifar10", folder).data)
    with pytest.raises(InputError, match="reduces images of 256 levels; digits has 17"):
        image_format(load_experiment("real_nvp/digits", ["data.bits=5"]).data)


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
    expected = "results/throughput/cpu-amd-epyc-zen-4-2-threads/20261124T180005-0123456789.json"
    assert default_path(environment).as_posix() == expected


def test_a_changed_preset_is_not_called_by_its_name(tmp_path):
    changed = flowbench.experiment("real_nvp/digits", "model.features=2", "seed=3")
    speed = flowbench.measure_throughput(
        changed, passes=["forward"], batch=2, repeats=5, out=tmp_path / "s.json", progress=False
    )
    assert speed["experiment"].to_list() == ["real_nvp/digits model.features=2"]
