import json

import numpy as np
import pytest

from flowbench.data.sets import own
from flowbench.figures import likelihood
from flowbench.figures.encoded import report_images
from flowbench.figures.likelihood import bits_per_dim_of, draw_likelihood, draw_outsiders
from flowbench.figures.outsiders import outsiders


def test_bits_per_dim_are_those_of_the_evaluation(subject):
    one = subject("glow")
    images = report_images(one)
    stored = next(one.run.evaluations.glob("test-*.npy"))
    metric = json.loads(stored.with_suffix(".json").read_text())["metrics"]["test"]["bits_per_dim"]
    again = bits_per_dim_of(one, images.array, images.split)
    np.testing.assert_allclose(again, np.load(stored), rtol=1e-5)
    assert again.mean() == pytest.approx(metric["value"], rel=1e-5)


def test_the_histogram_reads_what_was_measured_and_measures_where_it_is_lost(subject, monkeypatch):
    one = subject("real_nvp")
    measured = []
    monkeypatch.setattr(likelihood, "bits_per_dim_of", lambda *a: measured.append(a) or bits_per_dim_of(*a))
    picture = draw_likelihood(one).read_bytes()
    assert not measured
    one.run.evaluations = one.run.figures / "nothing here"
    assert len(draw_likelihood(one).read_bytes()) == pytest.approx(len(picture), rel=0.1)
    assert len(measured) == 1


def test_values_that_a_training_has_left_behind_are_measured_again(subject, monkeypatch):
    one = subject("real_nvp")
    monkeypatch.setattr(type(one.run), "finished", False)
    (stored,) = one.run.evaluations.glob("test-*.json")
    content, measured = json.loads(stored.read_text()), []
    monkeypatch.setattr(likelihood, "bits_per_dim_of", lambda *a: measured.append(a) or bits_per_dim_of(*a))
    for step, again in ((one.step, 0), (one.step - 1, 1)):
        stored.write_text(json.dumps({**content, "stopped": {"step": step}}))
        draw_likelihood(one)
        assert len(measured) == again
    stored.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("shape", "levels", "besides", "names"),
    [
        ((1, 8, 8), 17, "digits", {"photographs"}),
        ((3, 32, 32), 256, "cifar10", {"photographs", "digits, enlarged"}),
        ((3, 32, 32), 32, "cifar10", {"photographs", "digits, enlarged"}),
        ((3, 12, 20), 256, "mine", {"photographs"}),
    ],
)
def test_images_from_elsewhere_have_the_models_form(shape, levels, besides, names, data_folder, monkeypatch):
    for name in [*own._images]:  # of other tests
        monkeypatch.delitem(own._images, name)
    found = outsiders(shape, levels, besides=besides, n=20)
    assert set(found) == names
    for images in found.values():
        assert images.shape == (20, *shape[1:], shape[0])
        assert images.dtype == np.uint8
        assert levels // 2 < images.max() < levels
        assert len(np.unique(images, axis=0)) > 15
    again = outsiders(shape, levels, besides=besides, n=20)
    assert all((again[name] == images).all() for name, images in found.items())


def test_enlarged_digits_are_upright_squares(data_folder):
    from flowbench.data import open_split

    large = outsiders((3, 32, 32), 17, besides="cifar10", n=3)["digits, enlarged"]
    small = open_split("digits", "test").array[:3]
    for i in range(0, 32, 5):
        for j in range(0, 32, 5):
            assert (large[:, i, j] == small[:, i // 4, j // 4]).all()


def test_the_picture_names_every_set_with_its_mean(subject):
    text = draw_outsiders(subject("glow")).read_text()
    assert "digits, test: mean" in text
    assert "photographs: mean" in text
