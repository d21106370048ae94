"""A BPE tokenizer out of tokenizer.json as GGUF metadata: byte-level, or with byte fallback as in Llama 2.

Source of keys and of the meaning of scores: llama.cpp `gguf-py/gguf/constants.py`,
`convert_hf_to_gguf.py` (get_vocab_base) and `src/llama-vocab.cpp`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...chat.template_files import own_templates
from ...errors import ConversionError
from ...json_types import JsonMapping, JsonObject
from ...model.config import ModelConfig, load_json_object
from ...tokenizer.added_token import added_tokens, with_assigned_ids
from .pre_tokenizers import name_pre_tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>\Z")
# Ends of a turn and of a message that a tool answers, in the words that llama.cpp looks for.
_TURN_ENDS = {
    "tokenizer.ggml.eot_token_id": ("<|eot_id|>", "<|im_end|>"),
    "tokenizer.ggml.eom_token_id": ("<|eom_id|>",),
}


def vocabulary_fields(folder: Path, config: ModelConfig) -> JsonObject:
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
    fields: JsonObject = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.add_bos_token": _adds_bos(content, settings),
    }
    spaced = _space_prefix(content)
    if spaced is not None:
        kinds = _piece_kinds(tokens, kinds, content["model"].get("unk_token"))
        fields |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": _scores(tokens, merges),
            "tokenizer.ggml.add_space_prefix": spaced,
        }
    else:
        fields |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name_pre_tokenizer(content)}
        fields |= {"tokenizer.ggml.merges": merges}
    fields |= {"tokenizer.ggml.token_type": kinds}
    fields |= _special_ids(settings, config, ids)
    return fields | _templates(own_templates(folder))


def _templates(templates: Mapping[str, str]) -> JsonObject:
    """Return the chat templates under their keys. Source: gguf `gguf_writer.py` (add_chat_template)."""
    named = {re.sub("[^A-Za-z0-9]", "_", name): text for name, text in templates.items() if name and text}
    default = named.pop("default", None)
    fields: JsonObject = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    if named:
        fields["tokenizer.chat_templates"] = sorted(named)
    return fields | ({"tokenizer.chat_template": default} if default else {})


def _check_shape(content: JsonMapping, file: Path) -> None:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(type(token) is int for token in vocabulary.values()):
        raise ConversionError(f"{file.name} has no vocabulary of texts and ids, so it can't be exported to GGUF")


def _space_prefix(content: JsonMapping) -> bool | None:
    """Return whether SentencePiece's kind of BPE puts a space before each text; None for other tokenizers."""
    if content["model"].get("type") != "BPE" or not content["model"].get("byte_fallback"):
        return None
    normalizer, pre = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = [step.get("type") for step in normalizer.get("normalizers") or [normalizer]]
    if pre.get("type") == "Metaspace" and steps == [None]:
        return {"first": True, "always": True, "never": False}.get(pre.get("prepend_scheme", "always"))
    return {("Prepend", "Replace"): True, ("Replace",): False}.get(tuple(steps)) if not pre else None


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


def _tokens(content: JsonMapping, size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every row of the embedding; rows beyond the vocabulary are marked as unused."""
    texts: dict[int, tuple[str, int]] = {token: (text, _NORMAL) for text, token in content["model"]["vocab"].items()}
    named = added_tokens(content, Path("tokenizer.json"))
    assigned = with_assigned_ids(named, content["model"]["vocab"])
    moved = next((entry for entry, token in zip(named, assigned, strict=True) if entry.id != token.id), None)
    if moved is not None or len(texts) < len(content["model"]["vocab"]):
        what = f"the added token {moved.text!r} has the id {moved.id}" if moved else "two texts have one id"
        raise ConversionError(f"tokenizer.json contradicts itself ({what}): mend it before an export to GGUF")
    for entry in content.get("added_tokens") or []:
        odd = [name for name in ("lstrip", "rstrip", "single_word") if entry.get(name)]
        if odd:
            raise ConversionError(
                f"the added token {entry['content']!r} has {', '.join(odd)}, which GGUF has no place for: llama.cpp "
                "would make other tokens of the text around it"
            )
        texts[entry["id"]] = (entry["content"], _CONTROL if entry.get("special") else _USER_DEFINED)
    beyond = [text for token, (text, _) in texts.items() if not 0 <= token < size]
    if beyond:
        raise ConversionError(
            f"the tokenizer has tokens that the embedding of {size} rows lacks, such as {beyond[0]!r}"
        )
    known = [texts.get(token, (f"[PAD{token}]", _UNUSED)) for token in range(size)]
    return [text for text, _ in known], [kind for _, kind in known]


def _adds_bos(content: JsonMapping, settings: JsonMapping) -> bool:
    """Return whether each text begins with the beginning of text."""
    outer = content.get("post_processor") or {}
    for step in outer.get("processors") or [outer]:
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            return "SpecialToken" in step["single"][0]
    return bool(settings.get("add_bos_token", False))


def _special_ids(settings: JsonMapping, config: ModelConfig, ids: Mapping[str, int]) -> dict[str, int]:
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


def _named(settings: JsonMapping, name: str, ids: Mapping[str, int], default: int | None) -> int | None:
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return ids.get(text, default) if isinstance(text, str) else default
