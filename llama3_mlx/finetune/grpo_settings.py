"""Settings of GRPO, beside those of training."""

from dataclasses import dataclass

from ..generation.options import setting
from .settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(TrainSettings):
    """Group-relative policy optimisation; `batch_size` counts questions."""

    learning_rate: float = setting(2e-5, "largest step size", low=0)
    rewards: tuple[str, ...] = setting((), "FILE.py:FUNCTION that rewards answers; repeatable, rewards add up")
    group_size: int = setting(8, "answers drawn for each question", low=2)
    answer_tokens: int = setting(256, "tokens of an answer at most", low=1)
    temperature: float = setting(1.0, "temperature that answers are drawn at", low=0.01, high=10)
    beta: float = setting(0.0, "how strongly the model is held to what it was (0: not at all)", low=0)
