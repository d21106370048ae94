"""All that resuming a run needs, in one file that is written atomically."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ...checkpoint.safetensors_files import read_header
from ...errors import CheckpointError, TrainingError
from ...files import disk_errors, save_whole
from ...trees import Tree, flatten, unflatten

FILE = "resume.safetensors"


@dataclass
class TrainingState:
    """Where a run stands, apart from arrays. Losses are those of validations."""

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    validations_without_gain: int = 0
    average_loss: float | None = None
    last_loss: float | None = None
    tokens: int = 0
    target_tokens: int = 0
    seconds: float = 0.0


def save_state(folder: Path, params: Tree, optimizer: Tree, state: TrainingState, fingerprint: str) -> None:
    """Write parameters, optimizer state and counters; raises TrainingError where the disk doesn't take them."""
    tensors = {f"params.{name}": array for name, array in flatten(params)}
    tensors |= {f"optimizer.{name}": array for name, array in flatten(optimizer)}
    metadata = {"state": json.dumps(asdict(state)), "fingerprint": fingerprint}
    mx.eval(list(tensors.values()))
    with disk_errors(folder):
        save_whole(folder / FILE, lambda path: mx.save_safetensors(str(path), tensors, metadata=metadata))


def load_state(folder: Path, fingerprint: str) -> tuple[Any, Any, TrainingState]:
    """Return parameters, optimizer state and counters; raises TrainingError for other data or settings."""
    path = folder / FILE
    if not path.exists():
        raise TrainingError(f"{folder} has no {FILE}: there is nothing to resume")
    try:
        read_header(path)
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    except (CheckpointError, RuntimeError) as error:
        raise TrainingError(f"{path} can't be read: {error}") from None
    tensors, metadata = loaded
    if metadata.get("fingerprint") != fingerprint:
        raise TrainingError(
            f"the data, the settings or the number of processes aren't those that {folder} was trained with: start a "
            "new run"
        )
    mx.eval(list(tensors.values()))

    def subtree(prefix: str) -> Any:
        return unflatten([(n.removeprefix(prefix), a) for n, a in tensors.items() if n.startswith(prefix)])

    return subtree("params."), subtree("optimizer."), TrainingState(**json.loads(metadata["state"]))
