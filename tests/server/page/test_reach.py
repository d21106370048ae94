"""What a window shows of the page and how the focus goes through it: everything is inside, nothing out of its order."""

import itertools

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(120)
FITS = """selector => {
    const node = document.querySelector(selector), { left, top, right, bottom } = node.getBoundingClientRect();
    return document.documentElement.scrollWidth <= innerWidth && node.scrollWidth <= node.clientWidth
        && left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
}"""
# Where the focus is in a dialog, scrolled or not; nothing where it is elsewhere.
PLACE = """id => {
    const dialog = document.getElementById(id), node = document.activeElement;
    if (!dialog.contains(node) || node === dialog) return null;
    const { left, top, right, bottom } = node.getBoundingClientRect();
    return { left, right, top: top + dialog.scrollTop, bottom: bottom + dialog.scrollTop };
}"""
REACHABLE = """id => [...document.getElementById(id).querySelectorAll("button, input, select, textarea")]
    .filter((node) => node.offsetParent && !node.disabled && (node.type !== "radio" || node.checked)).length"""


def tabbed(chat: Driver, count: int) -> list[str]:
    """Press Tab that many times and say what has the focus each time."""
    found = []
    for _ in range(count):
        chat.page.keyboard.press("Tab")
        found.append(chat.focused)
    return found


@pytest.mark.parametrize("width", [390])
def test_a_phone_reaches_everything_without_sideways_scrolling(chat: Driver) -> None:
    page = chat.page
    chat.says("wide", f"{'word' * 60}\n\n| {'a | ' * 40}\n|{'-|' * 40}\n\n```\n{'x' * 300}\n```\n\n$${'x+' * 90}x$$")
    chat.ask("wide " + "word" * 60)
    page.wait_for_selector(".katex")

    def fits(selector: str = "main") -> bool:
        return bool(page.evaluate(FITS, selector))

    for wide in (".table", "pre", ".math.display"):
        assert page.locator(f".message.assistant {wide}").evaluate("node => node.scrollWidth") > 390, wide
    assert fits()
    page.click("#compare")
    assert fits()
    assert page.is_visible("#other")
    for name in ("models", "settings", "help"):
        chat.from_sidebar(f"#open-{name}")
        page.wait_for_selector(f"#{name}[open]")
        page.wait_for_selector("#model-list li", state="attached")
        assert fits(f"#{name}")
        chat.leave()
    chat.from_sidebar("#open-settings")
    page.click("#delete-all")
    assert fits("#confirm")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.evaluate("document.querySelector('main').inert")
    assert fits("#sidebar")
    page.locator("#conversations .more").click()
    assert fits("#menu")
    page.get_by_role("menuitem", name="Delete").click()
    assert fits("#toast")
    chat.close_sidebar()
    page.wait_for_selector("#new-chat", state="hidden")
    assert chat.focused in ("open-sidebar", "composer-text")
    small = page.evaluate(
        """() => [...document.querySelectorAll("main button, main select, main textarea")].filter(node =>
            node.offsetParent && (node.offsetHeight < 24 || node.offsetWidth < 24)).map(node => node.outerHTML)"""
    )
    assert small == [], "targets of at least 24 pixels, WCAG 2.2's 2.5.8"


def test_the_focus_goes_through_everything_in_the_order_in_which_it_is_read(chat: Driver, width: int) -> None:
    """From top to bottom and from left to right, as WCAG 2.2's 2.4.3 asks for; in a dialog, of the dialog alone."""
    page = chat.page
    chat.ask("Hello")
    page.keyboard.press("Control+K")
    page.keyboard.press("Shift+Tab")
    assert chat.focused == "new-chat"
    aside = ["search", "title", "more", "open-models", "open-settings", "open-help"]
    assert tabbed(chat, len(aside)) == aside
    chat.close_sidebar()
    page.focus("#scroll" if width == 1280 else "#open-sidebar")
    if width == 390:
        assert tabbed(chat, 3) == ["model", "compare", "scroll"]
    acts = ["edit", "copy", "copy", "again"]
    assert tabbed(chat, 7) == [*acts, "attach", "composer-text", "send"]
    for name in ("models", "settings", "help"):
        chat.from_sidebar(f"#open-{name}")
        page.wait_for_selector(f"#{name}[open]")
        page.wait_for_selector("#model-list li", state="attached")
        places: list[dict[str, float]] = []
        while (place := page.evaluate(PLACE, name)) and place not in places:
            places.append(place)
            page.keyboard.press("Tab")
        assert len(places) == page.evaluate(REACHABLE, name)
        for one, other in itertools.pairwise(places):
            is_beside = other["top"] < one["bottom"] and other["left"] >= one["right"]
            assert is_beside or other["top"] >= one["bottom"] - 1, (name, one, other)
        chat.leave()
