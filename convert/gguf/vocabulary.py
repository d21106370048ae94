"""A BPE tokenizer out of tokenizer.json as GGUF metadata: byte-level, or with byte fallback as in Llama 2.

Source of keys, pre-tokenizers and the meaning of scores: llama.cpp `gguf-py/gguf/constants.py`,
`convert_hf_to_gguf.py` (get_vocab_base, get_vocab_base_pre) and `src/llama-vocab.cpp`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...chat.template_files import own_templates
from ...errors import ConversionError
from ...model.config import ModelConfig, load_json_object
from ...tokenizer.llama3 import SPLIT_PATTERN

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>\Z")
# Ends of a turn and of a message that a tool answers, in the words that llama.cpp looks for.
_TURN_ENDS = {
    "tokenizer.ggml.eot_token_id": ("<|eot_id|>", "<|im_end|>"),
    "tokenizer.ggml.eom_token_id": ("<|eom_id|>",),
}


def vocabulary_fields(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """Return the tokenizer's metadata; raises ConversionError for a tokenizer that GGUF export doesn't know."""
    if not (folder / "tokenizer.json").exists():
        raise ConversionError("the source has no tokenizer.json, and a GGUF file needs its tokenizer")
    content = load_json_object(folder / "tokenizer.json")
    settings_file = folder / "tokenizer_config.json"
    settings = load_json_object(settings_file) if settings_file.exists() else {}
    _check_shape(content, folder / "tokenizer.json")
    tokens, kinds = _tokens(content, config.vocab_size)
    ids = {text: token for token, text in enumerate(tokens)}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"].get("merges") or []]
    fields: dict[str, Any] = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.add_bos_token": _adds_bos(content, settings),
    }
    if _falls_back_to_bytes(content):
        kinds = _piece_kinds(tokens, kinds, content["model"].get("unk_token"))
        fields |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": _scores(tokens, merges),
            "tokenizer.ggml.add_space_prefix": True,
        }
    else:
        fields |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre_tokenizer(content)}
        fields |= {"tokenizer.ggml.merges": merges}
    fields |= {"tokenizer.ggml.token_type": kinds}
    fields |= _special_ids(settings, config, ids)
    return fields | _templates(own_templates(folder))


def _templates(templates: Mapping[str, str]) -> dict[str, Any]:
    """Return the chat templates under their keys. Source: gguf `gguf_writer.py` (add_chat_template)."""
    named = {re.sub("[^A-Za-z0-9]", "_", name): text for name, text in templates.items() if name and text}
    default = named.pop("default", None)
    fields: dict[str, Any] = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    if named:
        fields["tokenizer.chat_templates"] = sorted(named)
    return fields | ({"tokenizer.chat_template": default} if default else {})


def _check_shape(content: Mapping[str, Any], file: Path) -> None:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(type(token) is int for token in vocabulary.values()):
        raise ConversionError(f"{file.name} has no vocabulary of texts and ids, so it can't be exported to GGUF")


def _falls_back_to_bytes(content: Mapping[str, Any]) -> bool:
    """Return whether the tokenizer is SentencePiece's kind of BPE, which puts a space before each text."""
    normalizer, pre = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = [step.get("type") for step in normalizer.get("normalizers") or [normalizer]]
    spaced = steps == ["Prepend", "Replace"] or (
        pre.get("type") == "Metaspace" and pre.get("prepend_scheme") in ("first", "always") and steps == [None]
    )
    return content["model"].get("type") == "BPE" and bool(content["model"].get("byte_fallback")) and spaced


def _piece_kinds(tokens: Sequence[str], kinds: Sequence[int], unknown: str | None) -> list[int]:
    """Return the types with the bytes and the unknown token marked."""
    return [
        _UNKNOWN if text == unknown else _BYTE if kind == _NORMAL and _BYTE_TOKEN.match(text) else kind
        for text, kind in zip(tokens, kinds, strict=True)
    ]


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return a score for each token; llama.cpp joins the pair whose joint token has the highest."""
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", ""), rank)
    return [-float(first.get(text, len(merges))) for text in tokens]


def _tokens(content: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every row of the embedding; rows beyond the vocabulary are marked as unused."""
    texts: dict[int, tuple[str, int]] = {token: (text, _NORMAL) for text, token in content["model"]["vocab"].items()}
    for entry in content.get("added_tokens") or []:
        texts[entry["id"]] = (entry["content"], _CONTROL if entry.get("special") else _USER_DEFINED)
    beyond = [text for token, (text, _) in texts.items() if not 0 <= token < size]
    if beyond:
        raise ConversionError(
            f"the tokenizer has tokens that the embedding of {size} rows lacks, such as {beyond[0]!r}"
        )
    known = [texts.get(token, (f"[PAD{token}]", _UNUSED)) for token in range(size)]
    return [text for text, _ in known], [kind for _, kind in known]


def _pre_tokenizer(content: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the way that text is split before the merges."""
    outer = content.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers") or [outer]
    kinds = [step.get("type") for step in steps]
    known = content["model"].get("type") == "BPE" and not content.get("normalizer") and kinds[-1:] == ["ByteLevel"]
    if known and kinds == ["ByteLevel"]:
        return "gpt-2"
    if known and kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if known and kinds == ["Split", "ByteLevel"] and steps[0].get("pattern", {}).get("Regex") == SPLIT_PATTERN:
        return "llama-bpe"
    raise ConversionError(
        "the tokenizer splits text in a way that GGUF export doesn't know; accepted are those of Llama 3, "
        "SmolLM, GPT-2 and Llama 2"
    )


def _adds_bos(content: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Return whether each text begins with the beginning of text."""
    outer = content.get("post_processor") or {}
    for step in outer.get("processors") or [outer]:
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            return "SpecialToken" in step["single"][0]
    return bool(settings.get("add_bos_token", False))


def _special_ids(settings: Mapping[str, Any], config: ModelConfig, ids: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of beginnings and ends that are there."""
    eos = config.eos_token_ids[0] if config.eos_token_ids else None
    found = {
        "tokenizer.ggml.bos_token_id": _named(settings, "bos_token", ids, config.bos_token_id),
        "tokenizer.ggml.eos_token_id": _named(settings, "eos_token", ids, eos),
        "tokenizer.ggml.padding_token_id": _named(settings, "pad_token", ids, None),
    }
    for key, texts in _TURN_ENDS.items():
        found[key] = next((ids[text] for text in texts if text in ids), None)
    return {key: token for key, token in found.items() if token is not None}


def _named(settings: Mapping[str, Any], name: str, ids: Mapping[str, int], default: int | None) -> int | None:
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return ids.get(text, default) if isinstance(text, str) else default
