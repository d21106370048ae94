"""A Llama Guard before and after answers: nothing of an answer is passed on before it has been judged."""

import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...errors import Llama3MLXError, RequestError, StructureError
from ...json_types import JsonMapping
from ...safety import Verdict
from ..http.errors import ApiError
from ..http.metrics import Metrics
from .events import AnswerEnd, CollectedAnswer, Event, PromptProgress, TextDelta, ToolCallEvent
from .loaded_model import LoadedModel

Cancel = Callable[[int], None]
# A word that isn't whole yet can't be judged: what has just come is judged once more with what follows it.
_LEAST_HELD = 32
# JSON's escapes: of characters by their code (several are a pair of surrogates), and others, of which \\ hides a u.
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*|.)", re.DOTALL)
_ESCAPE_LENGTH = len(r"\u0061")


class ContentGuard:
    """Judges one request and its answers."""

    def __init__(self, model: LoadedModel, metrics: Metrics, dialogs: Sequence[Sequence[JsonMapping]]) -> None:
        """`dialogs` are those of the answers, one each; a dialog may end with the beginning of its answer."""
        self._model, self._guard, self._metrics = model, model.as_guard(), metrics
        self._dialogs = [_Dialog.of(messages) for messages in dialogs]
        self._waited_s = 0.0

    async def refuse_input(self) -> str | None:
        """Return why the request is refused, None if it isn't; raises ApiError where it can't be judged."""
        judged: list[Sequence[JsonMapping]] = []
        for dialog in self._dialogs:
            for messages in dialog.inputs():
                if messages not in judged:
                    judged.append(messages)
                    verdict = await self._check("input", messages)
                    if verdict.flagged:
                        return f"The request was refused by the guard{_named(verdict)}."
        return None

    async def guarded(self, events: AsyncIterator[Event], cancel: Cancel, every: int | None) -> AsyncIterator[Event]:
        """Pass on the events that have been judged; an unsafe answer ends where it last was safe.

        An answer is judged whenever `every` more characters have come, and at its end; with None only there. Until its
        end, what is passed on has been judged together with at least as many characters (and 32) that follow it.
        What might have stood in a token's place is left out: nobody judges it.
        """
        answers = [_Answer(dialog) for dialog in self._dialogs]
        ahead = max(every or 0, _LEAST_HELD)
        async for event in _without_quotes(events):
            answer = answers[event.choice]
            if isinstance(event, PromptProgress):
                yield event
                continue
            event = _without_alternatives(event)
            if answer.refusal is None:
                answer.add(event)
                is_end = isinstance(event, AnswerEnd)
                if is_end or (every is not None and answer.waiting >= every):
                    answer.refusal = await self._refuse_output(answer)
                    if answer.refusal is None:
                        for held in answer.release(0 if is_end else ahead * answer.stretch):
                            yield held
                        continue
                    cancel(event.choice)
            if answer.refusal is not None and isinstance(event, AnswerEnd):
                yield replace(event, reason="content_filter", stop_text=None, refusal=answer.refusal)

    def observe(self) -> None:
        """Count what judging has added to the request."""
        self._metrics.guard_wait.observe(self._waited_s)

    async def _refuse_output(self, answer: "_Answer") -> str | None:
        messages = answer.messages()
        if not messages:
            return None
        verdict = await self._check("output", messages)
        return f"The answer was stopped by the guard{_named(verdict)}." if verdict.flagged else None

    async def _check(self, place: str, messages: Sequence[JsonMapping]) -> Verdict:
        began = time.perf_counter()
        outcome = "failed"
        try:
            verdict = await self._model.prepare(lambda: self._guard.check(messages))
            outcome = "unsafe" if verdict.flagged else "safe"
            return verdict
        except Llama3MLXError as error:
            status = 400 if isinstance(error, RequestError) else 500
            message = f"the guard can't judge the {place}, so nothing of it is passed on: {error}"
            raise ApiError(status, message, code="guard_failed") from None
        finally:
            took = time.perf_counter() - began
            self._waited_s += took
            self._metrics.guard_check.observe(took)
            self._metrics.guard_checks.add(on=place, verdict=outcome)


