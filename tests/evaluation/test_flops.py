"""The count of operations against a count by hand, for every model that ships and in every place that shows it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from flowbench.comparison.cost import flops_of
from flowbench.config.experiments import experiment_names, load_experiment
from flowbench.config.registry import density_models, forecasters
from flowbench.config.schema import Experiment
from flowbench.evaluation.flops import flops_per_item
from flowbench.planning.costs import count
from flowbench.throughput.measurement import flops_per_image

COLUMNS = 7
SERIES = {"inputs": list("abcdefg"), "targets": list("abcdefg"), "rows_per_day": 24}
IMAGES = {"shape": [3, 16, 16], "levels": 256}


def lstm(inputs: int, hidden: int) -> int:
    """Multiply-adds of one step: four gates of (input, state)."""
    return 4 * hidden * (inputs + hidden)


def linear(data: Any, model: Any) -> int:
    return int(COLUMNS * data.lookback * data.horizon)


def dlinear(data: Any, model: Any) -> int:
    return 2 * linear(data, model)  # one map for the trend, one for the rest


def nothing(data: Any, model: Any) -> int:
    return 0


def patchtst(data: Any, model: Any) -> int:
    patches = (data.lookback - model.patch) // model.stride + 2
    projections = 4 * patches * model.width**2  # queries, keys, values, output
    attention = 2 * patches**2 * model.width  # scores and their mixture, of all heads together
    layer = projections + attention + 2 * patches * model.width * model.hidden
    embedding, head = patches * model.patch * model.width, patches * model.width * data.horizon
    return int(COLUMNS * (embedding + model.layers * layer + head))


def itransformer(data: Any, model: Any) -> int:
    projections, attention = 4 * COLUMNS * model.width**2, 2 * COLUMNS**2 * model.width
    layer = projections + attention + 2 * COLUMNS * model.width * model.hidden
    return int(COLUMNS * model.width * (data.lookback + data.horizon) + model.layers * layer)


def lstm2lstm(data: Any, model: Any) -> int:
    hidden, rows = model.hidden, data.lookback
    columns = 1 if model.channels == "independent" else COLUMNS
    layers = [lstm(columns, hidden), *[lstm(hidden, hidden)] * (model.layers - 1)]
    encoder = rows * sum(layers)
    attention = 2 * rows * hidden  # scores and context
    if model.faithful:
        first = (hidden + COLUMNS) * rows
        # Three gates of the context and of the state; the next scores from the state; then all outputs.
        steps = data.horizon * (3 * hidden * 2 * hidden + hidden * rows + rows * hidden + hidden * COLUMNS)
        return int(encoder + first + steps)
    step = (hidden + columns) * hidden + attention + lstm(hidden + columns, hidden) + hidden * columns
    return int((encoder + rows * hidden**2 + data.horizon * step) * (COLUMNS // columns))


def coupled(data: Any, model: Any) -> int:
    """Of the futures whose mean is the forecast, each through all couplings, and of the layers before them."""
    dimensions = data.horizon * COLUMNS
    half = dimensions // 2
    net = (half + model.context) * model.features + (model.flow_layers - 1) * model.features**2
    return linear(data, model) + 99 * model.couplings * int(net + model.features * 2 * half)


def nlinear_flow(data: Any, model: Any) -> int:
    return coupled(data, model) + (24 + 1) * COLUMNS * model.context + model.context * COLUMNS


def lstm_flow(data: Any, model: Any) -> int:
    read = 2 * COLUMNS * model.hidden * model.context + data.horizon * COLUMNS * model.hidden
    inside = SimpleNamespace(**model.model_dump(), faithful=False)
    return coupled(data, model) + lstm2lstm(data, inside) + int(read)


def residual(channels_in: int, channels_out: int, width: int, blocks: int, model: Any) -> int:
    """Multiply-adds at one pixel of Real NVP's network."""
    block = (11 if getattr(model, "bottleneck", False) else 18) * width**2
    skips = (blocks + 1) * width**2 if getattr(model, "skip", True) else 0
    return 9 * channels_in * width + blocks * block + skips + width * channels_out


def real_nvp(shape: tuple[int, int, int], model: Any) -> int:
    channels, height, width = shape
    affine, total = model.coupling == "affine", 0
    for scale in range(model.scales):
        pixels, last = height * width, scale == model.scales - 1
        features = model.features * 2**scale
        for number in (0, 1, 2, 3) if last else (0, 1, 2):
            out = channels * (2 if affine or number > 1 else 1)
            total += pixels * residual(2 * channels + 1, out, features, model.residual_blocks, model)
        for number in () if last else (4, 5, 6):
            half = 2 * channels
            out = half * (2 if affine or number == 6 else 1)
            mixing = (4 * channels) ** 2 if model.mixing == "conv1x1" else 0
            net = residual(2 * half, out, 2 * features, model.residual_blocks, model)
            total += pixels // 4 * (net + mixing)
        channels, height, width = 2 * channels, height // 2, width // 2
    return total


