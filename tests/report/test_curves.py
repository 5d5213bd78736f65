from flowbench.report.curves import training_curves


def test_a_single_logged_step_is_seen() -> None:
    drawing = training_curves([[{"step": 4, "train/bits_per_dim": 5.2}]], "bits_per_dim", "real_nvp")
    assert drawing is not None
    drawing.canvas.draw()
    axes = drawing.axes[0]
    assert any(line.get_marker() == "o" and list(line.get_ydata()) == [5.2] for line in axes.lines)
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(texts)) == len(texts), f"steps are whole numbers: {texts}"
