"""Windows of a text: how it is cut for perplexity, and which tokens of each window count."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from ..settings import setting, validate

WINDOWS, TEXT, NONE = "windows", "text", "none"


@dataclass(frozen=True, kw_only=True)
class PerplexityOptions:
    """How a text is cut into windows."""

    length: int = setting(512, "tokens of a window, the beginning-of-text token included", low=2)
    stride: int | None = setting(
        None,
        "tokens from the beginning of a window to that of the next; each token counts once, in the first window that "
        "has it (default: windows that don't overlap)",
        low=1,
    )
    bos: str = setting(
        WINDOWS,
        "where the beginning-of-text token stands, for models trained with it: before each window, before the text, or "
        "nowhere",
        choices=(WINDOWS, TEXT, NONE),
    )
    max_windows: int | None = setting(None, "stop after so many windows", low=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids of one forward pass; predictions of the tokens from index `first` on count, which is at least 1."""

    ids: list[int]
    first: int

    @property
    def targets(self) -> list[int]:
        """The tokens whose predictions count."""
        return self.ids[self.first :]


def windows(ids: Sequence[int], bos_id: int | None, options: PerplexityOptions) -> list[Window]:
    """Cut the ids of a text, which has no beginning-of-text token yet, into windows.

    Raises:
        RequestError: The windows leave tokens out, or the text has less than two tokens.
    """
    bos = [bos_id] if bos_id is not None else []
    if options.bos == TEXT:
        ids = [*bos, *ids]
    before = bos if options.bos == WINDOWS else []
    step = options.length - len(before)
    stride = options.stride or step
    if stride > step:
        raise RequestError(f"stride must be at most {step}, not {stride}: tokens between the windows would be left out")
    found = [window for window in _cut(ids, before, step, stride) if window.targets]
    if not found:
        raise RequestError("the text is empty, or a single token: there is nothing to predict")
    return found[: options.max_windows]


def _cut(ids: Sequence[int], before: list[int], step: int, stride: int) -> Iterator[Window]:
    counted = 0
    for start in range(0, len(ids), stride):
        stop = min(start + step, len(ids))
        yield Window([*before, *ids[start:stop]], max(1, counted - start + len(before)))
        if stop == len(ids):
            return
        counted = stop
