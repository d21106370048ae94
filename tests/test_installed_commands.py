"""Every command and every quality, run from the wheel in an environment of its own."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama3_mlx.convert.options import QUALITIES

from .evaluation.harness_tasks import save_tasks
from .support.fake_hub import running_hub
from .support.installed_wheel import Installed

DIALOGS = [
    {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} {n * 7}"}]}
    for n in range(8)
]
PAIRS = [{"prompt": f"{n}?", "chosen": f"{n}", "rejected": f"{n + 1}!"} for n in range(6)]
LABELED = [{"prompt": f"{n}?", "completion": f"{n}", "label": n % 2 == 0} for n in range(6)]
PROMPTS = [{"prompt": f"{n}?"} for n in range(4)]
DATA: dict[str, Sequence[object]] = {
    "train": DIALOGS,
    "dpo": PAIRS,
    "orpo": PAIRS,
    "kto": LABELED,
    "grpo": PROMPTS,
    "best-of-n": PROMPTS,
}

# What `main` is called with, one call after another in one process; the exit code is 0 unless it is named.
PROGRAM = """
import io, json, sys
from llama3_mlx import cli
calls, tried = json.load(open("calls.json")), {"serve"}
for call in calls:
    sys.stdin = io.StringIO("Say 1.\\n")
    print("$", *call, flush=True)
    if (code := cli.main(call)) not in ((0, 1) if call[0] == "guard" else (0,)):
        sys.exit(f"{call}: exit code {code}")
    tried.add(call[0])
sys.exit(f"not tried: {missing}" if (missing := sorted(set(cli.COMMANDS) - tried)) else 0)
"""


def calls(model_folder: str, guard: str, url: str) -> list[list[str]]:
    short = ("--steps", "1", "--samples", "0", "--rank", "2", "--row-length", "64", "--quiet")
    rewards = ("--rewards", "rewards.py:length", "--answer-tokens", "2")
    more = {"grpo": (*rewards, "--group-size", "2"), "best-of-n": (*rewards, "-n", "2")}
    made = [["convert", model_folder, "q8.gguf", "--gguf-type", "q8_0"]]
    for quality in QUALITIES:
        source = "q8.gguf" if quality == "repack" else model_folder
        made.append(["convert", source, f"./{quality}", "--bits", "8", "--quality", quality, "--group-size", "32"])
        if quality == "calibrated":
            made[-1] += ["--report", "report"]
        made.append(["generate", "-m", f"./{quality}", "-p", "Hi", "--max-tokens", "2"])
    model = ("-m", "./rtn")
    made += [
        ["pull", "org/small"],
        ["models"],
        ["info", *model],
        ["plan", "./rtn", "--nodes", "2"],
        ["chat", *model, "--max-tokens", "2"],
        ["run", "--url", url, Path(model_folder).name, "Hi", "--max-tokens", "2"],
        ["perplexity", "./rtn", "--text", "text.txt", "--length", "64", "--against", model_folder],
        ["bench", *model, "--lengths", "8", "--tokens", "2", "--rounds", "1", "--batch", "1"],
        ["data", "check", *model, "train.jsonl"],
        *([kind, *model, "-d", f"{kind}.jsonl", "-o", kind, *short, *more.get(kind, ())] for kind in DATA),
        [
            "draft",
            "train",
            *model,
            "-d",
            "train.jsonl",
            "-o",
            "./head",
            "--steps",
            "1",
            "--vocabulary",
            "64",
            "--quiet",
        ],
        ["generate", *model, "--draft", "./head", "-p", "Hi", "--max-tokens", "2"],
        ["adapter", "info", "./train"],
        ["adapter", "export", "./train", "peft"],
        ["fuse", *model, "-a", "./train", "-o", "./fused"],
        ["guard", "-m", guard, "--guard-version", "3-8b", "Hi"],
        ["cache", "list"],
        ["completion", "fish"],
        ["shield", "rewards.py"],
        ["eval", "./rtn", "--tasks", "letters", "--tasks-folder", "tasks", "--limit", "2"],
        ["service", "install", "--print", "--", *model],
        ["integrations", "services", "--folder", "services"],
    ]
    return made


@contextmanager
def serving(installed: Installed, folder: Path, model: Path) -> Iterator[str]:
    """Run `serve` and yield its address."""
    command = [str(installed.command), "serve", "-m", str(model), "--port", "0"]
    environment = installed.environment({"LLAMA3_MLX_HOME": str(folder / "home")})
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            yield process.stderr.readline().split(" on ")[1].split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 0, rest


@pytest.mark.slow
def test_every_command_and_quality_works_from_the_wheel(
    installed: Installed, small_chat: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name, examples in DATA.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    (tmp_path / "rewards.py").write_text(
        "def length(completions, **_):\n    return [len(text) for text in completions]"
    )
    (tmp_path / "tasks").mkdir()
    save_tasks(tmp_path / "tasks")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    with serving(installed, tmp_path, small_chat) as url, running_hub() as (hub, address):
        hub.repositories["org/small"] = small_chat
        (tmp_path / "calls.json").write_text(json.dumps(calls(str(small_chat), str(tiny_folder), url)))
        variables = {"LLAMA3_MLX_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
        variables |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        result = installed.run("-c", PROGRAM, cwd=tmp_path, variables=variables)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    record = json.loads((tmp_path / "calibrated" / "conversion.json").read_text())
    assert "calibrated on" in record["quantizer"]
    assert record["quality"]["tokens"] > 0
    assert (tmp_path / "report").exists()
    assert all((tmp_path / quality / "config.json").exists() for quality in QUALITIES)
