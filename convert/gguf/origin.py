"""Where a model comes from, as GGUF metadata: repository, base models, license, languages.

Source of the keys: llama.cpp `gguf-py/gguf/constants.py` (Keys.General) and `metadata.py`.
"""

from collections.abc import Mapping

from ..sources.source import Source
from ..targets.model_card import CARD_NAME, front_matter

_HUB = "https://huggingface.co/"


def origin_fields(source: Source) -> dict[str, object]:
    """Return what the source's model card says, and the repository where it came from one."""
    card = front_matter(source.location / CARD_NAME) if source.location.is_dir() else {}
    fields: dict[str, object] = {}
    if source.base_model:
        fields["general.source.huggingface.repository"] = source.base_model
        fields["general.source.repo_url"] = _HUB + source.base_model
    for key, name in (("license", "license"), ("license.name", "license_name"), ("license.link", "license_link")):
        if isinstance(card.get(name), str):
            fields[f"general.{key}"] = card[name]
    languages = _texts(card.get("language"))
    return fields | ({"general.languages": languages} if languages else {}) | _base_models(card)


def _base_models(card: Mapping[str, object]) -> dict[str, object]:
    bases = _texts(card.get("base_model"))
    fields: dict[str, object] = {"general.base_model.count": len(bases)} if bases else {}
    for n, base in enumerate(bases):
        owner, _, name = base.rpartition("/")
        fields[f"general.base_model.{n}.name"] = name
        if owner:
            fields[f"general.base_model.{n}.organization"] = owner
            fields[f"general.base_model.{n}.repo_url"] = _HUB + base
    return fields


def _texts(value: object) -> list[str]:
    found = value if isinstance(value, list) else [value]
    return [text for text in found if isinstance(text, str) and text]
