"""The bot on requests of the form that Meta documents, with numbers and names made up."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from examples.recipes import webhook_bot
from examples.recipes.webhook_payloads import Incoming
from llama3_mlx import Llama

SECRETS = webhook_bot.Secrets("the word", "the key")
WHATSAPP = """{"object": "whatsapp_business_account", "entry": [{"id": "102290129340398", "changes": [{"value": {
  "messaging_product": "whatsapp",
  "metadata": {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"},
  "contacts": [{"profile": {"name": "A Customer"}, "wa_id": "16505551234"}],
  "messages": [{"from": "16505551234", "id": "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA=",
    "timestamp": "1749416383", "type": "text", "text": {"body": "Does it come in another color?"}}]},
  "field": "messages"}]}]}"""
DELIVERED = """{"object": "whatsapp_business_account", "entry": [{"id": "102290129340398", "changes": [{"value": {
  "messaging_product": "whatsapp",
  "metadata": {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"},
  "statuses": [{"id": "wamid.HBgL", "status": "delivered", "timestamp": "1750263773", "recipient_id": "16505551234"}]},
  "field": "messages"}]}]}"""
MESSENGER = """{"object": "page", "entry": [{"id": "682498302938465", "time": 1518479195594, "messaging": [{
  "sender": {"id": "123456789"}, "recipient": {"id": "682498302938465"}, "timestamp": 1518479195308,
  "message": {"mid": "mid.$cAAJdkrCd2ORnva8ErFhjGm0X_Q_c", "text": "Do you ship to Bergen?"}}]}]}"""
ECHO = MESSENGER.replace('"text"', '"is_echo": true, "text"').replace("$cAA", "$other")


@pytest.fixture(scope="module")
def llama(small_chat: Path) -> Iterator[Llama]:
    with Llama.load(small_chat, disk_cache=False) as loaded:
        yield loaded


def signed(body: str, key: str = SECRETS.app_secret) -> dict[str, str]:
    digest = hmac.new(key.encode(), body.encode(), hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}"}


def post(llama: Llama, *bodies: tuple[str, dict[str, str]]) -> tuple[list[int], list[tuple[Incoming, str]]]:
    """Post bodies with headers one after the other; return the states, and what was sent."""
    sent: list[tuple[Incoming, str]] = []

    async def send(message: Incoming, text: str) -> None:
        sent.append((message, text))

    async def run() -> list[int]:
        app = webhook_bot.make_app(llama, SECRETS, send, max_tokens=4)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bot") as client:
            return [
                (await client.post("/webhook", content=body, headers=headers)).status_code for body, headers in bodies
            ]

    return asyncio.run(asyncio.wait_for(run(), 120)), sent


def test_messages_of_both_are_answered_once(llama: Llama) -> None:
    bodies = [WHATSAPP, MESSENGER, WHATSAPP, DELIVERED, ECHO]
    states, sent = post(llama, *((body, signed(body)) for body in bodies))
    assert states == [200] * 5
    assert [(each.channel, each.sender, each.account, each.text) for each, _ in sent] == [
        ("whatsapp", "16505551234", "106540352242922", "Does it come in another color?"),
        ("messenger", "123456789", "682498302938465", "Do you ship to Bergen?"),
    ]
    assert all(text for _, text in sent)


def test_what_meta_has_not_signed_is_refused(llama: Llama) -> None:
    wrong = signed(WHATSAPP.replace("another", "any"))
    states, sent = post(
        llama, (WHATSAPP, {}), (WHATSAPP, wrong), (WHATSAPP, signed(WHATSAPP, "another key")), ("{", signed("{"))
    )
    assert states == [401, 401, 401, 400]
    assert sent == []


def test_the_signature_is_that_of_rfc_4231() -> None:
    """Test case 2 of the RFC."""
    digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert webhook_bot.is_signed("Jefe", b"what do ya want for nothing?", f"sha256={digest}")
    assert not webhook_bot.is_signed("Jefe", b"what do ya want for nothing!", f"sha256={digest}")


def test_the_handshake_gives_the_challenge_back(llama: Llama) -> None:
    async def ask(token: str) -> httpx.Response:
        async def send(message: Incoming, text: str) -> None:
            raise AssertionError("nothing is to be sent")

        app = webhook_bot.make_app(llama, SECRETS, send)
        given = {"hub.mode": "subscribe", "hub.verify_token": token, "hub.challenge": "1158201444"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bot") as client:
            return await client.get("/webhook", params=given)

    right, wrong = (asyncio.run(asyncio.wait_for(ask(token), 120)) for token in ("the word", "a word"))
    assert (right.status_code, right.text) == (200, "1158201444")
    assert wrong.status_code == 403


def test_answers_go_to_the_graph_api() -> None:
    request = webhook_bot.graph_request(Incoming("whatsapp", "1", "16505551234", "106", ""), "Yes.", "the token")
    assert request.full_url.endswith("/106/messages")
    assert request.get_header("Authorization") == "Bearer the token"
    assert isinstance(request.data, bytes)
    body = {"messaging_product": "whatsapp", "to": "16505551234", "type": "text", "text": {"body": "Yes."}}
    assert json.loads(request.data) == body
    request = webhook_bot.graph_request(Incoming("messenger", "1", "123", "682", ""), "Yes.", "the token")
    assert isinstance(request.data, bytes)
    assert json.loads(request.data)["recipient"] == {"id": "123"}
