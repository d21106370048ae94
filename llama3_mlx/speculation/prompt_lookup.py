"""Drafts without a draft model: what followed the last few tokens where they occurred before.

Source: prompt lookup, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Iterable

from ..errors import RequestError

_TOKEN_BITS = 32


class PromptLookup:
    """An index of the n-grams of the prompt and the generated tokens, for n from `shortest` to `longest`.

    A draft continues the longest n-gram at the end of the sequence that occurred before, at its latest occurrence. An
    occurrence whose continuation was right so far is kept until a longer match is found, so that copying doesn't jump
    between similar passages. `matched` is the length of the match that the last draft continues, 0 for
    none, and `source` the position of what follows it there.

    Takes O(1) a token and memory linear in the tokens.
    """

    def __init__(self, tokens: Iterable[int] = (), *, longest: int = 4, shortest: int = 1) -> None:
        if not 1 <= shortest <= longest:
            raise RequestError(f"n-grams need 1 <= shortest <= longest, not {shortest} and {longest}")
        self._sizes = range(longest, shortest - 1, -1)
        self._masks = [(1 << (_TOKEN_BITS * n)) - 1 for n in self._sizes]
        # For each n, longest first: packed n-gram -> position of the token that followed it last.
        self._followers: list[dict[int, int]] = [{} for _ in self._sizes]
        self._tokens: list[int] = []
        self._suffix = 0
        self.source = 0
        self.matched = 0
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add generated tokens."""
        known, suffix, keep = self._tokens, self._suffix, self._masks[0]
        indices = list(zip(self._sizes, self._masks, self._followers, strict=True))
        for token in tokens:
            position = len(known)
            # An n-gram is entered once it has a follower: a lookup of the sequence's end finds only earlier ones.
            for n, mask, followers in indices:
                if position >= n:
                    followers[suffix & mask] = position
            known.append(token)
            suffix = (suffix << _TOKEN_BITS | token) & keep
            if self.matched and known[self.source] == token:
                self.source += 1
                self.matched += 1
            else:
                self.matched = 0
        self._suffix = suffix

    def draft(self, max_tokens: int) -> list[int]:
        """Return up to `max_tokens` tokens that may come next; none where the end of the sequence is new.

        Where the match runs into the end of the sequence, the draft continues periodically.
        """
        self._find()
        if not self.matched:
            return []
        known, source = self._tokens, self.source
        draft = known[source : source + max_tokens]
        while len(draft) < max_tokens:
            draft.append(draft[source + len(draft) - len(known)])
        return draft

    def __len__(self) -> int:
        return len(self._tokens)

    def _find(self) -> None:
        for n, mask, followers in zip(self._sizes, self._masks, self._followers, strict=True):
            if n <= self.matched:
                return
            if len(self._tokens) >= n and (found := followers.get(self._suffix & mask)) is not None:
                self.source, self.matched = found, n
                return
