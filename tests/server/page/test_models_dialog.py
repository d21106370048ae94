"""Models as the page manages them: loaded, unloaded, downloaded with progress, cancelled, deleted."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ...support.fake_hub import running_hub
from ...support.page_driver import Driver
from ...support.small_chat import save_small_chat

pytestmark = pytest.mark.timeout(180)


@contextmanager
def serve_process(folder: Path, model: Path, hub: str, *flags: str) -> Iterator[str]:
    """Run `llama3-mlx serve` with a home and a Hub of its own, which are read when it starts; gives its address."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "LLAMA3_MLX_HOME": str(folder / "home"),
    }
    command = [sys.executable, "-m", "llama3_mlx", "serve", "-m", str(model), "--port", "0", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield next(match[0] for line in process.stderr if (match := re.search(r"http://[\d.]+:\d+", line)))
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.parametrize("chat", [1280, 390], indirect=True)
def test_models_are_listed_with_their_facts_loaded_and_unloaded(chat: Driver) -> None:
    page = chat.page
    chat.server.running.post("/api/generate", {"model": "second", "keep_alive": 0})
    chat.from_sidebar("#open-models")
    second = page.locator("#model-list li[data-name=second]")
    second.wait_for()
    assert re.search(
        r"\d+M · F32 · [\d.]+ [kM]B · 2,048 tokens of context · [\d.]+ [kM]B when loaded", second.inner_text()
    )
    assert "Adapters: odd" in page.locator("#model-list li[data-name=smollm2]").inner_text()
    assert "not loaded" in second.inner_text()
    second.locator("[data-action=load]").click()
    second.locator("[data-action=unload]").wait_for()
    assert "loaded, goes after" in second.inner_text()
    second.locator("[data-action=unload]").click()
    second.locator("[data-action=load]").wait_for()
    assert page.evaluate("document.activeElement.dataset.action") == "load"
    second.locator("[data-action=delete]").click()
    page.click("#confirm button:text-is('Cancel')")
    assert second.locator(".error").count() == 0
    second.locator("[data-action=delete]").click()
    page.click("#confirm-yes")
    second.locator(".error").wait_for()
    assert "isn't ours to delete" in second.locator(".error").inner_text()
    chat.complaints[:] = [said for said in chat.complaints if "400" not in said]


def test_a_model_is_downloaded_with_progress_cancelled_and_deleted(browser: Any, tmp_path: Path) -> None:
    source = save_small_chat(tmp_path / "source")
    own = save_small_chat(tmp_path / "own")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    with running_hub() as (hub, address), serve_process(tmp_path, own, address) as url:
        hub.repositories |= {"them/stalls": source, "them/small": source}
        hub.stalled["model.safetensors"] = 20_000
        page.goto(url)
        page.wait_for_selector("#model option", state="attached")
        page.click("#open-models")
        page.fill("#pull-name", "no id")
        page.keyboard.press("Enter")
        page.wait_for_selector("#pull-error:has-text('Hub id')")
        page.fill("#pull-name", "them/stalls")
        page.click("#pull-start")
        page.wait_for_function("() => document.querySelector('#pull-progress').value > 0")
        assert re.fullmatch(r"[\d.]+ [kM]B of [\d.]+ [kM]B", page.inner_text("#pull-text"))
        page.click("#pull-cancel")
        page.wait_for_selector("#pull-error:has-text('cancelled')")
        assert page.evaluate("document.activeElement.id") == "pull-name"
        hub.stalled.clear()
        page.fill("#pull-name", "them/small")
        page.click("#pull-start")
        item = page.locator("#model-list li[data-name='them/small']")
        item.wait_for()
        assert page.locator("#model option[value='them/small']").count() == 1
        assert page.locator("#model-list li[data-name='them/stalls']").count() == 0
        item.locator("[data-action=delete]").click()
        page.click("#confirm-yes")
        item.wait_for(state="detached")
        assert page.locator("#model option[value='them/small']").count() == 0
    context.close()


def test_what_the_server_forbids_is_not_offered(browser: Any, tmp_path: Path) -> None:
    """With --no-manage there is neither download nor deletion; with a key, nothing without the key."""
    own = save_small_chat(tmp_path / "own")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    with serve_process(tmp_path, own, "http://127.0.0.1:9", "--no-manage", "--api-key", "secret") as url:
        page.goto(url)
        page.wait_for_selector("#set-key:focus")
        page.fill("#set-key", "secret")
        page.press("#set-key", "Tab")
        page.wait_for_selector("#model option", state="attached")
        page.keyboard.press("Escape")
        page.click("#open-models")
        page.wait_for_selector("#model-list li")
        assert page.locator("#model-list [data-action=load]").count() == 1
        assert page.locator("#model-list [data-action=delete]").count() == 0
        assert page.is_hidden("#pull")
    context.close()
