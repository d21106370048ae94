"""Settings of the losses that compare continuations, beside those of training."""

from dataclasses import dataclass

from ..generation.options import setting
from .settings import TrainSettings, choice


@dataclass(frozen=True, kw_only=True)
class DpoSettings(TrainSettings):
    """Direct preference optimisation; defaults of TRL but for the rate, which suits LoRA."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    beta: float = setting(0.1, "how strongly the model is held to the reference", low=1e-6)
    loss: str = choice("sigmoid", "shape of the loss", ("sigmoid", "ipo"))
    label_smoothing: float = setting(0.0, "share of pairs taken to be labelled the wrong way round", low=0, high=0.49)


@dataclass(frozen=True, kw_only=True)
class OrpoSettings(TrainSettings):
    """Odds-ratio preference optimisation, which needs no reference."""

    learning_rate: float = setting(5e-5, "largest step size", low=0)
    beta: float = setting(0.1, "weight of the odds ratio beside the likelihood of what is preferred", low=0)


@dataclass(frozen=True, kw_only=True)
class KtoSettings(TrainSettings):
    """Kahneman-Tversky optimisation of answers that are wanted or not."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    beta: float = setting(0.1, "how strongly the model is held to the reference", low=1e-6)
    wanted_weight: float = setting(1.0, "weight of the wanted answers", low=0)
    unwanted_weight: float = setting(1.0, "weight of the unwanted answers", low=0)
