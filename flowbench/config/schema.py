"""What an experiment file holds: its sections, their keys, and what is valid."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

__all__ = [
    "COMPILED_NUMERICS",
    "FUSED",
    "Critic",
    "DensityData",
    "Evaluate",
    "Experiment",
    "ForecastData",
    "ModelConfig",
    "Optim",
    "Section",
    "Space",
    "Study",
    "Train",
]

FUSED = ("adam", "adamw")
"""The optimizers of which torch has fused kernels."""
COMPILED_NUMERICS = 2
"""Raised by hand when a change alters the results of compiled training. Until 2, after the first validation, raw
weights that a fused optimizer had moved were measured with kernels derived from older ones."""


class Section(BaseModel):
    """A frozen part of an experiment file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    added: ClassVar[frozenset[str]] = frozenset()
    """Keys that came after results were stored: at their defaults they are no part of a config's hash."""
    unhashed: ClassVar[frozenset[str]] = frozenset()
    """Keys that are no part of what is computed: paths, and where memory goes."""


class ModelConfig(Section):
    """The `model:` section; each model's module subclasses it, registers it under its name and builds from it."""

    numerics: ClassVar[int] = 1
    """Raised by hand when a change alters the model's results: stored results with another value are stale."""
    learns_from_samples: ClassVar[bool] = False
    """Whether its samples are a differentiable map of noise: then it can be trained against a critic."""

    weighs_scales: ClassVar[bool] = True
    """Whether it has scales that `optim.scale_l2` may weigh."""

    name: str

    @property
    def moves_with_raw_weights(self) -> bool:
        """Whether it has state that is right for the raw weights alone and that nothing estimates anew for averages."""
        return False


class DensityData(Section):
    """The `data:` section of a density experiment."""

    name: str
    batch_size: PositiveInt = 64
    flip: bool = False
    """Mirror training images left to right with probability 1/2."""
    bits: Annotated[int, Field(ge=1, le=8)] = 8
    """Keep the upper bits of each byte (5 in some of Glow's experiments)."""
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    """Grey levels where they are no power of two; None: the data set's own, reduced to 2**bits."""
    size: PositiveInt | None = None
    """Pixels of the shorter side to which a folder of images was resized; must agree with how it was prepared."""
    crop: PositiveInt | None = None
    """Side of the square crops: at random places in training, at fixed ones in evaluation; None: the data set's own."""
    holdout: NonNegativeInt = 0
    """Training images put aside, by a fixed permutation, for whatever chooses."""


