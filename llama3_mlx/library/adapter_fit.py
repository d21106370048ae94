"""Whether an adapter belongs to a model, told from the shapes in its file's header."""

import re
from functools import lru_cache
from pathlib import Path

from ..checkpoint.safetensors_files import read_header
from ..errors import Llama3MLXError
from ..model.config import ModelConfig
from ..model.parameters import expected_tensors

FILES = ("adapters.safetensors", "adapter_model.safetensors")
# mlx-lm writes model.….lora_a of (in, r), PEFT base_model.model.model.….lora_A.weight of (r, in).
_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<path>.+)\.lora_(?P<kind>a|A)(\.weight)?\Z")


def fits(folder: Path, config: ModelConfig) -> bool:
    """Return whether every low-rank factor of the adapter has a matrix of its input size in the model."""
    inputs = _inputs(folder, _changed_ns(folder))
    shapes = expected_tensors(config)
    return inputs is not None and all(shapes.get(f"{path}.weight", (0, 0))[-1] == size for path, size in inputs.items())


def _changed_ns(folder: Path) -> int:
    return max(((folder / name).stat().st_mtime_ns for name in FILES if (folder / name).is_file()), default=0)


@lru_cache(maxsize=256)
def _inputs(folder: Path, changed_ns: int) -> dict[str, int] | None:  # noqa: ARG001 - renews the entry
    """Return the input size of each adapted matrix by its path, None where the file can't be read."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    try:
        header = read_header(path) if path else {}
    except Llama3MLXError:
        return None
    found = ((_FACTOR.match(name), tensor.shape) for name, tensor in header.items())
    return {
        match["path"]: shape[0 if match["kind"] == "a" else -1]
        for match, shape in found
        if match and len(shape) == 2 and "embed" not in match["path"]
    }
