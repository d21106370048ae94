"""Markdown, formulas and code as they are shown; hostile text that stays text.

Expected HTML is that of GitHub Flavored Markdown's specification, https://github.github.com/gfm/, but that headings
stand below a message's own and a line break in a paragraph is one, as in GitHub's comments.
"""

from typing import Any

import pytest

from ...support.page_driver import ONE_WIDTH, Driver

pytestmark = pytest.mark.timeout(120)
RENDER = """async ([module, text]) => {
    const { renderMarkdown } = await import(module);
    const box = document.createElement("div");
    renderMarkdown(box, text);
    return box.innerHTML.replace(/\\n| dir="auto"/g, "");
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
# What takes a parser long, or its stack; 1 MB of it is what a file of conversations may bring.
BOMBS = {
    "one line": "word " * 200_000,
    "one word": "x" * 1_000_000,
    "quotes": ">" * 20_000 + " x",
    "lists in a line": "- " * 20_000 + "x",
    "lists by indent": "\n".join("  " * depth + "- x" for depth in range(500)),
    "emphasis": "*a **b " * 2800,
    "brackets": "[" * 20_000,
    "links": "[a](" * 5000,
    "backticks": "".join("`" * length + " " for length in range(190)),
    "tags": "<b>" * 6600,
    "entities": "&amp;" * 4000,
    "dollars": "$x" * 10_000,
    "table": "|a" * 1000 + "|\n" + "|-" * 1000 + "|\n" + "|b" * 1000 + "|",
    "rows": "|a|b|\n|-|-|\n" + "|1|2|\n" * 2000,
    "formulas": "$x^2$ " * 3000,
    "macros": "$$\\def\\a{\\a\\a}\\a$$\n\n$$" + "\\def\\b#1{#1#1#1#1#1#1#1#1}" + "\\b{" * 8 + "x" + "}" * 8 + "$$",
    "fractions": "$$" + "\\frac{1}{" * 350 + "2" + "}" * 350 + "$$",
    "braces": "$$" + "{" * 1900 + "x" + "}" * 1900 + "$$",
    "boxes": "$$\\rule{1000em}{1000em}$$",
    "unclosed": "$$" + "x" * 200_000,
    "fence": "```json\n" + '{"a":1},' * 30_000 + "\n```",
}
TIMES = """async ([module, bombs]) => {
    const { renderMarkdown } = await import(module);
    const warm = document.createElement("div");
    renderMarkdown(warm, "$x$");
    while (!warm.querySelector(".katex")) await new Promise(requestAnimationFrame);
    const found = {};
    for (const [name, text] of Object.entries(bombs)) {
        const box = document.createElement("div"), began = performance.now();
        box.className = "text";
        document.querySelector("#messages").append(box);
        renderMarkdown(box, text);
        const wide = document.documentElement.scrollWidth > innerWidth;
        found[name] = [performance.now() - began, box.textContent.length > 0, wide];
        box.remove();
    }
    return found;
}"""
RTL = (
    "\u05e9\u05dc\u05d5\u05dd **\u05e2\u05d5\u05dc\u05dd** (abc)!\n\n- \u0645\u0631\u062d\u0628\u0627\n- x\n\n"
    "English \u05e9 here\n\n```py\n# \u05e9\n```\n\n"
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 e\u0301 \u0928\u093f \U0001f1f3\U0001f1f4 \u2764\ufe0f"
)
WATCH = """() => {
    window.broken = [];
    const look = () => {
        const text = document.querySelector("#messages").textContent;
        if (/\\ufffd/.test(text) || !text.isWellFormed()) window.broken.push(text);
    };
    const what = { childList: true, subtree: true, characterData: true };
    new MutationObserver(look).observe(document.querySelector("#messages"), what);
}"""


@ONE_WIDTH
def test_markdown_becomes_the_html_that_github_makes_of_it(chat: Driver) -> None:
    shown = {text: chat.page.evaluate(RENDER, [chat.module("rich/markdown.js"), text]) for text in CASES}
    assert shown == CASES


@ONE_WIDTH
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


@ONE_WIDTH
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


@ONE_WIDTH
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


@ONE_WIDTH
def test_what_is_made_to_be_slow_is_shown_without_being_felt(chat: Driver) -> None:
    times = chat.page.evaluate(TIMES, [chat.module("rich/markdown.js"), BOMBS])
    assert {name: taken for name, taken in times.items() if taken[0] > 20_000 or not taken[1] or taken[2]} == {}
    chat.says("Deep", BOMBS["quotes"])
    assert chat.ask("Deep") == BOMBS["quotes"]


@ONE_WIDTH
def test_writing_from_right_to_left_and_signs_of_many_pieces(chat: Driver) -> None:
    """The model's tokens are single bytes: each letter, sign and family comes in pieces."""
    chat.page.evaluate(WATCH)
    chat.says("Which way?", RTL, every_s=0.004)
    chat.ask("\u05e9\u05d0\u05dc\u05d4: Which way?")
    assert chat.page.evaluate("window.broken") == []
    way = "node => getComputedStyle(node).direction"
    body = chat.page.locator(".message.assistant .body")
    assert [block.evaluate(way) for block in body.locator("> *").all()] == ["rtl", "rtl", "ltr", "ltr", "ltr"]
    assert body.locator("li").first.evaluate(way) == "rtl"
    assert body.locator("> :last-child").inner_text() == RTL.rpartition("\n")[2]
    assert chat.page.locator(".message.user .body > *").evaluate(way) == "rtl"
    assert chat.page.locator("#conversations .title").evaluate(way) == "rtl"
