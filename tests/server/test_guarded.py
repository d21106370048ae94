"""A guarded server: what the guard calls unsafe never leaves it, and all else leaves it byte for byte.

The guard is a stub with a list of words; the reference is the same server without a guard.
"""

import json
import random
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.generation.completion import Completion
from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.library.catalogue import Catalogue
from llama3_mlx.safety import Category, Verdict
from llama3_mlx.safety.prompt import turns_of
from llama3_mlx.server.core import answering
from llama3_mlx.server.core.events import AnswerEnd, Event, LogprobEntry, TextDelta
from llama3_mlx.server.core.loaded_model import LoadedModel
from llama3_mlx.server.running import make_server
from llama3_mlx.server.settings import ServerSettings

from ..support.scripted_llama import scripted_server
from ..support.server_fixtures import Running, running_server
from .test_moderations import guard_folder  # noqa: F401

WORDS = [
    "the",
    "a",
    "river",
    "stone",
    "walks",
    "green",
    "über",
    "tea",
    "night",
    "seven",
    "of",
    "and",
    "日本",
    "then",
    "sings\n",
]
UNSAFE = ("anthrax", "ricin", "sarin")
CALL = '{"name": "search", "parameters": {"query": "ricin"}}'
WEAPONS = Category("S9", "Indiscriminate Weapons.", "Indiscriminate Weapons")


class StubGuard:
    """Flags texts with one of the words; a failure on request."""

    def __init__(self) -> None:
        self.judged: list[list[tuple[str, str]]] = []
        self.failure: Exception | None = None
        self._lock = threading.Lock()

    def check(self, messages: Sequence[Mapping[str, Any]]) -> Verdict:
        turns = turns_of(messages)
        with self._lock:
            self.judged.append(turns)
        if self.failure is not None:
            raise self.failure
        flagged = any(word in turns[-1][1] for word in UNSAFE)
        return Verdict(flagged=flagged, score=float(flagged), categories=(WEAPONS,) if flagged else ())


def said_at(prompt: str, _: GenerationOptions) -> str:
    """Say what belongs to the number in the last message."""
    return ANSWERS[int(re.findall(r"number (\d+)", prompt)[-1])]


def _text(rng: random.Random, unsafe: bool) -> str:
    words = rng.choices(WORDS, k=rng.randint(1, 40))
    if unsafe:
        words.insert(rng.randint(0, len(words)), rng.choice(UNSAFE))
    return " ".join(words)


def _dialogs(count: int) -> tuple[list[list[dict[str, str]]], list[str]]:
    rng = random.Random(7)
    dialogs, answers = [], []
    for number in range(count):
        unsafe = rng.random()
        messages = [{"role": "system", "content": "Be brief."}] if rng.random() < 0.3 else []
        for _ in range(rng.randint(0, 2)):
            messages += [{"role": "user", "content": _text(rng, False)}, {"role": "assistant", "content": "Yes."}]
        messages.append({"role": "user", "content": f"number {number} {_text(rng, unsafe < 0.15)}"})
        dialogs.append(messages)
        answers.append(_text(rng, 0.15 <= unsafe < 0.5))
    return dialogs, answers


DIALOGS, ANSWERS = _dialogs(200)


