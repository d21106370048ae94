"""Drives the chat page in a real browser."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from .paced_llama import Loader, PacedLlama, Says
from .server_fixtures import Running

# For what no width of the window can change.
ONE_WIDTH = pytest.mark.parametrize("width", [1280])
FOCUSED = """() => (n => n.id || n.dataset.action || n.dataset.setting || n.getAttribute("aria-label") || n.localName)
    (document.activeElement)"""


@dataclass(frozen=True)
class PageServer:
    """The server of the page, and how its models are loaded."""

    running: Running
    loader: Loader

    @property
    def url(self) -> str:
        """Its address."""
        return self.running.url

    @property
    def idle_url(self) -> str:
        """The address of a page that does nothing; a blank one would cost the browser a process for each change."""
        return f"{self.url}/health"


class Driver:
    """One page, and what people do on it."""

    def __init__(self, page: Any, server: PageServer) -> None:
        self.page, self.server = page, server
        self.complaints: list[str] = []
        self._watched: list[tuple[Any, str, Any]] = []
        self.watch(page)

    def watch(self, page: Any) -> None:
        """Note errors of a page and its requests to other servers."""
        page.set_default_timeout(30_000)
        watchers: dict[str, Any] = {
            "console": lambda said: self.complaints.append(said.text) if said.type == "error" else None,
            "pageerror": lambda error: self.complaints.append(str(error)),
            "request": lambda sent: None if self._is_ours(sent.url) else self.complaints.append(sent.url),
        }
        for event, watcher in watchers.items():
            page.on(event, watcher)
            self._watched.append((page, event, watcher))

    def unwatch(self) -> None:
        """Note nothing more."""
        for page, event, watcher in self._watched:
            page.remove_listener(event, watcher)
        self._watched.clear()

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.server.url, f"blob:{self.server.url}"))

    def open(self, path: str = "/") -> None:
        """Open the page anew."""
        self.page.goto(self.server.idle_url)
        self.page.goto(self.server.url + path)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until everything that is kept is read and the models are known."""
        self.page.wait_for_selector("html[data-ready]", state="attached")
        self.page.wait_for_selector("#model option", state="attached")

    def module(self, name: str) -> str:
        """Return the address of one of the page's modules."""
        address: str = self.page.get_attribute("script[type=module]", "src")
        return address.removesuffix("app.js") + name

    def says(self, question: str, text: str, **more: Any) -> Says:
        """Set down what the model answers to a question."""
        PacedLlama.answers[question] = says = Says(text, **more)
        return says

    def set_up(self, **settings: str) -> None:
        """Fill fields of the settings dialog."""
        self.from_sidebar("#open-settings")
        for name, value in settings.items():
            self.page.fill(f"[data-setting={name}]", value)
        self.page.click("#settings button[value=close]")
        self.close_sidebar()

    def open_sidebar(self) -> None:
        """Open the sidebar, which lies hidden in a narrow window."""
        if self.page.is_visible("#open-sidebar") and not self.page.is_visible("#sidebar.open"):
            self.page.click("#open-sidebar")

    def from_sidebar(self, selector: str) -> None:
        """Click what is in the sidebar."""
        self.open_sidebar()
        self.page.click(selector)

    def go_to(self, title: str) -> None:
        """Click the title of a conversation."""
        self.from_sidebar(f"#conversations .title:has-text({json.dumps(title)})")

    def choose(self, item: str, place: int = 0) -> None:
        """Choose from the menu of a conversation."""
        self.open_sidebar()
        self.page.locator("#conversations .more").nth(place).click()
        self.page.get_by_role("menuitem", name=item).click()

    def close_sidebar(self) -> None:
        """Close the sidebar of a narrow window."""
        if self.page.is_visible("#sidebar.open"):
            self.page.keyboard.press("Escape")

    def leave(self) -> None:
        """Close the dialog that is open, and the sidebar that it was opened from."""
        self.page.keyboard.press("Escape")
        self.close_sidebar()

    def second_window(self) -> "Driver":
        """Open another window of the same browser, as wide as this one; it complains to the same list."""
        other = Driver(self.page.context.new_page(), self.server)
        other.page.set_viewport_size(self.page.viewport_size)
        other.complaints = self.complaints
        other.open()
        return other

    def type(self, text: str) -> None:
        """Send a message."""
        self.close_sidebar()
        self.page.fill("#composer-text", text)
        self.page.press("#composer-text", "Enter")

    def ask(self, text: str) -> str:
        """Send a message, wait for the end of its answer and return what is shown of it."""
        count = self.messages.count()
        self.type(text)
        self.until(f"document.querySelectorAll('.message').length >= {count + 2}")
        return self.finished()

    def finished(self) -> str:
        """Wait for the end of the answer and return what is shown of the last message."""
        # A real model on a busy machine takes its time.
        self.page.wait_for_selector("#send:visible", timeout=90_000)
        text: str = self.page.locator(".message.assistant .body").last.inner_text()
        return text

    def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true."""
        self.page.wait_for_function(f"() => {condition}")

    def until_last(self, text: str) -> None:
        """Wait until the last message has this text."""
        self.until(f"[...document.querySelectorAll('.message .body')].at(-1)?.innerText === {json.dumps(text)}")

    def shown(self) -> list[str]:
        """Return the texts of all messages."""
        texts: list[str] = self.page.locator(".message .body").all_inner_texts()
        return texts

    @property
    def messages(self) -> Any:
        """All messages that are shown."""
        return self.page.locator(".message")

    @property
    def titles(self) -> list[str]:
        """The names of the conversations, in their order."""
        names: list[str] = self.page.locator("#conversations .title").evaluate_all(
            "nodes => nodes.map(node => node.firstChild.textContent)"
        )
        return names

    @property
    def focused(self) -> str:
        """What has the focus."""
        said: str = self.page.evaluate(FOCUSED)
        return said

    def act(self, action: str, place: int = -1) -> None:
        """Click a button of a message, the last of its kind."""
        self.page.locator(f"#messages [data-action={action}]").nth(place).click()
