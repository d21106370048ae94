"""tokenizer.json and tokenizer_config.json out of GGUF metadata.

Source of flags and defaults: llama.cpp `src/llama-vocab.cpp`; of merges out of scores: transformers
`convert_slow_tokenizer.py` (`generate_merges`).
"""

from collections.abc import Sequence
from pathlib import Path

from ...errors import CheckpointError
from ..sources.side_files import write_json
from ..sources.tokenizer_json import beginning, byte_level_json
from .file import Field
from .pre_tokenizers import find_pre_tokenizer

_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6


def tokenizer_note(field: Field) -> str | None:
    """Return what the user should know about how the file's tokenizer is read."""
    if field("tokenizer.ggml.model") != "gpt2":
        return None
    _, note = find_pre_tokenizer(field("tokenizer.ggml.pre"), field("tokenizer.ggml.tokens") or [])
    return note


def save_tokenizer(field: Field, folder: Path) -> None:
    """Write the tokenizer's files; raises CheckpointError for a kind that isn't known here."""
    kind, tokens = field("tokenizer.ggml.model"), field("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError("the GGUF file has no tokenizer: take one that has, or convert the original weights")
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(f"the GGUF file's tokenizer is of type {kind!r}; accepted are 'gpt2' and 'llama'")
    pre = find_pre_tokenizer(field("tokenizer.ggml.pre"), tokens)[0] if kind == "gpt2" else None
    kinds = field("tokenizer.ggml.token_type") or [1] * len(tokens)
    bos = field("tokenizer.ggml.bos_token_id")
    adds_bos = field("tokenizer.ggml.add_bos_token", pre.adds_bos if pre else True)
    added = [
        added_token(i, text, special=kinds[i] == _CONTROL)
        for i, text in enumerate(tokens)
        if kinds[i] in (_CONTROL, _USER_DEFINED)
    ]
    post = beginning(tokens[bos], bos) if bos is not None and adds_bos else None
    if pre:
        merges = field("tokenizer.ggml.merges") or []
        content = byte_level_json([*map(dict, pre.steps)], _vocabulary(tokens, kinds), merges, added, post)
        content["model"]["ignore_merges"] = pre.ignore_merges
    else:
        spaced = field("tokenizer.ggml.add_space_prefix", True)
        content = _sentencepiece_json(tokens, field("tokenizer.ggml.scores") or [], kinds, added, post, spaced=spaced)
    write_json(folder / "tokenizer.json", content)
    named = {"bos_token": bos, "eos_token": field("tokenizer.ggml.eos_token_id")}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[token] for name, token in named.items() if token is not None},
        "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": _templates(field),
    }
    write_json(folder / "tokenizer_config.json", {name: value for name, value in config.items() if value is not None})


def _templates(field: Field) -> str | list[dict[str, str]] | None:
    """Return the chat template, or all by name where there are several, as tokenizer_config.json has them."""
    default = field("tokenizer.chat_template")
    found = {"default": default} if default else {}
    found |= {name: field(f"tokenizer.chat_template.{name}") for name in field("tokenizer.chat_templates") or []}
    named = [{"name": name, "template": text} for name, text in found.items() if isinstance(text, str)]
    return named if len(named) > 1 or (named and not default) else default


def added_token(token: int, text: str, *, special: bool) -> dict[str, object]:
    """Return an entry of `added_tokens`."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token, "content": text, **plain, "special": special}


def _vocabulary(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Return the model's own vocabulary. Control tokens behind it, as in Llama 3, are added tokens alone."""
    last = max((i for i, kind in enumerate(kinds) if kind not in (_CONTROL, _USER_DEFINED)), default=-1)
    return {text: i for i, text in enumerate(tokens[: last + 1])}


def _sentencepiece_json(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    added: Sequence[object],
    post: object,
    *,
    spaced: bool,
) -> dict[str, object]:
    """Return a BPE with byte fallback: pieces merge in the order of their scores; `spaced` texts begin with a space."""
    if len(scores) != len(tokens):
        raise CheckpointError("the GGUF file's tokenizer has no score for each token")
    ids = {text: i for i, text in enumerate(tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for text, token in ids.items():
        if kinds[token] in (_CONTROL, _BYTE):
            continue
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in ids and right in ids:
                merges.append((-scores[token], ids[left], ids[right], left, right))
    merges.sort()
    space = "\u2581"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": space}] if spaced else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": space},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": post,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spaced else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next((tokens[i] for i, kind in enumerate(kinds) if kind == 2), None),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [[left, right] for *_, left, right in merges],
        },
    }
