import matplotlib as mpl
import pytest
import seaborn

from flowbench.figures.theme import color_of, description_of, entitle, new_figure, save, themed


def test_a_model_keeps_its_colour_and_known_models_differ():
    assert color_of("real_nvp") == color_of("real_nvp")
    assert len({color_of(model) for model in ("real_nvp", "glow", "nice", "independent", "pixelcnn")}) == 5
    assert color_of("a new one") == color_of("a new one")
    assert color_of("a new one").startswith("#")


def test_the_style_is_seaborns_without_its_map_of_colours():
    seaborns = seaborn.axes_style("whitegrid") | seaborn.plotting_context("notebook", font_scale=0.9)
    del seaborns["image.cmap"]
    ours = {"axes.spines.right", "axes.spines.top"}
    with themed():
        settings = {key: mpl.rcParams[key] for key in seaborns.keys() - ours}
    assert settings == {key: pytest.approx(seaborns[key]) if "size" in key else seaborns[key] for key in settings}


def test_the_theme_leaves_no_trace():
    before = dict(mpl.rcParams)
    with themed():
        assert mpl.rcParams["figure.constrained_layout.use"]
    assert dict(mpl.rcParams) == before


def test_a_title_is_no_wider_than_its_figure():
    with themed():
        figure = new_figure(5, 2)
        entitle(figure, "real_nvp/lsun-church_outdoor, seed 0: latent manifold of four images, step 100,000\na note")
        title = figure._suptitle.get_window_extent(figure.canvas.get_renderer())
    assert 0 < title.x0 < title.x1 < 5 * figure.dpi
    assert figure.get_suptitle().endswith("\na note")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_has_the_same_bytes(tmp_path, suffix):
    def draw(name):
        with themed():
            figure = new_figure(2, 1)
            figure.subplots().plot([0, 1], [0, 1])
            return save(figure, tmp_path / f"{name}.{suffix}").read_bytes()

    assert draw("one") == draw("two")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_carries_what_it_shows(tmp_path, suffix):
    with themed():
        path = save(new_figure(2, 1), tmp_path / f"a.{suffix}", "μ < σ & “z”, 4×4")
    assert description_of(path) == "μ < σ & “z”, 4×4"
    path.write_bytes(b"\xff not a picture")
    assert description_of(path) == ""
