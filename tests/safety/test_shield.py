"""The shield's rules by their own pairs, bandit's findings by bandit's own command, and what must never be clean."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llama3_mlx.errors import DataError, MissingExtraError, RequestError
from llama3_mlx.safety.shield import Shield, bandit_engine, defects, many
from llama3_mlx.safety.shield import shield as shield_module
from llama3_mlx.safety.shield.languages import LANGUAGES
from llama3_mlx.safety.shield.options import ShieldOptions
from llama3_mlx.safety.shield.result import Report
from llama3_mlx.safety.shield.rules import Rule, rules_of
from llama3_mlx.safety.shield.structural import StructuralEngine, only_php

PAIRS = [(language, rule) for language in LANGUAGES for rule in rules_of(language)]
EVERYWHERE = {327, 78, 89, 502, 295, 22, 798}
# Languages in which text can't be run as code, or that write no pages.
CODE_INJECTION = set(LANGUAGES) - {"c", "cpp", "go", "rust"}
PAGES = set(LANGUAGES) - {"c", "cpp"}


@pytest.mark.parametrize(("language", "rule"), PAIRS, ids=[f"{language}-{rule.id}" for language, rule in PAIRS])
def test_a_rule_finds_its_example_and_nothing_in_the_other(language: str, rule: Rule) -> None:
    engine = StructuralEngine(language)
    found, not_found = engine.scan(rule.found), engine.scan(rule.not_found)
    assert rule.id in {finding.rule for finding in found.findings}
    assert not_found.findings == ()
    assert (found.reason, not_found.reason) == (None, None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_rules_for_the_common_weaknesses(language: str) -> None:
    numbers = {rule.cwe for rule in rules_of(language)}
    # Its unsafe functions are what C has in the place of unsafe deserialization.
    expected = EVERYWHERE - {502} | {120, 134} if language in ("c", "cpp") else EVERYWHERE
    expected = expected | ({95} if language in CODE_INJECTION else set()) | ({79} if language in PAGES else set())
    assert expected <= numbers
    assert all(rule.message and "\n" not in rule.message for rule in rules_of(language))


def test_all_engines_work_here() -> None:
    assert defects() == {}


PYTHON = """
import hashlib, os, pickle, random, subprocess, requests, tempfile, yaml
assert True
def f(name, cursor, body):
    try:
        eval(name)
    except Exception:
        pass
    cursor.execute("SELECT * FROM users WHERE name = '%s'" % name)
    subprocess.call(name, shell=True)
    pickle.loads(body)
    yaml.load(body)
    hashlib.md5(body)
    requests.get("https://example.org", verify=False)  # nosec
    tempfile.mktemp()
    os.chmod("x", 0o777)
    return random.random()
"""


def test_everything_that_bandit_finds_is_found(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(PYTHON)
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", "--ignore-nosec", str(path)]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)["results"]
    expected = {(result["test_id"], result["line_number"]) for result in results}
    assert len(expected) > 12
    scan = Shield(ShieldOptions(severity="low")).scan(PYTHON, "py")
    assert expected <= {(finding.rule, finding.line) for finding in scan.findings}
    high = Shield(ShieldOptions(severity="high")).scan(PYTHON, "py")
    assert high.findings
    assert {finding.severity for finding in high.findings} == {"high"}


def test_modules_of_python_get_the_findings_of_bandits_own_program(tmp_path: Path) -> None:
    """Each finding with its line and severity; ours are those of bandit's engine before they are merged."""
    library = Path(tempfile.__file__).parent
    names = [
        "tempfile",
        "tarfile",
        "ssl",
        "pickle",
        "subprocess",
        "smtplib",
        "pdb",
        "cgi",
        "ftplib",
        "uuid",
        "webbrowser",
    ]
    paths = [library / f"{name}.py" for name in names if (library / f"{name}.py").exists()]
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", "--ignore-nosec", *map(str, paths)]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)["results"]
    engine = bandit_engine.BanditEngine()
    for path in paths:
        report = engine.scan(path.read_text(encoding="utf-8"))
        assert report.reason is None
        assert sorted((each.rule, each.line, each.severity, each.message) for each in report.findings) == sorted(
            (each["test_id"], each["line_number"], each["issue_severity"].lower(), each["issue_text"].splitlines()[0])
            for each in results
            if each["filename"] == str(path)
        )
    assert len(results) > 40


