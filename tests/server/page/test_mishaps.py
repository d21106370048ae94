"""What goes wrong around the page: no room, no storage, a server that goes away, a clock that jumps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ...support.cut_proxy import cut_proxy
from ...support.page_driver import ONE_WIDTH, Driver, PageServer
from ...support.server_fixtures import Running

pytestmark = pytest.mark.timeout(120)
NO_STORAGE = """for (const name of ["indexedDB", "localStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""
# Date.now() and the time of new messages; what the page measures durations by goes on.
JUMP = """() => {
    const { now } = Date;
    Date.now = () => now() - 400 * 86_400_000;
}"""


def saved(chat: Driver, tmp_path: Path) -> Any:
    """Return what "Save everything to a file" gives."""
    chat.from_sidebar("#open-settings")
    with chat.page.expect_download() as got:
        chat.page.click("#export")
    chat.leave()
    got.value.save_as(tmp_path / "saved.json")
    return json.loads((tmp_path / "saved.json").read_text())


def test_a_full_browser_is_told_and_nothing_is_dropped(
    browser: Any, page_server: PageServer, width: int, tmp_path: Path
) -> None:
    """The browser's own quota, by its debugger's protocol, in a new profile: it isn't looked at on each write."""
    context = browser.new_context(accept_downloads=True, viewport={"width": width, "height": 800})
    warned: list[str] = []
    page = context.new_page()
    chat = Driver(page, page_server)
    origin = {"origin": chat.server.url}
    debugger = context.new_cdp_session(page)
    debugger.send("Storage.overrideQuotaForOrigin", {**origin, "quotaSize": 30_000})
    page.goto(page_server.url)
    chat.wait_ready()
    chat.ask("Not kept")
    assert re.search("no room left.*stays in this page.*Save everything", page.inner_text("#toast"))
    assert chat.shown() == ["Not kept", "You said: Not kept"]
    assert [message["content"] for message in saved(chat, tmp_path)["messages"]] == chat.shown()

    def stay(dialog: Any) -> None:
        warned.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.close(run_before_unload=True)
    chat.until("document.title.startsWith('Not kept')")
    assert warned == ["beforeunload"]
    page.click("[data-action=close-notice]")
    chat.ask("Not kept either")
    assert "no room left" in page.inner_text("#toast")
    debugger.send("Storage.overrideQuotaForOrigin", origin)
    chat.ask("There is room")
    assert "everything is kept" in page.inner_text("#toast")
    chat.open()
    assert chat.shown()[::2] == ["Not kept", "Not kept either", "There is room"]
    assert warned == ["beforeunload"]
    context.close()
    assert chat.complaints == []


def test_without_any_storage_the_page_works_and_says_that_nothing_is_kept(
    browser: Any, page_server: PageServer, width: int, tmp_path: Path
) -> None:
    """As in a browser that blocks all data of the site."""
    context = browser.new_context(accept_downloads=True, viewport={"width": width, "height": 800})
    context.add_init_script(NO_STORAGE)
    chat = Driver(context.new_page(), page_server)
    chat.page.goto(page_server.url)
    chat.wait_ready()
    assert "keeps nothing" in chat.page.inner_text("#toast")
    assert chat.ask("Hello") == "You said: Hello"
    chat.page.fill("#composer-text", "half a thou")
    chat.from_sidebar("#new-chat")
    chat.ask("Another")
    chat.go_to("Hello")
    chat.until("document.querySelector('#composer-text').value === 'half a thou'")
    assert len(saved(chat, tmp_path)["messages"]) == 4
    chat.from_sidebar("#open-settings")
    chat.page.select_option("#set-theme", "dark")
    assert "keeps nothing" in chat.page.inner_text("#kept")
    context.close()
    assert chat.complaints == []


@ONE_WIDTH
def test_a_server_that_goes_away_in_the_middle_of_an_answer_and_comes_back(chat: Driver) -> None:
    chat.says("Slow", "as far as here and further", hold=14)
    with cut_proxy(chat.server.url) as proxy:
        through = Driver(chat.page, PageServer(Running(proxy.url, chat.server.running.app), chat.server.loader))
        through.open()
        through.type("Slow")
        through.until_last("as far as here")
        proxy.cut()
        through.page.wait_for_selector(".message .error")
        assert through.page.inner_text(".message .error") == "The connection to the server broke off."
        assert through.shown()[-1] == "as far as here"
        through.until("document.querySelector('#status').textContent.includes(`can't be reached`)")
        through.act("again")
        through.until("document.querySelector('.message .error')?.textContent.includes(`can't be reached`)")
        through.act("earlier-version")
        proxy.restore()
        chat.says("as far as here", " and further")
        through.act("go-on")
        through.until_last("as far as here and further")
        through.open()
        assert through.shown()[-1] == "as far as here and further"
        through.page.goto("about:blank")
    assert [said for said in through.complaints if "ERR_" not in said] == []
    chat.complaints.clear()


def test_a_clock_that_is_set_back_changes_no_order_and_no_rate(chat: Driver) -> None:
    chat.ask("First")
    chat.page.evaluate(JUMP)
    chat.ask("Second")
    chat.act("again")
    chat.until_last("You said: Second")
    assert "-" not in chat.page.locator(".stats").last.inner_text()
    chat.from_sidebar("#new-chat")
    chat.ask("A year ago")
    chat.open()
    assert len(chat.titles) == 2
    chat.go_to("First")
    chat.until_last("You said: Second")
    assert chat.shown() == ["First", "You said: First", "Second", "You said: Second"]
