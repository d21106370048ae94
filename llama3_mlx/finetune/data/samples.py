"""The kinds of examples that training looks at, whatever layout they came in."""

from dataclasses import dataclass, field

from ...json_types import JsonMapping, JsonValue

Messages = list[JsonMapping]


@dataclass(frozen=True)
class Sample:
    """An example: a dialog, or a prompt and its completion; with `prompt` None, a text whose tokens are all targets.

    `system` and `history`, pairs of a prompt and its answer, come before the prompt. `weights` holds for each of the
    assistant's messages whether its tokens are targets, where the data say so.
    """

    where: str
    messages: Messages | None = None
    tools: list[JsonValue] | None = None
    prompt: str | None = None
    completion: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    weights: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Pair:
    """A preferred and a rejected continuation of the same prompt."""

    where: str
    chosen: Sample
    rejected: Sample


@dataclass(frozen=True)
class Labeled:
    """A desirable or undesirable continuation."""

    where: str
    sample: Sample
    desirable: bool


@dataclass(frozen=True)
class Question:
    """A prompt to be answered by the model, with the columns that a reward function may look at."""

    where: str
    messages: Messages
    columns: JsonMapping = field(default_factory=dict)
