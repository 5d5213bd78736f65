"""A run as TensorBoard's event files, in its own folder: the second reader of what the training writes there."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flowbench.errors import InputError
from flowbench.tracking import content

__all__ = ["FOLDER", "EventCopy", "check_installed"]

FOLDER = "tensorboard"
"""In a run's folder: `tensorboard --logdir runs` finds all of them."""
PICTURES = (".png",)


def check_installed() -> None:
    """Raise InputError, with the command that mends it, where TensorBoard's package is missing."""
    if find_spec("tensorboard") is None:
        raise InputError("--logger tensorboard: the package is missing: pip install 'flowbench[tensorboard]'")


class EventCopy:
    """The event files of one run folder, written anew from its beginning: the folder is the truth.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tail = content.MetricsTail(folder / "metrics.jsonl")
        self._writer: Any = None
        self._step = 0
        self._names: set[str] = set()
        self.note = ""

    def update(self) -> None:
        """Write the rows that have come."""
        try:
            self._copy_rows()
        except content.RowsCutError:
            # A resumed training has cut them: what was written of the cut ones must go.
            self.close()
            self._tail.rewind()
            self._copy_rows()

    def sample(self, values: Mapping[str, float]) -> None:
        """Nothing: the machine's state is not the run's."""

    def finish(self) -> str:
        """Write what is left, the figures of the result, settings and pictures; return where the events lie."""
        self.update()
        result = content.read_object(self._folder / "result.json")
        if result is not None:
            when = (self._folder / "result.json").stat().st_mtime
            for name, value in content.final_values(result).items():
                # By names of their own: a curve of the same name would get another last point.
                self._open().add_scalar(f"final/{name}", value, self._step, walltime=when)
        settings = content.parameters(content.read_config(self._folder))
        table = "\n".join(
            ["| key | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in settings.items())]
        )
        self._open().add_text("settings", table)
        if both := self._curves():
            self._open().add_custom_scalars({"training and validation": both})
        self._add_pictures()
        self.close()
        return str(self._folder / FOLDER)

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _copy_rows(self) -> None:
        while rows := self._tail.read():
            for row in rows:
                self._step = row.step
                self._names |= row.values.keys()
                for name, value in row.values.items():
                    self._open().add_scalar(name, value, row.step, walltime=row.time / 1000)
        if self._writer is not None:
            self._writer.flush()

    def _curves(self) -> dict[str, list[Any]]:
        """Return TensorBoard's layout of charts that hold the training's curve and the validation's together."""
        metrics = sorted(name.removeprefix("validation/") for name in self._names if name.startswith("validation/"))
        return {
            name: ["Multiline", [f"train/{name}", f"validation/{name}"]]
            for name in metrics
            if f"train/{name}" in self._names
        }

    def _add_pictures(self) -> None:
        import numpy as np
        from PIL import Image

        for path, place in content.artifacts(self._folder):
            if place is not None and path.suffix in PICTURES:
                with suppress(OSError, ValueError), Image.open(path) as image:  # no picture, whatever its name says
                    pixels = np.asarray(image.convert("RGB"))
                    self._open().add_image(f"figures/{path.stem}", pixels, self._step, dataformats="HWC")

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            target = self._folder / FOLDER
            for old in target.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(target))
        return self._writer
