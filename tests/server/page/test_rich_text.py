"""Markdown, formulas and code as they are shown; hostile text that stays text.

Expected HTML is that of GitHub Flavored Markdown's specification, https://github.github.com/gfm/, but that headings
stand below a message's own and a line break in a paragraph is one, as in GitHub's comments.
"""

from typing import Any

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(120)
RENDER = """async ([module, text]) => {
    const { renderMarkdown } = await import(module);
    const box = document.createElement("div");
    renderMarkdown(box, text);
    return box.innerHTML.replace(/\\n/g, "");
}"""
CASES = {
    "# A\n\ntext `x*y` **b *c***": "<h3>A</h3><p>text <code>x*y</code> <strong>b <em>c</em></strong></p>",
    "## A\n\n### B\n\n## C": "<h3>A</h3><h4>B</h4><h3>C</h3>",
    "- a\n  - b\n- c": "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>",
    "3. x\n4. y": '<ol start="3"><li>x</li><li>y</li></ol>',
    "> q\n> r": "<blockquote><p>q<br>r</p></blockquote>",
    "a_b_c 2 * 3 * 4 ~~no~~": "<p>a_b_c 2 * 3 * 4 <del>no</del></p>",
    "x\n\n***\n\ny": "<p>x</p><hr><p>y</p>",
    "- [x] a\n- [ ] b": (
        '<ul><li><input checked="" disabled="" type="checkbox" aria-label="done"> a</li>'
        '<li><input disabled="" type="checkbox" aria-label="not done"> b</li></ul>'
    ),
    "|a|b|\n|:-:|--:|\n|1|2|": (
        '<div class="table" tabindex="0" role="group" aria-label="Table"><table><thead><tr><th align="center">a</th>'
        '<th align="right">b</th></tr></thead><tbody><tr><td align="center">1</td><td align="right">2</td></tr></tbody>'
        "</table></div>"
    ),
    "see https://example.org/a.": (
        '<p>see <a href="https://example.org/a" target="_blank" rel="noopener noreferrer">https://example.org/a</a>.</p>'
    ),
    "H<sub>2</sub>O <kbd>a</kbd>": "<p>H<sub>2</sub>O <kbd>a</kbd></p>",
    "it costs $5 to $10": "<p>it costs $5 to $10</p>",
}
# From https://owasp.org/www-community/xss-filter-evasion-cheatsheet, and what is special to Markdown and to formulas.
HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload=window.hit=1>",
    "<a href='javascript:window.hit=1' id=h>x</a>",
    "[x](javascript:window.hit=1)",
    "[x](  JaVaScRiPt:window.hit=1)",
    "[x](data:text/html,<script>window.hit=1</script>)",
    "![x](https://example.org/leak.png)",
    '![x](x "onerror=window.hit=1")',
    "<iframe src='https://example.org'></iframe>",
    "<style>body { display: none }</style>",
    "<div style='position:fixed;inset:0' onclick=window.hit=1>x</div>",
    "<details open ontoggle=window.hit=1>x</details>",
    "<form action=https://example.org><button>x</button></form>",
    '```x" onmouseover="window.hit=1\n</code></pre><script>window.hit=1</script>\n```',
    "$\\href{javascript:window.hit=1}{x}$ $\\htmlData{a=b}{x}$ $\\includegraphics{https://example.org/a.png}$",
    "$</span><img src=x onerror=window.hit=1>$",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hit=1&gt;'>",
    "<span class=math>\\text{x}</span>",
    "<h1x><img src=x onerror=window.hit=1></h1x>",
    "&#x3c;script&#x3e;window.hit=1&#x3c;/script&#x3e;",
]


def test_markdown_becomes_the_html_that_github_makes_of_it(chat: Driver) -> None:
    shown = {text: chat.page.evaluate(RENDER, [chat.module("rich/markdown.js"), text]) for text in CASES}
    assert shown == CASES


