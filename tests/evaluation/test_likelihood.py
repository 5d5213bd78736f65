import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from flowbench.data.images import FixedPixels, Images
from flowbench.densities.bases import StandardNormal
from flowbench.densities.bijection import Bijection, Compose
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.independent import Independent
from flowbench.densities.flows.normalization import FlowBatchNorm
from flowbench.densities.noise import evaluation_noise, training_noise
from flowbench.densities.preprocessing import Logit
from flowbench.errors import InputError, WorkFailedError
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.reported import Setting, estimate_population, explain_batch_norm
from flowbench.evaluation.stored import write_evaluation
from flowbench.evaluation.weights import WeightAverage

SHAPE, LEVELS = (2, 3, 3), 17
D = math.prod(SHAPE)


class Affine(Bijection):
    """z = (y − shift) · exp(log_scale), the same for all pixels."""

    def __init__(self, shift: float = 0.0, log_scale: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * self.log_scale.exp(), (self.log_scale * x[0].numel()).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp() + self.shift, (-self.log_scale * z[0].numel()).expand(len(z))


def some_images(n=23, split="test", seed=0, shape=SHAPE):
    channels, height, width = shape
    values = np.random.default_rng(seed).integers(LEVELS, size=(n, height, width, channels), dtype=np.uint8)
    return Images("toy", split, LEVELS, "fingerprint", "unverified", FixedPixels(values))


def affine_model(shape=SHAPE):
    return FlowDensity(Affine(0.2, -0.3), Logit(0.05), StandardNormal(), shape, LEVELS)


def normalized_model():
    return FlowDensity(
        Compose([FlowBatchNorm(SHAPE[0]), Affine(0.1, 0.1)]), Logit(0.05), StandardNormal(), SHAPE, LEVELS
    )


def by_hand(model, images, draws, seed=0):
    """bits/dim of every image, from the model's terms and the noise of the split, without any batching."""
    batch = torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy())
    drawn = [
        model.terms(batch, evaluation_noise(seed, images.split, range(len(images)), draw, SHAPE)).log_prob.detach()
        for draw in range(draws)
    ]
    return -torch.stack(drawn).double().numpy() / (D * math.log(2))


def test_value_and_standard_error_are_those_over_images_of_the_mean_over_draws():
    images, model = some_images(), affine_model()
    measured = evaluate(model, images, Setting(draws=4))
    bits = by_hand(model, images, 4).mean(0)
    metric = measured.metrics["bits_per_dim"]
    np.testing.assert_allclose(measured.bits_per_dim, bits, rtol=1e-5)
    assert metric["value"] == pytest.approx(bits.mean(), rel=1e-6)
    assert metric["stderr"] == pytest.approx(bits.std(ddof=1) / math.sqrt(23), rel=1e-5)
    assert {key: metric[key] for key in metric if key not in ("value", "stderr", "terms")} == {
        "n": 23,
        "draws": 4,
        "levels": 17,
        "dequantization": "uniform",
        "bound": "uniform",
        "batch_norm": None,
        "weights": "raw",
    }
    assert list(measured.metrics) == ["bits_per_dim"]


def test_how_the_images_were_prepared_is_a_label_of_every_figure():
    images = replace(some_images(), choices={"resample": "bilinear"})
    metrics = evaluate(normalized_model(), images, Setting(importance=2), training=some_images(64)).metrics
    assert set(metrics) == {"bits_per_dim", "bits_per_dim_importance", "bits_per_dim_running"}
    assert [metric.get("resample") for metric in metrics.values()] == ["bilinear"] * 3


def test_terms_add_up_to_the_value():
    metric = evaluate(affine_model(), some_images(), Setting(draws=3)).metrics["bits_per_dim"]
    assert sum(metric["terms"].values()) == pytest.approx(metric["value"], abs=1e-6)
    assert metric["terms"]["quantization"] == pytest.approx(math.log2(17), rel=1e-6)
    assert metric["terms"]["log_det"] == pytest.approx(0.3 / math.log(2), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 100])
def test_nothing_depends_on_the_batch_size_and_the_last_batch_counts(batch_size):
    images = some_images()
    reference = evaluate(affine_model(), images, Setting(draws=2, importance=5, batch_size=7))
    measured = evaluate(affine_model(), images, Setting(draws=2, importance=5, batch_size=batch_size))
    np.testing.assert_allclose(measured.bits_per_dim, reference.bits_per_dim, rtol=1e-5)
    assert measured.metrics["bits_per_dim"]["n"] == 23
    for metric, values in measured.metrics.items():
        assert values["value"] == pytest.approx(reference.metrics[metric]["value"], rel=1e-6)


