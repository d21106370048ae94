"""Finds the dialog format of a model folder: its chat template, or Llama 3's own where it brings none."""

from collections.abc import Mapping
from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..checkpoint.model_files import NAMED_TEMPLATES
from ..errors import ConfigError, DialogError, TokenizerError
from ..json_types import JsonMapping
from ..tokenizer.named_tokens import named_tokens
from ..tokenizer.tokenizer import Tokenizer
from .llama3_templates import LLAMA_3, LLAMA_3_1


def find_templates(folder: Path | ModelFolder, tokenizer: Tokenizer) -> tuple[dict[str, str], dict[str, str]]:
    """Return the chat templates of a model folder by name, and the named tokens that they are given.

    A checkpoint's own templates go first; Llama 3's is for checkpoints with its header tokens and no template. No
    templates at all: a base model. Raises DialogError or TokenizerError for files that can't be read.
    """
    opened = ModelFolder.of(folder)
    try:
        tokens = named_tokens(opened)
    except ConfigError as error:
        raise TokenizerError(str(error)) from None
    templates = own_templates(opened)
    if not templates and {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= tokenizer.control_tokens.keys():
        scaled = opened.stated_config.rope_scaling.rope_type == "llama3"
        templates = {"default": LLAMA_3_1 if scaled else LLAMA_3}
        tokens.setdefault("bos_token", "<|begin_of_text|>")
    return templates, tokens


def own_templates(folder: Path | ModelFolder) -> dict[str, str]:
    """Return the checkpoint's templates by name. Source of the places: transformers `tokenization_utils_base.py`."""
    opened = ModelFolder.of(folder)
    files = {"default": opened.path / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted(opened.path.glob(NAMED_TEMPLATES))}
    found = {name: _text(path) for name, path in files.items() if path.exists()}
    if "default" in found:
        return found
    # The second is a processor's, of which transformers makes nothing for a tokenizer.
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = _json(opened, name).get("chat_template")
        if isinstance(template, str):
            return {"default": template}
        if isinstance(template, Mapping):
            template = [{"name": key, "template": text} for key, text in template.items()]
        if isinstance(template, list):
            pairs = [(entry.get("name"), entry.get("template")) for entry in template if isinstance(entry, Mapping)]
            found = {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}
            if found:
                return found
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DialogError(f"{path} can't be read: {error}") from None


def _json(opened: ModelFolder, name: str) -> JsonMapping:
    try:
        return opened.json(name) or {}
    except ConfigError as error:
        raise TokenizerError(str(error)) from None
