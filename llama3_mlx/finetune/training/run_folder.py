"""The folder of a run: what it trains, state, settings and metrics, and what of them is true after a kill.

adapters.safetensors, adapter_config.json   the best adapter by validation, else the latest saved; of a draft head:
model.safetensors, config.json
last/                                       the latest saved, where a best one is kept
resume.safetensors                          all that is needed to resume; the rest follows from it
run.json                                    model, data and settings
metrics.jsonl                               one object a step and a validation
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ...adapters.mlx_lm_format import WEIGHTS
from ...checkpoint.weight_files import SINGLE_NAME
from ...errors import ConfigError, TrainingError
from ...files import disk_errors, save_json
from ...json_types import JsonMapping, JsonObject
from ...model.config import load_json_object
from .callbacks import Callback, StepReport, ValidationReport
from .product import Product
from .state import FILE, save_state
from .trainer import Trainer

RUN, METRICS, LAST = "run.json", "metrics.jsonl", "last"
_TRAINED = (WEIGHTS, SINGLE_NAME)


def start_folder(folder: Path, values: JsonMapping) -> None:
    """Make the folder of a new run; raises TrainingError if it holds another."""
    refuse_run(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / RUN, values)
        (folder / METRICS).unlink(missing_ok=True)


def refuse_run(folder: Path) -> None:
    """Raise TrainingError if the folder holds a run or is none."""
    if any((folder / name).exists() for name in (FILE, *_TRAINED)):
        raise TrainingError(f"{folder} holds a training run: resume it with --resume, or choose another folder")
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file: choose another folder")


def clear_unfinished(folder: Path) -> None:
    """Delete what a kill left half written, which may be large."""
    for path in (folder / FILE, *(place / name for place in (folder, folder / LAST) for name in _TRAINED)):
        for rest in path.parent.glob(f".{path.stem}-*{path.suffix}"):
            rest.unlink()


def read_run(folder: Path) -> JsonObject:
    """Return model, data and settings of a run; raises TrainingError if there is none."""
    try:
        return load_json_object(folder / RUN)
    except ConfigError as error:
        raise TrainingError(str(error).replace("is it the folder of a model?", "there is no run to resume")) from None


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return the lines of metrics.jsonl that are complete."""
    path = folder / METRICS
    return list(_whole_lines(path.read_text(encoding="utf-8"))) if path.exists() else []


def _whole_lines(text: str) -> Iterator[JsonObject]:
    for line in text.split("\n")[:-1]:
        try:
            yield json.loads(line)
        except ValueError:
            # A line that a kill cut short and later ones followed.
            continue


class Saves:
    """Writes what a trainer asks to be saved."""

    def __init__(self, folder: Path, fingerprint: str, product: Product, *, base: str, validated: bool) -> None:
        self.folder, self.fingerprint, self.product = folder, fingerprint, product
        self.base, self.validated = base, validated

    def save(self, trainer: Trainer) -> None:
        """Write what is trained, then the state, which makes it count."""
        self._product(trainer, self.folder / LAST if self.validated else self.folder)
        save_state(self.folder, trainer.params, trainer.optimizer.state, trainer.state, self.fingerprint)

    def save_best(self, trainer: Trainer) -> None:
        """Write the best values so far."""
        self._product(trainer, self.folder)

    def _product(self, trainer: Trainer, folder: Path) -> None:
        trainer.model.update(trainer.params)
        with disk_errors(self.folder):
            self.product.save(trainer.model, folder, self.base)


class MetricsFile(Callback):
    """Appends every report to metrics.jsonl."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Lines of steps after `first_step`, which are to be taken again, are dropped."""
        self.path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["step"] <= first_step]
        with disk_errors(folder):
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_step(self, report: StepReport) -> None:
        self._append(report.to_dict())

    def on_validation(self, report: ValidationReport) -> None:
        self._append(report.to_dict())

    def _append(self, values: JsonMapping) -> None:
        with disk_errors(self.path.parent), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
