"""Loads the tokenizer of a model folder, from tokenizer.model, tokenizer.json or both.

Llama 3's tokenizer.json lists 280,147 merges, which make up most of its size and say nothing that the ranks don't:
they are skipped once the vocabulary is known to be Llama 3's.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.folder import ModelFolder
from ..checkpoint.safetensors_files import git_lfs_pointer
from ..errors import ConfigError, TokenizerError
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..model.config import token_ids
from .added_token import AddedToken, added_tokens, with_assigned_ids
from .byte_level import to_bytes
from .llama3 import N_ORDINARY, SPLIT_PATTERN, VOCABULARY_SHA256, special_tokens, vocabulary_digest
from .named_tokens import named_tokens
from .tiktoken_ranks import load_ranks
from .tokenizer import Ends, Tokenizer
from .vocab_merges import MERGES_NAME, VOCAB_NAME, dumped, has_vocab_and_merges, tokenizer_json

_MERGES = re.compile(r'"merges"\s*:\s*\[')
_END = re.compile(r"\]\s*\}\s*\}\s*\Z")
# Ends of a turn or of the text, wherever a vocabulary has them as control tokens.
_STOP_TEXTS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>")
# Source: meta-llama/llama-models `models/llama3/tokenizer.py`: longer inputs overflow tiktoken's regular expression.
_MAX_CHARACTERS = 400_000
_MAX_RUN = 25_000
_RUNS = re.compile(rf"\S{{{_MAX_RUN}}}(?=\S)|\s{{{_MAX_RUN}}}(?=\s)")


def load_tokenizer(folder: Path | ModelFolder) -> Tokenizer:
    """Load the tokenizer of a model folder; raises TokenizerError if there is none that can be read.

    Tokens beyond the embedding are noted, and texts that need them are refused.
    """
    opened = ModelFolder.of(folder)
    try:
        tokenizer = _load(opened)
    except ConfigError as error:
        raise TokenizerError(str(error)) from None
    if tokenizer.beyond:
        text, token = min(tokenizer.beyond.items(), key=lambda item: item[1])
        opened.note(
            f"the embedding has {tokenizer.embedding_rows} rows, and the tokenizer tokens beyond it: "
            f"{len(tokenizer.beyond)}, the first {text!r} ({token}); texts that need them are refused"
        )
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has files of a tokenizer, usable or not."""
    return any(
        all((folder / name).exists() for name in names)
        for names in (("tokenizer.json",), ("tokenizer.model",), (VOCAB_NAME, MERGES_NAME))
    )


def _load(opened: ModelFolder) -> Tokenizer:
    model_file, json_file = opened.path / "tokenizer.model", opened.path / "tokenizer.json"
    two_files = has_vocab_and_merges(opened)
    if not has_tokenizer(opened.path):
        raise TokenizerError(f"{opened.path} has neither tokenizer.json nor tokenizer.model")
    for path in (json_file, model_file):
        if pointer := git_lfs_pointer(path):
            raise TokenizerError(pointer)
    parts = _read_json(json_file) if json_file.exists() else tokenizer_json(opened) if two_files else None
    added = _added(opened, parts, json_file) if parts else _standard_tokens()
    names = named_tokens(opened)
    if opened.json("tokenizer_config.json") is None:
        names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", **names}
    rows = (opened.json("config.json") or {}).get("vocab_size")
    ends = Ends(
        bos_id=next((token.id for token in added if token.text == names.get("bos_token")), None),
        stop_ids=_stop_ids(opened, names, added),
        embedding_rows=rows if isinstance(rows, int) else None,
    )
    ranks = _llama3_ranks(parts) if parts and all(token.plain for token in added) else None
    if ranks is not None:
        return _tiktoken(ranks, added, ends)
    if parts is None:
        return _tiktoken(load_ranks(model_file), added, ends)
    from .hf_bpe import load_hf_bpe

    _check_ids(parts, json_file)
    return load_hf_bpe(json_file, dumped(parts) if two_files else None, added, ends)


def _read_json(path: Path) -> JsonObject:
    """Parse tokenizer.json without its merges where they stand last, as the tokenizers package writes them."""
    try:
        text = path.read_bytes().decode("utf-8")
        merges = _MERGES.search(text)
        if merges and _END.search(text, max(merges.end(), len(text) - 64)):
            try:
                return _object(_parsed(text[: merges.start()].rstrip().removesuffix(",") + "}}"), path)
            except ValueError:
                pass
        return _object(_parsed(text), path)
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} can't be read: {error}") from None


