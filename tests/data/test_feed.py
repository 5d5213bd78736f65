import numpy as np
import psutil
import pytest
import torch

from flowbench.data.feed import Feed, batches_in_order, fits
from flowbench.data.images import FixedPixels, Images, VariedPixels
from flowbench.errors import InputError

COUNT = 50


def fixed(count=COUNT, **options):
    array = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return Images("made", "train", 256, "", "unverified", FixedPixels(array), **options)


def varied(**options):
    generator = np.random.default_rng(1)
    shards, index = [], []
    for shard in range(3):
        flat = []
        for _ in range(COUNT // 3 + 1):
            height, width = (int(side) for side in generator.integers(6, 12, 2))
            index.append((shard, sum(map(len, flat)), height, width))
            flat.append(generator.integers(0, 256, height * width * 3, dtype=np.uint8))
        shards.append(np.concatenate(flat))
    pixels = VariedPixels(shards, np.array(index), 3)
    return Images("made", "train", 256, "", "unverified", pixels, window=5, **options)


def feed(images, **options):
    return Feed(images, **({"batch_size": 8, "seed": 3, "flip": True, "device": "cpu"} | options))


KINDS = [
    fixed(),
    fixed(window=4),
    fixed(divisor=8),
    fixed(rows=np.arange(10, 45)),
    varied(),
    varied(rows=np.arange(7, 40), divisor=4),
]


@pytest.mark.parametrize("images", KINDS)
def test_a_batch_is_a_function_of_seed_and_step_however_it_is_fed(images):
    resident, streamed = feed(images, resident=True), feed(images, resident=False)
    for step in (0, 1, 2, 3, 17, 5, 6, 40, 0):
        batch = resident.batch(step)
        assert batch.dtype == torch.uint8
        assert batch.shape == (8, *images.shape)
        assert torch.equal(batch, streamed.batch(step))
    assert not torch.equal(resident.batch(0), feed(images, seed=4).batch(0))


@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
def test_resuming_in_the_middle_of_an_epoch_gives_the_same_batches(images, resident, rank):
    options = {"resident": resident, "rank": rank, "ranks": 2}
    first = feed(images, **options)
    uninterrupted = [first.batch(step).clone() for step in range(12)]
    resumed = feed(images, **options)
    assert first.steps_per_epoch in (4, 6)
    for step in range(7, 12):
        assert torch.equal(resumed.batch(step), uninterrupted[step])


@pytest.mark.parametrize(("free", "resident"), [(2.49, False), (2.51, True)])
def test_a_set_is_resident_up_to_40_percent_of_the_free_memory(monkeypatch, free, resident):
    images = fixed()
    memory = psutil.virtual_memory()._replace(available=free * images.nbytes)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert fits(images, torch.device("cpu")) is resident
    assert feed(images).resident is resident


def test_an_epoch_has_each_image_once_but_for_its_ragged_tail():
    images = fixed(count=52)
    fed = feed(images, flip=False)
    assert fed.steps_per_epoch == 6
    known = {image.tobytes(): number for number, image in enumerate(images.array)}
    epochs = []
    for epoch in range(3):
        batches = [fed.batch(epoch * 6 + step).permute(0, 2, 3, 1) for step in range(6)]
        epochs.append([known[image.numpy().tobytes()] for batch in batches for image in batch])
        assert len(set(epochs[-1])) == 48
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])


def test_ranks_see_disjoint_parts_of_the_same_batch():
    images = fixed()
    whole = feed(images).batch(4)
    parts = [feed(images, rank=rank, ranks=4).batch(4) for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(InputError, match="divide"):
        feed(images, ranks=3)


@pytest.mark.parametrize("resident", [True, False])
def test_each_image_is_mirrored_with_probability_one_half(resident):
    images = fixed()
    known = {image.tobytes(): number for number, image in enumerate(images.array)}
    plain, mirrored = feed(images, flip=False, resident=resident), feed(images, resident=resident)
    seen, turned, by_batch = np.zeros(COUNT), np.zeros(COUNT), []
    for step in range(600):
        # The same order with and without flips, so that the two can be compared.
        one, other = plain.batch(step), mirrored.batch(step)
        by_batch.append(0)
        for whole, image in zip(one, other, strict=True):
            number = known[whole.permute(1, 2, 0).numpy().tobytes()]
            assert torch.equal(whole, image) or torch.equal(whole.flip(2), image)
            turn = not torch.equal(whole, image)
            seen[number] += 1
            turned[number] += turn
            by_batch[-1] += turn
    # 4,800 coins, 96 to an image, 8 to a batch: sums of fair and independent ones spread by n/4.
    assert turned.sum() == pytest.approx(2400, abs=140)
    assert (((turned - seen / 2) ** 2) / (seen / 4)).sum() == pytest.approx(COUNT, abs=4 * np.sqrt(2 * COUNT))
    assert np.var(by_batch) == pytest.approx(2, abs=0.5)


def test_ranks_mirror_what_one_process_mirrors():
    whole, plain = feed(fixed()), feed(fixed(), flip=False)
    counts = set()
    for step in range(30):
        batch = whole.batch(step)
        parts = [feed(fixed(), rank=rank, ranks=2).batch(step) for rank in range(2)]
        assert torch.equal(torch.cat(parts), batch)
        counts.add(sum(not torch.equal(*pair) for pair in zip(batch, plain.batch(step), strict=True)))
    assert {count > 4 for count in counts} == {True, False}


def test_crops_are_windows_of_their_images_at_all_places():
    images = fixed(window=4)
    whole = images.pixels.array
    corners = set()
    fed = feed(images, flip=False)
    windows = {
        whole[n, t : t + 4, left : left + 4].tobytes(): (t, left)
        for n in range(COUNT)
        for t in range(3)
        for left in range(3)
    }
    for step in range(60):
        for image in fed.batch(step).permute(0, 2, 3, 1):
            corners.add(windows[image.contiguous().numpy().tobytes()])
    assert len(corners) == 9


@pytest.mark.parametrize("images", KINDS)
def test_evaluation_sees_every_image_once_in_order(images):
    seen = list(batches_in_order(images, 8, "cpu"))
    assert np.array_equal(np.concatenate([indices for indices, _ in seen]), np.arange(len(images)))
    assert len(seen[-1][1]) == len(images) % 8
    together = torch.cat([batch for _, batch in seen]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(together, images.array)
    shared = [part for rank in range(3) for part in batches_in_order(images, 8, "cpu", rank=rank, ranks=3)]
    assert sorted(index for indices, _ in shared for index in indices) == list(range(len(images)))


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(InputError, match=r"data\.batch_size"):
        feed(fixed(), batch_size=51)


def test_batches_are_channels_last():
    assert feed(fixed()).batch(0).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_is_fed_the_same_batches(images, resident):
    on_cpu, on_gpu = feed(images), feed(images, device="cuda", resident=resident)
    for step in (0, 1, 7, 2):
        assert torch.equal(on_cpu.batch(step), on_gpu.batch(step).cpu())
