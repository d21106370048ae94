"""Fenced code by CommonMark's rules. Reference: https://spec.commonmark.org/0.31.2/#fenced-code-blocks."""

import pytest

from llama3_mlx.safety.shield.fences import fences_of, may_open


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nx = 1\n```\n", [(1, "python", "x = 1\n")]),
        ("a\n~~~ C++ title\nx\n~~~~\nb\n", [(2, "c++", "x\n")]),
        ("````md\n```\nx\n```\n````", [(1, "md", "```\nx\n```\n")]),
        ("```\nx", [(1, None, "x")]),
        ("1. Do:\n   ```js\n   x\n     y\n   ```\n", [(2, "js", "x\n  y\n")]),
        ("> ```go\n> x\n> ```\n", [(1, "go", "x\n")]),
        ("```py\r\nx\r\n```\r\n", [(1, "py", "x\r\n")]),
        ("```{.rust .x}\nx\n```", [(1, "rust", "x\n")]),
        ("``` a`b\nx\n", []),
        ("``x``\n", []),
        # Reference: examples 136 and 228 of the specification, and what a fence in a quote in a quote holds.
        ("```\naaa\n    ```\n```\n", [(1, None, "aaa\n    ```\n")]),
        (">```py\n>x\n>```\n", [(1, "py", "x\n")]),
        ("> > ```py\n> > x\n> > ```\nb\n", [(1, "py", "x\n")]),
        ("> - ```py\n>   x\n>   ```\nb\n", [(1, "py", "  x\n")]),
        ("   ```\n   x\n  ```\nb", [(1, None, "x\n")]),
        ("", []),
    ],
)
def test_blocks_are_found(text: str, expected: list[tuple[int, str | None, str]]) -> None:
    assert [(fence.line, fence.language, fence.code) for fence in fences_of(text)] == expected


@pytest.mark.parametrize(
    "beginning", ["", "  ", "`", "``", "```", "```py", "~~", "> ``", "- ", "1", "1.", "1. `", ">", ">`", ">>~~"]
)
def test_a_line_that_may_open_a_block_is_known(beginning: str) -> None:
    assert may_open(beginning)


@pytest.mark.parametrize("beginning", ["a", "`a", "``x", "Hello ```", "- a", "2 apples"])
def test_a_line_that_opens_none_is_known(beginning: str) -> None:
    assert not may_open(beginning)
