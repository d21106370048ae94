"""Meta's tokenizer.model: lines of a base64 token and its rank. Source: tiktoken `load_tiktoken_bpe`."""

import base64
import binascii
from pathlib import Path

from ..errors import TokenizerError
from .llama3 import N_ORDINARY


def load_ranks(path: Path) -> dict[bytes, int]:
    """Return the ranks of Llama 3's tokenizer.model by token, in rank order.

    Raises TokenizerError naming the line that is wrong, or what the file is instead.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(f"{path} can't be read: {error.strerror}") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(
                f"{path}, line {number}: not a base64 token and its rank; accepted is the tokenizer.model of Llama 3 "
                "(a SentencePiece file of Llama 2 is not: its tokenizer.json is)"
            ) from None
    if list(ranks.values()) != list(range(N_ORDINARY)):
        raise TokenizerError(f"{path} has {len(ranks)} tokens, not Llama 3's {N_ORDINARY} in the order of their ranks")
    return ranks
