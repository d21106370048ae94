"""Drives the chat page in a real browser."""

import json
from dataclasses import dataclass
from typing import Any

from .paced_llama import Loader, PacedLlama, Says
from .server_fixtures import Running


@dataclass(frozen=True)
class PageServer:
    """The server of the page, and how its models are loaded."""

    running: Running
    loader: Loader

    @property
    def url(self) -> str:
        """Its address."""
        return self.running.url


class Driver:
    """One page, and what people do on it."""

    def __init__(self, page: Any, server: PageServer) -> None:
        self.page, self.server = page, server
        self.complaints: list[str] = []
        self.watch(page)

    def watch(self, page: Any) -> None:
        """Note errors of a page and its requests to other servers."""
        page.set_default_timeout(30_000)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda sent: None if self._is_ours(sent.url) else self.complaints.append(sent.url))

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.server.url, f"blob:{self.server.url}"))

    def open(self, path: str = "/") -> None:
        """Open the page anew."""
        self.page.goto("about:blank")
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

    def from_sidebar(self, selector: str) -> None:
        """Click what is in the sidebar, which lies hidden in a narrow window."""
        if self.page.is_visible("#open-sidebar") and not self.page.is_visible("#sidebar.open"):
            self.page.click("#open-sidebar")
        self.page.click(selector)

    def close_sidebar(self) -> None:
        """Close the sidebar of a narrow window."""
        if self.page.is_visible("#sidebar.open"):
            self.page.keyboard.press("Escape")

    def type(self, text: str) -> None:
        """Send a message."""
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
        self.page.wait_for_selector("#send:visible")
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

    def act(self, action: str, place: int = -1) -> None:
        """Click a button of a message, the last of its kind."""
        self.page.locator(f"#messages [data-action={action}]").nth(place).click()
