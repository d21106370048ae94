"""Answers in pieces: the same comes out whatever the pieces are, and what needs no note comes out as it went in."""

import random

import pytest

from llama3_mlx.safety.shield.result import Finding, Scan
from llama3_mlx.safety.shield.stream import Mode, ShieldedText

FINDING = Finding("rule", 95, "high", "text is run as code", 1, "stub")


class Stub:
    """Finds eval; can't read ruby; keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def scan(self, code: str, language: str | None) -> Scan:
        self.seen.append((code, language))
        if language == "ruby":
            return Scan("unknown", None, reason="there are no rules for ruby")
        return Scan("insecure", language, (FINDING,)) if "eval" in code else Scan("clean", language)


def shielded(text: str, mode: Mode, sizes: random.Random | None = None) -> tuple[str, Stub]:
    stub = Stub()
    shield = ShieldedText(stub, mode)
    out, at = "", 0
    while at < len(text):
        size = sizes.randint(1, 9) if sizes else len(text)
        out += shield.add(text[at : at + size])
        at += size
    return out + shield.finish(), stub


CLEAN = "Hi `x`\n\n```python\nx = 1\n```\n\n1. Then:\n   ~~~js\n   y()\n   ~~~\nBye ``` no\n> ```c\n> z;\n> ```\nend"
NOTE = "line 1: CWE-95, high: text is run as code"


@pytest.mark.parametrize("mode", ["annotate", "block"])
def test_clean_code_and_text_come_out_as_they_went_in(mode: Mode) -> None:
    rng = random.Random(1)
    for text in (
        CLEAN,
        CLEAN + "\n",
        "",
        "\n",
        "```",
        "```py\nx",
        "```py\nx\n```",
        "a\r\n```py\r\nx\r\n```\r\n",
        "日本\n`\n~\n",
    ):
        for _ in range(30):
            assert shielded(text, mode, rng)[0] == text
    assert [language for _, language in shielded(CLEAN, mode)[1].seen] == ["python", "js", "c"]
    assert shielded(CLEAN, mode)[1].seen[1][0] == "y()\n"


@pytest.mark.parametrize(
    ("text", "annotated", "blocked"),
    [
        (
            "A\n```js\neval(x)\n```\nB\n",
            f"A\n```js\neval(x)\n```\n\n> Code shield: {NOTE}\n\nB\n",
            f"A\n[Code left out by the code shield: {NOTE}]\nB\n",
        ),
        (
            "```js\neval(x)",
            f"```js\neval(x)\n\n> Code shield: {NOTE}\n\n",
            f"[Code left out by the code shield: {NOTE}]\n",
        ),
        (
            "- ```js\n  eval(x)\n  ```\nB",
            f"- ```js\n  eval(x)\n  ```\n\n  > Code shield: {NOTE}\n\nB",
            f"  [Code left out by the code shield: {NOTE}]\nB",
        ),
        (
            "```ruby\nx\n```\nB",
            "```ruby\nx\n```\n\n> Code shield: not checked (there are no rules for ruby)\n\nB",
            "```ruby\nx\n```\n\n> Code shield: not checked (there are no rules for ruby)\n\nB",
        ),
    ],
)
def test_notes_follow_code_or_take_its_place_however_it_comes(text: str, annotated: str, blocked: str) -> None:
    rng = random.Random(2)
    for mode, expected in (("annotate", annotated), ("block", blocked)):
        assert {shielded(text, mode, rng)[0] for _ in range(40)} == {expected}  # type: ignore[arg-type]


def test_blocked_code_is_never_shown_in_part() -> None:
    text = "Do this:\n\n```js\nlet code = read();\neval(code);\n```\n"
    shield, shown = ShieldedText(Stub(), "block"), ""
    for character in text:
        shown += shield.add(character)
        assert "read" not in shown
        assert "```" not in shown
    assert shown.startswith("Do this:\n\n[Code left out")


def test_code_to_annotate_and_text_aren_t_held_back() -> None:
    shield = ShieldedText(Stub(), "annotate")
    assert [shield.add(piece) for piece in ("A", "``", "`js\nx", " y")] == ["A", "``", "`js\nx", " y"]
    assert ShieldedText(Stub(), "block").add("Hello wor") == "Hello wor"
