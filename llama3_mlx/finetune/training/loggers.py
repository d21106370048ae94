"""Loggers by name: TensorBoard, trackio, wandb, each only where it is installed."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import MissingExtraError, RequestError
from ...json_types import JsonMapping
from .callbacks import Callback, StepReport, ValidationReport

NAMES = ("tensorboard", "trackio", "wandb")
_PACKAGES = {"tensorboard": ("tensorboardX", "tensorboardX")}


def make_loggers(names: Sequence[str], folder: Path) -> list[Callback]:
    """Return a logger for each name; raises RequestError for unknown ones, MissingExtraError for absent packages."""
    check_loggers(names)
    return [Guarded(TensorBoard(folder) if name == "tensorboard" else RunLogger(name, folder), name) for name in names]


def check_loggers(names: Sequence[str]) -> None:
    """Raise RequestError for an unknown logger, MissingExtraError for one whose package is absent."""
    for name in names:
        if name not in NAMES:
            raise RequestError(f"there is no logger {name!r}; accepted are {', '.join(NAMES)}")
        _imported(*_PACKAGES.get(name, (name, name)))


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(f"logging to {package} needs it installed: pip install {package}") from None


def _numbers(values: JsonMapping) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "total_steps")
    }


class Guarded(Callback):
    """A logger whose failures, such as a lost network, are one line."""

    def __init__(self, logger: Callback, name: str) -> None:
        self._logger, self._name = logger, name

    def on_start(self, plan: JsonMapping) -> None:
        with self._one_line():
            self._logger.on_start(plan)

    def on_step(self, report: StepReport) -> None:
        with self._one_line():
            self._logger.on_step(report)

    def on_validation(self, report: ValidationReport) -> None:
        with self._one_line():
            self._logger.on_validation(report)

    def on_end(self, result: Any) -> None:
        with self._one_line():
            self._logger.on_end(result)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            what = " ".join(str(error).split()) or type(error).__name__
            raise RequestError(f"logging to {self._name} failed: {what}") from error


class TensorBoard(Callback):
    """Writes event files into the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._writer = _imported("tensorboardX", "tensorboardX").SummaryWriter(str(folder / "tensorboard"))

    def on_step(self, report: StepReport) -> None:
        self._write("train", report.step, report.to_dict())

    def on_validation(self, report: ValidationReport) -> None:
        self._write("validation", report.step, report.to_dict())

    def _write(self, group: str, step: int, values: JsonMapping) -> None:
        for name, value in _numbers(values).items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def on_end(self, result: Any) -> None:
        self._writer.close()


class RunLogger(Callback):
    """Logs to trackio or wandb, whose functions are the same."""

    def __init__(self, package: str, folder: Path) -> None:
        self._module = _imported(package, package)
        self._project = folder.resolve().name
        # wandb keeps its files with the run's, and not where the command was typed.
        self._more = {"dir": str(folder)} if package == "wandb" else {}

    def on_start(self, plan: JsonMapping) -> None:
        self._module.init(project=self._project, config=dict(plan["settings"]), **self._more)

    def on_step(self, report: StepReport) -> None:
        self._module.log({f"train/{k}": v for k, v in _numbers(report.to_dict()).items()}, step=report.step)

    def on_validation(self, report: ValidationReport) -> None:
        self._module.log({f"validation/{k}": v for k, v in _numbers(report.to_dict()).items()}, step=report.step)

    def on_end(self, result: Any) -> None:
        self._module.finish()