def test_many_files_are_scanned_over_processes_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}.py").write_text("x = 1\n" * number + PYTHON)
    (tmp_path / "5.js").write_text("eval(code);\n")
    (tmp_path / "6.py").write_text("def f(:\n")
    paths = sorted(tmp_path.iterdir())
    expected = list(many.scan_files(paths, ShieldOptions(severity="low")))
    assert [[scan.status for _, scan in scans] for scans in expected] == [["insecure"]] * 6 + [["unknown"]]
    monkeypatch.setattr(many, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(many, "Shield", None)  # Not in this process.
    assert list(many.scan_files(paths, ShieldOptions(severity="low"))) == expected
    with pytest.raises(DataError, match="can't read"):
        list(many.scan_files([*paths, tmp_path / "gone.py"], ShieldOptions()))


@pytest.mark.parametrize(
    ("code", "language", "words"),
    [
        ("def f(:\n    pass\n", "python", "syntax error"),
        ("int main(void) { return 0 }", "c", "syntax error near line 1"),
        ("class A {\n", "java", "syntax error"),
        ("print 'hello'", "ruby", "there are no rules for ruby"),
        ("x = 1", None, "its language isn't named"),
        ("/* " * 100, "swift", "comments aren't closed"),
    ],
)
def test_what_was_not_scanned_is_unknown(code: str, language: str | None, words: str) -> None:
    scan = Shield().scan(code, language)
    assert scan.status == "unknown"
    assert scan.reason is not None
    assert words in scan.reason


def test_a_weakness_beside_a_syntax_error_is_found() -> None:
    scan = Shield().scan("os.system('ping ' + host)\ndef f(:\n", "python")
    assert (scan.status, [finding.line for finding in scan.findings]) == ("insecure", [1])
    assert scan.reason is not None


def test_a_key_is_found_in_any_language() -> None:
    scan = Shield().scan("key: AKIA" + "Q" * 16 + "\n", "yaml")
    assert [finding.cwe for finding in scan.findings] == [798]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_whose_engine_finds_nothing_is_not_checked(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shield_module, "_structural", StructuralEngine)
    monkeypatch.setattr(StructuralEngine, "_findings", lambda self, root: iter(()))
    scan = Shield().scan("x\n", language)
    assert scan.status == "unknown"
    assert "doesn't find its example" in str(scan.reason)


class Panic(BaseException):
    """As ast-grep's panics are: no Exception."""


def test_an_engine_that_fails_gives_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Panic("a thread panicked")

    monkeypatch.setattr(shield_module, "_structural", StructuralEngine)
    monkeypatch.setattr(StructuralEngine, "_parsed", fail)
    scan = Shield().scan("x;", "c")
    assert (scan.status, "a thread panicked" in str(scan.reason)) == ("unknown", True)
    monkeypatch.setattr(StructuralEngine, "defect", None)
    assert Shield().scan("x;", "c").status == "unknown"


def test_a_broken_bandit_gives_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shield_module, "_bandit", bandit_engine.BanditEngine)
    monkeypatch.setattr(bandit_engine.BanditEngine, "_run", lambda self, code: Report())
    scan = Shield().scan("x = 1\n", "python")
    assert (scan.status, scan.reason) == ("unknown", "bandit is broken: it finds no known weakness")


def test_a_test_of_bandit_that_fails_gives_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from bandit.core import context

    def fail(_: object) -> None:
        raise ValueError("out of order")

    assert Shield().scan("f(1)\n", "python").status == "clean"
    monkeypatch.setattr(context.Context, "call_args_count", property(fail))
    monkeypatch.setattr(context.Context, "call_function_name_qual", property(fail))
    scan = Shield().scan("f(1)\n", "python")
    assert scan.status == "unknown"


def test_html_around_php_is_not_parsed_as_php() -> None:
    page = "<p>don't</p>\n<?php if ($a): ?>\n<b><?= $_GET['x'] ?></b>\n<?php endif; ?>\n"
    assert only_php(page).count("\n") == page.count("\n")
    scan = Shield().scan(page, "php")
    assert [(finding.rule, finding.line) for finding in scan.findings] == [("cross-site-scripting", 3)]
    assert scan.reason is None


def test_indented_python_and_generics_in_typescript_are_read() -> None:
    assert Shield().scan("    x = 1\n    y = 2\n", "python").status == "clean"
    assert Shield().scan("const a = <T>x;\n", "ts").status == "clean"
    assert Shield().scan("const a = <b>{x}</b>;\n", "ts").status == "clean"


