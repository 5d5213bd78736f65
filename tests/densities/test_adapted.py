"""Other people's modules: counted exactly through each space, and the known traps are caught where they are adapted."""

import math

import pytest
import torch
from torch import Tensor, nn

import flowbench as fb
from flowbench.densities.flows.real_nvp import RealNVPConfig
from flowbench.densities.preprocessing import Logit
from flowbench.errors import InputError, WorkFailedError

SHAPE = (2, 4, 4)


class Uniform(nn.Module):
    """The uniform density on the images' cube, written in one of the spaces."""

    def __init__(self, space: str, levels: int) -> None:
        super().__init__()
        self.space, self.levels, self.logit = space, levels, Logit()

    def log_prob(self, x: Tensor) -> Tensor:
        dimensions = math.prod(SHAPE)
        if self.space == "pixel":
            assert ((x >= 0) & (x < self.levels)).all()
            return torch.full((len(x),), -dimensions * math.log(self.levels), dtype=x.dtype)
        if self.space == "unit":
            assert ((x >= 0) & (x < 1)).all()
            return torch.zeros(len(x), dtype=x.dtype)
        # p(y) = |dx/dy| with x = (σ(y) − α) / (1 − 2α), independently of the package's Jacobian.
        p = torch.sigmoid(x)
        return (torch.log(p * (1 - p)) - math.log(0.9)).flatten(1).sum(1)


