"""By keyboard alone, on a phone, by screen reader, in both themes: axe-core finds nothing, and the focus is never lost.

axe-core is Deque's checker of WCAG 2.2 and of good practice, https://github.com/dequelabs/axe-core.
"""

from pathlib import Path
from typing import Any

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(180)
AXE = (Path(__file__).parents[1] / "vendor/axe-core/axe.js").read_text(encoding="utf-8")
RICH = (
    "# Title\n\n- [x] task\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\ndef f(x): return [x, 'a', 1]  # note\n```\n\n"
    "$$x^2$$\n\n> quote [link](https://example.org) `code`"
)


def violations(chat: Driver, selector: str, *rules: str) -> list[Any]:
    """Return what axe-core finds wrong in a part of the page, by rule and place."""
    if not chat.page.evaluate("() => 'axe' in window"):
        # By the debugger's protocol, which the page's policy doesn't bind.
        chat.page.evaluate(AXE)
    found: list[Any] = chat.page.evaluate(
        """async ([selector, options]) => (await axe.run(selector, options)).violations.map(
            ({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 160))]
        )""",
        [selector, {"runOnly": list(rules)} if rules else {}],
    )
    return found


def in_both_themes(chat: Driver, selector: str = "html") -> list[Any]:
    """Return what is wrong in the light theme, and with the contrast in the dark one, all else being the same."""
    found = violations(chat, selector)
    chat.page.emulate_media(color_scheme="dark")
    found += violations(chat, selector, "color-contrast")
    chat.page.emulate_media(color_scheme="light")
    return found


def test_axe_finds_nothing_wrong_anywhere(chat: Driver) -> None:
    page = chat.page
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = {"empty": in_both_themes(chat)}
    chat.says("Everything", RICH)
    page.set_input_files("#file-field", {"name": "a.txt", "mimeType": "", "buffer": b"text"})
    chat.ask("Everything **bold**")
    page.wait_for_selector(".katex")
    page.wait_for_selector(".hljs-keyword")
    chat.act("again")
    chat.finished()
    page.click("#compare")
    chat.ask("Everything again")
    page.wait_for_selector(".pair")
    found["messages"] = in_both_themes(chat)
    chat.act("edit", 0)
    found["editing"] = in_both_themes(chat, ".message.editing")
    page.keyboard.press("Escape")
    for name in ("settings", "models", "help"):
        chat.from_sidebar(f"#open-{name}")
        page.wait_for_selector(f"#{name}[open]")
        found[name] = in_both_themes(chat, f"#{name}")
        page.keyboard.press("Escape")
    chat.open_sidebar()
    found["sidebar"] = in_both_themes(chat)
    page.fill("#search", "bold")
    page.wait_for_selector("button.hit")
    found["search"] = in_both_themes(chat, "#sidebar")
    page.fill("#search", "")
    page.locator("#conversations .more").first.click()
    found["menu"] = in_both_themes(chat, "#sidebar")
    page.get_by_role("menuitem", name="Delete").click()
    page.wait_for_selector("#toast:visible")
    found["notice"] = in_both_themes(chat)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_everything_can_be_done_by_keyboard_and_the_focus_is_never_lost(chat: Driver) -> None:
    page = chat.page
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert chat.focused == "composer-text"
    page.keyboard.type("First")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line")
    page.keyboard.press("Enter")
    chat.until_last("You said: First\nline")
    chat.finished()
    assert chat.focused == "composer-text"
    says = chat.says("Second", "slow answer", hold=3)
    page.keyboard.type("Second")
    page.keyboard.press("Enter")
    chat.until_last("slo")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")
    says.go.set()
    assert "stopped" in page.locator(".stats").last.inner_text()
    page.keyboard.press("ArrowUp")
    page.wait_for_selector(".message textarea:focus")
    page.keyboard.press("Escape")
    assert chat.focused == "edit"
    page.keyboard.press("Enter")
    page.wait_for_selector(".message textarea:focus")
    page.keyboard.type(" changed")
    page.keyboard.press("Enter")
    chat.finished()
    assert chat.focused == "composer-text"
    assert chat.shown()[2] == "Second changed"
    page.keyboard.press("Control+Shift+O")
    assert (chat.messages.count(), chat.focused) == (0, "composer-text")
    chat.ask("Third")
    page.keyboard.press("Alt+ArrowDown")
    chat.until("document.title.startsWith('First')")
    page.keyboard.press("Alt+ArrowUp")
    chat.until("document.title.startsWith('Third')")
    page.keyboard.press("Control+Shift+L")
    assert chat.focused == "title"
    page.keyboard.press("F2")
    page.keyboard.type("Renamed")
    page.keyboard.press("Enter")
    assert (chat.titles[0], chat.focused) == ("Renamed", "title")
    page.keyboard.press("Tab")
    assert chat.focused == "more"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "Pin"
    page.keyboard.press("Escape")
    assert chat.focused == "more"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Delete")
    chat.until("document.querySelector('#toast').textContent.includes('Renamed')")
    assert chat.focused in ("title", "composer-text")
    for keys, name in (("Control+Shift+M", "models"), ("Control+,", "settings"), ("Control+/", "help")):
        before = chat.focused
        page.keyboard.press(keys)
        page.wait_for_selector(f"#{name}[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector(f"#{name}:not([open])", state="attached")
        assert chat.focused == before
    page.keyboard.press("Control+K")
    assert chat.focused == "search"
    page.keyboard.type("First")
    page.wait_for_selector("button.hit")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    chat.until("document.activeElement.id === 'scroll'")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert page.locator("#shortcuts dt").count() > 8


def test_regions_are_announced_and_nothing_moves_where_that_is_unwanted(chat: Driver) -> None:
    page = chat.page
    page.emulate_media(reduced_motion="reduce")
    chat.open_sidebar()
    assert page.get_by_role("navigation", name="Conversations", exact=True).count() == 1
    chat.close_sidebar()
    for role, name in (
        ("log", "Messages"),
        ("region", "Conversation"),
        ("form", "Message"),
    ):
        assert page.get_by_role(role, name=name, exact=True).count() == 1
    assert page.get_by_role("main").count() == 1
    chat.ask("Hello")
    chat.until("document.querySelector('#status').textContent === 'Answer complete.'")
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    says = chat.says("Slow", "never", hold=0)
    chat.type("Slow")
    page.wait_for_selector(".stage")
    assert page.locator("#messages").get_attribute("aria-busy") == "true"
    assert page.evaluate("getComputedStyle(document.querySelector('.stage'), '::before').animationName") == "none"
    says.go.set()
    chat.finished()


def test_the_appearance_can_be_chosen_and_does_not_flash(chat: Driver) -> None:
    page = chat.page
    chat.from_sidebar("#open-settings")
    page.select_option("#set-theme", "dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    chat.open()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    chat.from_sidebar("#open-settings")
    page.select_option("#set-theme", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_an_empty_page_offers_examples(chat: Driver) -> None:
    chat.page.locator("#examples button").first.click()
    assert chat.focused == "composer-text"
    assert "bicycle" in chat.page.input_value("#composer-text")
