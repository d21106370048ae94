"""`llama3-mlx service`: has the server run at login, by launchd on a Mac and systemd on Linux."""

import argparse
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import RequestError
from ..files import save_whole
from ..server.settings import API_KEY_VARIABLE, ServerSettings
from .flags import from_flags

LABEL = "org.llama3-mlx.serve"
UNIT = "llama3-mlx.service"
# What the server's environment decides that a login session doesn't pass on.
VARIABLES = (
    "LLAMA3_MLX_HOME",
    "LLAMA3_MLX_MODEL",
    "LLAMA3_MLX_CACHE_GB",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
)
# The server finishes running answers for 30 seconds after SIGTERM.
_STOP_SECONDS = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `service`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    install = actions.add_parser("install", help="have the server start now and at login; replaces an earlier one")
    install.add_argument("--print", action="store_true", dest="only_print", help="print the file, change nothing")
    install.add_argument(
        "flags", nargs=argparse.REMAINDER, metavar="-- FLAG", help="flags of serve, as in: service install -- -m NAME"
    )
    install.set_defaults(action=_install)
    actions.add_parser("remove", help="stop it, and start it no more").set_defaults(action=_remove)
    actions.add_parser("status", help="show whether it is installed and running").set_defaults(action=_status)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.action(args))


def _install(args: argparse.Namespace) -> int:
    flags = args.flags[1:] if args.flags[:1] == ["--"] else args.flags
    serve = [*program(), "serve", *_checked(flags)]
    if "--log-format" not in flags:
        serve += ["--log-format", "json"]
    path = service_file()
    content = agent(serve) if _on_mac() else unit(serve).encode()
    if args.only_print:
        sys.stdout.write(content.decode())
        return 0
    if _on_mac():
        _quietly(["launchctl", "bootout", f"{_domain()}/{LABEL}"])
        starting = [["launchctl", "bootstrap", _domain(), str(path)]]
    else:
        starting = [
            ["systemctl", "--user", *words] for words in (["daemon-reload"], ["enable", UNIT], ["restart", UNIT])
        ]
    is_new = not path.exists()
    _save(path, content)
    try:
        for command in starting:
            _do(command)
    except RequestError:
        if is_new:
            # What the system didn't take is not installed.
            path.unlink()
        raise
    sys.stdout.write(f"installed {path}; the server starts now and at login\n")
    return 0


def _remove(_: argparse.Namespace) -> int:
    path = service_file()
    if not path.exists():
        raise RequestError(f"there is no service: {path} isn't there")
    if _on_mac():
        _quietly(["launchctl", "bootout", f"{_domain()}/{LABEL}"])
    else:
        _quietly(["systemctl", "--user", "disable", "--now", UNIT])
    path.unlink()
    if not _on_mac():
        _quietly(["systemctl", "--user", "daemon-reload"])
    sys.stdout.write(f"removed {path}\n")
    return 0


def _status(_: argparse.Namespace) -> int:
    path = service_file()
    if not path.exists():
        sys.stdout.write("not installed: llama3-mlx service install\n")
        return 1
    asked = ["launchctl", "print", f"{_domain()}/{LABEL}"] if _on_mac() else ["systemctl", "--user", "is-active", UNIT]
    code, output = _quietly(asked)
    running = code == 0 and ("state = running" in output or not _on_mac())
    sys.stdout.write(f"{path}\n{'running' if running else 'not running'}: {shlex.join(_installed_command(path))}\n")
    return 0 if running else 1


def service_file() -> Path:
    """Return the file that describes the service to this system."""
    if _on_mac():
        return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "systemd" / "user" / UNIT


def agent(command: Sequence[str]) -> bytes:
    """Return the property list of a launchd agent. Source: launchd.plist(5)."""
    values = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": environment(API_KEY_VARIABLE),
        "RunAtLoad": True,
        # Not after it was told to stop.
        "KeepAlive": {"SuccessfulExit": False},
        # Else macOS throttles it as background work.
        "ProcessType": "Interactive",
        "ExitTimeOut": _STOP_SECONDS,
        "StandardErrorPath": str(Path.home() / "Library" / "Logs" / "llama3-mlx.log"),
    }
    return plistlib.dumps({name: value for name, value in values.items() if value != {}}, sort_keys=False)


def unit(command: Sequence[str]) -> str:
    """Return a systemd unit of the user's. Source: systemd.service(5), for quoting systemd.syntax(7)."""
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment(API_KEY_VARIABLE).items()
    )
    return (
        "[Unit]\nDescription=llama3-mlx server\n\n"
        f"[Service]\nExecStart={' '.join(map(_quoted, command))}\n{variables}"
        f"Restart=on-failure\nTimeoutStopSec={_STOP_SECONDS}\n\n[Install]\nWantedBy=default.target\n"
    )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if not word or set(word) & set(" \t\"'\\;") else escaped


def environment(*more: str) -> dict[str, str]:
    """Return the variables of this environment that a program started by the system would lack."""
    return {name: _in_full(os.environ[name]) for name in (*VARIABLES, *more) if os.environ.get(name)}


def _checked(flags: Sequence[str]) -> list[str]:
    """Return flags of serve with their folders' names in full, since the system starts it in another folder.

    Raises what serve would for those that it doesn't take: at login nobody would see it.
    """
    from . import parse

    args = parse(["serve", *flags])
    settings = from_flags(args, ServerSettings)
    given = [*(args.model or ()), *args.adapter, *settings.draft, settings.guard or ""]
    full = {text: _in_full(text) for text in given}
    return [
        next((word.removesuffix(text) + full[text] for text in given if _gives(word, text)), word) for word in flags
    ]


def _gives(word: str, value: str) -> bool:
    """Whether a word of a command line is a flag's value, alone or behind the flag: `-mVALUE`, `--model=VALUE`."""
    return bool(value) and word.endswith(value) and (word == value or word.startswith("-"))


def _in_full(text: str) -> str:
    """Return a text with the path, by itself or behind NAME=, of a folder that is here written from the root on."""
    name, equals, path = text.rpartition("=")
    return f"{name}{equals}{Path(path).absolute()}" if path and Path(path).is_dir() else text


def program() -> list[str]:
    """Return how this very installation is started, independent of the working folder and PATH."""
    script = Path(sys.executable).with_name("llama3-mlx")
    return [str(script)] if script.exists() else [sys.executable, "-m", "llama3_mlx"]


def _installed_command(path: Path) -> list[str]:
    if _on_mac():
        command = plistlib.loads(path.read_bytes()).get("ProgramArguments", [])
        return [str(word) for word in command]
    lines = path.read_text(encoding="utf-8").splitlines()
    return shlex.split(next((line.partition("=")[2] for line in lines if line.startswith("ExecStart=")), ""))


def _on_mac() -> bool:
    return sys.platform == "darwin"


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _save(path: Path, content: bytes) -> None:
    """Write a file that may hold a key: nobody else is to read it."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    save_whole(path, write, private=True)


def _quietly(command: Sequence[str]) -> tuple[int, str]:
    """Run a command of the system and return its exit code and output; 127 where there is no such command."""
    if shutil.which(command[0]) is None:
        return 127, ""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def _do(command: Sequence[str]) -> None:
    code, output = _quietly(command)
    if code == 127:
        raise RequestError(
            f"{command[0]} isn't there, so nothing can start the server at login: use what this system has for that "
            "(service install --print shows the command)"
        )
    if code:
        reason = " ".join(output.split())[:200] or f"exit code {code}"
        raise RequestError(f"{shlex.join(command)} failed: {reason}")
