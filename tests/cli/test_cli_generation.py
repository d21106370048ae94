"""The engine's options on the command line."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.cli import main

TOOL = '''
from typing import Literal

def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tell the weather.

    Args:
        city: which city
    """
    return "clear"
'''


@pytest.fixture
def generate(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `generate` on the tiny model; return what it prints and what it says."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(["generate", "-m", str(tiny_folder), "-p", "Hello", *arguments]) == code
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def test_forms_hold(generate: Any, tmp_path: Path) -> None:
    assert generate("--choices", "yes", "--choices", "no")[0] in ("yes\n", "no\n")
    assert generate("--regex", "[ab]{3}")[0].strip("ab\n") == ""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "form.lark").write_text('start: "<" ("x"|"y") ">"')
    for given in (str(tmp_path / "schema.json"), json.dumps(schema)):
        assert json.loads(generate("--schema", given, "--max-tokens", "200")[0])["a"] in (1, 2)
    assert generate("--grammar", str(tmp_path / "form.lark"))[0] in ("<x>\n", "<y>\n")


def test_samples_logprobs_and_caches(generate: Any) -> None:
    out, _ = generate("-n", "3", "--max-tokens", "4", "--temperature", "1", "--seed", "1")
    assert out.count("\n---\n") == 2
    out, _ = generate("--json", "--logprobs", "2", "--prompt-logprobs", "0", "--max-tokens", "3", "--ignore-eos")
    done = json.loads(out)
    assert len(done["logprobs"]) == 3
    assert len(done["logprobs"][0]["alternatives"]) == 2
    assert len(done["prompt_logprobs"]) == done["prompt_tokens"] - 1
    plain = generate("--max-tokens", "6", "--ignore-eos", "--temperature", "0")[0]
    assert generate("--max-tokens", "6", "--ignore-eos", "--temperature", "0", "--window", "64")[0] == plain
    assert generate("--max-tokens", "6", "--kv-bits", "8", "--kv-start", "4")[0]


def test_a_draft_model_changes_nothing(generate: Any, tiny_folder: Path) -> None:
    arguments = ["--max-tokens", "12", "--ignore-eos", "--temperature", "0"]
    out, said = generate(*arguments, "--draft", str(tiny_folder), "--stats")
    assert out == generate(*arguments, "--no-speculate")[0]
    assert "answer: 12 tokens" in said


def test_a_function_of_a_file_is_called(generate: Any, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(TOOL)
    out, said = generate("--tool", f"{tmp_path / 'tools.py'}:weather", "--max-tokens", "40", "--seed", "2")
    assert out
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tool", "absent.py:f"], "names no Python file that exists"),
        (["--schema", "{"], "--schema isn't JSON"),
        (["--schema", '{"type": "nonsense"}'], "isn't a type of JSON Schema"),
        (["--regex", "a", "--choices", "b"], "one output constraint at a time"),
        (["--kv-bits", "8", "--window", "64"], "can't be combined"),
        (["--max-tokens", "500000"], "context is 131072"),
        (["--memory-gb", "0.001", "--max-tokens", "1000"], "B are left beside the model"),
        (["--schema", "absent.json"], "absent.json"),
    ],
)
def test_what_can_not_be_is_one_line(generate: Any, arguments: list[str], words: str) -> None:
    out, said = generate(*arguments, code=2)
    assert out == ""
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_chat_goes_on_from_its_cache(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "First question, which is long enough to be kept\n/stats\nAnd a second one\n/stats\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["chat", "-m", str(tiny_folder), "--max-tokens", "5", "--temperature", "0"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prompt: ")]
    assert len(said) == 2
    assert "cached" not in said[0]
    assert "cached" in said[1]


def test_stats_say_what_came_of_drafts() -> None:
    from llama3_mlx import Completion, DraftCounts
    from llama3_mlx.cli.generate import summary

    done = Completion("", tuple(range(20)), "length", 5, 0, 10.0, 4.0, 0, passes=8)
    assert "forward pass" not in summary(done)
    drafts = (DraftCounts("draft head", (5, 4), (4, 1)), DraftCounts("prompt lookup", (2,), (2,)))
    shown = summary(
        Completion("", tuple(range(20)), "length", 5, 0, 10.0, 4.0, 0, passes=8, drafts=drafts, passes_off=3)
    )
    assert "2.50 tokens per forward pass" in shown
    assert "draft head: 5 of 9 accepted (by position: 80%, 25%)" in shown
    assert "prompt lookup: 2 of 2 accepted (by position: 100%)" in shown
    assert "drafts switched off in 3 of 8 passes" in shown
