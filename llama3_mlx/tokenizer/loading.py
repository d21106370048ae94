"""Loads the tokenizer of a model folder, from tokenizer.model, tokenizer.json or both.

Llama 3's tokenizer.json lists 280,147 merges, which make up most of its size and say nothing that the ranks don't:
they are skipped once the vocabulary is known to be Llama 3's.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TokenizerError
from ..model.config import load_json_object, token_ids
from .byte_level import to_bytes
from .llama3 import N_ORDINARY, SPLIT_PATTERN, VOCABULARY_SHA256, special_tokens, vocabulary_digest
from .tiktoken_ranks import load_ranks
from .tokenizer import Tokenizer

_MERGES = re.compile(r'"merges"\s*:\s*\[')
_END = re.compile(r"\]\s*\}\s*\}\s*\Z")
# Ends of a turn or of the text, wherever a vocabulary has them as control tokens.
_STOP_TEXTS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>")
# Source: meta-llama/llama-models `models/llama3/tokenizer.py`: longer inputs overflow tiktoken's regular expression.
_MAX_CHARACTERS = 400_000
_MAX_RUN = 25_000
_RUNS = re.compile(rf"\S{{{_MAX_RUN}}}(?=\S)|\s{{{_MAX_RUN}}}(?=\s)")


@dataclass(frozen=True)
class AddedToken:
    """A token of tokenizer.json's `added_tokens`."""

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    plain: bool = True


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model folder; raises TokenizerError if there is none that can be read."""
    model_file, json_file = folder / "tokenizer.model", folder / "tokenizer.json"
    if not model_file.exists() and not json_file.exists():
        raise TokenizerError(f"{folder} has neither tokenizer.json nor tokenizer.model")
    parts = _read_json(json_file) if json_file.exists() else None
    added = _added_tokens(parts, json_file) if parts else _standard_tokens()
    names = _named_tokens(folder)
    stops = _stop_ids(folder, names, added)
    bos = next((token.id for token in added if token.text == names.get("bos_token")), None)
    plain = all(token.plain for token in added)
    if plain and _is_llama3_json(parts):
        ranks = {to_bytes(text): rank for text, rank in parts["model"]["vocab"].items()} if parts else {}
        if list(ranks.values()) == list(range(N_ORDINARY)) and vocabulary_digest(ranks) == VOCABULARY_SHA256:
            return _tiktoken(ranks, added, bos, stops)
    if parts is None:
        return _tiktoken(load_ranks(model_file), added, bos, stops)
    from .hf_bpe import load_other

    return load_other(json_file, added, bos, stops)


def _read_json(path: Path) -> dict[str, Any]:
    """Parse tokenizer.json without its merges where they stand last, as the tokenizers package writes them."""
    try:
        text = path.read_text(encoding="utf-8")
        merges = _MERGES.search(text)
        if merges and _END.search(text, max(merges.end(), len(text) - 64)):
            try:
                return _object(json.loads(text[: merges.start()].rstrip().removesuffix(",") + "}}"), path)
            except ValueError:
                pass
        return _object(json.loads(text), path)
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} can't be read: {error}") from None


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise TokenizerError(f"{path} is not a tokenizer of the tokenizers package: it has no model")
    return value


def _added_tokens(parts: Mapping[str, Any], path: Path) -> list[AddedToken]:
    added = []
    for entry in parts.get("added_tokens") or []:
        try:
            token = AddedToken(
                entry["id"],
                entry["content"],
                bool(entry.get("special")),
                bool(entry.get("lstrip")),
                bool(entry.get("rstrip")),
                not any(entry.get(name) for name in ("lstrip", "rstrip", "single_word")),
            )
        except (KeyError, TypeError, AttributeError):
            raise TokenizerError(f"{path}: an entry of added_tokens is damaged: {str(entry)[:200]}") from None
        added.append(token)
    return added


def _standard_tokens() -> list[AddedToken]:
    return [AddedToken(token, text, special=True) for text, token in special_tokens().items()]


def _is_llama3_json(parts: Mapping[str, Any] | None) -> bool:
    """Return whether the parts are byte-level BPE with Llama 3's split pattern and nothing else."""
    if parts is None or parts.get("normalizer") or not isinstance(parts["model"].get("vocab"), dict):
        return False
    steps = (parts.get("pre_tokenizer") or {}).get("pretokenizers") or []
    patterns = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    return kinds == ["Split", "ByteLevel"] and patterns == [SPLIT_PATTERN] and parts["model"].get("type") == "BPE"


def _named_tokens(folder: Path) -> dict[str, str]:
    """Return bos_token and eos_token of tokenizer_config.json by name; Llama 3's where there is no such file."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    try:
        values = load_json_object(path)
    except ConfigError as error:
        raise TokenizerError(str(error)) from None
    named = {name: values.get(name) for name in ("bos_token", "eos_token")}
    return {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))
    }


def _stop_ids(folder: Path, names: Mapping[str, str], added: Iterable[AddedToken]) -> set[int]:
    """Return every id that ends a turn or a text: of both configs, of the tokenizer, of known dialogs."""
    texts = {*_STOP_TEXTS, names.get("eos_token")}
    stops = {token.id for token in added if token.text in texts}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            try:
                stops |= set(token_ids(load_json_object(folder / name).get("eos_token_id")))
            except ConfigError as error:
                raise TokenizerError(str(error)) from None
    return stops


def _tiktoken(ranks: dict[bytes, int], added: list[AddedToken], bos: int | None, stops: set[int]) -> Tokenizer:
    import tiktoken

    control = {token.text: token.id for token in added if token.special}
    words = {token.text: token.id for token in added if not token.special}
    encoding = tiktoken.Encoding("llama3", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=words)
    token_bytes: list[bytes] = list(ranks)
    others = {token: text.encode() for text, token in words.items()}
    size = max([len(ranks) - 1, *(token.id for token in added)]) + 1
    token_bytes += [others.get(token, b"") for token in range(len(ranks), size)]
    encode = partial(encoding.encode, allowed_special=set(words), disallowed_special=())
    return Tokenizer(
        partial(_in_pieces, encode),
        token_bytes,
        control,
        vocab_size=size,
        bos_id=bos,
        stop_ids=stops,
    )


def _in_pieces(encode: Any, text: str) -> list[int]:
    """Encode long texts piece by piece, cut where Meta's tokenizer cuts."""
    if len(text) <= _MAX_RUN:
        return encode(text)
    ids: list[int] = []
    for start in range(0, len(text), _MAX_CHARACTERS):
        block = text[start : start + _MAX_CHARACTERS]
        at = 0
        for run in _RUNS.finditer(block):
            ids += encode(block[at : run.end()])
            at = run.end()
        ids += encode(block[at:])
    return ids
