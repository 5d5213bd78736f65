import json

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from flowbench.config.experiments import load_experiment
from flowbench.data import open_split
from flowbench.densities.flows.independent import Independent
from flowbench.errors import InputError
from flowbench.evaluation import sample_quality
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.sample_quality import inception
from flowbench.evaluation.sample_quality import sample_quality as measure
from flowbench.runs.folder import RunFolder
from flowbench.tasks import density as density_task
from flowbench.tasks.loading import evaluate_run
from flowbench.training.loop import train


class Corners(nn.Module):
    """Stands for Inception: the means of an image's four quarters, in [0, 1]."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return nn.functional.adaptive_avg_pool2d(images[:, :1].float() / 255, 2).flatten(1)


@pytest.fixture
def digits():
    return open_split("digits", "test").subset(np.arange(150))


def model_of(images):
    model = Independent((1, 8, 8), 17)
    model.fit([torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy())])
    return model.eval()


def features(array):
    scaled = np.rint(array[..., 0] * (255 / 16)) / 255
    return scaled.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)


def test_fid_is_the_distance_of_two_normals_and_kid_the_unbiased_mean_discrepancy(digits):
    model = model_of(digits)
    metrics = measure(model, digits, 150, seed=3, network=Corners())
    generator = torch.Generator().manual_seed(3)
    fake = features(torch.cat([model.sample(k, 1.0, generator) for k in (64, 64, 22)]).permute(0, 2, 3, 1).numpy())
    real = features(digits.array)

    a, b = np.cov(real.T), np.cov(fake.T)
    root = scipy.linalg.sqrtm(a @ b).real
    fid = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert metrics["fid"]["value"] == pytest.approx(fid, rel=1e-4)

    def kernel(x, y):
        return (x @ y.T / 4 + 1) ** 3

    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (150 * 149) for x in (real, fake))
    assert metrics["kid"]["value"] == pytest.approx(within - 2 * kernel(real, fake).mean(), rel=1e-3)
    assert metrics["kid"]["subset_size"] == metrics["kid"]["n"] == metrics["fid"]["images"] == 150


def test_worse_samples_have_larger_figures(digits):
    good = measure(model_of(digits), digits, 150, seed=0, network=Corners())
    bad = measure(Independent((1, 8, 8), 17).eval(), digits, 150, seed=0, network=Corners())
    assert bad["fid"]["value"] > 3 * good["fid"]["value"]
    assert bad["kid"]["value"] > 3 * good["kid"]["value"]


def test_figures_follow_from_the_seed_alone(digits):
    model = model_of(digits)
    torch.manual_seed(0)
    first = measure(model, digits, 40, seed=1, network=Corners())
    torch.manual_seed(1)
    assert measure(model, digits, 40, seed=1, network=Corners()) == first
    assert measure(model, digits, 40, seed=2, network=Corners()) != first


def test_missing_weights_are_told_with_the_place_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=rf"not at {tmp_path}.*{sample_quality.WEIGHTS}: get them from https://"):
        inception()


def test_another_file_in_their_place_is_never_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / sample_quality.WEIGHTS
    path.parent.mkdir()
    path.write_bytes(b"something else")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="not the published weights"):
        inception()


def test_a_missing_library_is_told_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match=r"flowbench\[fid\]"):
        inception()


def test_evaluate_gives_them_beside_bits_per_dim(tmp_path, monkeypatch):
    train(load_experiment("independent/digits"), tmp_path)
    monkeypatch.setattr(density_task, "inception", Corners)
    content, path = evaluate_run(RunFolder(tmp_path), Request(samples=32))
    found = json.loads(path.read_text())["metrics"]["test"]
    assert content["metrics"]["test"] == found
    assert found["fid"]["n"] == 32
    assert found["fid"]["features"] == "Corners"
    assert set(found) == {"bits_per_dim", "fid", "kid"}
    assert "samples32" in path.name
