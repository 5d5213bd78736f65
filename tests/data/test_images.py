from dataclasses import replace

import numpy as np
import pytest

from flowbench.config.registry import image_sets
from flowbench.config.schema import DensityData
from flowbench.data import open_images, open_split, scikit_learn, training_parts
from flowbench.data.manifest import content_sha256, image_digests
from flowbench.data.preparing import verify
from flowbench.data.sets import digits
from flowbench.errors import CheckFailedError, InputError


def test_the_digits_are_those_that_flowbench_knows():
    train, test = open_split("digits", "train"), open_split("digits", "test")
    assert (train.array.shape, test.array.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert train.array.dtype == np.uint8
    assert (train.levels, train.shape, train.array.max()) == (17, (1, 8, 8), 16)
    assert train.status == test.status == "verified"


def test_another_scikit_learn_is_noticed_and_one_without_the_file_is_asked_itself(monkeypatch, tmp_path):
    rows = np.loadtxt(scikit_learn._folder() / "data" / "digits.csv.gz", delimiter=",", dtype=np.uint8)
    monkeypatch.setattr(scikit_learn, "_folder", lambda: tmp_path)
    monkeypatch.setattr(digits, "_images", digits._images.__wrapped__)  # read anew
    assert {open_split("digits", split).status for split in ("train", "test")} == {"verified"}
    rows[3, 36] += 1
    (tmp_path / "data").mkdir()
    np.savetxt(tmp_path / "data" / "digits.csv.gz", rows, fmt="%d", delimiter=",")
    assert "unverified" in {open_split("digits", split).status for split in ("train", "test")}


def test_the_content_fingerprint_does_not_depend_on_the_order():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    digests = image_digests(images)
    assert content_sha256(digests) == content_sha256(image_digests(images[::-1]))
    import hashlib

    sorted_digests = sorted(hashlib.sha256(image.tobytes()).digest() for image in images)
    assert content_sha256(digests) == hashlib.sha256(b"".join(sorted_digests)).hexdigest()


def test_digests_with_zero_bytes_sort_as_bytes_do():
    import hashlib

    digests = np.random.default_rng(1).integers(0, 2, (200, 32), dtype=np.uint8) * 255
    expected = hashlib.sha256(b"".join(sorted(row.tobytes() for row in digests))).hexdigest()
    assert content_sha256(digests) == expected


def test_the_holdout_is_fixed_and_cut_from_the_training_part():
    whole = open_split("digits", "train")
    train, holdout = training_parts(DensityData(name="digits", holdout=200))
    assert (len(train), len(holdout)) == (1237, 200)
    together = [image.tobytes() for part in (train, holdout) for image in part.array]
    assert sorted(together) == sorted(image.tobytes() for image in whole.array)
    again = training_parts(DensityData(name="digits", holdout=200))[1]
    assert np.array_equal(holdout.array, again.array)
    assert training_parts(DensityData(name="digits"))[1] is None
    with pytest.raises(InputError, match=r"data\.holdout"):
        training_parts(DensityData(name="digits", holdout=1437))


def test_bits_divide_and_round_down(data_folder, tmp_path):
    from flowbench.data.preparing import prepare

    images = np.arange(256, dtype=np.uint8).repeat(3072).reshape(256, 32, 32, 3)
    np.save(tmp_path / "train.npy", images)
    np.save(tmp_path / "test.npy", images)
    prepare("cifar10", tmp_path)
    reduced = open_images(DensityData(name="cifar10", bits=5), "test")
    assert (reduced.levels, reduced.array.max()) == (32, 31)
    assert np.array_equal(reduced.array, images // 8)
    assert reduced.fingerprint == open_split("cifar10", "test").fingerprint


@pytest.mark.parametrize("data", [DensityData(name="digits", bits=3), DensityData(name="digits", levels=16)])
def test_levels_that_do_not_belong_to_the_set_are_refused(data):
    with pytest.raises(InputError, match=r"data\.(bits|levels)"):
        open_images(data, "train")


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(InputError, match="one of: train, test"):
        open_split("digits", "validation")


def test_a_set_of_ones_own_without_fingerprints_is_verified_by_its_counts(monkeypatch):
    mine = replace(image_sets["digits"], fingerprints={})
    monkeypatch.setitem(image_sets._entries, "digits", mine)
    states = verify("digits")
    assert [state.status for state in states] == ["counts match", "counts match"]
    monkeypatch.setitem(
        image_sets._entries, "digits", replace(mine, fingerprints={state.split: state.fingerprint for state in states})
    )
    assert [state.status for state in verify("digits")] == ["verified", "verified"]
    monkeypatch.setitem(image_sets._entries, "digits", replace(mine, fingerprints={"test": "0" * 64}))
    with pytest.raises(CheckFailedError, match="digits: test: other images"):
        verify("digits")
