"""Patterns of ECMA 262; what they match is what Node.js 20 says with the flag `u`."""

import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.schema.patterns import compiled


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^\p{Lu}\p{L}{1,3}$", "Übe", "über"),
        (r"(?<y>\d{4})-\k<y>", "2024-2024", "2024-2023"),
        (r"^a$", "a", "a\n"),
        (r"^\/x\/$", "/x/", "x"),
        (r"^[^]$", "\n", ""),
        (r"^[]$|b", "b", "a"),
        (r"^[\w.-]+$", "a.b", "ü"),
        (r"^\d$", "1", "١"),
        (r"\u00e9\u{1F600}", "é😀", "e"),
        (r"^\cJ$", "\n", "J"),
        (r"^[\D]$", "a", "1"),
        (r"^\S$", "a", "\u3000"),
        (r"^[[a]$", "[", "b"),
        (r"^[a&&b]$", "&", "x"),
        (r"^[$]$", "$", "a"),
        (r"^(?=.*\d)[a-z\d]{3,}$", "ab1", "abc"),
        (r"\x41", "A", "B"),
    ],
)
def test_patterns_match_as_in_javascript(pattern: str, yes: str, no: str) -> None:
    assert compiled(pattern).search(yes)
    assert not compiled(pattern).search(no)


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(RequestError, match="the pattern '\\(' isn't a regular expression of ECMA 262"):
        compiled("(")
