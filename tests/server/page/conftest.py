"""One server and one browser for all tests of the chat page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ...support.paced_llama import Loader, PacedLlama
from ...support.page_driver import Driver, PageServer
from ...support.server_fixtures import running_server, save_adapter
from ...support.small_chat import save_small_chat

FORGET = """() => new Promise((done, fail) => {
    localStorage.clear();
    Object.assign(indexedDB.deleteDatabase("llama3-mlx"), { onsuccess: done, onerror: fail, onblocked: fail });
})"""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="package")
def page_server(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server of two models that say what tests set down, and of a real one with an adapter."""
    folder = tmp_path_factory.mktemp("page")
    paced = {
        name: save_small_chat(folder / name, max_position_embeddings=length)
        for name, length in (("first", 8192), ("second", 2048))
    }
    (folder / "adapter").mkdir()
    adapter = save_adapter(folder / "adapter", 576, 576)
    loader = Loader(paced)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3_mlx.server.core.loaded_model.Llama", loader)
        patch.setenv("LLAMA3_MLX_HOME", str(folder / "home"))
        with running_server({**paced, "smollm2": smollm2_folder}, {"odd": adapter}) as running:
            yield PageServer(running, loader)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as runner:
        chromium = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def context(browser: Any) -> Iterator[Any]:
    """A profile of the browser whose cache all tests share; `chat` empties what the page keeps in it."""
    made = browser.new_context(accept_downloads=True)
    yield made
    made.close()


@pytest.fixture(params=[1280, 390])
def width(request: pytest.FixtureRequest) -> int:
    """The width of the window: a laptop's and a phone's, or those that a test's own parameter names."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def chat(context: Any, page_server: PageServer, width: int) -> Iterator[Driver]:
    """A page that nothing is kept of yet.

    Whatever the page complains about, and any request to another server, fails the test.
    """
    with fresh_page(context, page_server, width) as driver:
        yield driver


@contextmanager
def fresh_page(context: Any, server: PageServer, width: int) -> Iterator[Driver]:
    """Open the page with nothing kept, in a window of the last test: another one would be half of a test's time."""
    PacedLlama.answers.clear()
    PacedLlama.seen.clear()
    page = context.pages[0] if context.pages else context.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    if page.url != server.idle_url:
        page.goto(server.idle_url)
    page.evaluate(FORGET)
    driver = Driver(page, server)
    page.goto(server.url)
    driver.wait_ready()
    yield driver
    for says in PacedLlama.answers.values():
        says.go.set()
    for left in context.pages[1:]:
        left.close()
    for left in context.pages:
        left.goto(server.idle_url)
        left.unroute_all()
        left.emulate_media(color_scheme="null", reduced_motion="null")
    driver.unwatch()
    context.clear_permissions()
    assert driver.complaints == []
