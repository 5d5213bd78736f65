from flowbench.report.curves import curve_keys, training_curves


def test_a_single_logged_step_is_seen() -> None:
    drawing = training_curves([[{"step": 4, "train/bits_per_dim": 5.2}]], "bits_per_dim", "real_nvp")
    assert drawing is not None
    drawing.canvas.draw()
    axes = drawing.axes[0]
    assert any(line.get_marker() == "o" and list(line.get_ydata()) == [5.2] for line in axes.lines)
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(texts)) == len(texts), f"steps are whole numbers: {texts}"


def test_what_is_not_logged_under_its_own_name_is_drawn_as_what_stands_for_it() -> None:
    density = [{"step": 1, "train/loss": 1.0, "train/nll": 1.0}, {"step": 1, "validation/nll": 1.1}]
    assert curve_keys([density], "crps") == ["train/nll", "validation/nll"]
    assert curve_keys([[{"step": 1, "train/mae": 1.0}]], "mse") == ["train/mae", "validation/mae"]
    drawing = training_curves([density], "crps", "gaussian")
    assert drawing is not None
    assert "NLL" in drawing.axes[0].get_ylabel()
