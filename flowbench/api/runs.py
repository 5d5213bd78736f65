"""Runs from Python: train one, bring one back, and what one does with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowbench.api.comparing import compare
from flowbench.api.experiments import as_experiment
from flowbench.api.frames import Frame
from flowbench.api.measured import Evaluation, evaluate
from flowbench.api.own_data import series_of, with_data
from flowbench.api.shown import run_html
from flowbench.api.stored import StoredRun, check_own_data
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.runs.folder import find_run, run_path_of
from flowbench.system.progress import quietly

__all__ = ["Run", "load_run", "train"]


class Run(StoredRun):
    """A run: its figures, its model, and what one does with them. What it does not know itself, its model does.

    So `run.log_prob(images)`, `run.bits_per_dim(images)` and `run.sample(n)` are those of `run.model`.

    Args:
        path: the run folder, or an exported one.

    Raises:
        InputError: there is no run.

    Examples:
        >>> import flowbench as fb
        >>> run = fb.train(fb.experiment("independent/digits"), "runs/one", progress=False)
        >>> fb.Run("runs/one").result["metrics"]["test"]["bits_per_dim"]["n"]
        360
    """

    def sample(self, *args: Any, **options: Any) -> Any:
        """Return n images, uint8 (n, channels, height, width): `sample(n)`, options as in `DensityModel.sample`.

        Of a forecaster of distributions paths of the future, (n, batch, horizon, outputs): `sample(past, n)`, as in
        `DistributionForecaster.sample`.

        Raises:
            InputError: a forecaster of points, which has no samples.
        """
        if self.experiment.kind != "density" and not isinstance(self.model, DistributionForecaster):
            raise InputError(f"{self.path}: a forecaster of points has no samples: take forecast()")
        sample: Any = self.model.sample
        return sample(*args, **options)

    def evaluate(self, data: Any = None, **options: Any) -> Evaluation:
        """Measure the model exactly: see `flowbench.evaluate`."""
        return evaluate(self, data, **options)

    def forecast(
        self, data: Any = None, *, rolling: bool = False, samples: int = 0, quantiles: Sequence[float] = ()
    ) -> pd.DataFrame:
        """Forecast the rows after the series' end: a frame, a row a future step.

        Args:
            data: another series: a frame, the path of a CSV file, or a known set's name; None: the run's own.
            rolling: walk over the series in blocks of the horizon, each fed by the true rows before it.
            samples: paths to draw of each block, of a model that forecasts distributions; they follow from its seed.
            quantiles: levels between 0 and 1, of such a model.

        Returns:
            `date`, the truth by column (NaN where it is not known yet), and `<column>_forecast`, the mean where the
            model forecasts a distribution; then the quantiles as `<column>_q0.05` and the paths as `<column>_path1`,
            `<column>_path2`, …; original units.

        Raises:
            InputError: a density run; a missing column; too few rows; samples or quantiles of a model of points.
        """
        from flowbench.trained.forecasting import forecast_with

        if data is None:
            check_own_data(self._folder)
        named = series_of(data) if isinstance(data, pd.DataFrame) else None if data is None else str(data)
        with quietly():
            return forecast_with(self._folder, named, rolling=rolling, samples=samples, quantiles=quantiles).frame

    def compare(self, other: StoredRun | str | Path, **options: Any) -> Frame:
        """Compare with another run on the same images or windows: see `flowbench.compare`."""
        return compare(self, other, **options)

    def export(self, path: str | Path, *, licence: str = "unknown") -> Path:
        """Write weights, config, figures and a model card into a new folder that travels; return the folder.

        Args:
            path: the new folder.
            licence: of the weights, as model hubs name it (`apache-2.0`, …).
        """
        from flowbench.trained.exporting import export_run

        with quietly():
            return export_run(self._folder, Path(path), licence)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the model."""
        return self.model(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling look for special names before there is a folder.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return run_html(self._folder)


def train(
    experiment: Experiment[Any, Any] | str | Path | Mapping[str, Any],
    run_dir: str | Path | None = None,
    *,
    data: Any = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train an experiment and evaluate it, as `flowbench train` does.

    Args:
        experiment: from `flowbench.experiment`, or anything that it takes.
        run_dir: the run folder; None: `runs/<experiment>/<run id>`. Finished with the same config and data: the run
            comes back at once.
        data: None: the experiment's own. Images: `{"train": array, "test": array, "holdout": array}`, uint8 (n, height,
            width, channels), or with `"layout": "NCHW"` (n, channels, height, width); `holdout` is what validations and
            tuning look at and may be missing; values are below `data.levels`, or 256. Series: a pandas DataFrame with a
            DatetimeIndex or a date column. Both are known by their fingerprint and labelled `own data`.
        resume: go on with the unfinished run.
        progress: draw a bar on stderr or in the notebook; without, nothing is printed.

    Raises:
        InputError: bad data, a folder with another run in it, or an override in the folder's place.
        WorkFailedError: the training diverged or ran out of memory; what was done is in the folder.

    Examples:
        >>> import flowbench as fb, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> data = {"train": rng.integers(0, 256, (64, 4, 4, 1), np.uint8), "test": np.zeros((8, 4, 4, 1), np.uint8)}
        >>> run = fb.train("independent/digits", "runs/mine", data=data, progress=False)
        >>> run.result["data_status"]
        'own data'
    """
    from flowbench.tracking import Mirror
    from flowbench.training.loop import train as train_in_folder

    key, equals, _ = str(run_dir or "").partition("=")
    if equals and key.partition(".")[0] in Experiment.model_fields:
        raise InputError(
            f"run_dir: {str(run_dir)!r} reads like an override: fb.train(fb.experiment(NAME, {str(run_dir)!r})) "
            "takes it"
        )
    chosen = with_data(as_experiment(experiment), data)
    folder = run_path_of(chosen, None if run_dir is None else Path(run_dir), resume=resume)
    with quietly(not progress), Mirror() as mirror:
        train_in_folder(chosen, folder, resume=resume, mirror=mirror, progress=progress)
    return Run(folder)


def load_run(path: "str | Path | Run") -> Run:
    """Return a run with its model loaded; needs no data set.

    Args:
        path: a run folder, an exported one, `<experiment>/<run id>` or an experiment's name (its newest finished run).

    Raises:
        InputError: no such run, no sound checkpoint, or one of another model.

    Examples:
        >>> import flowbench as fb
        >>> _ = fb.train("independent/digits", "runs/one", progress=False)
        >>> tuple(fb.load_run("runs/one").sample(4).shape)
        (4, 1, 8, 8)
    """
    run = path if isinstance(path, Run) else Run(find_run(str(path)).path)
    # Here rather than at the first use: what is damaged or missing is said at once.
    _ = run.model
    return run
