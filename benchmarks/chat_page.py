"""The chat page with 500 conversations of 200 messages each, in a real Chromium: opening, switching, typing, search."""

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.server_process import serving
from benchmarks.tables import parser, publish
from tests.support.smollm2 import save_smollm2

MESSAGE = """The answer to **question {number}** has a few parts:

1. a list with `code` in it,
2. a [link](https://example.org) and $a_{number}^2 + b^2$.

```python
def step_{number}(x):
    return x * {number}  # a comment
```

| a | b |
|---|--:|
| 1 | {number} |
"""
SEED = """async ([conversations, messages, text]) => {
    const db = await new Promise(done => {
        indexedDB.open("llama3-mlx").onsuccess = ({ target }) => done(target.result);
    });
    const settings = (await new Promise(done => {
        db.transaction("values").objectStore("values").get("defaults").onsuccess = ({ target }) => done(target.result);
    })) ?? {};
    const app = document.querySelector("script[type=module]").src;
    const { BLANK } = await import(app.replace("app.js", "chat/settings.js"));
    for (let place = 0; place < conversations; place++) {
        const stores = db.transaction(["conversations", "messages"], "readwrite");
        const id = `seeded-${place}`, moment = Date.now() - place * 7200000;
        stores.objectStore("conversations").put({
            id, title: `Conversation number ${place}`, created: moment, updated: moment, pinned: false,
            settings: { ...BLANK, ...settings }, chosen: {},
        });
        for (let number = 0; number < messages; number++) {
            const role = number % 2 ? "assistant" : "user";
            const content = number % 2 ? text.replaceAll("{number}", number) : `What about question ${number}?`;
            stores.objectStore("messages").put({
                id: `${id}-${number}`, conversation: id, parent: number ? `${id}-${number - 1}` : "", number, role,
                content, created: moment, state: "done", model: "small",
            });
        }
        await new Promise(done => { stores.oncomplete = done; });
    }
    db.close();
}"""
FRAMES = """() => {
    window.frames_ms = [];
    let before = performance.now();
    const next = (now) => {
        window.frames_ms.push(now - before);
        before = now;
        window.frame = requestAnimationFrame(next);
    };
    requestAnimationFrame((now) => { before = now; window.frame = requestAnimationFrame(next); });
}"""
SWITCH = """async (place) => {
    const link = document.querySelectorAll("#conversations .title")[place];
    const began = performance.now();
    link.click();
    while (!document.querySelector(".message") || document.title.startsWith("Conversation number") === false
        || !document.title.includes(link.textContent)) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""


def opening(page: Page, url: str) -> tuple[float, float]:
    """Return the milliseconds from the request to the list and the messages on screen, and to the idle page."""
    page.goto("about:blank")
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_selector(".message")
    shown: float = page.evaluate("performance.getEntriesByName('shown')[0].startTime")
    page.wait_for_load_state("networkidle")
    return shown, page.evaluate("performance.now()")


def typing(page: Page, text: str) -> list[float]:
    """Return the times between frames, in milliseconds, while a text is typed."""
    page.focus("#composer-text")
    page.evaluate(FRAMES)
    page.keyboard.type(text, delay=15)
    frames: list[float] = page.evaluate("() => { cancelAnimationFrame(window.frame); return window.frames_ms; }")
    page.fill("#composer-text", "")
    return frames


def frame_row(what: str, frames: list[float]) -> list[str]:
    """Return a row of the table."""
    late = statistics.quantiles(frames, n=100)[94]
    return [what, f"{statistics.median(frames):.1f} ms", f"{late:.1f} ms", f"{max(frames):.1f} ms"]


def time_row(what: str, times: list[float]) -> list[str]:
    """Return a row of the table."""
    late = sorted(times)[max(0, round(len(times) * 0.95) - 1)]
    return [what, f"{statistics.median(times):.0f} ms", f"{late:.0f} ms", f"{max(times):.0f} ms"]


def measured(page: Page, url: str, rounds: int) -> list[list[str]]:
    """Return the rows of the table for a page with seeded conversations."""
    opened = [opening(page, url)[0] for _ in range(rounds)]
    switches = [page.evaluate(SWITCH, place) for place in range(20, 20 + 4 * rounds)]
    back = [page.evaluate(SWITCH, place) for place in range(20 + 4 * rounds - 8, 20 + 4 * rounds)]
    quiet = typing(page, "A question that is typed in at an even pace, a line long. " * 2)
    page.evaluate("document.querySelector('#scroll').scrollTop = 0")
    page.keyboard.press("Control+Shift+O")
    page.fill("#composer-text", "Tell me a very long story.")
    page.press("#composer-text", "Enter")
    page.wait_for_selector(".message:last-child .body:not(.none)")
    busy = typing(page, "Typed while an answer is written. " * 3)
    page.click("#stop")
    began = page.evaluate("performance.now()")
    page.fill("#search", "question 199 ")
    page.wait_for_function("() => document.querySelector('#conversations .group').textContent.includes('found')")
    searched = page.evaluate("performance.now()") - began
    return [
        time_row("opening, to the list and the last messages", opened),
        time_row("going to a conversation for the first time", switches),
        time_row("going back to one", back),
        frame_row("frames while typing", quiet),
        frame_row("frames while typing as an answer is written", busy),
        time_row("searching all messages", [searched]),
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--conversations", type=int, default=500)
    arguments.add_argument("--messages", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as runner:
        folder = save_smollm2(Path(name) / "smollm2")
        command = ["llama3-mlx", "serve", "-m", str(folder)]
        with serving(command, "/health", LLAMA3_MLX_HOME=str(Path(name) / "home")) as server:
            browser: Any = runner.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(60_000)
            page.goto(server.url)
            page.wait_for_selector("html[data-ready]", state="attached")
            page.evaluate(SEED, [args.conversations, args.messages, MESSAGE])
            rows = measured(page, f"{server.url}/#c-seeded-0", args.rounds)
            browser.close()
    note = (
        f"{args.conversations} conversations of {args.messages} messages each, with lists, tables, formulas and code, "
        f"in a headless Chromium on the machine of the server, {args.rounds} rounds. A frame is due every 16.7 ms. "
        "The answer is written by SmolLM2 on the browser's own cores."
    )
    publish("The chat page", ["", "median", "95th percentile", "longest"], rows, note, args.write)


if __name__ == "__main__":
    main()
