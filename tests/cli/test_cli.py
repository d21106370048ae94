"""The command line as a user runs it: in processes of its own, on a tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx import __version__

from ..support.smollm2 import gguf_path
from ..support.tiny_model import save_tiny

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llama3_mlx", *arguments]
    values = {**os.environ, "LLAMA3_MLX_HOME": "/nonexistent", "LLAMA3_MLX_URL": "http://127.0.0.1:9", **environment}
    return subprocess.run(command, input=stdin, capture_output=True, env=values, check=False, timeout=120)


def error_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a failed command."""
    text = result.stderr.decode()
    assert result.returncode == 2, text
    assert result.stdout == b""
    assert text.startswith("error: ")
    assert text.count("\n") == 1, text
    return text


def test_version_and_help() -> None:
    assert run("--version").stdout.decode().strip() == f"llama3-mlx {__version__}"
    overview = run("--help").stdout.decode()
    for command in ("convert", "generate", "chat", "info"):
        assert command in overview
        assert "usage: " in run(command, "--help").stdout.decode()


def test_without_arguments_the_help_is_shown() -> None:
    bare = run()
    assert bare.returncode == 0
    assert bare.stdout == run("--help").stdout
    assert run("help", "train").stdout == run("train", "--help").stdout


def test_words_of_other_programs_are_known(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tiny_folder)

    def at_home(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return run(*arguments, LLAMA3_MLX_HOME=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "hub"))

    for words in (["list"], ["ls"], ["models", "ls"]):
        assert at_home(*words).stdout == at_home("models").stdout
    assert at_home("models", "show", "mine", "--json").stdout == at_home("info", "mine", "--json").stdout
    assert at_home("show", "mine", "--json").stdout == at_home("info", "mine", "--json").stdout
    assert "gone" in error_line(at_home("rm", "gone"))


def test_a_question_stands_anywhere_on_the_command_line(small_chat: Path) -> None:
    flag = run("generate", "-m", str(small_chat), "-p", "Hi there", "--max-tokens", "4")
    assert flag.returncode == 0, flag.stderr
    limit = ["--max-tokens", "4"]
    for arguments in (["Hi there", *limit], [*limit, "Hi", "there"], ["Hi", *limit, "there"]):
        assert run("generate", "-m", str(small_chat), *arguments).stdout == flag.stdout
    asked = run("run", str(small_chat), "--max-tokens", "4", "Hi there")
    assert asked.stdout == flag.stdout, asked.stderr


def test_what_is_piped_in_is_appended_to_the_prompt(small_chat: Path) -> None:
    arguments = ["generate", "-m", str(small_chat), "--max-tokens", "4", "-p"]
    whole = run(*arguments, "Summarize\n\nnotes of the day")
    assert run(*arguments, "Summarize", stdin=b"notes of the day\n").stdout == whole.stdout
    asked = run("run", str(small_chat), "--max-tokens", "4", "Summarize", stdin=b"notes of the day\n")
    assert asked.stdout == whole.stdout


