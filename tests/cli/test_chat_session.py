"""A dialog survives what happens in a turn: too long a message, a server that goes away, a tool that fails."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx import Llama
from llama3_mlx.cli import main
from llama3_mlx.cli.chat_files import AutoSave, SavedDialog, latest_dialog, load_dialog_file
from llama3_mlx.cli.chat_session import ChatSession
from llama3_mlx.cli.line_editor import PipeReader, is_open, unquoted
from llama3_mlx.cli.remote import RemoteLlama
from llama3_mlx.cli.structured_flags import load_tools
from llama3_mlx.errors import DialogError, RequestError
from llama3_mlx.tools.functions import call_tool, tool_spec

from ..support.server_fixtures import running_server
from .test_cli import error_line, run

TOOL = '''
def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: which city
        days: how many days
    """
    raise ValueError("no weather today")

async def slow(city: str) -> str:
    """Tell it later."""
    raise OSError("nor later")
'''


def roles(session: ChatSession) -> list[str]:
    return [message["role"] for message in session.messages]


def test_a_message_beyond_the_context_is_told_and_the_dialog_goes_on(
    smollm2_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_tokens": 3, "temperature": 0.0}
    with running_server({"smollm2": smollm2_folder}) as running, Llama.load(smollm2_folder) as llama:
        for model in (RemoteLlama(running.url, "smollm2"), llama):
            session = ChatSession(model, None, settings)
            session.answer("Hello")
            session.answer("word " * 9000)
            said = capsys.readouterr().err
            assert "error: " in said
            assert "8192" in said
            session.answer("Hello again")
            assert roles(session) == ["user", "assistant"] * 2


def test_a_server_that_goes_away_is_told_and_the_dialog_goes_on_with_the_next_one(
    smollm2_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_tokens": 3, "temperature": 0.0}
    with running_server({"smollm2": smollm2_folder}) as running:
        session = ChatSession(RemoteLlama(running.url, None), "Be brief.", settings)
        session.answer("Hello")
    session.answer("Are you there?")
    assert "error: no server answers at" in capsys.readouterr().err
    assert roles(session) == ["system", "user", "assistant"]
    with running_server({"smollm2": smollm2_folder}) as running:
        session.model = RemoteLlama(running.url, None)
        session.answer("Hello again")
    assert roles(session) == ["system", *["user", "assistant"] * 2]


def test_a_tool_that_raises_is_told_to_the_model_and_to_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The specification is that of the plain function, made without the command line."""
    (tmp_path / "tools.py").write_text(TOOL)
    plain: dict[str, Any] = {}
    exec(compile(TOOL, "tools.py", "exec"), plain)
    weather, slow = load_tools([f"{tmp_path / 'tools.py'}:{name}" for name in ("weather", "slow")])
    assert tool_spec(weather) == tool_spec(plain["weather"])
    assert call_tool(weather, {"city": "Rome"}) == {"error": "ValueError: no weather today"}
    assert "weather raised ValueError: no weather today" in capsys.readouterr().err
    with pytest.raises(RequestError, match="city"):
        call_tool(weather, {"town": "Rome"})
    assert call_tool(slow, {"city": "Rome"}) == {"error": "OSError: nor later"}
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(RequestError, match=r"broken\.py can't be run: ModuleNotFoundError"):
        load_tools([f"{tmp_path / 'broken.py'}:f"])


class FailingModel:
    """A model whose turns end as a test says."""

    folder = "failing"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def stream_chat(self, *_: Any, **__: Any) -> Any:
        raise self.error

    run_tools = stream_chat


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RequestError("no"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("tools", [[], [len]])
def test_a_turn_that_fails_leaves_the_dialog_as_it_was(error: BaseException, tools: Sequence[Any]) -> None:
    session = ChatSession(FailingModel(error), "Be brief.", {}, tools)
    session.answer("Hello")
    assert roles(session) == ["system"]


def test_an_empty_system_message_is_not_the_template_s_own(smollm2_folder: Path, tmp_path: Path) -> None:
    """SmolLM2's template has a system message of its own; transformers renders both forms."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_folder)
    question = {"role": "user", "content": "Hi"}
    lengths = {}
    for flag, opening in ((None, []), ("", [{"role": "system", "content": ""}])):
        ids = tokenizer.apply_chat_template([*opening, question], add_generation_prompt=True, return_dict=False)
        flags = [] if flag is None else ["-s", flag]
        done = run("generate", "-m", str(smollm2_folder), "Hi", "--max-tokens", "1", "--json", *flags)
        assert json.loads(done.stdout)["prompt_tokens"] == len(ids)
        chat = run("chat", "-m", str(smollm2_folder), "--max-tokens", "1", *flags, stdin=b"Hi\n/stats\n")
        assert f"prompt: {len(ids)} tokens" in chat.stderr.decode()
        lengths[flag] = len(ids)
    assert lengths[None] > lengths[""]


def test_what_is_no_utf8_is_a_line_or_replaced_and_never_a_traceback(tiny_folder: Path, tmp_path: Path) -> None:
    model, latin = str(tiny_folder), "Grüße\n".encode("latin-1")
    for arguments in (["run", model], ["generate", "-m", model], ["generate", "-m", model, "-p", "Translate"]):
        assert "not UTF-8: byte 2" in error_line(run(*arguments, stdin=latin))
    path = tmp_path / "dialog.json"
    lines = latin + f"/save {path}\n".encode()
    result = run("chat", "-m", model, "--max-tokens", "2", stdin=lines)
    assert result.returncode == 0
    assert "note: a line is not UTF-8" in result.stderr.decode()
    assert json.loads(path.read_text())["messages"][0]["content"] == "Gr\ufffd\ufffde"


def test_a_terminal_without_utf8_gets_replaced_characters(tiny_folder: Path) -> None:
    arguments = ["generate", "-m", str(tiny_folder), "-p", "Hi", "--max-tokens", "40"]
    arguments += ["--temperature", "9", "--seed", "1"]
    whole = run(*arguments, PYTHONIOENCODING="utf-8")
    assert not whole.stdout.isascii(), "random tokens of a tiny model"
    plain = run(*arguments, PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == whole.stdout.decode().encode("ascii", errors="replace")


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_closed_standard_input_is_no_traceback(tiny_folder: Path, command: str) -> None:
    line = f'exec "{sys.executable}" -m llama3_mlx {command} -m "{tiny_folder}" <&-'
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert (result.returncode, "prompt is empty" in result.stderr) == (
        (2, True) if command == "generate" else (0, False)
    )


def test_values_of_the_template_reach_it(tmp_path: Path, tiny_folder: Path) -> None:
    """Llama 3.1's template writes `date_string`; the expected ids are those of transformers."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_folder)
    for date in ("1 Jan 2001", "Thursday, 1 January 2001"):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, date_string=date, return_dict=False
        )
        flags = ["--template-option", f"date_string={date}", "--max-tokens", "1"]
        done = run("generate", "-m", str(tiny_folder), "Hi", "--json", *flags)
        assert json.loads(done.stdout)["prompt_tokens"] == len(ids)
        chat = run("chat", "-m", str(tiny_folder), *flags, stdin=b"Hi\n/stats\n")
        assert f"prompt: {len(ids)} tokens" in chat.stderr.decode(), chat.stderr


def test_dialogs_are_saved_loaded_and_refused_in_one_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "one.json", tmp_path / "two.json"
    lines = (
        f"Hello\n/save {first}\n/reset\n/load {first}\nMore\n/save {second}\n/save {second}\n/load {tmp_path}/none\n"
    )
    result = run("chat", "-m", str(tiny_folder), "--max-tokens", "2", "-s", "Be brief.", stdin=lines.encode())
    assert result.returncode == 0, result.stderr
    one, two = (load_dialog_file(path).messages for path in (first, second))
    assert two[:3] == one
    assert [message["content"] for message in two if message["role"] == "user"] == ["Hello", "More"]
    assert "none can't be read: No such file" in result.stderr.decode()
    assert main(["chat", "-m", str(tiny_folder), "--resume", str(tiny_folder / "config.json")]) == 2
    assert 'has no list of "messages"' in capsys.readouterr().err
    for content in ("{", '{"messages": [{"role": "user"}]}', '[{"role": 5}]', "\xff"):
        first.write_text(content, encoding="latin-1")
        with pytest.raises(DialogError, match=r"one\.json"):
            load_dialog_file(first)


def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(tiny_folder: Path) -> None:
    said = run("chat", "-m", str(tiny_folder), stdin=b"/hlp\n/xyzzy\n/help\n").stderr.decode().splitlines()
    assert "no command /hlp; did you mean /help?" in said
    assert "no command /xyzzy; /help lists them" in said
    assert max(map(len, said)) < 80, "no line is broken in a terminal of 80 columns"


def test_what_a_killed_session_left_half_saved_is_not_the_last_dialog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    autosave = AutoSave()
    autosave.save(SavedDialog(model="model", messages=[{"role": "assistant", "content": "x"}]))
    (autosave.path.parent / f".{autosave.path.stem}-8o6a60nx.json").touch()
    assert latest_dialog() == autosave.path


def test_a_home_that_can_not_be_written_costs_a_note_and_no_dialog(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    autosave = AutoSave(tmp_path / "file" / "chats" / "x.json")
    for _ in range(2):
        autosave.save(SavedDialog(model="model", messages=[{"role": "assistant", "content": "x"}]))
    assert capsys.readouterr().err.count("isn't kept for --resume") == 1


@pytest.mark.parametrize(
    ("text", "opened", "message"),
    [
        ('"""a', True, '"""a'),
        ('"""a\nb"""', False, "a\nb"),
        ('"""A docstring."""\ncode()', False, '"""A docstring."""\ncode()'),
        ('say """this"""', False, 'say """this"""'),
        ("plain", False, "plain"),
    ],
)
def test_triple_quotes_hold_a_block_and_leave_code_alone(text: str, opened: bool, message: str) -> None:
    assert is_open(text) == opened
    assert unquoted(text) == message


def test_a_block_from_a_pipe_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO('"""one\n\ntwo"""\nthree \\\nfour\n"""cut'))
    reader = PipeReader()
    assert [reader.read() for _ in range(3)] == ["one\n\ntwo", "three \nfour", '"""cut']
    with pytest.raises(EOFError):
        reader.read()
