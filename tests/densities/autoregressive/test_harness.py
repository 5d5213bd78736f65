"""PixelCNN++ in the generic harness: trained, measured, sampled, exported, timed and estimated like any other model."""

from pathlib import Path

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.data import open_images
from flowbench.densities.autoregressive.pixelcnn import PixelCNN
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.reported import Setting
from flowbench.planning.costs import count
from flowbench.runs.folder import RunFolder
from flowbench.tasks.loading import evaluate_run, load_run
from flowbench.throughput.convolutions import record
from flowbench.throughput.passes import PASSES, can_be_compiled, make_subject
from flowbench.trained.exporting import export_run
from flowbench.training.loop import train

SMALL = ["model.blocks=1", "model.filters=4", "model.components=2", "data.batch_size=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowbench.training.loop.draw_at_end", lambda run: [])
        folder = tmp_path_factory.mktemp("pixelcnn")
        train(load_experiment("pixelcnn/digits", [*SMALL, "train.steps=3", "train.log_every=1"]), folder)
    return RunFolder(folder)


def test_the_figure_has_its_labels(run: RunFolder) -> None:
    figure = run.result["metrics"]["test"]["bits_per_dim"]
    assert (figure["levels"], figure["dequantization"], figure["draws"]) == (17, "none", 1)
    assert (figure["weights"], figure["batch_norm"], figure["n"]) == ("ema", None, 360)
    assert figure["bound"] == ("density_branch" if figure["density_branch_share"] else "exact")
    others = {"log_det": 0, "preprocessing": 0, "quantization": 0}
    assert figure["terms"] == {"prior": pytest.approx(figure["value"]), **others}
    again, _ = evaluate_run(run, Request(split="test", weights="ema"))
    assert again["metrics"]["test"]["bits_per_dim"] == figure


@pytest.mark.parametrize(("log_scale", "bound"), [(0.0, "exact"), (-6.0, "density_branch")])
def test_the_bound_says_whether_the_density_branch_took_anything(log_scale: float, bound: str) -> None:
    experiment = load_experiment("pixelcnn/digits", SMALL)
    images = open_images(experiment.data, "test").subset(torch.arange(20).numpy())
    torch.manual_seed(0)
    model = PixelCNN(images.shape, images.levels, blocks=1, filters=2, components=2)
    with torch.no_grad():
        model.net.out.g.zero_()
        model.net.out.b[2:].view(-1, 2)[model.mixture._rows["scale"]] = log_scale
        # The second component is far from everything: it takes the density branch, and none of the pixels.
        model.net.out.b[2:].view(-1, 2)[model.mixture._rows["mean"], 1] = 0.5
    measured = evaluate(model, images, Setting(batch_size=7)).metrics["bits_per_dim"]
    assert measured["bound"] == bound
    share = measured["density_branch_share"]
    assert share == 0 if bound == "exact" else 0 < share < 1
    pixels = torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        terms, shares = model.terms_and_shares(pixels, pixels)
    assert share == pytest.approx(float(shares["density_branch"].mean()), rel=1e-6)
    assert measured["value"] == pytest.approx(float(model.bits_per_dim(pixels).detach().mean()), rel=1e-6)
    assert torch.equal(terms.log_prob, model.log_prob(pixels))


def test_there_is_no_bound_to_tighten(run: RunFolder) -> None:
    with pytest.raises(Exception, match="likelihood is exact"):
        evaluate_run(run, Request(importance=4))


def test_an_exported_run_is_the_run(run: RunFolder, tmp_path: Path) -> None:
    out = export_run(run, tmp_path / "exported")
    one, other = load_run(run.path), load_run(out)
    assert isinstance(other, PixelCNN)
    images = torch.randint(17, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.log_prob(images), other.log_prob(images))
    drawn = [model.sample(2, generator=torch.Generator().manual_seed(1)) for model in (one, other)]
    assert torch.equal(*drawn)
    assert "pixelcnn" in (out / "README.md").read_text()


def test_every_pass_can_be_timed_against_its_own_convolutions() -> None:
    subject = make_subject(load_experiment("pixelcnn/digits", SMALL), 2, torch.device("cpu"))
    assert [can_be_compiled(subject, name) for name in ("train", "forward", "inverse")] == [True, True, False]
    for name, make in PASSES.items():
        assert sum(record(make(subject, compiled=False)).values()) > 50, name


def test_its_costs_are_counted_before_they_are_paid() -> None:
    planned = count(load_experiment("pixelcnn/digits", SMALL))
    model = load_experiment("pixelcnn/digits", SMALL).model.build((1, 8, 8), 17)
    assert planned.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert planned.evaluated == 360 + 1437  # one draw: nothing is dequantized
    assert planned.training_flops > 2.5 * planned.forward_flops


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_it_is_compiled_without_graph_breaks(training: bool) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = PixelCNN((1, 8, 8), 17, blocks=1, filters=2, components=2).train(training)
    images = torch.randint(17, (2, 1, 8, 8), dtype=torch.uint8)
    model.initialize(images, images)
    with torch.set_grad_enabled(training):
        compiled = torch.compile(model.terms, fullgraph=True, backend="aot_eager")(images, images)
        torch.testing.assert_close(compiled.log_prob, model.terms(images, images).log_prob)
    torch.compiler.reset()
