"""The picture that a table begins with: points, error bars and published marks at their places."""

from pathlib import Path

import pytest
import scipy.stats

from flowbench.report.forest import forests
from tests.report.test_report import page, peer, row


def test_points_are_sorted_and_lie_where_their_values_are() -> None:
    ours = row(value=3.55, stderr=0.02, n=101, seeds=[0, 1], seed_std=0.05, values=[3.5, 3.6])
    (picture,) = forests([(ours, "a"), (row(experiment="glow/cifar10", value=3.3, stderr=None), "b")])
    assert (picture.title, picture.metric) == ("CIFAR-10, test", "bits/dim")
    assert [point.name for point in picture.points] == ["glow/cifar10", "Real NVP", "real_nvp/cifar10", "Conv DRAW"]
    assert [point.theirs for point in picture.points] == ["", "published", "", "published"]
    assert [point.text for point in picture.points] == ["3.300", "3.490", "3.550", "≤ 3.590"]
    (ours_bound,) = forests([(row(value=3.55, labels={"bound": "uniform"}, published=[]), "a")])
    assert [point.text for point in ours_bound.points] == ["≤ 3.550"]
    low, high = 3.3 - 0.04 * 0.3, 3.6 + 0.04 * 0.3  # the lowest figure and the highest seed, with a margin

    def place(value: float) -> float:
        return pytest.approx(100 * (value - low) / (high - low), abs=0.02)  # type: ignore[return-value]

    best, published, mine, bound = picture.points
    assert [one.place for one in (best, published, mine, bound)] == [place(3.3), place(3.49), place(3.55), place(3.59)]
    assert mine.seeds is not None
    assert (mine.seeds[0], sum(mine.seeds)) == (place(3.5), place(3.6))
    half = scipy.stats.t.ppf(0.975, 100) * 0.02
    assert mine.images is not None
    assert (mine.images[0], sum(mine.images)) == (place(3.55 - half), place(3.55 + half))
    assert (best.images, best.seeds, mine.anchor) == (None, None, "a")


def test_every_row_has_its_own_picture_and_one_without_a_figure_none(tmp_path: Path) -> None:
    rows = [row(), row(row="ROW B", metric="mae", value=0.4, published=[]), row(row="C", status="failed", value=None)]
    assert [one.title for one in forests([(one, "") for one in rows])] == ["CIFAR-10, test", "ROW B, test"]
    text = page(tmp_path, *rows)
    assert text.index('<figure class="forests"') < text.index("<table")
    assert text.count('<div class="forest">') == 2
    assert "forests" not in page(tmp_path, row(status="failed", value=None, reason="x")).split("</style>")[1]


def test_what_is_measured_otherwise_stands_beside_no_published_figure() -> None:
    assert forests([(row(badges=["other task"]), None)]) == []
    rows = [row(badges=["limited"]), row(badges=["other resampling", "stale"]), row(badges=["stale"], value=3.7)]
    (found,) = forests([(one, None) for one in rows])
    assert [point.name for point in found.points if not point.theirs] == ["real_nvp/cifar10 (stale)"]
    alone = [{**one, "published": []} for one in rows]
    (found,) = forests([(one, None) for one in alone])
    assert [point.name for point in found.points] == [
        "real_nvp/cifar10 (limited)", "real_nvp/cifar10 (other resampling) (stale)", "real_nvp/cifar10 (stale)"
    ]  # fmt: skip


def test_another_librarys_model_stands_with_its_seeds_among_ours_and_nothing_small_stands_beside_it() -> None:
    beside = {"published": [], "peers": [peer(values=[3.2, 3.4]), peer(model="X", split="train", values=[9.0, 9.0])]}
    (picture,) = forests([(row(value=3.25, **beside), "a"), (row(value=3.35, **beside), "b")])
    assert [(point.text, point.theirs) for point in picture.points] == [
        ("3.250", ""), ("3.300", "measured here"), ("3.350", "")
    ]  # fmt: skip
    theirs = picture.points[1]
    assert theirs.seeds is not None
    low, high = 3.2 - 0.04 * 0.2, 3.4 + 0.04 * 0.2
    assert theirs.seeds == pytest.approx((100 * (3.2 - low) / (high - low), 100 * 0.2 / (high - low)), abs=0.02)
    assert forests([(row(badges=["limited"], **beside), "a")]) == []
