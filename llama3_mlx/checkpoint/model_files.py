"""What stands beside the weights in a model folder and goes wherever they go: by download, conversion and fusing."""

import shutil
from collections.abc import Iterable
from pathlib import Path

# Source of the place: transformers `utils/hub.py` (CHAT_TEMPLATE_DIR).
NAMED_TEMPLATES = "additional_chat_templates/*.jinja"
LICENCES = ("LICENSE*", "USE_POLICY*", "NOTICE*")
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    NAMED_TEMPLATES,
    "generation_config.json",
    *LICENCES,
)


def copy_files(source: Path, folder: Path, patterns: Iterable[str] = SIDE_FILES) -> None:
    """Copy the files of a model folder that match, those in subfolders into the same; links are followed."""
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                copy = folder / path.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
