"""Added tokens: entries of a tokenizer.json's `added_tokens`, control tokens and words beside the vocabulary."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import TokenizerError
from ..json_types import JsonMapping


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for before the vocabulary is. `plain`: it takes no white space and parts of words."""

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    plain: bool = True


def added_tokens(parts: JsonMapping, path: Path) -> list[AddedToken]:
    """Return the added tokens of a tokenizer.json; raises TokenizerError for a damaged entry."""
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


def with_assigned_ids(added: Iterable[AddedToken], vocab: Mapping[str, int]) -> list[AddedToken]:
    """Return the added tokens with the ids that the tokenizers package gives them, whatever their entries say.

    A text that the vocabulary has keeps its id there, any other gets the next one behind the vocabulary.
    Source: tokenizers `tokenizer/added_vocabulary.rs` (add_tokens), `tokenizer/serialization.rs`.
    """
    assigned: dict[str, int] = {}
    following, found = len(vocab), []
    for token in added:
        if token.text not in assigned:
            assigned[token.text] = vocab.get(token.text, following)
            following = max(following, assigned[token.text] + 1)
        found.append(replace(token, id=assigned[token.text]))
    return found
