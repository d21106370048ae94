"""`llama3-mlx integrations`: the bundle as plistlib reads it, and its script as bash runs it."""

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.cli import integrations, main, service


def written(folder: Path, *flags: str, name: str = "Ask Llama") -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a service and return its two property lists."""
    assert main(["integrations", "services", "--folder", str(folder), *flags]) == 0
    contents = folder / f"{name}.workflow" / "Contents"
    assert sorted(path.name for path in contents.iterdir()) == ["Info.plist", "document.wflow"]
    return tuple(plistlib.loads((contents / name).read_bytes()) for name in ("Info.plist", "document.wflow"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*service.VARIABLES, "LLAMA3_MLX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_service_takes_the_selected_text(tmp_path: Path) -> None:
    info, document = written(tmp_path / "services", "-m", "my model")
    (entry,) = info["NSServices"]
    assert entry["NSMenuItem"] == {"default": "Ask Llama"}
    assert entry["NSMessage"] == "runWorkflowAsService"
    assert "NSReturnTypes" not in entry
    assert document["workflowMetaData"]["workflowTypeIdentifier"] == "com.apple.Automator.servicesMenu"
    (action,) = (each["action"] for each in document["actions"])
    assert action["BundleIdentifier"] == "com.apple.RunShellScript"
    script = action["ActionParameters"]["COMMAND_STRING"]
    assert "run 'my model'" in script
    assert "osascript" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("answer", "expected"), [("below", 'it\'s "$5"\n\nFix:|it\'s "$5"'), ("replace", 'Fix:|it\'s "$5"')]
)
def test_its_script_gives_back_the_answer(
    answer: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the model says what it was asked, in one line."""
    monkeypatch.setattr(integrations, "program", lambda: [sys.executable, "-c", ECHO])
    monkeypatch.setenv("LLAMA3_MLX_HOME", "a b")
    monkeypatch.setenv("LLAMA3_MLX_URL", "http://127.0.0.1:8088")
    info, document = written(tmp_path, "--answer", answer, "--prompt", "Fix:", "--name", "Fix it", name="Fix it")
    assert info["NSServices"][0]["NSReturnTypes"] == ["public.utf8-plain-text"]
    script = document["actions"][0]["action"]["ActionParameters"]["COMMAND_STRING"]
    result = subprocess.run(["bash", "-c", script], input='it\'s "$5"', capture_output=True, text=True, check=True)
    assert result.stdout == expected
    failing = script.replace("import sys\n", "import sys; sys.exit(3)\n", 1)
    result = subprocess.run(["bash", "-c", failing], input="x", capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")


ECHO = """
import sys
import os
assert sys.argv[1:] == ["run"] and os.environ["LLAMA3_MLX_HOME"] == "a b"
assert os.environ.pop("LLAMA3_MLX_URL") == "http://127.0.0.1:8088"
print(sys.stdin.read().replace("\\n\\n", "|"), end="")
"""


def test_an_earlier_service_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path)
    assert main(["integrations", "services", "--folder", str(tmp_path), "--answer", "replace"]) == 2
    assert "--force" in capsys.readouterr().err
    info, _ = written(tmp_path, "--answer", "replace", "--force")
    assert "NSReturnTypes" in info["NSServices"][0]
    assert main(["integrations", "services", "--folder", str(tmp_path), "--name", "a/b"]) == 2


def test_where_services_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["integrations", "services"]) == 2
    assert "--folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["integrations", "services"]) == 0
    assert (tmp_path / "Library" / "Services" / "Ask Llama.workflow" / "Contents" / "document.wflow").exists()
    shutil.rmtree(tmp_path / "Library")
