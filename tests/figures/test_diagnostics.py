import numpy as np
import pytest
import torch

from flowbench.densities.noise import evaluation_noise
from flowbench.figures import diagnostics
from flowbench.figures.diagnostics import log_det_by_layer
from flowbench.figures.encoded import report_images


@pytest.mark.parametrize(("model", "layers"), [("glow", 2 * 3 + 1), ("real_nvp", 6 + 4), ("nice", 2 + 1)])
def test_the_layers_log_determinants_add_up_to_the_flows(subject, model, layers):
    one = subject(model)
    images = report_images(one).subset(np.arange(70))  # more than pass at once
    found, values = log_det_by_layer(one, images)
    assert len(found) == len(values) == layers
    noise = evaluation_noise(0, images.split, images.rows, 0, (1, 8, 8))
    with torch.no_grad():
        terms = one.model.terms(torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy()), noise)
    assert values.sum() == pytest.approx(float(terms.log_det.mean()), abs=1e-3)
    assert all(not layer._forward_hooks for layer in found)


def test_the_legend_of_the_log_determinants_stands_beside_the_bars(subject, monkeypatch):
    drawn = []
    monkeypatch.setattr(diagnostics, "save", lambda figure, path, text: drawn.append(figure) or path)
    diagnostics.draw_log_det(subject("glow"))
    axes = drawn[0].axes[0]
    drawn[0].canvas.draw()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert axes.get_legend().get_window_extent().x1 <= drawn[0].bbox.x1
