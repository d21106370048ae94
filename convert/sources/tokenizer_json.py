"""Writes Hugging Face's tokenizer files for Llama 3 out of Meta's tokenizer.model, so that other tools can load them.

Source of the layout: https://huggingface.co/docs/tokenizers; meta-llama's own tokenizer.json files have the same parts.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...chat.llama3_templates import LLAMA_3, LLAMA_3_1, without_marks
from ...files import save_json, save_text
from ...json_types import JsonObject
from ...tokenizer.byte_level import from_bytes
from ...tokenizer.llama3 import SPLIT_PATTERN, special_tokens
from ...tokenizer.tiktoken_ranks import load_ranks


def save_tokenizer_json(model_file: Path, folder: Path, *, context: int = 131072) -> None:
    """Write tokenizer.json, tokenizer_config.json and a copy of tokenizer.model into `folder`.

    `context` becomes `model_max_length`; beyond 8192 the chat template is that of Llama 3.1.
    Raises TokenizerError if `model_file` isn't Llama 3's.
    """
    save_beside(tokenizer_json(model_file), model_file, folder, context=context)


def tokenizer_json(model_file: Path) -> str:
    """Return the text of tokenizer.json; raises TokenizerError if `model_file` isn't Llama 3's."""
    return json.dumps(_content(list(load_ranks(model_file))), ensure_ascii=False) + "\n"


def save_beside(text: str, model_file: Path, folder: Path, *, context: int) -> None:
    """Write what `save_tokenizer_json` writes, with a tokenizer.json that is made already."""
    save_text(folder / "tokenizer.json", text)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "chat_template": without_marks(LLAMA_3_1 if context > 8192 else LLAMA_3),
    }
    save_json(folder / "tokenizer_config.json", config)
    if model_file != folder / "tokenizer.model":
        shutil.copyfile(model_file, folder / "tokenizer.model")


def _content(tokens: list[bytes]) -> JsonObject:
    specials = special_tokens()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocab = {from_bytes(token): rank for rank, token in enumerate(tokens)}
    content = byte_level_json(
        [{"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}],
        vocab,
        make_merges(vocab),
        [{"id": token, "content": text, **flags} for text, token in specials.items()],
        beginning("<|begin_of_text|>", specials["<|begin_of_text|>"]),
    )
    content["model"]["ignore_merges"] = True
    return content


def byte_level_json(
    split_steps: list[JsonObject],
    vocab: Mapping[str, int],
    merges: Sequence[str],
    added_tokens: list[JsonObject],
    post_processor: JsonObject | None,
) -> JsonObject:
    """Return the content of tokenizer.json for byte-level BPE. Without split steps GPT-2's own pattern splits."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    # The merges stand last, so that a reader who doesn't need them can stop before.
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": list(merges),
    }
    own_split = any(step["type"] == "Split" for step in split_steps)
    steps = [*split_steps, {**byte_level, "use_regex": not own_split}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": post_processor,
        "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
        "model": model,
    }


def beginning(text: str, token: int) -> JsonObject:
    """Return the post-processor that puts the beginning of text before each sequence."""

    def parts(*sequences: str) -> list[JsonObject]:
        bos = {"SpecialToken": {"id": text, "type_id": 0}}
        return [part for name in sequences for part in (bos, {"Sequence": {"id": name, "type_id": 0}})]

    return {
        "type": "TemplateProcessing",
        "single": parts("A"),
        "pair": parts("A", "B"),
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
    }


def make_merges(ranks: Mapping[str, int]) -> list[str]:
    """Return the merges that make merge-ordered BPE equal to tiktoken's, which merges the pair of lowest rank.

    Every way to split a token into two others is a merge; merges stand in the order of their results' ranks, which is
    that of `ranks`. Tokens are those of byte-level BPE: a character for each byte.
    """
    merges: list[str] = []
    for text in ranks:
        known = []
        for at in range(1, len(text)):
            if (left := text[:at]) in ranks and (right := text[at:]) in ranks:
                known.append((ranks[left], ranks[right], f"{left} {right}"))
        known.sort()
        merges += [merge for _, _, merge in known]
    return merges
