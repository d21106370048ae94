"""Every setting of training once, with its help: command-line flags and YAML keys come from these fields."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self

from ..errors import TrainingError
from ..json_types import JsonMapping, JsonObject
from ..settings import make, setting, validate
from .layers.targets import BLOCK_LINEARS, comma_separated

OPTIMIZERS = ("adamw", "adafactor", "lion", "muon", "sgd")
SCHEDULES = ("cosine", "linear", "constant")
CHECKPOINTING = ("auto", "none", "light", "full")


def _date_problem(name: str, value: Any) -> str | None:
    try:
        date.fromisoformat(value)
    except (TypeError, ValueError):
        return f"{name} must be a day as YYYY-MM-DD, not {value!r:.80}"
    return None


def _reward_problem(name: str, value: Any) -> str | None:
    items = value if isinstance(value, list | tuple) else [value]
    wrong = [item for item in items if not callable(item) and not (isinstance(item, str) and item)]
    return f"{name} must be functions or their names as FILE.py:FUNCTION, not {wrong[0]!r:.80}" if wrong else None


def _weights_problem(name: str, value: Any) -> str | None:
    items = value if isinstance(value, list | tuple) else [value]
    wrong = [item for item in items if isinstance(item, bool) or not isinstance(item, int | float)]
    return f"{name} must be numbers, not {wrong[0]!r:.80}" if wrong else None


def choice(default: str, text: str, choices: tuple[str, ...]) -> Any:
    """Declare a field with its help text and the values it can take."""
    return setting(default, text, choices=choices)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every training run, whatever is trained. None: chosen by the trainer, which says what it chose."""

    start_from: str | None = setting(None, "folder whose values training starts from")

    # Data
    layout: str = setting(
        "auto", "layout of the data, such as messages, completion, text or alpaca (default: by its keys)"
    )
    columns: tuple[str, ...] = setting(
        (), "NAME=COLUMN,…: names that a layout has for columns of the data, such as prompt=question; repeatable"
    )
    skip_bad: bool = setting(False, "leave out examples that can't be used, and say which")
    parse_special: bool = setting(False, "take control tokens written out in texts as such; for trusted data only")
    date: str | None = setting(
        None,
        "day that a chat template which writes today's date writes, as YYYY-MM-DD (default: the run's first)",
        check=_date_problem,
    )
    train_on: str = choice(
        "auto",
        "which tokens are targets of the loss: the assistant's turns and completions, or all",
        ("auto", "assistant", "all"),
    )
    plain: bool = setting(False, "write prompt and completion as they are, without the model's dialog format")
    max_length: int = setting(2048, "tokens of an example; longer ones are cut", low=8)
    packing: bool = setting(True, "pack several examples into a row")
    valid_share: float = setting(0.0, "share of the data to validate on if there is no file for it", low=0, high=0.5)

    # Batches and steps
    batch_size: int | None = setting(None, "rows of a batch (default: 4, or what --memory allows)", low=1)
    row_length: int | None = setting(None, "tokens of a row (default: the longest example, at least 512)", low=64)
    accumulate: int = setting(1, "batches whose gradients make one step", low=1)
    epochs: float | None = setting(
        None, "passes over the data (default: 1, or as many as make 100 steps, at most 10)", low=1e-6
    )
    steps: int | None = setting(None, "steps to take, instead of epochs", low=1)
    seed: int = setting(0, "same seed, same adapter", low=0, high=2**32 - 1)

    # Optimizer
    optimizer: str = choice("adamw", "how gradients become steps", OPTIMIZERS)
    learning_rate: float = setting(2e-4, "largest step size", low=0)
    schedule: str = choice("cosine", "course of the learning rate after warm-up", SCHEDULES)
    warmup: float = setting(0.03, "share of the steps to warm up over; from 1 on, a number of steps", low=0)
    weight_decay: float = setting(0.0, "decay of weights a step, times the learning rate", low=0)
    clip: float = setting(1.0, "largest norm of the gradient (0: no limit)", low=0)

    # Memory
    memory: str | None = setting(None, "memory to stay within, such as 12GB; chooses batch size and checkpointing")
    checkpointing: str = choice("auto", "what a block keeps for the backward pass", CHECKPOINTING)
    dtype: str | None = setting(None, "dtype to compute in (default: what suits the device)")

    # Watching
    valid_every: int | None = setting(None, "steps between validations (default: ten of them in a run)", low=1)
    patience: int = setting(0, "stop after so many validations without a better loss (0: never)", low=0)
    save_every: int = setting(50, "steps between saves of the state", low=1)
    report: bool = setting(True, "write report.html at the end")
    png: bool = setting(False, "write the curves as report.png too (needs matplotlib)")
    loggers: tuple[str, ...] = setting((), "also log to tensorboard, trackio or wandb; repeatable")

    def __post_init__(self) -> None:
        validate(self)

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Build settings from the keys of a file; raises RequestError on unknown ones."""
        return make(cls, values, what="setting")

    def to_dict(self) -> JsonObject:
        """Return the settings as plain values."""
        values: JsonObject = json.loads(json.dumps(asdict(self), default=function_name))
        return values

    def with_values(self, **values: Any) -> Self:
        """Return the settings with some replaced."""
        return replace(self, **values)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """Settings of a run that trains an adapter."""

    # Adapter
    rank: int = setting(16, "rank of the low-rank matrices", low=1, high=1024)
    alpha: float = setting(32.0, "strength: the adapter's output is scaled by alpha / rank", low=1e-6)
    rslora: bool = setting(False, "scale by alpha / sqrt(rank)")
    dora: bool = setting(False, "DoRA: train the magnitude of each output too")
    dropout: float = setting(0.0, "share of an adapter's inputs to drop in training", low=0, high=0.95)
    targets: tuple[str, ...] = setting(
        (),
        "layers to adapt: names, module paths, regular expressions or all-linear; repeatable, or with commas (default: "
        f"{', '.join(BLOCK_LINEARS)}; also embed_tokens, lm_head)",
    )
    layers: int | None = setting(None, "adapt the last N blocks only (default: all)", low=1)
    rank_for: tuple[str, ...] = setting((), "NAME=RANK, a rank of its own for layers called so; repeatable")
    modules_to_save: tuple[str, ...] = setting(
        (), "modules to train fully, by their own weights, such as layers.15 or lm_head; repeatable"
    )
    start_from: str | None = setting(None, "adapter folder whose values training starts from")

    # Watching
    samples: int = setting(3, "answers to show before and after training in the report", low=0, high=50)
    sample_tokens: int = setting(64, "tokens of such an answer at most", low=1)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the layers to adapt."""
        return tuple(comma_separated(self.targets)) or (() if self.modules_to_save else BLOCK_LINEARS)


