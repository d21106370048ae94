"""The page in a real Firefox: another engine's modules, storage, policy and rendering."""

import shutil
from pathlib import Path

import pytest

from ...support.firefox import running_firefox
from ...support.paced_llama import PacedLlama, Says
from ...support.page_driver import PageServer

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
TEXTS = "[...document.querySelectorAll('.message .body')].map(node => node.innerText)"


@pytest.mark.skipif(FIREFOX is None, reason="needs Firefox")
@pytest.mark.timeout(180)
def test_a_chat_is_rendered_kept_searched_and_deleted(page_server: PageServer, tmp_path: Path) -> None:
    PacedLlama.answers["Rich"] = Says("**bold** $x^2$\n\n```python\ndef f(): pass\n```\n\n- [x] done")
    assert FIREFOX is not None
    with running_firefox(FIREFOX, tmp_path) as firefox:
        firefox.goto(page_server.url)
        firefox.until("document.querySelector('#model option') !== null")
        firefox.evaluate("document.querySelector('#composer-text').focus()")
        firefox.type("Rich")
        firefox.until("document.querySelectorAll('.message .stats').length === 1")
        firefox.until("document.querySelector('.katex math') && document.querySelector('.hljs-keyword') && true")
        assert firefox.evaluate("document.querySelector('.message.assistant strong').innerText") == "bold"
        firefox.evaluate("document.querySelector('[data-action=again]').click()")
        firefox.until("document.querySelector('.versions')?.innerText.includes('2/2')")
        firefox.goto("about:blank")
        firefox.goto(page_server.url)
        firefox.until(f"({TEXTS}).length === 2")
        assert firefox.evaluate(TEXTS)[0] == "Rich"
        firefox.evaluate("document.querySelector('#search').focus()")
        firefox.type("bold")
        firefox.until("document.querySelector('button.hit mark')?.innerText === 'bold'")
        firefox.evaluate("document.querySelector('button.hit').click()")
        firefox.until("document.querySelector('.message.found') !== null")
        firefox.evaluate("document.querySelector('#new-chat').click()")
        firefox.until(f"({TEXTS}).length === 0")
        firefox.evaluate("document.querySelectorAll('#conversations .more')[1].click()")
        firefox.evaluate("document.querySelector('#menu .danger').click()")
        firefox.until("document.querySelector('#toast').innerText.includes('is deleted')")
        firefox.evaluate("document.querySelector('#toast [data-action=undo]').click()")
        firefox.until(f"({TEXTS}).length === 2")
        assert firefox.complaints == []