@pytest.mark.timeout(120)
def test_no_rule_takes_long_on_any_text() -> None:
    many = 600
    texts = [
        "f(" * many + ")" * many,
        '"a"+' * many + "x",
        "a" + ".b()" * many,
        'db.execute("a"+' * many + "x" + ")" * many,
        '"' * many,
        'x = "select ' + "from " * many + '"',
        "`${" * many + "}`" * many,
        "{" * many,
        "/* " * 10 * many,
        "password = " * many + '"abcdefgh"',
        'c.query("SELECT a FROM b WHERE " + x)\n' * many,
        " " * 10 * many + "x",
    ]
    shield = Shield()
    for language in LANGUAGES:
        for text in texts:
            shield.scan(text, language)


SEMGREP = """#!{python}
import json, sys
path = sys.argv[-1]
said = {said!r}
said["paths"] = {{"scanned": [path] if {scanned} else []}}
print(json.dumps(said))
sys.exit({code})
"""
RESULT = {
    "check_id": "rules.no-foo",
    "start": {"line": 2},
    "extra": {"severity": "ERROR", "message": "foo\n is bad", "metadata": {"cwe": ["CWE-477: Use of Obsolete"]}},
}


@pytest.mark.parametrize(
    ("results", "errors", "scanned", "code", "status", "reason"),
    [
        ([], [], True, 0, "clean", None),
        ([RESULT], [], True, 1, "insecure", None),
        ([], [], False, 0, "unknown", "semgrep didn't scan the code"),
        ([], [{"message": "Rule parse error"}], True, 0, "unknown", "semgrep: Rule parse error"),
        ([], [], True, 2, "unknown", "semgrep ended with 2"),
    ],
)
def test_semgrep_counts_only_where_it_says_what_it_scanned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: list[object],
    errors: list[object],
    scanned: bool,
    code: int,
    status: str,
    reason: str | None,
) -> None:
    program, rules = tmp_path / "bin" / "semgrep", tmp_path / "rules.yaml"
    program.parent.mkdir()
    said = {"results": results, "errors": errors}
    program.write_text(SEMGREP.format(python=sys.executable, said=said, scanned=scanned, code=code))
    program.chmod(0o755)
    rules.write_text("rules: []\n")
    monkeypatch.setenv("PATH", str(program.parent))
    scan = Shield(ShieldOptions(semgrep_rules=rules)).scan("int x;\nint y;\n", "c")
    assert (scan.status, scan.reason) == (status, reason)
    if scan.findings:
        [finding] = scan.findings
        assert (finding.rule, finding.cwe, finding.severity) == ("no-foo", 477, "high")
        assert finding.text == "line 2: CWE-477, high: foo is bad"


def test_missing_engines_and_wrong_options_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="severity must be one of low, medium, high"):
        ShieldOptions(severity="severe")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="pip install semgrep"):
        Shield(ShieldOptions(semgrep_rules=tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[shield\]'"):
        Shield()


def test_files_are_scanned_by_their_suffix_and_markdown_by_its_fences(tmp_path: Path) -> None:
    code, text = tmp_path / "a.go", tmp_path / "a.md"
    code.write_text("package a\nvar c = &tls.Config{InsecureSkipVerify: true}\n")
    text.write_text("# A\n\n```js\neval(code);\n```\n\n- ```c\n  int x;\n  ```\n")
    [(first, scan)] = Shield().scan_file(code)
    assert (first, scan.status, scan.findings[0].line) == (1, "insecure", 2)
    blocks = Shield().scan_file(text)
    assert [(first, scan.language, scan.status) for first, scan in blocks] == [
        (4, "javascript", "insecure"),
        (8, "c", "clean"),
    ]
    with pytest.raises(DataError, match="can't read"):
        Shield().scan_file(tmp_path / "none.py")


@pytest.mark.parametrize(
    ("language", "code", "status", "line"),
    [
        ("markdown", "# Do\n\n```python\nimport os\nos.system(input())\n```\n", "insecure", 5),
        ("markdown", "# Do\n\n```python\nx = 1\n```\n", "clean", None),
        ("markdown", "# Do\n\n```zig\nx = 1\n```\n", "unknown", None),
        ("markdown", "# Do\n", "unknown", None),
        (None, "```python\nimport os\nos.system(input())\n", "insecure", 3),
        ("text", "```python\nx = 1\n", "unknown", None),
    ],
)
def test_blocks_within_a_block_are_scanned(language: str | None, code: str, status: str, line: int | None) -> None:
    scan = Shield().scan(code, language)
    assert scan.status == status
    assert [finding.line for finding in scan.findings] == ([] if line is None else [line])
