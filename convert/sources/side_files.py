"""Files that go along with the weights: tokenizer, chat template, generation config, license."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...model.config import ModelConfig

_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_LICENCES = ("LICENSE*", "USE_POLICY*", "NOTICE*")


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy what is there of the side files of a model folder; links are followed."""
    _copy(source, folder, (*_PATTERNS, *_LICENCES))


def copy_licenses(source: Path, folder: Path) -> None:
    """Copy license, use policy and notice."""
    _copy(source, folder, _LICENCES)


def _copy(source: Path, folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def generation_config(config: ModelConfig) -> dict[str, Any]:
    """Return a generation_config.json that stops where the config says."""
    eos = list(config.eos_token_ids)
    values = {"bos_token_id": config.bos_token_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None}
    return {name: value for name, value in values.items() if value is not None}


def write_json(path: Path, value: Any) -> None:
    """Write JSON into a folder that isn't shown yet; no care is needed for it to be whole."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
