"""How many processes a model lies on, and how it is split over them."""

from dataclasses import dataclass

from ..settings import setting, validate

SPLITS = ("auto", "tensor", "pipeline")


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Over how many processes, and how. One is no split at all."""

    nodes: int = setting(
        1, "split the model over so many processes: those of mlx.launch, or else started on this machine", low=1
    )
    split: str = setting("auto", "split heads and columns (tensor) or whole layers (pipeline)", choices=SPLITS)

    def __post_init__(self) -> None:
        validate(self)
