"""What is fixed about Llama 3's tokenizer: split pattern, vocabulary, special tokens.

Source: meta-llama/llama-models `models/llama3/tokenizer.py`; ids checked against the shipped tokenizer.model.
"""

import hashlib
import itertools
from collections.abc import Iterable

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
N_ORDINARY = 128000
N_SPECIAL = 256
# Of all ordinary tokens: see vocabulary_digest.
VOCABULARY_SHA256 = "cb15a024f8530214bb346051a0c4b1652ed0bb81ad836923ceb32ab57aa96edc"
_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}


def special_tokens() -> dict[str, int]:
    """Return the 256 special tokens of Llama 3.1 and newer by text, as Hugging Face's tokenizer names them."""
    reserved = itertools.count()
    names = [_NAMED.get(offset) or f"<|reserved_special_token_{next(reserved)}|>" for offset in range(N_SPECIAL)]
    return {name: N_ORDINARY + offset for offset, name in enumerate(names)}


def vocabulary_digest(tokens: Iterable[bytes]) -> str:
    """Return the SHA-256 of the tokens in rank order, each with its length before it."""
    digest = hashlib.sha256(b"".join(len(token).to_bytes(2, "big") + token for token in tokens))
    return digest.hexdigest()
