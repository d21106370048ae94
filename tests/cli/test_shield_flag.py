"""`--shield` of `generate` and `chat`, on answers that a regular expression makes a block of insecure code."""

import io
from pathlib import Path

import pytest

from llama3_mlx.cli import main
from llama3_mlx.safety.shield import Shield
from llama3_mlx.safety.shield.stream import ShieldedText

CODE = "```js\neval(x)\n```\n"
PATTERN = CODE.replace("(", r"\(").replace(")", r"\)")


@pytest.mark.parametrize("mode", ["annotate", "block"])
def test_answers_are_shown_with_their_code_scanned(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    shield = ShieldedText(Shield(), "annotate" if mode == "annotate" else "block")
    expected = shield.add(CODE) + shield.finish()
    assert (CODE in expected) == (mode == "annotate")
    assert "CWE-95" in expected
    flags = ["-m", str(tiny_folder), "--regex", PATTERN, "--max-tokens", "60", "--shield", mode]
    assert main(["generate", "-p", "Hi", *flags]) == 0
    assert capsys.readouterr().out == expected + "\n"
    assert main(["generate", "-p", "Hi", "-n", "2", *flags]) == 0
    assert capsys.readouterr().out == f"{expected}\n---\n{expected}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(["chat", *flags]) == 0
    assert expected in capsys.readouterr().out


def test_what_doesn_t_fit_is_one_line(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["generate", "-m", str(tiny_folder), "-p", "Hi", "--shield", "block"]
    assert main([*command, "--json"]) == 2
    assert capsys.readouterr().err == "error: --shield writes its notes into the text: leave out --json\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert main(command) == 2
    assert "pip install '.[shield]'" in capsys.readouterr().err
