"""GPT-2's way of writing bytes as printable characters, which byte-level BPE vocabularies use.

Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py (`bytes_to_unicode`).
"""

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}
_TO_LATIN_1 = {ord(character): byte for byte, character in CHARACTER_OF_BYTE.items()}
_FROM_LATIN_1 = {byte: ord(character) for byte, character in CHARACTER_OF_BYTE.items()}


def to_bytes(token: str) -> bytes:
    """Return the bytes that a vocabulary entry stands for; raises ValueError for characters outside the alphabet."""
    return token.translate(_TO_LATIN_1).encode("latin-1")


def from_bytes(token: bytes) -> str:
    """Return the vocabulary entry that stands for the bytes."""
    return token.decode("latin-1").translate(_FROM_LATIN_1)
