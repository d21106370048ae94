"""A tokenizer as llguidance sees it: the bytes of every token, which ones are control tokens, which ones end a turn."""

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import RequestError
from ..tokenizer.tokenizer import Encoder, Tokenizer

_made: WeakKeyDictionary[Tokenizer, dict[int, Any]] = WeakKeyDictionary()
_lock = threading.Lock()


def grammar_tokens(tokenizer: Tokenizer, n_vocab: int) -> Any:
    """Return llguidance's LLTokenizer for a model with logits over `n_vocab` tokens.

    It takes about a second for Llama 3's vocabulary and is kept as long as the tokenizer is. Ids without a token, as
    of rows that pad the vocabulary, are never allowed. Raises RequestError for a tokenizer that ends no text.
    """
    with _lock:
        kinds = _made.setdefault(tokenizer, {})
        if n_vocab not in kinds:
            kinds[n_vocab] = _make(tokenizer, n_vocab)
        return kinds[n_vocab]


def _make(tokenizer: Tokenizer, n_vocab: int) -> Any:
    from llguidance import LLTokenizer

    stops = [token for token in tokenizer.stop_ids if token < n_vocab]
    if not stops:
        raise RequestError("this model's tokenizer names no token that ends a text, which a grammar needs")
    return LLTokenizer(_Vocabulary(tokenizer, n_vocab, stops[0]), n_vocab=n_vocab, eos_token=stops)


class _Vocabulary:
    """What LLTokenizer asks for. Holds no tokenizer, which would then never be freed."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, n_vocab: int, eos: int) -> None:
        control = {token: text.encode() for text, token in tokenizer.control_tokens.items()}
        ids = range(n_vocab)
        self.tokens = [control[token] if token in control else tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = [token for token in control if token < n_vocab]
        self.eos_token_id = eos
        self._encode = tokenizer.encoder
        ordinary = {self.tokens[token]: token for token in reversed(ids) if token not in control and self.tokens[token]}
        self._ordinary = ordinary

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of forced text."""
        return exact_ids(text if isinstance(text, str) else text.decode(), self._encode, self.tokens, self._ordinary)


def exact_ids(text: str, encode: Encoder, tokens: list[bytes], ids: Mapping[bytes, int]) -> list[int]:
    """Return ids whose bytes are those of the text, for encoders that put a space before or drop something, too."""
    found = encode(text) if text else []
    data = text.encode()
    if all(token < len(tokens) for token in found) and b"".join(tokens[token] for token in found) == data:
        return found
    exact = []
    longest = max(map(len, ids))
    while data:
        size = next((size for size in range(min(longest, len(data)), 0, -1) if data[:size] in ids), None)
        if size is None:
            break
        exact.append(ids[data[:size]])
        data = data[size:]
    return exact
