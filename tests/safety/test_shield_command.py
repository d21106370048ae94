"""`llama3-mlx shield` on files, folders, Markdown, standard input and bad input."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama3_mlx.cli import main


def test_files_get_a_line_and_their_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good, odd = tmp_path / "bad.c", tmp_path / "good.py", tmp_path / "odd.rb"
    bad.write_text("void f(char *s) {\n  gets(s);\n}\n")
    good.write_text("x = 1\n")
    odd.write_text("puts 1\n")
    assert main(["shield", str(bad), str(good)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"insecure  {bad}"
    assert lines[1].startswith(f"  {bad}:2  high    CWE-120   this function writes")
    assert lines[2] == f"clean     {good}"
    assert main(["shield", str(good)]) == 0
    assert main(["shield", str(good), str(odd)]) == 3
    assert "unknown" in capsys.readouterr().out
    assert main(["shield", str(tmp_path), "--json"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["file"], record["status"]) for record in records] == [(str(bad), "insecure"), (str(good), "clean")]
    assert records[0]["findings"][0]["cwe"] == 120


def test_standard_input_is_markdown_or_of_a_named_language(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scanned(text: str, *more: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code = main(["shield", "-", *more])
        return code, capsys.readouterr().out

    code, out = scanned("Do this:\n\n```python\nimport os\nos.system('rm ' + x)\n```\n")
    assert code == 1
    assert "  -:5  high    CWE-78" in out
    assert scanned("eval(x)\n", "--language", "js")[0] == 1
    assert scanned("int x;\n", "--language", "C")[0] == 0
    code, out = scanned("no code at all")
    assert (code, "it has no block of code" in out) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.py"], "can't read"),
        (["-", "--language", "cobol"], "there are no rules for 'cobol'; there are for python"),
        (["x.py", "--semgrep-rules", "nowhere"], "semgrep"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shield", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_the_shield_doesn_t_load_mlx() -> None:
    code = "import sys, llama3_mlx.safety.shield; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
