"""A tokenizer in GPT-2's two files, vocab.json and merges.txt, as the tokenizer.json that says the same.

The files don't say how text is split; tokenizer_config.json's class does. Source: transformers `GPT2Tokenizer`.
"""

import json

from ..checkpoint.folder import ModelFolder
from ..errors import TokenizerError
from ..json_types import JsonObject, JsonValue

VOCAB_NAME, MERGES_NAME = "vocab.json", "merges.txt"
_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def has_vocab_and_merges(opened: ModelFolder) -> bool:
    """Return whether both files are there and a tokenizer.json isn't."""
    path = opened.path
    return not (path / "tokenizer.json").exists() and all((path / name).exists() for name in (VOCAB_NAME, MERGES_NAME))


def tokenizer_json(opened: ModelFolder) -> JsonObject:
    """Return the content of the tokenizer.json; raises TokenizerError where the files don't say all of it."""
    settings = opened.json("tokenizer_config.json") or {}
    kind = settings.get("tokenizer_class")
    if kind not in _CLASSES:
        raise TokenizerError(
            f"{opened.path} has {VOCAB_NAME} and {MERGES_NAME}, which don't say how text is split, and tokenizer_class "
            f"{kind!r} doesn't either: take the tokenizer.json of the model, or set the class to GPT2Tokenizer if it is"
        )
    vocab = opened.json(VOCAB_NAME) or {}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    prefix = bool(settings.get("add_prefix_space"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(opened, settings, vocab),
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": prefix},
        "post_processor": {**byte_level, "add_prefix_space": prefix, "trim_offsets": False},
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(opened),
        },
    }


def _merges(opened: ModelFolder) -> list[list[str]]:
    path = opened.path / MERGES_NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} can't be read: {error}") from None
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None:
        raise TokenizerError(f"{path}: a merge is two tokens with a space between them, not {' '.join(wrong)!r:.80}")
    return pairs


def _added(opened: ModelFolder, settings: JsonObject, vocab: JsonObject) -> list[JsonObject]:
    """Return the added tokens of tokenizer_config.json, added_tokens.json and the named special tokens."""
    ids: dict[str, int] = dict(opened.json("added_tokens.json") or {})
    special = {_text(settings.get(name)) for name in _SPECIAL} - {None}
    listed = settings.get("added_tokens_decoder") or {}
    for token, entry in listed.items() if isinstance(listed, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and token.isdigit():
            ids[entry["content"]] = int(token)
            special |= {entry["content"]} if entry.get("special") else set()
    top = max([*vocab.values(), *ids.values()], default=-1)
    for text in sorted(filter(None, special)):
        if text not in ids:
            top += text not in vocab
            ids[text] = vocab.get(text, top)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": token, "content": text, **flags, "special": text in special}
        for text, token in sorted(ids.items(), key=lambda item: item[1])
    ]


def dumped(content: JsonObject) -> str:
    """Return the text of a tokenizer.json."""
    return json.dumps(content, ensure_ascii=False)


def _text(value: JsonValue) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
