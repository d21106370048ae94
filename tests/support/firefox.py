"""Firefox by WebDriver BiDi, without a driver between: what the tests of the chat page need of it.

Source: https://w3c.github.io/webdriver-bidi/.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import websocket

from .processes import announced, running

_WAIT_S = 60
_ENTER = "\ue007"


class Firefox:
    """One window of a running Firefox."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=_WAIT_S, suppress_origin=True)
        self._count = 0
        self.complaints: list[str] = []
        self._send("session.new", capabilities={})
        self._send("session.subscribe", events=["log.entryAdded"])
        tree = self._send("browsingContext.getTree")
        self._context: str = tree["contexts"][0]["context"]

    def goto(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, as JSON has it."""
        answer = self._send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + _WAIT_S
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Press the keys of a text, then Enter, where the focus is."""
        keys = [{"type": kind, "value": key} for key in text + _ENTER for kind in ("keyDown", "keyUp")]
        self._send("input.performActions", context=self._context, actions=[{"type": "key", "id": "k", "actions": keys}])

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def _send(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                assert message["type"] == "success", message
                return message["result"]
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.complaints.append(message["params"]["text"])
        raise TimeoutError(f"Firefox doesn't answer {method}")


@contextmanager
def running_firefox(binary: str, profile: Path) -> Iterator[Firefox]:
    """Run a headless Firefox with an empty profile."""
    command = [binary, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with (
        running(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process,
        closing(Firefox(announced(process, r"WebDriver BiDi listening on (ws://\S+)\s") + "/session")) as firefox,
    ):
        yield firefox