def test_help_does_not_import_mlx() -> None:
    code = """
import sys
from llama3_mlx.cli import main
try:
    main(["--help"])
except SystemExit:
    print("mlx.core" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("False")


def test_generate_prints_the_answer_alone_and_statistics_when_asked(small_chat: Path) -> None:
    quiet = run("generate", "-m", str(small_chat), "-p", "Hi", "--max-tokens", "5")
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stderr == b""
    loud = run("generate", "-m", str(small_chat), "-p", "Hi", "--max-tokens", "5", "--stats")
    assert loud.stdout == quiet.stdout
    assert "answer: 5 tokens" in loud.stderr.decode()


def test_generate_as_json_for_programs(tiny_folder: Path) -> None:
    arguments = ["generate", "-m", str(tiny_folder), "-p", "Hi", "--max-tokens", "4", "--json"]
    completion = json.loads(run(*arguments).stdout)
    assert completion["finish_reason"] == "length"
    assert len(completion["token_ids"]) == 4
    raw = json.loads(run(*arguments, "--raw").stdout)
    assert raw["prompt_tokens"] == 2 < completion["prompt_tokens"], "beginning of text and one token"


def test_the_prompt_comes_from_standard_input_too(small_chat: Path) -> None:
    arguments = ["generate", "-m", str(small_chat), "--max-tokens", "4"]
    flag = run(*arguments, "-p", "Grüße 🦙")
    assert run(*arguments, stdin="Grüße 🦙\n".encode()).stdout == flag.stdout
    assert run(*arguments, "-p", "-", stdin="Grüße 🦙".encode()).stdout == flag.stdout


def test_the_model_comes_from_the_environment_too(tiny_folder: Path) -> None:
    assert run("info", LLAMA3_MLX_MODEL=str(tiny_folder)).returncode == 0


def test_the_embedded_model_is_used_and_said_so(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SmolLM2-135M-Instruct-4bit").symlink_to(tiny_folder)
    result = run("info", "--json", LLAMA3_MLX_HOME=str(tmp_path), LLAMA3_MLX_MODEL="")
    assert result.returncode == 0
    assert "using the embedded SmolLM2-135M-Instruct-4bit; choose a Llama 3 with -m" in result.stderr.decode()


def test_info_counts_what_is_there(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", **SMALL)
    facts = json.loads(run("info", str(folder), "--json", "--context", "1000").stdout)
    # 512 x 64 embedding, two layers of attention 3 x 64 x 128 + 2 x 64 x 64 and MLP 3 x 64 x 128, five norms of 64.
    parameters = 512 * 64 + 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert facts["parameters"] == parameters
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 32 * 4, "two layers of two heads of 32, float32 on the CPU"
    assert facts["memory_bytes_at_context"]["1000"] == parameters * 4 + 1000 * facts["kv_bytes_per_token"]
    assert facts["bits_per_weight"] == 16
    table = run("info", str(folder)).stdout.decode()
    assert f"{parameters:,}" in table
    assert "if stored in 16 bits  " in table


def test_a_context_beyond_the_model_s_is_warned_of(tiny_folder: Path) -> None:
    result = run("info", str(tiny_folder), "--context", "200000")
    assert result.returncode == 0
    assert result.stderr.decode() == "note: 200,000 tokens are beyond the model's context of 131,072\n"


def test_clearing_the_cache_of_a_model_that_has_none_is_refused(tmp_path: Path) -> None:
    assert "nothing of a model 'nosuch'" in error_line(run("cache", "clear", "nosuch", LLAMA3_MLX_HOME=str(tmp_path)))


def test_convert_reports_and_the_result_generates(tiny_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    result = run("convert", str(tiny_folder), str(dest), "--bits", "4", "--group-size", "32", "--json")
    report = json.loads(result.stdout)
    assert report["bits_per_weight"] == pytest.approx(5.0, abs=0.01)
    assert "converting: " in result.stderr.decode()
    assert run("generate", "-m", str(dest), "-p", "Hi", "--max-tokens", "2").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "X", "Y", "--bits", "7"], "invalid choice: 7; choose one of 2, 3, 4, 5, 6, 8"),
        (["convert", "no.gguf", "Y"], "there is no file no.gguf"),
        (["convert", "no/file.gguf", "Y", "--dry-run"], "there is no file no/file.gguf"),
        (["adapter", "infoo"], "'infoo'; did you mean info?"),
        (["models", "lst"], "'lst'; did you mean list?"),
        (["models", "rm", "gone"], "there is no model 'gone'"),
        (["convert", "X"], "required: DEST"),
        (["convert", "/no/folder", "Y"], "there is no folder /no/folder"),
        (["dance"], "there is no command 'dance' (see llama3-mlx --help)"),
        (["chatt"], "there is no command 'chatt'; did you mean chat?"),
        (["generate", "--promt", "x"], "unrecognized arguments: --promt; did you mean --prompt?"),
        (["train", "--lr", "1e-4"], "did you mean --learning-rate?"),
        (["train", "--iters", "5"], "did you mean --steps?"),
        (["train", "--learning_rate", "5"], "did you mean --learning-rate?"),
        (["convert", "X", "Y", "--q-bits", "4"], "did you mean --bits?"),
        (["generate", "-p", "x", "-m", "llama3.2"], "did you mean mlx-community/Llama-3.2-3B-Instruct-4bit?"),
        (["generate", "-p", "x", "y"], "there are two prompts"),
        (["ps"], "no server answers at http://127.0.0.1:9"),
        (["generate", "-p", "x", "--temperature", "hot"], "invalid float value: 'hot'"),
        (["generate", "-p", "x", "--temperature", "-1"], "temperature must be from 0 to 100"),
        (["generate", "-p", "x", "--top-p", "7"], "top_p must be from 0 to 1"),
        (["generate", "-p", "", "-m", "X"], "the prompt is empty"),
        (["generate", "-p", "x", "-m", "/no/folder"], "there is no folder /no/folder"),
        (["generate", "-p", "x", "--frequencies", "2"], "unrecognized arguments"),
        (["info", "/"], "no config.json"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], words: str) -> None:
    assert words in error_line(run(*arguments))


def test_bad_models_and_prompts_are_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_folder)
    assert "not UTF-8: byte 2" in error_line(run("generate", "-m", model, stdin=b"ab\xff"))
    assert "prompt is empty" in error_line(run("generate", "-m", model, stdin=b" \n"))
    long = run("generate", "-m", model, "--raw", stdin=b"a " * 140_000)
    assert "but the model's context is 131072" in error_line(long)
    odd = save_tiny(tmp_path / "odd", **SMALL)
    assert "neither tokenizer.json nor tokenizer.model" in error_line(run("generate", "-m", str(odd), "-p", "x"))
    (odd / "tokenizer.json").write_text("{")
    assert "tokenizer.json can't be read" in error_line(run("generate", "-m", str(odd), "-p", "x"))
    (odd / "model.safetensors").write_bytes((odd / "model.safetensors").read_bytes()[:-10])
    assert "cut short" in error_line(run("generate", "-m", str(odd), "-p", "x"))
    assert "exists already" in error_line(run("convert", model, str(odd), "--bits", "4"))


def test_a_model_of_nan_says_so_and_does_not_babble(tiny_folder: Path, tmp_path: Path) -> None:
    from ..support.tiny_model import CONFIG, tiny_weights

    weights = tiny_weights(CONFIG)
    weights["model.norm.weight"][:] = float("nan")
    folder = save_tiny(tmp_path / "nan", weights=weights)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(tiny_folder / name)
    assert "logits are not finite" in error_line(run("generate", "-m", str(folder), "-p", "x"))


def test_a_full_disk_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    """A file size limit fails a write as a full disk does."""
    import resource

    source = save_tiny(tmp_path / "source", **{**SMALL, "vocab_size": 40_000})

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [sys.executable, "-m", "llama3_mlx", "convert", str(source), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, check=False, preexec_fn=limit)
    assert "writing failed: File too large; what is done is kept in" in error_line(result)
    assert not (tmp_path / "out").exists()


def test_a_closed_pipe_ends_quietly(tiny_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "llama3_mlx",
        "generate",
        "-m",
        str(tiny_folder),
        "-p",
        "Hi",
        "--max-tokens",
        "400",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_chat_from_a_pipe_keeps_the_dialog_and_obeys_commands(tiny_folder: Path, tmp_path: Path) -> None:
    lines = ["Hello", "/system Be brief", "One", "two \\", "lines", f"/save {tmp_path}/dialog.json", "/stats"]
    lines += ["/nonsense", "/reset", f"/save {tmp_path}/after.json", "/exit", "never read"]
    result = run("chat", "-m", str(tiny_folder), "--max-tokens", "3", stdin="\n".join(lines).encode())
    assert result.returncode == 0, result.stderr
    messages = json.loads((tmp_path / "dialog.json").read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "Be brief"
    assert messages[3]["content"] == "two \nlines"
    assert json.loads((tmp_path / "after.json").read_text())["messages"] == [{"role": "system", "content": "Be brief"}]
    assert "no command /nonsense" in result.stderr.decode()
    assert "answer: 3 tokens" in result.stderr.decode()


def test_a_gguf_file_converts_from_the_command_line(tmp_path: Path) -> None:
    result: Any = run("convert", str(gguf_path()), str(tmp_path / "out"), "--bits", "8", "--group-size", "32")
    assert result.returncode == 0, result.stderr
    answer = run("generate", "-m", str(tmp_path / "out"), "-p", "What is the capital of France?", "--max-tokens", "12")
    assert "Paris" in answer.stdout.decode()


def test_bash_completes_commands_flags_and_files(tmp_path: Path) -> None:
    """Bash itself runs the script and the completion."""
    script = tmp_path / "completion.bash"
    script.write_bytes(run("completion", "bash").stdout)
    for line, meant in COMPLETED:
        words = line.split(" ")
        ask = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        ask += '$(complete -p llama3-mlx | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); echo "${COMPREPLY[@]}"'
        result = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert result.stdout.split() == [meant], result.stderr


COMPLETED = (
    ("llama3-mlx conv", "convert"),
    ("llama3-mlx generate --max-t", "--max-tokens"),
    ("llama3-mlx convert compl", "completion.bash"),
    ("llama3-mlx chat -m compl", "completion.bash"),
)


def test_fish_completes_commands_flags_and_files(tmp_path: Path) -> None:
    """By fish itself, where it is there; the script is for fish in any case."""
    folder = tmp_path / "fish" / "completions"
    folder.mkdir(parents=True)
    (folder / "llama3-mlx.fish").write_bytes(script := run("completion", "fish").stdout)
    assert b"complete -c llama3-mlx" in script
    if shutil.which("fish") is None:
        pytest.skip("fish isn't installed")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    (tmp_path / "completion.bash").touch()
    for line, meant in COMPLETED:
        ask = ["fish", "-c", f"complete -C '{line}'"]
        result = subprocess.run(ask, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        assert [shown.split("\t")[0] for shown in result.stdout.splitlines()] == [meant], result.stderr
