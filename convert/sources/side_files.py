"""Side files: what is written along with the weights."""

import json
from pathlib import Path

from ...model.config import ModelConfig


def generation_config(config: ModelConfig) -> dict[str, object]:
    """Return a generation_config.json that stops where the config says."""
    eos = list(config.eos_token_ids)
    values = {"bos_token_id": config.bos_token_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None}
    return {name: value for name, value in values.items() if value is not None}


def write_json(path: Path, value: object) -> None:
    """Write JSON into a folder that has not taken its place yet, so that it need not be atomic."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