def test_nothing_depends_on_the_number_of_processes():
    images, setting = some_images(), Setting(draws=2, importance=3, batch_size=4)
    parts = []

    def keep(values):
        parts.append(values)
        return [values]

    for rank in range(3):
        with pytest.raises(WorkFailedError, match="of 23 images were measured"):
            evaluate(affine_model(), images, setting, rank=rank, ranks=3, gather=keep)
    together = evaluate(affine_model(), images, setting, rank=0, ranks=3, gather=lambda _: parts)
    alone = evaluate(affine_model(), images, setting)
    np.testing.assert_allclose(together.bits_per_dim, alone.bits_per_dim, rtol=1e-6)
    assert together.metrics.keys() == alone.metrics.keys()
    for metric, values in alone.metrics.items():
        assert together.metrics[metric]["value"] == pytest.approx(values["value"], rel=1e-7)
        assert together.metrics[metric]["stderr"] == pytest.approx(values["stderr"], rel=1e-6)


def test_noise_belongs_to_the_image_whatever_part_of_the_split_is_measured():
    images = some_images()
    whole = evaluate(affine_model(), images, Setting())
    part = evaluate(affine_model(), images.subset(np.array([20, 3, 7])), Setting())
    np.testing.assert_allclose(part.bits_per_dim, whole.bits_per_dim[[20, 3, 7]], rtol=1e-6)


def test_importance_bound_is_tighter_and_tends_to_the_truth():
    images = some_images(30, shape=(1, 1, 1))
    model = FlowDensity(Affine(0.4, 1.5), Logit(0.05), StandardNormal(), (1, 1, 1), LEVELS)
    edges = [math.log(p / (1 - p)) for p in 0.05 + 0.9 * np.arange(LEVELS + 1) / LEVELS]
    probabilities = np.diff(scipy.stats.norm(0.4, math.exp(-1.5)).cdf(edges))
    truth = -np.log2(probabilities[images.array.ravel()]).mean()

    values = {}
    for k in (1, 4, 1000):
        metrics = evaluate(model, images, Setting(draws=200, importance=k)).metrics
        values[k] = metrics["bits_per_dim_importance"]
        plain = metrics["bits_per_dim"]["value"]
    assert plain > values[1000]["value"]
    assert plain > truth
    assert values[1000]["value"] == pytest.approx(truth, abs=4 * values[1000]["monte_carlo_error"] + 1e-4)
    assert 0 < values[1000]["monte_carlo_error"] < values[4]["monte_carlo_error"]
    assert values[1000] | {"value": 0, "stderr": 0, "monte_carlo_error": 0} == {
        "value": 0,
        "stderr": 0,
        "n": 30,
        "draws": 1,
        "levels": 17,
        "dequantization": "uniform",
        "bound": "importance",
        "batch_norm": None,
        "weights": "raw",
        "K": 1000,
        "monte_carlo_error": 0,
    }


def test_monte_carlo_error_is_the_spread_over_seeds():
    images, model = some_images(20), affine_model()
    runs = [evaluate(model, images, Setting(seed=seed, importance=64)).metrics for seed in range(40)]
    values = [run["bits_per_dim_importance"]["value"] for run in runs]
    stated = np.mean([run["bits_per_dim_importance"]["monte_carlo_error"] for run in runs])
    assert np.std(values, ddof=1) == pytest.approx(stated, rel=0.5)


def test_population_statistics_are_those_of_the_training_batches():
    model, training = normalized_model(), some_images(40, "train", seed=3)
    estimate_population(model, training, batch_size=40, seed=0)
    layer = model.flow.bijections[0]
    batch = torch.from_numpy(training.array.transpose(0, 3, 1, 2).copy())
    # One batch holds all images: its moments are the population's, up to the noise of dequantization.
    y, _ = model.flow_input(batch, training_noise(0, 0, batch.shape, "cpu", stream="population"))
    torch.testing.assert_close(layer.mean, y.mean((0, 2, 3)), atol=0.05, rtol=0)
    torch.testing.assert_close(layer.var, y.var((0, 2, 3), correction=0), atol=0.1, rtol=0)