@pytest.mark.parametrize("space", ["unit", "pixel", "logit"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_exact_uniform_gives_log2_of_the_levels(space: str, levels: int) -> None:
    model = fb.adapters.from_log_prob(Uniform(space, levels), image_shape=SHAPE, levels=levels, space=space)
    images = torch.randint(levels, (50, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bits = model.bits_per_dim(images, draws=3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bits, torch.full((50,), math.log2(levels)), rtol=0, atol=2e-5)


def test_the_largest_noise_on_the_largest_level_stays_inside() -> None:
    model = fb.adapters.from_log_prob(Uniform("pixel", 256), image_shape=SHAPE, space="pixel")
    images, noise = torch.full((1, *SHAPE), 255, dtype=torch.uint8), torch.full((1, *SHAPE), 1 - 2**-24)
    assert torch.isfinite(model.terms(images, noise).log_prob).all()  # the module asserts it


@pytest.mark.parametrize("space", ["unit", "logit"])
def test_one_of_ours_adapted_is_itself(space: str) -> None:
    """Another count of the same model: our flow, seen through an adapter."""
    torch.manual_seed(0)
    ours = RealNVPConfig(scales=1, residual_blocks=1, features=2).build((1, 4, 4), 17).eval()

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = ours.flow

        def log_prob(self, x: Tensor) -> Tensor:
            y, jacobian = (x, 0) if space == "logit" else Logit()(x)
            return self.flow.log_prob(y) + jacobian

    seen = fb.adapters.from_log_prob(Seen(), image_shape=(1, 4, 4), levels=17, space=space).eval()
    images = torch.randint(17, (6, 1, 4, 4), dtype=torch.uint8)
    one, other = (m.bits_per_dim(images, generator=torch.Generator().manual_seed(3)) for m in (ours, seen))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_samples_are_images_and_follow_the_generator() -> None:
    spaces = {"unit": lambda n: torch.rand(n, *SHAPE), "pixel": lambda n: 17 * torch.rand(n, 32), "logit": None}
    for space, sample in spaces.items():
        model = fb.adapters.from_log_prob(Uniform(space, 17), image_shape=SHAPE, levels=17, space=space, sample=sample)
        if sample is None:
            with pytest.raises(InputError, match="has no samples: give sample="):
                model.sample(2)
            continue
        one, other = (model.sample(400, generator=torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(one, other)
        assert (one.shape, one.dtype) == ((400, *SHAPE), torch.uint8)
        assert torch.bincount(one.flatten().long(), minlength=17).float().std() < 0.1 * 400 * 32 / 17
        with pytest.raises(InputError, match="sampled at 1"):
            model.sample(2, temperature=0.5)


class Trap(nn.Module):
    """Something that goes wrong, by name."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)
        self.register_buffer("done", torch.zeros(()))
        self.dropout = nn.Dropout()

    def log_prob(self, x: Tensor) -> Tensor:
        if self.what == "batch norm":
            return -self.norm(x).square().flatten(1).sum(1)
        if self.what == "actnorm" and not self.done:
            self.done.fill_(1)
        if self.what == "noise":
            x = x + 0.1 * torch.randn_like(x)
        if self.what == "mean":
            return -x.square().mean().expand(len(x))
        if self.what == "scalar":
            return -x.square().mean()
        if self.what == "vectors":
            return -(x @ torch.zeros(32, 1)).sum(1)
        return -self.dropout(x).square().flatten(1).sum(1)


TRAPS = {
    "batch norm": "gives an image another figure beside other images: batch normalization without moving averages",
    "mean": "gives an image another figure beside other images",
    "actnorm": "log_prob changes done in evaluation mode: it initializes or updates itself",
    "noise": "another figure the second time in evaluation mode",
    "scalar": r"log_prob gives (): give nats of each image, shape (3,)",
    "vectors": "log_prob of floats (3, 2, 4, 4): RuntimeError",
}


@pytest.mark.parametrize(("what", "words"), TRAPS.items(), ids=TRAPS)
def test_traps_are_caught_where_a_module_is_adapted(what: str, words: str) -> None:
    module = Trap(what)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError) as caught:
        fb.adapters.from_log_prob(module, image_shape=SHAPE)
    assert str(caught.value).startswith("Trap: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_method_put_onto_the_object_is_looked_at_as_well() -> None:
    """Copies of the module hand its calls to the original."""
    module = Trap("actnorm")
    module.log_prob = module.log_prob  # type: ignore[method-assign]
    with pytest.raises(InputError, match="log_prob changes done in evaluation mode"):
        fb.adapters.from_log_prob(module, image_shape=SHAPE)
    assert module.done == 0


def test_dropout_and_sound_modules_pass() -> None:
    model = fb.adapters.from_log_prob(Trap("dropout"), image_shape=SHAPE)
    assert model.module.training  # as it was given


def test_what_has_no_log_prob_or_another_space_is_refused() -> None:
    with pytest.raises(InputError, match=r"Linear: has no log_prob\(x\)"):
        fb.adapters.from_log_prob(nn.Linear(2, 2), image_shape=SHAPE)
    with pytest.raises(InputError, match=r"function: is no torch.nn.Module: wrap it in one that has log_prob\(x\)"):
        fb.adapters.from_log_prob(lambda x: x.flatten(1).sum(1), image_shape=SHAPE)
    with pytest.raises(InputError, match="space: 'units'; did you mean unit"):
        fb.adapters.from_log_prob(Uniform("unit", 256), image_shape=SHAPE, space="units")


def test_samples_that_are_not_numbers_are_no_black_images() -> None:
    def half(n: int) -> Tensor:
        return torch.full((n, *SHAPE), 0.5).index_fill(0, torch.tensor([0]), math.nan)

    model = fb.adapters.from_log_prob(Uniform("unit", 256), image_shape=SHAPE, space="unit", sample=half)
    with pytest.raises(WorkFailedError, match="1 of 4 samples are not numbers"):
        model.sample(4)


class Linear(nn.Module):
    """A module that computes in the type of its weights, whatever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(math.prod(SHAPE), 1, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        return -self.weigh(x.flatten(1)).square().flatten()


def test_a_module_of_float64_is_given_float64() -> None:
    model = fb.adapters.from_log_prob(Linear(), image_shape=SHAPE)
    images = torch.randint(256, (3, *SHAPE)).to(torch.uint8)
    assert model.bits_per_dim(images).dtype == torch.float64
