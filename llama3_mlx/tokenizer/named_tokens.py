"""The tokens that have a part by name: where a text begins and ends, what is unknown, what pads."""

from collections.abc import Mapping

from ..checkpoint.folder import ModelFolder
from ..json_types import JsonMapping

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_SETTINGS, _MAP = "tokenizer_config.json", "special_tokens_map.json"


def named_tokens(opened: ModelFolder) -> dict[str, str]:
    """Return the texts of the named tokens; special_tokens_map.json goes before tokenizer_config.json.

    Source of the order: transformers `tokenization_utils_base.py` (`_from_pretrained`).
    """
    settings, special = (_texts(opened.json(name) or {}) for name in (_SETTINGS, _MAP))
    for name, text in special.items():
        if settings.get(name, text) != text:
            opened.note(f"{_MAP} has {name} {text!r}, {_SETTINGS} {settings[name]!r}: the first is taken")
    return {**settings, **special}


def _texts(values: JsonMapping) -> dict[str, str]:
    found = {name: values.get(name) for name in NAMES}
    texts = {name: value.get("content") if isinstance(value, Mapping) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