def nice(shape: tuple[int, int, int], model: Any) -> int:
    channels, height, width = shape
    net = residual(2 * channels + 1, channels, model.features, model.residual_blocks, None)
    return height * width * model.couplings * net


def seen(channels: int, channels_out: int) -> int:
    """Input channels of one of Glow's 3x3 convolutions: a narrow input brings the border as one more."""
    return channels + (channels + 1 <= channels_out)


def glow(shape: tuple[int, int, int], model: Any) -> int:
    channels, height, width = shape
    total = 0
    for level in range(model.levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        half, out = channels // 2, channels if model.coupling == "affine" else channels // 2
        if model.network == "residual":
            net = residual(2 * half, out, model.hidden, 1, None)
        else:
            first = 9 * seen(half, model.hidden) * model.hidden
            net = first + model.hidden**2 + 9 * seen(model.hidden, out) * out
        mixing = channels**2 if model.permutation in ("lu", "plain") else 0
        total += height * width * model.steps * (net + mixing)
        if level < model.levels - 1:
            total += height * width * 9 * seen(half, channels) * channels  # the prior of what is factored out
            channels = half
    return total


def pixelcnn(shape: tuple[int, int, int], model: Any) -> int:
    channels, height, width = shape
    wide = model.filters**2 * (2 if model.nonlinearity == "concat_elu" else 1)
    # Kernels of 2x3 and 2x2, from f(x) to F and from f(c) to 2 F channels, and what comes in from elsewhere: once F
    # channels on the way down, F and 2 F on the way up.
    down, up = (18 + 12 + 1) * wide, (18 + 12 + 3) * wide
    outputs = model.components * (1 + 2 * channels + channels * (channels - 1) // 2)
    total = height * width * (11 * (channels + 1) * model.filters + model.filters * outputs)
    for scale in range(3):
        pixels = height * width // 4**scale
        total += pixels * (model.blocks * down + (model.blocks + (scale < 2)) * up)
        # To this scale and back from it: 2x3 and 2x2 kernels each.
        total += 2 * pixels * 10 * model.filters**2 if scale else 0
    return total


def iafvae(shape: tuple[int, int, int], model: Any) -> int:
    """By maps, where the way up's last convolution reads nothing and a transposed one is counted at its input."""
    channels, height, width = shape
    z, h = model.latents, model.features
    total = 2 * 25 * channels * h * (height // 2) * (width // 2)  # into the network and out of it
    for scale in range(model.depth):
        places = (height >> scale + 1) * (width >> scale + 1)
        up = 2 * (z + h) * h + h * h
        down = h * (4 * z + 2 * h) + (z + h) * h
        masked = z * h + h * h + 2 * h * z
        total += 9 * places * model.blocks * (up + down + masked)
    return total - 9 * places * h * h


def tarflow(shape: tuple[int, int, int], model: Any) -> int:
    """Linear layers, and in attention a product of all pairs of tokens for the weights and one for the values."""
    channels, height, width = shape
    tokens, features = height * width // model.patch**2, channels * model.patch**2
    out = features * (2 if model.coupling == "affine" else 1)
    linear = tokens * (model.width * (features + out) + 12 * model.layers * model.width**2)
    return model.blocks * (linear + 2 * tokens**2 * model.width * model.layers)


FORECASTERS = {
    "linear": linear, "nlinear": linear, "dlinear": dlinear, "patchtst": patchtst, "lstm2lstm": lstm2lstm,
    "itransformer": itransformer, "repeat_last": nothing, "seasonal_naive": nothing, "mean": nothing,
    "empirical": nothing, "gaussian": linear, "nlinear_flow": nlinear_flow, "lstm_flow": lstm_flow,
}  # fmt: skip
FLOWS: dict[str, Callable[[tuple[int, int, int], Any], int]] = {
    "real_nvp": real_nvp, "glow": glow, "nice": nice, "independent": lambda shape, model: 0, "pixelcnn": pixelcnn,
    "iafvae": iafvae, "tarflow": tarflow,
}  # fmt: skip


def by_hand(experiment: Experiment[Any, Any]) -> int | None:
    """Multiply-adds count 2; None, as the comparison has it, for a model without products."""
    name = experiment.model.name
    if experiment.kind == "forecast":
        return 2 * FORECASTERS[name](experiment.data, experiment.model) or None
    channels, height, width = IMAGES["shape"]  # type: ignore[misc]
    return 2 * FLOWS[name]((channels, height, width), experiment.model) or None


def counted(experiment: Experiment[Any, Any]) -> int | None:
    return flops_of(experiment, SERIES if experiment.kind == "forecast" else IMAGES)


def test_every_registered_model_is_counted_by_hand() -> None:
    assert set(forecasters) <= set(FORECASTERS)
    assert set(density_models) <= set(FLOWS)


@pytest.mark.parametrize("name", [name for name in experiment_names() if name.startswith("etth/")])
def test_forecasters_at_shipped_settings_are_counted_as_by_hand(name: str) -> None:
    experiment = load_experiment(name)
    assert counted(experiment) == by_hand(experiment)


def test_the_published_settings_cost_what_they_cost() -> None:
    assert counted(load_experiment("etth/patchtst")) == 12_456_192
    assert counted(load_experiment("etth/lstm2lstm")) == 35_844_096


SMALL = {
    "real_nvp": ["model.features=4", "model.residual_blocks=2"],
    "glow": ["model.hidden=20", "model.steps=2"],
    "nice": ["model.features=4"],
    "iafvae": ["model.depth=3", "model.latents=4", "model.features=8"],
    "tarflow": ["model.width=8", "model.head=4", "model.blocks=3"],
    "independent": [],
    "pixelcnn": ["model.filters=4", "model.blocks=1"],
}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *[(f"{name}/digits", keys) for name, keys in SMALL.items()],
        ("real_nvp/digits-1x1", SMALL["real_nvp"]),
        ("real_nvp/digits", ["model.scales=3", "model.bottleneck=true", "model.skip=false", "model.coupling=additive"]),
        ("glow/digits", [*SMALL["glow"], "model.network=residual", "model.levels=3"]),
        ("glow/digits", [*SMALL["glow"], "model.permutation=reverse", "model.coupling=additive", "model.levels=1"]),
        ("glow/digits", [*SMALL["glow"], "model.permutation=plain", "model.hidden=4"]),
        ("pixelcnn/digits", ["model.filters=5", "model.blocks=2", "model.nonlinearity=elu"]),
    ],
)
def test_flows_are_counted_as_by_hand(name: str, keys: list[str]) -> None:
    experiment = load_experiment(name, keys)
    assert counted(experiment) == by_hand(experiment)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in experiment_names() if not name.startswith("etth/")])
