"""A bot for WhatsApp and Messenger: Meta's webhook, answered by the model on this machine.

    export VERIFY_TOKEN=… APP_SECRET=… PAGE_TOKEN=…
    python -m examples.recipes.webhook_bot --port 8000

You need an app at developers.facebook.com and a public HTTPS address that leads here. The signature of each request is
checked over the raw bytes; Meta gets its 200 at once, since it sends again what takes too long, and the answer follows
from the background; a message that comes twice is answered once. The small model makes small talk; an 8B answers
questions, and should be told in `--system` whose bot it is. Sources: developers.facebook.com, Graph API, Webhooks,
"Getting Started"; WhatsApp Business Platform, Cloud API, "Webhooks"; Messenger Platform, "Webhooks", "Send API".
"""

import asyncio
import hashlib
import hmac
import json
import os
import urllib.request
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import ValidationError

from examples.recipes import arguments, run
from examples.recipes.webhook_payloads import Incoming, Payload
from llama3_mlx import Llama

GRAPH = "https://graph.facebook.com/v23.0"
Send = Callable[[Incoming, str], Awaitable[None]]


@dataclass(frozen=True)
class Secrets:
    """What the app's page at Meta has: the word of the handshake, and the key of signatures."""

    verify_token: str
    app_secret: str


def is_signed(secret: str, body: bytes, header: str | None) -> bool:
    """Whether `X-Hub-Signature-256` is that of the body."""
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), (header or "").encode())


def make_app(llama: Llama, secrets: Secrets, send: Send, *, system: str = "", max_tokens: int = 200) -> FastAPI:
    """Return the application; `send` brings an answer to whoever wrote the message."""
    app, seen = FastAPI(), OrderedDict[str, None]()

    def is_new(message_id: str) -> bool:
        new = message_id not in seen
        seen[message_id] = None
        while len(seen) > 10_000:
            seen.popitem(last=False)
        return new

    async def answer(message: Incoming) -> None:
        dialog = [{"role": "user", "content": message.text}]
        if system:
            dialog.insert(0, {"role": "system", "content": system})
        done = await llama.achat(dialog, max_tokens=max_tokens)
        await send(message, done.text.strip() or "…")

    @app.get("/webhook")
    async def verify(
        mode: Annotated[str, Query(alias="hub.mode")] = "",
        token: Annotated[str, Query(alias="hub.verify_token")] = "",
        challenge: Annotated[str, Query(alias="hub.challenge")] = "",
    ) -> Response:
        """Prove to Meta that this address is ours."""
        known = hmac.compare_digest(token.encode(), secrets.verify_token.encode())
        return PlainTextResponse(challenge) if mode == "subscribe" and known else Response(status_code=403)

    @app.post("/webhook")
    async def receive(request: Request, background: BackgroundTasks) -> Response:
        """Take messages, and answer them behind Meta's back."""
        body = await request.body()
        if not is_signed(secrets.app_secret, body, request.headers.get("x-hub-signature-256")):
            return Response(status_code=401)
        try:
            payload = Payload.model_validate_json(body)
        except ValidationError:
            return Response(status_code=400)
        for message in payload.messages():
            if is_new(message.id):
                background.add_task(answer, message)
        return Response()

    return app


def graph_request(message: Incoming, text: str, token: str) -> urllib.request.Request:
    """Return the request that sends a text; WhatsApp takes 4096 characters of it, Messenger 2000."""
    if message.channel == "whatsapp":
        body = {"messaging_product": "whatsapp", "to": message.sender, "type": "text", "text": {"body": text[:4096]}}
    else:
        body = {"recipient": {"id": message.sender}, "messaging_type": "RESPONSE", "message": {"text": text[:2000]}}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return urllib.request.Request(f"{GRAPH}/{message.account}/messages", json.dumps(body).encode(), headers)


def main() -> None:
    import uvicorn

    parser = arguments(__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--system", default="Answer in two sentences.", help="system message (%(default)s)")
    args = parser.parse_args()
    if missing := [name for name in ("VERIFY_TOKEN", "APP_SECRET", "PAGE_TOKEN") if name not in os.environ]:
        parser.error(f"set {', '.join(missing)} in the environment")
    secrets, token = Secrets(os.environ["VERIFY_TOKEN"], os.environ["APP_SECRET"]), os.environ["PAGE_TOKEN"]

    async def send(message: Incoming, text: str) -> None:
        await asyncio.to_thread(urllib.request.urlopen, graph_request(message, text, token), timeout=30)

    with Llama.load(args.model) as llama:
        uvicorn.run(make_app(llama, secrets, send, system=args.system), host="127.0.0.1", port=args.port)


if __name__ == "__main__":
    run(main)
