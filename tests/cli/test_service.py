"""`llama3-mlx service`: launchd's file as plistlib reads it, systemd's as systemd-analyze does where it is there."""

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llama3_mlx.cli import main, service
from llama3_mlx.server.settings import API_KEY_VARIABLE


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the system would be told, with a home folder of its own."""
    made: list[list[str]] = []

    def told(command: Sequence[str]) -> tuple[int, str]:
        made.append(list(command))
        return 0, "state = running"

    monkeypatch.setattr(service, "_quietly", told)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in (*service.VARIABLES, API_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_a_service_is_installed_shown_and_removed(
    system: str,
    calls: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "a 100% model's home"))
    assert main(["service", "status"]) == 1
    assert "not installed" in capsys.readouterr().out
    assert main(["service", "install", "--", "-m", "my model", "--port", "8088"]) == 0
    path = service.service_file()
    assert path.is_relative_to(tmp_path)
    command = [*service.program(), "serve", "-m", "my model", "--port", "8088", "--log-format", "json"]
    if system == "darwin":
        values = plistlib.loads(path.read_bytes())
        assert values["ProgramArguments"] == command
        assert values["EnvironmentVariables"] == {"LLAMA3_MLX_HOME": str(tmp_path / "a 100% model's home")}
        assert (values["RunAtLoad"], values["KeepAlive"]) == (True, {"SuccessfulExit": False})
        assert [call[:2] for call in calls] == [["launchctl", "bootout"], ["launchctl", "bootstrap"]]
    else:
        assert f'"LLAMA3_MLX_HOME={tmp_path}/a 100%% model' in path.read_text()
        assert [call[2] for call in calls] == ["daemon-reload", "enable", "restart"]
    capsys.readouterr()
    assert main(["service", "status"]) == 0
    assert "running: " in (shown := capsys.readouterr().out)
    assert "'my model' --port 8088" in shown
    assert main(["service", "remove"]) == 0
    assert not path.exists()
    assert main(["service", "remove"]) == 2


def test_flags_that_serve_does_not_take_are_refused_before_anything_is_written(
    calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", "--", "--prot", "1"]) == 2
    assert "--port" in capsys.readouterr().err
    assert calls == []
    assert not service.service_file().exists()


def test_what_the_system_refuses_is_not_left_installed(
    calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    path = service.service_file()
    assert main(["service", "install"]) == 0
    monkeypatch.setattr(service, "_quietly", lambda _: (1, "Failed to connect to bus"))
    assert main(["service", "install"]) == 2
    assert "Failed to connect to bus" in capsys.readouterr().err
    assert path.exists(), "the one before stays"
    path.unlink()
    assert main(["service", "install"]) == 2
    assert not path.exists()


def test_folders_are_named_in_full_for_the_system_starts_it_elsewhere(
    calls: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "mine", "small", "guard", "8088"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA3_MLX_MODEL", "./model")
    flags = ["-m", "model", "--model=model", "-m", "elsewhere", "--adapter", "a=mine", "--draft", "model=./small"]
    assert main(["service", "install", "--", *flags, "--guard=guard", "--port", "8088"]) == 0
    (_, *words, _, _) = service._installed_command(service.service_file())
    assert words == [
        *("serve", "-m", f"{tmp_path}/model", f"--model={tmp_path}/model", "-m", "elsewhere"),
        *("--adapter", f"a={tmp_path}/mine", "--draft", f"model={tmp_path}/small"),
        *(f"--guard={tmp_path}/guard", "--port", "8088"),
    ]
    assert f"Environment=LLAMA3_MLX_MODEL={tmp_path}/model\n" in service.service_file().read_text()


def test_other_machines_need_a_key_which_nobody_else_can_read(
    calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server would refuse to start without: at login nobody would see it."""
    assert main(["service", "install", "--", "--host", "0.0.0.0"]) == 2
    assert API_KEY_VARIABLE in capsys.readouterr().err
    assert not service.service_file().exists()
    monkeypatch.setenv(API_KEY_VARIABLE, "a key")
    assert main(["service", "install", "--", "--host", "0.0.0.0"]) == 0
    assert f'Environment="{API_KEY_VARIABLE}=a key"' in service.service_file().read_text()
    assert service.service_file().stat().st_mode & 0o077 == 0


def test_printing_changes_nothing(calls: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "install", "--print"]) == 0
    assert "serve --log-format json" in capsys.readouterr().out.replace("</string>\n\t\t<string>", " ")
    assert calls == []
    assert not service.service_file().exists()


def test_systemd_takes_the_unit(calls: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze isn't installed")
    path = tmp_path / service.UNIT
    path.write_text(service.unit([sys.executable, "-m", "llama3_mlx", "serve", "-m", 'a "b" $c %d']))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "verify", "--user", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
