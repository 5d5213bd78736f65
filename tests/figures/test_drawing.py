import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flowbench.config.experiments import load_experiment
from flowbench.config.registry import figure_kinds
from flowbench.config.result_notes import UNDRAWN
from flowbench.errors import InputError, WorkFailedError
from flowbench.figures.drawing import draw_at_end, draw_run, kinds_of
from flowbench.figures.kinds import FigureKind, NotDrawableError
from flowbench.figures.theme import description_of
from flowbench.runs.folder import RunFolder
from flowbench.tasks.density import DensityTask
from flowbench.tasks.loading import reported_step
from flowbench.training import loop as training

ALL = {
    "compression",
    "extrapolation",
    "interpolation",
    "latents",
    "likelihood",
    "log_det",
    "manifold",
    "outsiders",
    "reconstructions",
    "samples",
}


@pytest.mark.slow
def test_every_kind_is_drawn_of_a_flow_the_same_each_time_with_a_title_that_says_whose_it_is(trained):
    run = trained("real_nvp")
    assert set(kinds_of(run)) == ALL
    drawn = draw_run(run)
    assert ({path.stem for path in drawn.paths}, drawn.left_out) == (ALL, [])
    for path in drawn.paths:
        words = description_of(path)
        assert words.startswith("real_nvp/digits, seed 0: ")
        assert "step 3" in words
        assert path.suffix == ".svg" or np.asarray(Image.open(path).convert("RGB")).std() > 20
    first = {path: path.read_bytes() for path in drawn.paths}
    again = draw_run(run, ["samples", "compression", "outsiders"]).paths
    assert all(path.read_bytes() == first[path] for path in again)


@pytest.mark.parametrize(
    ("model", "missing"), [("nice", {"compression", "extrapolation"}), ("independent", None), ("pixelcnn", None)]
)
def test_what_a_model_does_not_have_is_left_out_with_the_reason(trained, model, missing):
    drawn = draw_run(trained(model))
    names = {line.partition(":")[0] for line in drawn.left_out}
    assert names == (missing or ALL - {"samples", "likelihood", "outsiders"})
    assert {path.stem for path in drawn.paths} == ALL - names


def test_asked_for_by_name_it_is_an_error(trained):
    with pytest.raises(NotDrawableError, match="no latents"):
        draw_run(trained("independent"), ["samples", "manifold"])
    with pytest.raises(InputError, match="did you mean samples"):
        draw_run(trained("independent"), ["sample"])


def test_a_picture_that_fails_does_not_cost_the_training_its_result(trained, monkeypatch):
    def fail(subject):
        raise WorkFailedError("4 of 36 images are not numbers")

    entries = figure_kinds._load()
    monkeypatch.setitem(entries, "samples", FigureKind(fail, "density", True))
    assert draw_at_end(trained("independent")) == ["figure samples: 4 of 36 images are not numbers"]
    with pytest.raises(WorkFailedError):
        draw_run(trained("independent"), ["samples"])
    drawn = draw_run(trained("independent"))
    assert "samples: 4 of 36 images are not numbers" in drawn.left_out
    assert [path.stem for path in drawn.paths] == ["likelihood", "outsiders"]


def test_an_error_of_any_kind_keeps_no_other_picture_from_being_drawn(trained, monkeypatch):
    run, entries, drawn = trained("independent"), figure_kinds._load(), []

    def fail(subject):
        raise ZeroDivisionError("division\nby zero")

    for name in list(entries):
        monkeypatch.setitem(entries, name, FigureKind(fail, "density", name in ("likelihood", "samples")))
    monkeypatch.setitem(entries, "likelihood", FigureKind(lambda _: drawn.append(1) or run.path, "density", True))
    assert draw_at_end(run) == ["figure samples: ZeroDivisionError: division by zero"]
    assert drawn
    with pytest.raises(ZeroDivisionError):
        draw_run(run)


def test_drawing_all_of_a_run_that_was_stopped_before_settles_what_its_result_says(trained, monkeypatch):
    def fail(subject):
        raise WorkFailedError("4 of 36 images are not numbers")

    run, entries = trained("independent"), figure_kinds._load()
    for name in list(entries):
        draw = fail if name == "samples" else lambda _: run.path
        monkeypatch.setitem(entries, name, FigureKind(draw, "density", True))
    before = run.result
    run.write_result({**before, "notes": [*before["notes"], UNDRAWN]})
    draw_run(run, ["likelihood"])
    assert run.undrawn
    draw_run(run)
    assert run.result == {**before, "notes": [*before["notes"], "figure samples: 4 of 36 images are not numbers"]}
    run.write_result(before)


def test_under_keep_best_the_pictures_name_the_step_of_the_best_weights(tmp_path, monkeypatch):
    figures = iter([3.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(DensityTask, "validate", lambda task, average, run=None: {"bits_per_dim": next(figures)})
    monkeypatch.setattr(training, "draw_at_end", lambda run: [])
    changes = ["model.steps=1", "model.hidden=4", "train.keep=best", "train.validate_every=2", "train.steps=8"]
    training.train(load_experiment("glow/digits", changes), tmp_path)
    run = RunFolder(tmp_path)
    assert reported_step(run) == 4
    assert "step 4" in description_of(draw_run(run, ["samples"]).paths[0])


def test_what_a_training_of_images_draws_with_takes_neither_pandas_nor_scipy():
    code = (
        "import sys, flowbench.training.loop, flowbench.tasks.density; from flowbench.config.registry import "
        "figure_kinds; assert len([figure_kinds[kind] for kind in figure_kinds]) > 10; "
        "print({'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_figures_loads_neither_matplotlib_nor_seaborn():
    code = "import sys, flowbench.figures.drawing; print({'matplotlib', 'seaborn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
