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

from ...support.fake_hub import FakeHub, running_hub
from ...support.paced_llama import Loader
from ...support.page_driver import Driver, PageServer
from ...support.processes import announced, running
from ...support.server_fixtures import Running
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
    with running(command, env=environment, stderr=subprocess.PIPE) as process:
        yield announced(process, r"(http://[\d.]+:\d+)\D")


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, str]]:
    """A Hub with a model and the address of a server that downloads from it."""
    folder = tmp_path_factory.mktemp("managed")
    own = save_small_chat(folder / "own")
    with running_hub() as (hub, address), serve_process(folder, own, address) as url:
        hub.repositories["them/small"] = save_small_chat(folder / "source")
        yield hub, url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that needs a key and manages no models."""
    folder = tmp_path_factory.mktemp("locked")
    own = save_small_chat(folder / "own")
    with serve_process(folder, own, "http://127.0.0.1:9", "--no-manage", "--api-key", "secret") as url:
        yield url


@pytest.fixture
def page(browser: Any, width: int) -> Iterator[Any]:
    """A page of an empty profile."""
    context = browser.new_context(viewport={"width": width, "height": 800})
    yield context.new_page()
    context.close()


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


def test_a_model_is_downloaded_with_progress_cancelled_and_deleted(
    page: Any, managed: tuple[FakeHub, str], width: int
) -> None:
    hub, url = managed
    # One of its own: until its connection ends, a cancelled download keeps the model's others waiting.
    stalls = f"them/stalls-{width}"
    hub.repositories[stalls] = hub.repositories["them/small"]
    hub.stalled["model.safetensors"] = 20_000
    chat = Driver(page, PageServer(Running(url, None), Loader({})))
    chat.open()
    chat.from_sidebar("#open-models")
    page.fill("#pull-name", "no id")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pull-error:has-text('Hub id')")
    page.fill("#pull-name", stalls)
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
    assert page.locator(f"#model-list li[data-name='{stalls}']").count() == 0
    chat.leave()
    page.select_option("#model", "them/small")
    chat.set_up(max_tokens="3")
    chat.ask("Hello")
    chat.from_sidebar("#open-models")
    item.locator("[data-action=delete]").click()
    page.click("#confirm-yes")
    item.wait_for(state="detached")
    assert page.locator("#model option[value='them/small']").count() == 0
    chat.leave()
    chat.ask("Still there?")
    said = page.inner_text("#toast span")
    assert re.fullmatch(r"them/small isn't there any more: \w+ answers\.", said)
    assert page.locator(".message.assistant h2").all_inner_texts() == ["them/small", said.split()[-2]]
    assert chat.complaints == []


def test_what_the_server_forbids_is_not_offered(page: Any, locked: str) -> None:
    """With --no-manage there is neither download nor deletion; with a key, nothing without the key."""
    chat = Driver(page, PageServer(Running(locked, None), Loader({})))
    page.goto(locked)
    page.wait_for_selector("#set-key:focus")
    page.fill("#set-key", "secret")
    page.press("#set-key", "Tab")
    page.wait_for_selector("#model option", state="attached")
    chat.leave()
    chat.from_sidebar("#open-models")
    page.wait_for_selector("#model-list li")
    assert page.locator("#model-list [data-action=load]").count() == 1
    assert page.inner_text("#models-note").startswith("Nothing of the ")
    assert page.locator("#model-list [data-action=delete]").count() == 0
    assert page.is_hidden("#pull")