class ForecastData(Section):
    """The `data:` section of a forecast experiment."""

    added = frozenset({"test_on", "date", "unit"})
    unhashed = frozenset({"csv"})

    name: str | None = None
    csv: str | None = None
    date: str | None = None
    """The date column's name in the file; None: `date`, `datetime`, `timestamp` or `time`."""
    protocol: Literal["informer", "report", "ratio"] = "informer"
    lookback: PositiveInt = 336
    """By default 64 under `report`."""
    horizon: PositiveInt = 96
    """By default 24 under `report`."""
    features: Literal["M", "S", "MS"] = "M"
    target: str = "OT"
    batch_size: PositiveInt = 32
    test_on: str | None = None
    """Another known set with the same columns, whose test part is tested on instead, scaled as the training was."""
    unit: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    """The one unit of all columns that are forecast: errors in original units are then averaged over them."""

    @model_validator(mode="before")
    @classmethod
    def _lengths_of_the_report(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("protocol") == "report":
            return {"lookback": 64, "horizon": 24, **given}
        return given

    @model_validator(mode="after")
    def _one_source(self) -> "ForecastData":
        if (self.name is None) == (self.csv is None):
            raise ValueError("give either data.name (a known set) or data.csv (a file), one of the two")
        return self

    @property
    def tested(self) -> "ForecastData":
        """The section of the file whose test part is tested on."""
        if self.test_on is None:
            return self
        return self.model_copy(update={"name": self.test_on, "csv": None, "date": None, "test_on": None})


class Optim(Section):
    """The `optim:` section: optimizer, learning-rate schedule, regularization and clipping."""

    added = frozenset({"hold"})

    name: Literal["adam", "adamw", "adamax", "adam-inside"] = "adam"
    """adam-inside: `eps` inside the square root, as in PixelCNN++; there of gradients of the sum over a batch."""
    lr: PositiveFloat = 1e-3
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    scale_l2: NonNegativeFloat = 0.0
    """Coefficient of the sum of squares of the weight-normalization scales (Dinh et al. 2017, section 4.1)."""
    clip_norm: PositiveFloat | None = None
    """Global gradient norm at which gradients are clipped; the loss is in nats per image."""
    schedule: Literal["constant", "cosine", "exponential", "exponential-steps"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the whole training (steps, epochs or time budget) over which the rate rises linearly from 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate after each epoch under `schedule: exponential`, before each step under `exponential-steps`."""
    hold: NonNegativeInt = 0
    """Epochs after the first one that keep the full rate before `decay` begins (1 in LTSF-Linear's code)."""


class Train(Section):
    """The `train:` section: how long, how precise, how often to log, validate and save."""

    added = frozenset({"objective", "likelihood"})
    unhashed = frozenset({"recompute"})

    objective: Literal["likelihood", "adversarial"] = "likelihood"
    """adversarial: against the critic of the `critic:` section (Flow-GAN, Grover et al. 2018)."""
    likelihood: NonNegativeFloat = 0.0
    """λ under `objective: adversarial`: weight of −log p in nats an image beside the critic's verdict."""
    epochs: NonNegativeInt | None = None
    steps: NonNegativeInt | None = None
    precision: Literal[32, "bf16"] = 32
    """bf16: the conditioner networks alone; log-determinants and the prior stay float32. 32: float32
    everywhere, TF32 nowhere, on a GPU as on a CPU."""
    compile: bool = False
    recompute: bool = False
    """Compute the conditioner networks' activations again for the gradients: less memory, more time, the same result
    (the paper's Real NVP on a CPU at batch 16: 0.67 of the memory, 1.23 times the time)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average of the weights; 0: none."""
    log_every: PositiveInt = 50
    validate_every: PositiveInt | Literal["epoch"] = 1000
    checkpoint_every: PositiveInt = 1000
    keep: Literal["last", "best"] = "last"
    """Weights that are evaluated: the last, or the best by validation."""
    patience: PositiveInt | None = None
    """Stop after that many validations without improvement."""
    max_skipped: PositiveInt = 10
    """Give up after that many steps in a row with a non-finite loss or gradient."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either train.epochs or train.steps, one of the two")
        if self.recompute and self.compile:
            raise ValueError("train.recompute and train.compile exclude each other: set one of them to false")
        if self.likelihood and self.objective == "likelihood":
            raise ValueError("train.likelihood weighs log p beside a critic: set train.objective: adversarial")
        if self.compile and self.objective == "adversarial":
            # The penalty is a gradient of a gradient, which torch's compiler does not compile.
            raise ValueError("train.objective: adversarial cannot be compiled: set train.compile: false")
        return self


class Critic(Section):
    """The `critic:` section: what an adversarial training plays against (WGAN-GP, Gulrajani et al. 2017).

    The defaults are those of the authors' program for CIFAR-10 (ermongroup/flow-gan).
    """

    width: PositiveInt = 64
    """Features of the first convolution; they double with each."""
    updates: PositiveInt = 5
    """Steps of its own before each of the flow's."""
    penalty: NonNegativeFloat = 10.0
    """Weight of (‖∇D‖ − 1)² between images and samples."""
    lr: PositiveFloat = 1e-4
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.5, 0.9)


class Evaluate(Section):
    """The `evaluate:` section: what the reported figure is made of."""

    added = frozenset({"limit"})

    draws: PositiveInt = 1
    """Draws of noise per image: of dequantization, or of a posterior."""
    batch_norm: Literal["running", "population"] = "population"
    """Statistics of batch normalization: moving averages, or re-estimated over training batches."""
    weights: Literal["raw", "ema"] | None = None
    """None: ema where the training keeps one, else raw."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Measure so many images or windows of each part only, for trying things; None: all, as every published figure."""


class Space(Section):
    """One searched key of the `tune:` section."""

    int_: Annotated[tuple[int, int] | None, Field(alias="int", strict=False)] = None
    float_: Annotated[tuple[float, float] | None, Field(alias="float", strict=False)] = None
    categorical: list[Any] | None = None
    log: bool = False
    step: PositiveFloat | None = None
    when: dict[str, Any] | None = None
    """Search this key only where other keys have these values."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Space":
        if sum(kind is not None for kind in (self.int_, self.float_, self.categorical)) != 1:
            raise ValueError("give one of int: [low, high], float: [low, high], categorical: [...]")
        bounds = self.int_ or self.float_
        if bounds is None:
            if not self.categorical:
                raise ValueError("categorical: give at least one choice")
            if self.log or self.step is not None:
                raise ValueError("log and step are for int and float")
            return self
        if bounds[0] > bounds[1]:
            raise ValueError(f"the lower end {bounds[0]} is above the upper end {bounds[1]}")
        if self.log and bounds[0] <= 0:
            raise ValueError(f"log needs a lower end above 0, not {bounds[0]}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.int_ is not None and self.step is not None and self.step != int(self.step):
            raise ValueError(f"step {self.step} between whole numbers is no whole number")
        return self


class Study(Section):
    """The `study:` section: how Optuna searches."""

    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "hyperband"
    objectives: list[str] = []
    seed: NonNegativeInt = 0
    steps: PositiveInt | None = None
    """Budget of each trial in optimizer steps; None: as long as the experiment trains."""
    validations: PositiveInt | None = None
    """How often a trial of `steps` steps is validated, and may be pruned; None: as the experiment says."""


_OF_IMAGES: Mapping[str, tuple[str, ...]] = {
    "optim": ("scale_l2",),
    "train": ("precision", "compile", "recompute"),
    "evaluate": ("draws", "batch_norm"),
}
"""Keys that only models of images have."""

DataT = TypeVar("DataT", bound=Section)
ModelT = TypeVar("ModelT", bound=ModelConfig)


class Experiment(Section, Generic[DataT, ModelT]):
    """One experiment, whole and valid: `Experiment[DensityData, …]` or `Experiment[ForecastData, …]`."""

    added = frozenset({"critic"})

    name: Annotated[str, Field(max_length=200)]
    kind: Literal["density", "forecast"]
    preset: Literal["paper", "quick"] | None = None
    """Whose settings these are: a paper's, or the quick table's; None: our own."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Within the 32 bits that torch's CPU generator reads of a seed: two seeds never give the same first weights."""
    data: DataT
    model: ModelT
    optim: Optim = Optim()
    train: Train
    critic: Critic = Critic()
    evaluate: Evaluate = Evaluate()
    tune: dict[str, Space] = {}
    study: Study = Study()

    @field_validator("name")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        # Runs lie under runs/<name>/: a file from outside must not choose another place.
        if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
            raise ValueError(f"{name!r} must be printable words with / between them, for example real_nvp/mine")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment[DataT, ModelT]":
        if self.kind == "forecast":
            self._refuse_of_images()
        if self.train.objective == "adversarial" and not self.model.learns_from_samples:
            raise ValueError(f"train.objective: adversarial is for flows, and {self.model.name} is none")
        if self.optim.scale_l2 and not self.model.weighs_scales:
            raise ValueError(f"optim.scale_l2: {self.model.name} as it is set has no scales to weigh: leave it out")
        if self.train.ema > 0 and self.weights == "ema" and self.model.moves_with_raw_weights:
            raise ValueError(
                f"train.ema: {self.model.name} as it is set learns variances that follow the raw weights: set "
                "evaluate.weights: raw, or train.ema: 0"
            )
        if self.evaluate.weights == "ema" and self.train.ema == 0:
            raise ValueError("evaluate.weights: ema asks for moving averages, but train.ema is 0: set train.ema")
        if self.train.ema > 0 and self.weights == "ema" and self.evaluate.batch_norm == "running":
            raise ValueError(
                "evaluate.batch_norm: running statistics belong to the raw weights: "
                "use population with evaluate.weights: ema"
            )
        return self

    def _refuse_of_images(self) -> None:
        """Refuse what a forecaster's training would pass over in silence."""
        for section, keys in _OF_IMAGES.items():
            given = getattr(self, section)
            for key in keys:
                if getattr(given, key) != type(given).model_fields[key].default:
                    raise ValueError(f"{section}.{key}: is for models of images, and {self.model.name} is a forecaster")

    @property
    def weights(self) -> Literal["raw", "ema"]:
        """The weights that are reported."""
        return self.evaluate.weights or ("ema" if self.train.ema > 0 else "raw")
