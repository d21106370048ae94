"""By keyboard alone, on a phone, by screen reader, in both themes: axe-core finds nothing, and the focus is never lost.

axe-core is Deque's checker of WCAG 2.2 and of good practice, https://github.com/dequelabs/axe-core.
"""

from pathlib import Path
from typing import Any

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(180)
BOTH_WIDTHS = pytest.mark.parametrize("chat", [1280, 390], indirect=True)
AXE = (Path(__file__).parents[1] / "vendor/axe-core/axe.js").read_text(encoding="utf-8")
RICH = (
    "# Title\n\n- [x] task\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\ndef f(x): return [x, 'a', 1]  # note\n```\n\n"
    "$$x^2$$\n\n> quote [link](https://example.org) `code`"
)


def violations(chat: Driver, *rules: str) -> list[Any]:
    """Return what axe-core finds wrong, by rule and place."""
    if not chat.page.evaluate("() => 'axe' in window"):
        # By the debugger's protocol, which the page's policy doesn't bind.
        chat.page.evaluate(AXE)
    found: list[Any] = chat.page.evaluate(
        """async (options) => (await axe.run(options)).violations.map(
            ({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 160))]
        )""",
        {"runOnly": list(rules)} if rules else {},
    )
    return found


def in_both_themes(chat: Driver) -> list[Any]:
    """Return what is wrong in the light theme, and with the contrast in the dark one, all else being the same."""
    found = violations(chat)
    chat.page.emulate_media(color_scheme="dark")
    found += violations(chat, "color-contrast")
    chat.page.emulate_media(color_scheme="light")
    return found


def focus(chat: Driver) -> str:
    """Say what has the focus."""
    said: str = chat.page.evaluate(
        "() => (n => n.id || n.dataset.action || n.dataset.setting || n.getAttribute('aria-label') || n.localName)"
        "(document.activeElement)"
    )
    return said


@BOTH_WIDTHS
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
    found["editing"] = in_both_themes(chat)
    page.keyboard.press("Escape")
    for name in ("settings", "models", "help"):
        chat.from_sidebar(f"#open-{name}")
        page.wait_for_selector(f"#{name}[open]")
        found[name] = in_both_themes(chat)
        page.keyboard.press("Escape")
    if page.is_visible("#open-sidebar") and not page.is_visible("#sidebar.open"):
        page.click("#open-sidebar")
    found["sidebar"] = in_both_themes(chat)
    page.fill("#search", "bold")
    page.wait_for_selector("button.hit")
    found["search"] = in_both_themes(chat)
    page.fill("#search", "")
    page.locator("#conversations .more").first.click()
    found["menu"] = in_both_themes(chat)
    page.get_by_role("menuitem", name="Delete").click()
    chat.close_sidebar()
    page.wait_for_selector("#toast:visible")
    found["notice"] = in_both_themes(chat)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_everything_can_be_done_by_keyboard_and_the_focus_is_never_lost(chat: Driver) -> None:
    page = chat.page
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert focus(chat) == "composer-text"
    page.keyboard.type("First")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line")
    page.keyboard.press("Enter")
    chat.until_last("You said: First\nline")
    chat.finished()
    assert focus(chat) == "composer-text"
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
    assert focus(chat) == "edit"
    page.keyboard.press("Enter")
    page.wait_for_selector(".message textarea:focus")
    page.keyboard.type(" changed")
    page.keyboard.press("Enter")
    chat.finished()
    assert focus(chat) == "composer-text"
    assert chat.shown()[2] == "Second changed"
    page.keyboard.press("Control+Shift+O")
    assert (chat.messages.count(), focus(chat)) == (0, "composer-text")
    chat.ask("Third")
    page.keyboard.press("Alt+ArrowDown")
    chat.until("document.title.startsWith('First')")
    page.keyboard.press("Alt+ArrowUp")
    chat.until("document.title.startsWith('Third')")
    page.keyboard.press("Control+Shift+L")
    assert focus(chat) == "title"
    page.keyboard.press("F2")
    page.keyboard.type("Renamed")
    page.keyboard.press("Enter")
    assert (chat.titles[0], focus(chat)) == ("Renamed", "title")
    page.keyboard.press("Tab")
    assert focus(chat) == "more"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "Pin"
    page.keyboard.press("Escape")
    assert focus(chat) == "more"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Delete")
    chat.until("document.querySelector('#toast').textContent.includes('Renamed')")
    assert focus(chat) in ("title", "composer-text")
    for keys, name in (("Control+Shift+M", "models"), ("Control+,", "settings"), ("Control+/", "help")):
        before = focus(chat)
        page.keyboard.press(keys)
        page.wait_for_selector(f"#{name}[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector(f"#{name}:not([open])", state="attached")
        assert focus(chat) == before
    page.keyboard.press("Control+K")
    assert focus(chat) == "search"
    page.keyboard.type("First")
    page.wait_for_selector("button.hit")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    chat.until("document.activeElement.id === 'scroll'")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert page.locator("#shortcuts dt").count() > 8


@pytest.mark.parametrize("chat", [390], indirect=True)
def test_a_phone_reaches_everything_without_sideways_scrolling(chat: Driver) -> None:
    page = chat.page
    chat.says("wide", f"{'word' * 60}\n\n| {'a | ' * 30}\n|{'-|' * 31}\n\n```\n{'x' * 300}\n```\n\n$${'x+' * 90}x$$")
    chat.ask("wide " + "word" * 60)
    page.wait_for_selector(".katex")

    def fits() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    assert fits()
    page.click("#compare")
    assert fits()
    assert page.is_visible("#other")
    for name in ("settings", "models", "help"):
        chat.from_sidebar(f"#open-{name}")
        page.wait_for_selector(f"#{name}[open]")
        assert page.evaluate(f"(n => n.scrollWidth <= n.clientWidth)(document.getElementById('{name}'))")
        page.keyboard.press("Escape")
        chat.close_sidebar()
    page.click("#open-sidebar")
    assert page.evaluate("document.querySelector('main').inert")
    page.keyboard.press("Escape")
    page.wait_for_selector("#new-chat", state="hidden")
    assert focus(chat) == "open-sidebar"
    small = page.evaluate(
        """() => [...document.querySelectorAll("main button, main select, main textarea")].filter(node =>
            node.offsetParent && (node.offsetHeight < 24 || node.offsetWidth < 24)).map(node => node.outerHTML)"""
    )
    assert small == [], "targets of at least 24 pixels, WCAG 2.2's 2.5.8"


def test_regions_are_announced_and_nothing_moves_where_that_is_unwanted(chat: Driver) -> None:
    page = chat.page
    page.emulate_media(reduced_motion="reduce")
    for role, name in (
        ("navigation", "Conversations"),
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
    page.click("#open-settings")
    page.select_option("#set-theme", "dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    chat.open()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.click("#open-settings")
    page.select_option("#set-theme", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_an_empty_page_offers_examples(chat: Driver) -> None:
    chat.page.locator("#examples button").first.click()
    assert focus(chat) == "composer-text"
    assert "bicycle" in chat.page.input_value("#composer-text")