@pytest.mark.parametrize("mode", ["running", "population"])
def test_both_batch_norm_modes_stand_side_by_side_and_the_model_comes_out_as_it_went_in(mode):
    model, training = normalized_model(), some_images(40, "train", seed=3)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = evaluate(model, some_images(), Setting(batch_norm=mode, training_batch_size=8), training=training)
    other = {"running": "population", "population": "running"}[mode]
    assert measured.metrics["bits_per_dim"]["batch_norm"] == mode
    assert measured.metrics[f"bits_per_dim_{other}"]["batch_norm"] == other
    running = measured.metrics["bits_per_dim" if mode == "running" else "bits_per_dim_running"]
    model.eval()
    assert running["value"] == pytest.approx(by_hand(model, some_images(), 1).mean(), rel=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_figures_that_are_not_finite_name_the_images():
    model = affine_model()
    plain = model.terms

    def spoiled(images, noise):
        terms = plain(images, noise)
        return terms._replace(prior=torch.where(images[:, 0, 0, 0] == bad, torch.nan, terms.prior))

    images = some_images()
    bad = int(images.array[4, 0, 0, 0])
    model.terms = spoiled
    places = ", ".join(map(str, np.flatnonzero(images.array[:, 0, 0, 0] == bad)))
    with pytest.raises(WorkFailedError, match=rf"toy test: .* not finite .* of 23 images \({places}"):
        evaluate(model, images, Setting(batch_size=4))


def test_a_blow_up_in_the_other_mode_is_a_note_and_no_figure():
    model = normalized_model()
    model.flow.bijections[0].var.fill_(math.nan)
    measured = evaluate(model, some_images(), Setting(), training=some_images(40, "train", seed=3))
    assert list(measured.metrics) == ["bits_per_dim"]
    assert "with running batch-norm statistics" in measured.notes[0]


def test_averaged_weights_come_with_statistics_of_their_own():
    model, training = normalized_model(), some_images(40, "train", seed=3)
    average = WeightAverage(model, 0.5)  # the weights of today
    with torch.no_grad():
        model.flow.bijections[1].log_scale.fill_(1.0)
    setting = Setting(weights="ema", training_batch_size=8)
    measured = evaluate(model, some_images(), setting, training=training, average=average)
    with average.in_place():
        estimate_population(model, training, batch_size=8, seed=0)
        model.eval()
        expected = by_hand(model, some_images(), 1)[0]
    np.testing.assert_allclose(measured.bits_per_dim, expected, rtol=1e-6)
    assert measured.metrics["bits_per_dim"]["batch_norm"] == "population"


def test_averaged_weights_are_used_and_put_away_again():
    model = affine_model()
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.flow.shift.fill_(2.0)
    raw = evaluate(model, some_images(), Setting()).metrics["bits_per_dim"]
    ema = evaluate(model, some_images(), Setting(weights="ema"), average=average).metrics["bits_per_dim"]
    assert ema["weights"] == "ema"
    assert ema["value"] == pytest.approx(evaluate(affine_model(), some_images(), Setting()).bits_per_dim.mean())
    assert raw["value"] > ema["value"]
    assert model.flow.shift.item() == 2.0


def test_settings_that_mean_nothing_are_refused():
    training = some_images(40, "train")
    with pytest.raises(InputError, match="running statistics belong to the raw weights"):
        evaluate(normalized_model(), some_images(), Setting(batch_norm="running", weights="ema"), training=training)
    with pytest.raises(InputError, match="estimated on training images"):
        evaluate(normalized_model(), some_images(), Setting())
    with pytest.raises(InputError, match="the training kept none"):
        evaluate(affine_model(), some_images(), Setting(weights="ema"))
    with pytest.raises(InputError, match="likelihood is exact"):
        evaluate(Independent(SHAPE, LEVELS), some_images(), Setting(importance=4))


def test_an_exact_likelihood_is_labelled_so():
    metric = evaluate(Independent(SHAPE, LEVELS), some_images(), Setting(draws=5)).metrics["bits_per_dim"]
    assert metric["value"] == pytest.approx(math.log2(17), rel=1e-6)
    assert (metric["dequantization"], metric["bound"], metric["draws"]) == ("none", "exact", 1)


def figure(value, mode):
    return {"value": value, "batch_norm": mode}


def test_a_batch_norm_blow_up_is_explained():
    metrics = {
        "train": {"bits_per_dim": figure(3.5, "population"), "bits_per_dim_running": figure(3.9, "running")},
        "test": {"bits_per_dim": figure(3.52, "population"), "bits_per_dim_running": figure(62053.0, "running")},
    }
    line = explain_batch_norm(metrics)
    assert "test 6.205e+04 with running and 3.52 with population" in line
    assert "\n" not in line


def test_modes_that_agree_or_stand_alone_need_no_explanation():
    assert explain_batch_norm({"test": {"bits_per_dim": figure(3.5, "population")}}) is None
    assert explain_batch_norm({"test": {"bits_per_dim": figure(3.5, None)}}) is None
    agreeing = {"bits_per_dim": figure(3.5, "population"), "bits_per_dim_running": figure(3.55, "running")}
    assert explain_batch_norm({"test": agreeing}) is None


def test_written_evaluation_holds_metrics_and_per_image_values(tmp_path):
    setting = Setting(draws=2, importance=4)
    measured = evaluate(affine_model(), some_images(), setting)
    path = write_evaluation(tmp_path, some_images(), setting, measured)
    content = json.loads(path.read_text())
    assert path.name.startswith("test-toy-draws2")
    assert content["metrics"]["test"] == measured.metrics
    np.testing.assert_array_equal(np.load(tmp_path / content["per_image"]), measured.bits_per_dim)


@pytest.mark.parametrize("asked", [{"draws": 0}, {"importance": 0}])
def test_no_draw_is_no_evaluation(asked):
    with pytest.raises(InputError, match=next(iter(asked))):
        evaluate(affine_model(), some_images(), Setting(**asked))
