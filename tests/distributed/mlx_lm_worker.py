"""One rank of mlx-lm's own tensor parallelism: writes the logits of a prompt, or how it fails.

Run as `python -m tests.distributed.mlx_lm_worker OUT FOLDER...` with MLX_RANK and MLX_HOSTFILE set.
"""

import json
import sys
from pathlib import Path

import llama3_mlx  # noqa: F401  # isort: skip
import mlx.core as mx
from mlx_lm.utils import load_model

from .logits_worker import PROMPT


def main() -> None:
    group = mx.distributed.init(strict=True, backend="ring")
    found = {}
    for folder in sys.argv[2:]:
        model, _ = load_model(Path(folder))
        try:
            model.shard(group)
            found[folder] = model(mx.array([PROMPT]))[0].tolist()
        except ValueError as error:
            found[folder] = str(error)
    if group.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
