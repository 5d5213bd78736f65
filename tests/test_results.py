"""What makes a stored result stale."""

import pytest

from flowbench.config import load_experiment
from flowbench.optimization import COMPILED_NUMERICS
from flowbench.results import stale_reasons
from tests.faked_runs import FakeTrainer


@pytest.mark.parametrize(
    ("keys", "measured"),
    [
        (["train.compile=true", "optim.name=adam", "train.ema=0"], "earlier weights"),
        (["train.compile=true", "optim.name=adamw", "train.ema=0"], "earlier weights"),
        (["train.compile=true", "optim.name=adam", "train.ema=0.9", "evaluate.weights=raw"], "earlier weights"),
        (["train.compile=true", "optim.name=adam", "train.ema=0.9"], ""),
        (["train.compile=true", "optim.name=adamax", "train.ema=0"], ""),
        (["train.compile=false", "optim.name=adam", "train.ema=0"], ""),
    ],
)
def test_figures_of_raw_weights_that_a_compiled_training_and_a_fused_optimizer_left_are_stale_until_now(
    keys: list[str], measured: str
) -> None:
    experiment = load_experiment("glow/digits", keys)
    result = FakeTrainer().result(experiment, 2.0)
    assert measured in " ".join(stale_reasons(result, experiment))
    assert bool(stale_reasons(result, experiment)) == bool(measured)
    today = {**result, "numerics": {**result["numerics"], "compiled": COMPILED_NUMERICS}}
    assert stale_reasons(today, experiment) == []