def function_name(function: Any) -> str:
    """Return what a run's folder notes of a function that was given as an object."""
    return f"<function {getattr(function, '__qualname__', type(function).__name__)}>"


def load_yaml(path: Path) -> JsonObject:
    """Read a YAML or JSON file of settings; raises TrainingError naming the file."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TrainingError(f"{path} must hold settings as NAME: VALUE lines")
    return {key.replace("-", "_"): _number(value) for key, value in values.items()}


def _number(value: Any) -> Any:
    """Read 1e-4 as a number, which YAML 1.1 takes for text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


@dataclass(frozen=True, kw_only=True)
class DpoSettings(TrainSettings):
    """Direct preference optimization; defaults of TRL but for the rate, which suits LoRA."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    beta: float = setting(0.1, "how strongly the model is held to the reference", low=1e-6)
    loss: str = choice("sigmoid", "shape of the loss", ("sigmoid", "ipo"))
    label_smoothing: float = setting(0.0, "share of pairs taken to be labeled the wrong way round", low=0, high=0.49)


@dataclass(frozen=True, kw_only=True)
class OrpoSettings(TrainSettings):
    """Odds-ratio preference optimization, which needs no reference."""

    learning_rate: float = setting(5e-5, "largest step size", low=0)
    beta: float = setting(0.1, "weight of the odds ratio beside the likelihood of what is preferred", low=0)


@dataclass(frozen=True, kw_only=True)
class KtoSettings(TrainSettings):
    """Kahneman-Tversky optimization of desirable and undesirable answers."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    beta: float = setting(0.1, "how strongly the model is held to the reference", low=1e-6)
    desirable_weight: float = setting(1.0, "weight of the desirable answers", low=0)
    undesirable_weight: float = setting(1.0, "weight of the undesirable answers", low=0)


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(TrainSettings):
    """Group-relative policy optimization; `batch_size` counts questions."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    rewards: tuple[str, ...] = setting(
        (), "FILE.py:FUNCTION that rewards answers; repeatable, rewards add up", check=_reward_problem
    )
    reward_weights: tuple[float, ...] = setting(
        (), "weight of each reward in their order (default: 1); repeatable", check=_weights_problem
    )
    group_size: int = setting(8, "answers drawn for each question", low=2)
    answer_tokens: int = setting(256, "tokens of an answer at most", low=1)
    temperature: float = setting(1.0, "temperature that answers are drawn at", low=0.01, high=10)
    beta: float = setting(0.0, "how strongly the model is held to what it was (0: not at all)", low=0)


@dataclass(frozen=True, kw_only=True)
class DraftSettings(RunSettings):
    """Training an EAGLE-3 draft head; weights of the steps and their number are those of the paper's own code.

    Source: SafeAILab/EAGLE `eagle/traineagle3/main.py` (0.8 to the power of the step), `cnets.py` (7 steps).
    """

    start_from: str | None = setting(None, "draft head whose values and vocabulary training starts from")

    # Head
    vocabulary: int | None = setting(
        None, "tokens that the head can draft: the most frequent of the answers (default: 32000, or all)", low=1
    )
    draft_steps: int = setting(7, "drafted tokens of a position that are trained", low=1, high=16)
    step_weight: float = setting(0.8, "weight of each further drafted token in the loss", above=0, high=1)
    adapter: str | None = setting(None, "LoRA adapter that the model is used with: folder, name or Hub id")

    # Answers
    regenerate: bool = setting(False, "have the model answer the prompts itself, and train on its own answers")
    answer_tokens: int = setting(512, "tokens of such an answer at most", low=1)
    temperature: float = setting(0.7, "temperature of such answers (0: the most likely token)", low=0, high=10)

    # What suits a head
    max_length: int = setting(1024, "tokens of an example; longer ones are cut", low=8)
    valid_share: float = setting(0.05, "share of the data to validate on if there is no file for it", low=0, high=0.5)
    learning_rate: float = setting(5e-4, "largest step size", low=0)
    clip: float = setting(0.5, "largest norm of the gradient (0: no limit)", low=0)
    checkpointing: str = choice(
        "auto", "what a drafted token's layer keeps for the backward pass", ("auto", "none", "full")
    )