def test_hostile_text_does_nothing_and_loads_nothing(chat: Driver) -> None:
    """In an answer, in a message of one's own, in a title and in a file's name."""
    text = "\n\n".join(HOSTILE)
    chat.says("Attack", text)
    chat.page.set_input_files(
        "#file-field",
        {"name": "<img src=x onerror=window.hit=1>.txt", "mimeType": "text/plain", "buffer": text.encode()},
    )
    chat.ask("Attack <img src=x onerror='window.hit=1'>\n\n" + text)
    chat.page.wait_for_selector(".katex, .math.bad")
    for selector in ("#messages *", "#conversations *"):
        found: list[Any] = chat.page.eval_on_selector_all(
            selector,
            """nodes => nodes.filter(({ localName, attributes }) =>
                ["script", "img", "iframe", "style", "form", "object"].includes(localName)
                || [...attributes].some(({ name, value }) => name.startsWith("on") || /^\\s*javascript:/i.test(value))
            ).map(node => node.outerHTML)""",
        )
        assert found == []
    for link in chat.page.locator("#messages a[href]").all():
        assert link.get_attribute("href").startswith(("https://", "http://", "mailto:", "#"))
    assert chat.page.evaluate("window.hit") is None
    assert "<script>window.hit = 1</script>" in chat.shown()[-1]


def test_formulas_are_drawn_in_all_four_ways_to_write_them(chat: Driver) -> None:
    chat.says(
        "Maths", "Inline $a^2$ and \\(b_1\\), then\n\n$$\\int_0^1 x\\,dx$$\n\n\\[\\frac{1}{2}\\]\n\n$\\bad{x$ `$code$`"
    )
    chat.ask("Maths")
    chat.page.wait_for_selector(".katex")
    chat.until("document.querySelectorAll('.math .katex').length === 4")
    assert chat.page.locator(".math.display").count() == 2
    assert chat.page.locator(".message.assistant :not(pre) > code").inner_text() == "$code$"
    # Drawn by KaTeX with its fonts, not as plain text; and read out as MathML.
    assert chat.page.locator(".katex math").count() == 4
    chat.until("[...document.fonts].some(font => font.family.includes('KaTeX') && font.status === 'loaded')")


def test_code_is_highlighted_copied_and_wrapped(chat: Driver) -> None:
    code = 'def f(x):\n    return "' + "a" * 300 + '"'
    chat.says("Code", f"Here:\n\n```python\n{code}\n```\n\n    indented")
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask("Code")
    chat.page.wait_for_selector(".hljs-keyword")
    chat.act("copy-code", 0)
    assert chat.page.evaluate("navigator.clipboard.readText()") == code
    pre = ".code-block pre"
    assert chat.page.evaluate(f"() => (n => n.scrollWidth > n.clientWidth)(document.querySelector('{pre}'))")
    chat.act("wrap", 0)
    assert chat.page.evaluate(f"() => (n => n.scrollWidth <= n.clientWidth)(document.querySelector('{pre}'))")
    assert chat.page.locator(".code-block").count() == 2


def test_ones_own_message_is_rendered_and_blocks_that_stand_are_not_drawn_again(chat: Driver) -> None:
    chat.ask("Some **bold** words\nand a line")
    assert chat.page.locator(".message.user strong").inner_text() == "bold"
    assert chat.page.locator(".message.user br").count() == 1
    same = chat.page.evaluate(
        """async (module) => {
            const { renderMarkdown } = await import(module);
            const box = document.createElement("div");
            renderMarkdown(box, "one\\n\\ntwo", { unfinished: true });
            const [first, second] = box.children;
            renderMarkdown(box, "one\\n\\ntwo three\\n\\nfour", { unfinished: true });
            return [box.children[0] === first, box.children[1] === second, box.textContent.trim()];
        }""",
        chat.module("rich/markdown.js"),
    )
    assert same[:2] == [True, False]
