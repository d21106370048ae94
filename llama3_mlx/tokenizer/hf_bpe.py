"""Tokenizers other than Llama 3's (SmolLM2, Llama 2, …), run by the `tokenizers` package."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from .added_token import AddedToken
from .byte_level import to_bytes
from .tokenizer import Ends, Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
# From this length on the text is encoded as a batch of one, which lets other threads run meanwhile.
_LONG = 20_000


def load_hf_bpe(path: Path, text: str | None, added: list[AddedToken], ends: Ends) -> Tokenizer:
    """Load a BPE tokenizer.json, byte-level or with byte fallback, from a file or its text.

    Raises TokenizerError for other kinds.
    """
    import tokenizers

    with _refusals(path):
        read = tokenizers.Tokenizer
        backend = read.from_file(str(path)) if text is None else read.from_str(text)
    decoder = json.dumps(_decoder(backend))
    kind = "byte level" if '"ByteLevel"' in decoder else "byte fallback" if '"ByteFallback"' in decoder else None
    if kind is None or not isinstance(backend.model, tokenizers.models.BPE):
        raise TokenizerError(
            f"{path} is a {type(backend.model).__name__} tokenizer that is not supported; accepted is BPE, byte-level "
            "or with byte fallback"
        )
    # What training left on would cut prompts short, or fill them up, in silence.
    backend.no_truncation()
    backend.no_padding()
    # Control tokens in a text are ordinary characters; the other added tokens stay words of the vocabulary.
    backend.encode_special_tokens = True
    words = {token.id: token.text for token in added if not token.special}
    control = {token.id for token in added if token.special}
    token_bytes = {}
    for text, token in backend.get_vocab(with_added_tokens=True).items():
        if token not in control:
            token_bytes[token] = text.encode() if token in words else _bytes(text, kind)

    def encode(text: str) -> list[int]:
        with _refusals(path):
            if len(text) < _LONG:
                return list(backend.encode(text, add_special_tokens=False).ids)
            return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    return Tokenizer(
        encode,
        token_bytes,
        {token.text: token.id for token in added if token.special},
        vocab_size=max([*token_bytes, *control]) + 1,
        ends=ends,
        adds_bos=ends.bos_id is not None and ends.bos_id in backend.encode("", add_special_tokens=True).ids,
        strips_first_space='"Strip"' in decoder,
        patterns={
            token.text: (r"\s*" if token.lstrip else "") + re.escape(token.text) + (r"\s*" if token.rstrip else "")
            for token in added
            if token.special
        },
    )


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn what the package raises into a TokenizerError: bare Exception, and where its Rust code panics, no Exception.

    Source: https://pyo3.rs, `pyo3::panic::PanicException`, which can't be imported by name.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path} can't be read: {error}") from None


def _decoder(backend: Any) -> Any:
    # What it would be pickled as: its part of tokenizer.json, without the vocabulary around it.
    return json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else None


def _bytes(text: str, kind: str) -> bytes:
    """Return the bytes of a vocabulary entry; characters outside a byte-level alphabet stand for themselves."""
    if kind == "byte level":
        try:
            return to_bytes(text)
        except ValueError:
            return text.encode()
    byte = _BYTE.match(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