def _parsed(text: str) -> JsonValue:
    # Written in C, the parser keeps Python's lock for a whole vocabulary; a function of Python's at each number lets
    # other threads, such as an application's event loop, run in between.
    return json.loads(text, parse_int=lambda digits: int(digits))


def _object(value: JsonValue, path: Path) -> JsonObject:
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise TokenizerError(f"{path} is not a tokenizer of the tokenizers package: it has no model")
    return value


def _added(opened: ModelFolder, parts: JsonMapping, path: Path) -> list[AddedToken]:
    """Return the added tokens by the ids that they have in effect; a note names one whose entry says another."""
    vocab = parts["model"].get("vocab")
    named = added_tokens(parts, path)
    if not isinstance(vocab, dict):
        return named
    added = with_assigned_ids(named, vocab)
    moved = [(entry, token.id) for entry, token in zip(named, added, strict=True) if entry.id != token.id]
    if moved:
        entry, token = moved[0]
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        opened.note(
            f"{path.name} gives the added token {entry.text!r} the id {entry.id}, which isn't the next free one; as "
            f"with the tokenizers package it has {token}{more}"
        )
    return added


def _check_ids(parts: JsonMapping, path: Path) -> None:
    """Raise TokenizerError where two texts of the vocabulary have one id: nothing says which of them it decodes to."""
    vocab = parts["model"].get("vocab")
    if not isinstance(vocab, dict) or len(set(vocab.values())) == len(vocab):
        return
    texts: dict[int, str] = {}
    for text, token in vocab.items():
        if token in texts:
            raise TokenizerError(
                f"{path} has {texts[token]!r} and {text!r} under one id, {token}: nothing says which of them it means; "
                "fetch the tokenizer from the model's repository again"
            )
        texts[token] = text


def _standard_tokens() -> list[AddedToken]:
    return [AddedToken(token, text, special=True) for text, token in special_tokens().items()]


def _llama3_ranks(parts: JsonMapping) -> dict[bytes, int] | None:
    """Return the ranks of a byte-level BPE with Llama 3's split pattern and vocabulary and nothing else, else None."""
    vocab = parts["model"].get("vocab")
    if parts.get("normalizer") or not isinstance(vocab, dict) or len(vocab) != N_ORDINARY:
        return None
    steps = (parts.get("pre_tokenizer") or {}).get("pretokenizers") or []
    patterns = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    if kinds != ["Split", "ByteLevel"] or patterns != [SPLIT_PATTERN] or parts["model"].get("type") != "BPE":
        return None
    try:
        ranks = {to_bytes(text): rank for text, rank in vocab.items()}
    except ValueError:
        return None
    in_order = list(ranks.values()) == list(range(N_ORDINARY))
    return ranks if in_order and vocabulary_digest(ranks) == VOCABULARY_SHA256 else None


def _stop_ids(opened: ModelFolder, names: Mapping[str, str], added: Iterable[AddedToken]) -> frozenset[int]:
    """Return every id that ends a turn or a text: of both configs, of the tokenizer, of known dialogs."""
    texts = {*_STOP_TEXTS, names.get("eos_token")}
    stops = {token.id for token in added if token.text in texts}
    for name in ("config.json", "generation_config.json"):
        stops |= set(token_ids((opened.json(name) or {}).get("eos_token_id")))
    return frozenset(stops)


def _tiktoken(ranks: dict[bytes, int], added: list[AddedToken], ends: Ends) -> Tokenizer:
    import tiktoken

    control = {token.text: token.id for token in added if token.special}
    words = {token.text: token.id for token in added if not token.special}
    encoding = tiktoken.Encoding("llama3", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=words)
    token_bytes: list[bytes] = list(ranks)
    others = {token: text.encode() for text, token in words.items()}
    size = max([len(ranks) - 1, *(token.id for token in added)]) + 1
    token_bytes += [others.get(token, b"") for token in range(len(ranks), size)]
    encode = partial(encoding.encode, allowed_special=set(words), disallowed_special=())
    return Tokenizer(partial(_in_pieces, encode), token_bytes, control, vocab_size=size, ends=ends)


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