@dataclass(frozen=True)
class _Dialog:
    """A dialog as a guard reads it, and the assistant's messages at its end, which an answer continues."""

    messages: Sequence[JsonMapping]
    begun: Sequence[JsonMapping]

    @classmethod
    def of(cls, messages: Sequence[JsonMapping]) -> "_Dialog":
        """System messages are the operator's. What an assistant is made to say first counts as the user's words."""
        dialog = [message for message in messages if message.get("role") not in ("system", "developer")]
        end = len(dialog)
        while end and dialog[end - 1].get("role") == "assistant":
            end -= 1
        first = next((at for at in range(end) if dialog[at].get("role") != "assistant"), end)
        opening = [{"role": "user", "content": _text(message)} for message in dialog[:first]]
        said = [message for message in opening if _has_text([message])]
        return cls([*said, *dialog[first:end]], dialog[end:])

    def inputs(self) -> list[Sequence[JsonMapping]]:
        """Return what is judged of the request: up to the user's last message, and the answer's beginning."""
        found: list[Sequence[JsonMapping]] = [self.messages] if _has_text(self.messages) else []
        return [*found, self.with_answer(self.begun)] if _has_text(self.begun) else found

    def with_answer(self, answer: Sequence[JsonMapping]) -> Sequence[JsonMapping]:
        """Return the dialog with an answer; where no user has said anything, it is judged as a user's words."""
        if _has_text(self.messages):
            return [*self.messages, *answer]
        return [{**message, "role": "user"} for message in answer]


@dataclass
class _Answer:
    """An answer as far as it has come, with the events of it that have not been passed on.

    `held` has each event with the characters of the answer up to its end; `waiting` counts those not judged yet.
    """

    dialog: _Dialog
    whole: CollectedAnswer = field(default_factory=CollectedAnswer)
    held: deque[tuple[int, Event]] = field(default_factory=deque)
    come: int = 0
    waiting: int = 0
    refusal: str | None = None

    def add(self, event: Event) -> None:
        self.whole.add(event)
        new = _length(event)
        self.come += new
        self.waiting += new
        self.held.append((self.come, event))

    def release(self, ahead: int) -> Iterator[Event]:
        """Yield the events that `ahead` characters follow, after all have been judged; with 0 all of them."""
        self.waiting = 0
        while self.held and self.held[0][0] <= self.come - ahead:
            yield self.held.popleft()[1]

    @property
    def stretch(self) -> int:
        """How many characters of the answer may stand for one of what it says."""
        text = self._text()
        return 1 if unescaped(text) == text else _ESCAPE_LENGTH

    def messages(self) -> Sequence[JsonMapping]:
        """Return the dialog with the answer behind the beginning that the request gave; nothing if it has no text."""
        parts = [*(_text(message) for message in self.dialog.begun), unescaped(self._text())]
        parts += [
            f"{call.name} {unescaped(call.arguments_json)}" for call in self.whole.calls if call.arguments is None
        ]
        calls = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.whole.calls
            if call.arguments is not None
        ]
        said = {"role": "assistant", "content": "".join(parts), **({"tool_calls": calls} if calls else {})}
        return self.dialog.with_answer([said]) if _has_text([said]) else ()

    def _text(self) -> str:
        """Return the text, with what tokens show beyond it: those of a stop string come with log-probabilities."""
        text = self.whole.text
        tokens = b"".join(entry.data for entry in self.whole.logprobs).decode("utf-8", "ignore")
        return tokens if tokens.startswith(text) else text


def unescaped(text: str) -> str:
    r"""Return a text with characters in the place of JSON's escapes of them, such as \u0061."""

    def meant(escape: re.Match[str]) -> str:
        if len(escape[1]) == 1:
            return escape[0]
        characters: str = json.loads(f'"{escape[0]}"')
        return characters.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    return _ESCAPE.sub(meant, text) if "\\u" in text else text


def _without_alternatives(event: Event) -> Event:
    if isinstance(event, TextDelta):
        return replace(event, logprobs=tuple(replace(entry, alternatives=()) for entry in event.logprobs))
    if isinstance(event, AnswerEnd) and event.completion.prompt_logprobs:
        bare = tuple(replace(entry, alternatives=()) for entry in event.completion.prompt_logprobs)
        return replace(event, completion=replace(event.completion, prompt_logprobs=bare))
    return event


def _length(event: Event) -> int:
    """Return how many characters an event shows: of its text or its call, or of its tokens if they are more."""
    if isinstance(event, TextDelta):
        return max(len(event.text), sum(len(entry.text) for entry in event.logprobs))
    return len(event.name) + len(event.arguments_json) if isinstance(event, ToolCallEvent) else 0


async def _without_quotes(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Pass the events on; an answer outside its schema is an error that quotes nothing, since nobody has judged it."""
    try:
        async for event in events:
            yield event
    except StructureError:
        raise ApiError(422, "the model's answer doesn't fit the schema", code="answer_outside_schema") from None


def _text(message: JsonMapping) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def _has_text(messages: Sequence[JsonMapping]) -> bool:
    return any(_text(message).strip() or message.get("tool_calls") for message in messages)


def _named(verdict: Verdict) -> str:
    named = ", ".join(f"{category.code} {category.title}" for category in verdict.categories)
    return f": {named}" if named else ""