def test_flows_at_shipped_settings_are_counted_as_by_hand(name: str) -> None:
    experiment = load_experiment(name)
    assert counted(experiment) == by_hand(experiment)


@pytest.mark.parametrize("name", ["real_nvp", "glow", "pixelcnn", "iafvae", "tarflow"])
def test_comparison_dry_run_and_throughput_count_the_same(name: str) -> None:
    experiment = load_experiment(f"{name}/digits", SMALL[name])
    forward = flops_of(experiment, {"shape": [1, 8, 8], "levels": 17})
    planned = count(experiment)
    assert planned.forward_flops == forward
    passes = {one: flops_per_image(experiment, one, (1, 8, 8)) for one in ("forward", "inverse", "train")}
    assert passes["forward"] == forward
    assert passes["train"] == planned.training_flops
    if name == "real_nvp":
        assert passes["inverse"] == forward


class Attending(nn.Module):
    """What torch fuses, there and back: an encoder's layer, a recurrence, attention by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.recurrent = nn.LSTM(8, 4, batch_first=True)
        self.cell = nn.LSTMCell(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        rows, _ = self.recurrent(self.layer(x))
        state: torch.Tensor = self.cell(rows[:, -1])[0]
        return state


@pytest.mark.parametrize("mode", ["eval", "eval with gradients", "train"])
def test_nothing_fused_is_taken_for_free(mode: str) -> None:
    model, rows = Attending().train(mode == "train"), 5
    with torch.set_grad_enabled(mode != "eval"):
        (flops,) = flops_per_item(lambda size: model(torch.randn(size, rows, 8)))
    attention = 2 * rows**2 * 8
    layer = 4 * rows * 8 * 8 + attention + 2 * rows * 8 * 16
    assert flops == 2 * (attention + layer + rows * lstm(8, 4) + lstm(4, 3))


def test_the_backward_pass_is_counted_whole_and_all_switches_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    before = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    loss = torch.zeros(())

    def forward(size: int) -> None:
        nonlocal loss
        loss = model(torch.randn(size, 6)).square().sum()

    there, back = flops_per_item(forward, lambda _: loss.backward())
    assert there == 2 * (6 * 5 + 5 * 4)
    assert back == 2 * (6 * 5 + 2 * 5 * 4)  # of weights, and of the one input that is no data
    with pytest.raises(ZeroDivisionError):
        flops_per_item(lambda size: 1 // 0)
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == before
