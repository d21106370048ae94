"""The script around CyberSecEval, with a stand-in for the checkout and, for rates, answers written here."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples import cyberseceval

STAND_IN = """
import json, sys
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
answers = [{"response": "```python\\nx = 1\\n```", "language": "python", "variant": given["benchmark"], "given": given}]
open(given["response-path"], "w").write(json.dumps(answers))
if "only-generate-llm-responses" not in given:
    open(given["stat-path"], "w").write('{"refusal_rate": 0.5}')
"""


class StubShield:
    """Finds every line with BAD in it; can't scan what has BROKEN in it."""

    def scan(self, code: str, language: str) -> Any:
        lines = [number for number, line in enumerate(code.split("\n"), start=1) if "BAD" in line]
        reason = "a syntax error" if "BROKEN" in code else None
        status = "insecure" if lines else "unknown" if reason else "clean"
        return SimpleNamespace(status=status, reason=reason, findings=[SimpleNamespace(line=line) for line in lines])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "PurpleLlama" / "CybersecurityBenchmarks" / "benchmark"
    package.mkdir(parents=True)
    (package / "run.py").write_text(STAND_IN)
    return tmp_path / "PurpleLlama"


def arguments(checkout: Path, out: Path, **changes: Any) -> argparse.Namespace:
    values = {"checkout": checkout, "out": out, "model": "small", "url": "http://127.0.0.1:1/v1", "cases": 2}
    more = {"python": sys.executable, "detector": "codeshield", "benchmarks": "instruct,mitre-frr"}
    return argparse.Namespace(**{**values, **more, **changes})


def test_benchmarks_are_called_as_the_checkout_wants_it(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cyberseceval.run(arguments(checkout, tmp_path / "out"))
    given = json.loads((tmp_path / "out" / "mitre-frr.json").read_text())[0]["given"]
    assert given["benchmark"] == "mitre-frr"
    assert given["prompt-path"] == str(checkout / "CybersecurityBenchmarks/datasets/mitre_frr/mitre_frr.json")
    assert given["llm-under-test"] == "OPENAI::small::key::http://127.0.0.1:1/v1"
    assert given["num-test-cases"] == "2"
    assert capfd.readouterr().out.count('{"refusal_rate": 0.5}') == 2


def test_the_shield_rates_the_answers_in_place_of_the_detector(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cyberseceval, "make_shield", StubShield)
    cyberseceval.run(arguments(checkout, tmp_path / "out", detector="shield", benchmarks="instruct"))
    assert not (tmp_path / "out" / "instruct-stat.json").exists()
    assert "python      0.0% insecure (0 of 1; 0 unknown)" in capfd.readouterr().out


def test_rates_count_an_answers_own_weaknesses_and_what_was_not_scanned_apart() -> None:
    continued = {"variant": "autocomplete", "origin_code": "BAD before\nthe line\nafter", "line_text": "the line"}
    answers = [
        {"language": "c", "response": "Here:\n```c\nBAD\n```\nand ```c\nfine\n```"},
        {"language": "c", "response": "Here:\n```c\nfine\n```\nand ```c\nBAD\n```"},
        {"language": "c", "response": "no fence, BAD"},
        {"language": "java", "response": "BROKEN"},
        {"language": "java", "response": "BROKEN\nBAD"},
        {"language": "php", "response": "fine", **continued},
        {"language": "php", "response": "fine\nBAD", **continued},
        {"language": "php", "response": "BROKEN", **continued},
    ]
    found = cyberseceval.rate(answers, StubShield())  # type: ignore[arg-type]
    assert {name: (each.insecure, each.clean, each.unknown) for name, each in found.items()} == {
        "c": (2, 1, 0),
        "java": (1, 0, 1),
        "php": (1, 1, 1),
    }
    assert str(found["java"]) == "100.0% insecure (1 of 1; 1 unknown)"
    assert str(cyberseceval.Rate(unknown=2)) == "nothing scanned (0 of 0; 2 unknown)"


def no_checkout(checkout: Path) -> None:
    cyberseceval.run(arguments(checkout / "nowhere", checkout))


def no_benchmark(checkout: Path) -> None:
    cyberseceval.run(arguments(checkout, checkout / "out", benchmarks="mitre"))


def no_answers(checkout: Path) -> None:
    (checkout / "answers.json").write_text("[{}]")
    cyberseceval.read_answers(checkout / "answers.json")


@pytest.mark.parametrize(
    ("call", "words"),
    [(no_checkout, "is no checkout"), (no_benchmark, "no benchmark 'mitre'"), (no_answers, "has no answers")],
)
def test_bad_input_is_one_line(checkout: Path, call: Callable[[Path], None], words: str) -> None:
    with pytest.raises(SystemExit) as found:
        call(checkout)
    assert words in str(found.value)
    assert str(found.value).startswith("error: ")


def test_a_missing_shield_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"error: the shield needs .*'\.\[shield\]'"):
        cyberseceval.make_shield()


def test_the_real_shield_rates_code_of_this_text() -> None:
    pytest.importorskip("ast_grep_py")
    pytest.importorskip("bandit")
    code = "import hashlib\nprint(hashlib.md5(b'password').hexdigest())\n"
    answers = [
        {"language": "python", "response": f"Use this:\n```python\n{code}```"},
        {"language": "python", "response": "print('hello')"},
        {"language": "python", "response": "def broken(:"},
    ]
    assert cyberseceval.rate(answers, cyberseceval.make_shield())["python"] == cyberseceval.Rate(1, 1, 1)
