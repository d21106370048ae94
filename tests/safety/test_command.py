"""`llama3-mlx guard` on texts, dialogs and bad input."""

import io
import json
from pathlib import Path

import pytest

from llama3_mlx.cli import main
from llama3_mlx.safety import Guard

from .test_guard import HARMLESS, untied_folder  # noqa: F401


def judged(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    code = main(["guard", "--guard-version", "3-8b", *arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_texts_and_dialogs_get_a_line_each_with_the_scores_of_the_api(
    untied_folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Guard.load(untied_folder, version="3-8b") as guard:
        alone, both = guard.check(HARMLESS[:1]), guard.check(HARMLESS)
    model = ["-m", str(untied_folder)]
    code, lines, _ = judged(capsys, *model, "Hi there", "--threshold", "0.999999")
    assert (code, lines) == (0, [f"safe    {alone.score:.3f}  Hi there"])
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi there\n\n"))
    code, lines, _ = judged(capsys, *model, "--threshold", "0.000001", "--json")
    assert code == 1
    first = json.loads(lines[0])
    assert first["flagged"]
    assert first["score"] == pytest.approx(alone.score, abs=1e-5)
    assert first["categories"]
    records = tmp_path / "dialogs.jsonl"
    records.write_text(
        "\n".join([json.dumps({"messages": HARMLESS}), json.dumps(HARMLESS[:1]), '{"text": "Hi there"}'])
    )
    _, lines, _ = judged(capsys, *model, "--data", str(records), "--json")
    scores = [json.loads(line)["score"] for line in lines]
    assert scores == pytest.approx([both.score, alone.score, alone.score], abs=1e-5)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"prompt": "x"}', 'line 1 must be {"messages": […]}, a list of messages or {"text": …}'),
        ("[" * 100_000, "line 1 is not valid JSON"),
        ('{"text": "a"}\n[]', "line 2: the dialog is empty"),
        ('{"text": "a"}\n[1]', "line 2: message 0 must be an object, not 1"),
        ("\n", "there is nothing to judge"),
        ("", "there is nothing to judge"),
    ],
)
def test_bad_records_are_one_line(
    untied_folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    words: str,
) -> None:
    (tmp_path / "dialogs.jsonl").write_text(line)
    code, _, error = judged(capsys, "-m", str(untied_folder), "--data", str(tmp_path / "dialogs.jsonl"))
    assert code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_what_windows_writes_is_read_and_other_bytes_are_refused(
    untied_folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte order mark and CRLF; JSON strings with U+2028, which ends no line."""
    records, model = tmp_path / "texts.jsonl", ["-m", str(untied_folder)]
    records.write_bytes('\ufeff{"text": "Hi there"}\r\n{"text": "Hi\u2028there"}\r\n'.encode())
    _, lines, _ = judged(capsys, *model, "--data", str(records), "--json")
    with Guard.load(untied_folder, version="3-8b") as guard:
        expected = [guard.check_text(text).score for text in ("Hi there", "Hi\u2028there")]
    assert [json.loads(line)["score"] for line in lines] == pytest.approx(expected, abs=1e-5)
    records.write_bytes(b'{"text": "caf\xe9"}')
    code, lines, error = judged(capsys, *model, "--data", str(records))
    assert (code, lines, error) == (2, [], f"error: {records} is not UTF-8: byte 13 can't be read\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    code, lines, error = judged(capsys, *model)
    assert (code, lines) == (2, [])
    assert "there is nothing to judge" in error
