"""Loggers by name: TensorBoard, trackio, wandb, each only where it is installed."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import MissingExtraError, RequestError
from .callbacks import Callback, StepReport, ValidationReport

NAMES = ("tensorboard", "trackio", "wandb")


def make_loggers(names: Sequence[str], folder: Path) -> list[Callback]:
    """Return a logger for each name; raises RequestError for unknown ones, MissingExtraError for absent packages."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise RequestError(f"there is no logger {unknown[0]!r}; accepted are {', '.join(NAMES)}")
    return [TensorBoard(folder) if name == "tensorboard" else RunLogger(name, folder) for name in names]


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(f"logging to {package} needs it installed: pip install {package}") from None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "total_steps")
    }


class TensorBoard(Callback):
    """Writes event files into the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._writer = _imported("tensorboardX", "tensorboardX").SummaryWriter(str(folder / "tensorboard"))

    def on_step(self, report: StepReport) -> None:
        self._write("train", report.step, report.to_dict())

    def on_validation(self, report: ValidationReport) -> None:
        self._write("validation", report.step, report.to_dict())

    def _write(self, group: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def on_end(self, result: Any) -> None:
        self._writer.close()


class RunLogger(Callback):
    """Logs to trackio or wandb, whose functions are the same."""

    def __init__(self, package: str, folder: Path) -> None:
        self._module = _imported(package, package)
        self._project = folder.resolve().name

    def on_start(self, plan: Mapping[str, Any]) -> None:
        self._module.init(project=self._project, config=dict(plan["settings"]))

    def on_step(self, report: StepReport) -> None:
        self._module.log({f"train/{k}": v for k, v in _numbers(report.to_dict()).items()}, step=report.step)

    def on_validation(self, report: ValidationReport) -> None:
        self._module.log({f"validation/{k}": v for k, v in _numbers(report.to_dict()).items()}, step=report.step)

    def on_end(self, result: Any) -> None:
        self._module.finish()