def request_of(number: int, messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """Return one of the eight ways to ask, in turn."""
    stream = bool(number // 4 % 2)
    own = [message for message in messages if message["role"] != "system"]
    return [
        ("/v1/chat/completions", {"messages": messages, "stream": stream}),
        ("/v1/responses", {"input": messages, "stream": stream, "store": False}),
        ("/v1/messages", {"messages": own, "stream": stream, "max_tokens": 500}),
        ("/api/chat", {"messages": messages, "stream": stream}),
    ][number % 4]


def normalized(body: str) -> str:
    """Leave out what differs between two runs: ids and times."""
    body = re.sub(r"(chatcmpl-|resp_|msg_|cmpl-)[0-9a-f]+", r"\1", body)
    body = re.sub(r'"(created|created_at)":("[^"]*"|\d+)', r'"\1":0', body)
    return re.sub(r'"(\w+_duration)":\d+', r'"\1":0', body)


def answers_of(server: Running) -> list[httpx.Response]:
    """Return what a server answers to each dialog, asked by eight at a time."""

    def answer(number: int) -> httpx.Response:
        path, body = request_of(number, DIALOGS[number])
        return client.post(server.url + path, json={"model": "tiny", **body})

    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(8) as pool:
        return list(pool.map(answer, range(len(DIALOGS))))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubGuard:
    guard = StubGuard()
    monkeypatch.setattr(LoadedModel, "as_guard", lambda self: guard)
    return guard


@pytest.fixture
def guarded(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> Iterator[Running]:
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, said_at, guard=str(guard_folder), guard_every=20) as (
        server,
        _,
    ):
        yield server


def refusal_in(path: str, body: str, stream: bool) -> str | None:
    """Return the refusal of an answer by the form of its protocol, None if it has none."""
    objects = [
        json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith(("data: {", "{"))
    ]
    if path == "/v1/messages":
        ends = [each["delta"] for each in objects if each["type"] == "message_delta"] if stream else objects
        return ends[0]["stop_details"]["explanation"] if ends[0]["stop_reason"] == "refusal" else None
    if path == "/api/chat":
        return objects[-1]["refusal"] if objects[-1]["done_reason"] == "content_filter" else None
    if path == "/v1/responses":
        response = objects[-1]["response"] if stream else objects[0]
        if response["incomplete_details"] != {"reason": "content_filter"}:
            return None
        return next(part["refusal"] for part in response["output"][0]["content"] if part["type"] == "refusal")
    choices = [choice for each in objects for choice in each["choices"]]
    if choices[-1]["finish_reason"] != "content_filter":
        return None
    return next(text for choice in choices if (text := choice["delta" if stream else "message"].get("refusal")))


def test_nothing_unsafe_leaves_and_all_else_is_unchanged(
    guarded: Running, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, said_at) as (plain, _):
        expected = answers_of(plain)
    answers = answers_of(guarded)
    refused = 0
    for number, messages in enumerate(DIALOGS):
        path, body = request_of(number, messages)
        got = answers[number]
        asked, said = messages[-1]["content"], ANSWERS[number]
        refusal = refusal_in(path, got.text, body["stream"]) if got.status_code == 200 else "no answer"
        if any(word in asked for word in UNSAFE):
            assert refusal == "The request was refused by the guard: S9 Indiscriminate Weapons."
        elif any(word in said for word in UNSAFE):
            assert refusal == "The answer was stopped by the guard: S9 Indiscriminate Weapons."
        else:
            assert normalized(got.text) == normalized(expected[number].text)
            assert refusal is None
        assert not any(word in got.text for word in UNSAFE)
        refused += refusal is not None
    assert 50 < refused < 150
    metrics = guarded.get("/metrics").text
    checked = {
        (on, verdict): int(count)
        for on, verdict, count in re.findall(r'guard_checks_total\{on="(\w+)",verdict="(\w+)"\} (\d+)', metrics)
    }
    assert checked["input", "unsafe"] + checked["output", "unsafe"] == refused
    assert "llama3_mlx_guard_wait_seconds_count 200" in metrics


def streamed_text(path: str, body: str) -> str:
    """Return the text of an answer's deltas, and of the tokens whose log-probabilities came, where they are more."""
    said, tokens = "", b""
    for line in body.splitlines():
        if not line.startswith(("data: {", "{")):
            continue
        event = json.loads(line.removeprefix("data: "))
        if path == "/api/chat":
            said += event.get("message", {}).get("content", "")
        elif path == "/v1/messages":
            said += event.get("delta", {}).get("text", "")
        elif path == "/v1/responses":
            said += event["delta"] if event["type"] == "response.output_text.delta" else ""
        else:
            for choice in event["choices"]:
                said += choice["delta"].get("content") or ""
                for entry in (choice.get("logprobs") or {}).get("content") or []:
                    tokens += bytes(entry["bytes"])
    return max(said, tokens.decode("utf-8", "ignore"), key=len)


@pytest.mark.parametrize("every", [1, 7, 20])
def test_no_beginning_of_an_unsafe_word_leaves(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
    every: int,
) -> None:
    """Wherever the word stands, what leaves ends before it; the reference is the text in front of it."""
    fronts = ["tea " * 20 + "x" * shift + " " for shift in range(8)]
    with scripted_server(
        monkeypatch,
        {"tiny": tiny_folder},
        lambda prompt, _: fronts[int(re.findall(r"number (\d+)", prompt)[-1])] + "anthrax then " + "tea " * 30,
        guard=str(guard_folder),
        guard_every=every,
    ) as (server, _):
        for number in range(4 * len(fronts)):
            path, body = request_of(number % 4, [{"role": "user", "content": f"number {number // 4}"}])
            body |= {"stream": True} | ({"logprobs": True} if path == "/v1/chat/completions" else {})
            sent = streamed_text(path, server.post(path, {"model": "tiny", **body}).text)
            assert fronts[number // 4].startswith(sent)
            # Nor is everything held back to the end.
            assert len(sent) > 20


def test_a_stop_string_that_log_probabilities_show_is_judged(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    """Its tokens come with their log-probabilities, though it is no part of the text."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stop": ["ricin"], "logprobs": True}
    with running_server({"tiny": tiny_folder}, guard=str(guard_folder), guard_every=5) as server:
        events: list[Event] = [
            TextDelta(0, "make ", tuple(LogprobEntry(1, data, -1.0) for data in (b"make ", b"ri", b"cin"))),
            AnswerEnd(0, "stop", Completion("make ", (), "stop", 1, 0, 0.0, 0.0, 0), stop_text="ricin"),
        ]

        async def replies(*_: object) -> AsyncIterator[Event]:
            for event in events:
                yield event

        monkeypatch.setattr(answering, "as_events", replies)
        for stream in (False, True):
            text = server.post("/v1/chat/completions", {**body, "stream": stream}).text
            assert "content_filter" in text
            assert "cin" not in text


def find(start: str, unsafe: bool) -> int:
    """Return a dialog whose question is safe, and whose answer is unsafe or not."""
    return next(
        number
        for number, answer in enumerate(ANSWERS)
        if any(word in answer for word in UNSAFE) == unsafe
        and not any(word in DIALOGS[number][-1]["content"] for word in UNSAFE)
    )


@pytest.mark.parametrize("failure", [RequestError("the dialog takes 9000 tokens"), RuntimeError("out of order")])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_guard_that_fails_lets_nothing_pass(
    guarded: Running, stub: StubGuard, failure: Exception, path: str, stream: bool
) -> None:
    number = find("safe", False)
    content = f"number {number}"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 99}
    if path == "/v1/responses":
        asked = {"input": content}
    elif path == "/api/generate":
        asked = {"prompt": content}
    elif path == "/api/chat":
        del asked["max_tokens"]
    stub.failure = failure
    response = guarded.post(path, {"model": "tiny", "stream": stream, **asked})
    assert response.status_code == (400 if isinstance(failure, RequestError) else 500)
    assert ANSWERS[number].split()[0] not in response.text.split()
    if isinstance(failure, RequestError):
        assert "the guard can't judge the input, so nothing of it is passed on" in response.text


def test_a_guard_that_fails_on_the_answer_lets_none_of_it_pass(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    stub.failure = RequestError("the dialog is too long")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "number 0"}]}
    with scripted_server(
        monkeypatch, {"tiny": tiny_folder}, lambda *_: "secret " * 50, guard=str(guard_folder), guard_on="output"
    ) as (server, _):
        for stream in (False, True):
            response = server.post("/v1/chat/completions", {**body, "stream": stream})
            assert response.status_code == (200 if stream else 400)
            assert "secret" not in response.text
            assert "guard_failed" in response.text


def test_clients_see_a_refusal_as_their_protocol_has_it(guarded: Running) -> None:
    number = find("unsafe", True)
    messages: Any = [{"role": "user", "content": f"number {number}"}]
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="none") as ours:
        choice = ours.chat.completions.create(model="tiny", messages=messages).choices[0]
        assert choice.finish_reason == "content_filter"
        assert choice.message.content is None
        assert choice.message.refusal == "The answer was stopped by the guard: S9 Indiscriminate Weapons."
        response = ours.responses.create(model="tiny", input=messages)
        assert (response.status, response.incomplete_details and response.incomplete_details.reason) == (
            "incomplete",
            "content_filter",
        )
        with ours.responses.stream(model="tiny", input=messages) as events:
            kinds = [event.type for event in events]
        assert kinds[-1] == "response.incomplete"
        assert "response.refusal.done" in kinds
    with anthropic.Anthropic(base_url=guarded.url, api_key="none") as theirs:
        message = theirs.messages.create(model="tiny", messages=messages, max_tokens=99)
        assert (message.stop_reason, message.content) == ("refusal", [])
        with theirs.messages.stream(model="tiny", messages=messages, max_tokens=99) as stream:
            assert stream.get_final_message().stop_reason == "refusal"
    with ollama.Client(host=guarded.url) as client:
        assert client.chat("tiny", messages=messages).done_reason == "content_filter"
        generated = client.generate("tiny", f"number {number}")
        assert (generated.response, generated.done_reason, generated.context) == ("", "content_filter", None)
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="none") as ours:
        completion = ours.completions.create(model="tiny", prompt=f"number {number}", max_tokens=99)
        assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("", "content_filter")


def test_an_answer_that_is_stopped_runs_no_further(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    """On the real engine, which is told to end the answer."""
    monkeypatch.setattr(stub, "check", lambda messages: Verdict(flagged=len(messages) > 1, score=1.0))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "n": 2}
    body |= {"max_tokens": 4000, "ignore_eos": True, "stream_options": {"include_usage": True}}
    with running_server({"tiny": tiny_folder}, guard=str(guard_folder), guard_every=10) as server:
        text = server.post("/v1/chat/completions", body).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == ["content_filter"] * 2
    assert not any(choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] < 4000


def test_every_choice_and_tool_calls_are_judged(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    said = iter(["all is well", "make sarin", "fine"])
    query = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    tool = {"type": "function", "function": {"name": "search", "parameters": query}}

    def script(prompt: str, options: GenerationOptions) -> str:
        return CALL if options.calls_tools else next(said)

    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, script, guard=str(guard_folder)) as (server, _):
        choices = server.post("/v1/chat/completions", {**body, "n": 3}).json()["choices"]
        assert [choice["finish_reason"] for choice in choices] == ["stop", "content_filter", "stop"]
        assert [choice["message"]["content"] for choice in choices] == ["all is well", None, "fine"]
        for stream in (False, True):
            called = server.post("/v1/chat/completions", {**body, "tools": [tool], "stream": stream})
            assert "ricin" not in called.text
            assert "content_filter" in called.text


def test_the_guard_reads_users_agents_and_what_an_answer_begins_with(guarded: Running, stub: StubGuard) -> None:
    messages = [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "number 0"},
        {"role": "assistant", "content": "Once"},
    ]
    body = {"model": "tiny", "messages": [{"role": "system", "content": "Be brief."}, *messages]}
    guarded.post("/v1/chat/completions", {**body, "continue_final_message": True})
    asked = ("User", "Welcome.\nnumber 0")
    assert stub.judged[:2] == [[asked], [asked, ("Agent", "Once")]]
    assert stub.judged[2][1][1].startswith("Once")
    stub.judged.clear()
    guarded.post("/v1/completions", {"model": "tiny", "prompt": ["number 1", "number 2"], "n": 2})
    assert [turns for turns in stub.judged if len(turns) == 1] == [[("User", "number 1")], [("User", "number 2")]]


@pytest.mark.parametrize(("guard_on", "places"), [("input", {"input"}), ("output", {"output"})])
def test_one_side_alone_can_be_judged(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
    guard_on: str,
    places: set[str],
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "number 0"}]}
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, said_at, guard=str(guard_folder), guard_on=guard_on) as (
        server,
        _,
    ):
        server.post("/v1/chat/completions", body)
        found = set(re.findall(r'guard_checks_total\{on="(\w+)"', server.get("/metrics").text))
    assert found == places


def test_a_real_guard_judges_and_a_model_that_is_none_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    catalogue = Catalogue({"tiny": tiny_folder}, {}, with_home=False)
    with pytest.raises(RequestError, match="isn't a Llama Guard by its chat template"):
        make_server(ServerSettings(guard=str(tiny_folder)), catalogue)
    with pytest.raises(RequestError, match="guard_on must be one of both, input, output"):
        ServerSettings(guard_on="all")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    with running_server({"tiny": tiny_folder}, guard=str(guard_folder)) as server:
        answer = server.post("/v1/chat/completions", body).json()["choices"][0]
        assert answer["finish_reason"] in ("stop", "length", "content_filter")
        assert "guard_check_seconds_count" in server.get("/metrics").text
