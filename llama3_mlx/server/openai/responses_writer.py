"""A response as one object or as a stream of events.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ...json_types import JsonMapping, JsonObject
from ..core.events import AnswerEnd, CollectedAnswer, Event, LogprobEntry, PromptProgress, TextDelta, ToolCallEvent
from ..http.streaming import sse
from .chat import logprob_object
from .tools import ToolSet

# What an incomplete response says of its end.
_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
Keep = Callable[[JsonMapping, CollectedAnswer], None]


class ResponseWriter:
    """Writes one response, whole or as events."""

    def __init__(self, head: JsonMapping, extension: Callable[[], JsonMapping], tools: ToolSet) -> None:
        """`extension` gives the fields that go beside those of the protocol, as they are by then."""
        self._head, self._extension, self._tools = head, extension, tools
        self._number = -1
        self._message_id = f"msg_{secrets.token_hex(16)}"

    def finish(self, answer: CollectedAnswer, output: list[JsonObject]) -> JsonObject:
        """Return the whole response."""
        assert answer.end is not None, "a response is finished when its answer has ended"
        done, cut = answer.end.completion, _CUT.get(answer.reason)
        return {
            **self._head,
            **self._extension(),
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": cut} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": done.prompt_tokens,
                "input_tokens_details": {"cached_tokens": done.cached_tokens},
                "output_tokens": len(done.token_ids),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": done.prompt_tokens + len(done.token_ids),
            },
        }

    def items(self, answer: CollectedAnswer) -> list[JsonObject]:
        """Return the output items of a whole answer."""
        texts = [self._message(answer, answer.reason)] if answer.text or not answer.calls else []
        return [*texts, *(self._call_item(call, call.arguments_json) for call in answer.calls)]

    async def stream(self, events: AsyncIterator[Event], keep: Keep) -> AsyncIterator[bytes]:
        """Yield the events of a response as its answer comes."""
        begun = {**self._head, **self._extension(), "status": "in_progress", "output": [], "usage": None}
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        answer, output = CollectedAnswer(), list[JsonObject]()
        in_text = False
        async for event in events:
            if isinstance(event, PromptProgress):
                continue
            answer.add(event)
            if isinstance(event, TextDelta):
                if not event.text and output:
                    continue
                if not in_text:
                    in_text = True
                    for part in self._begin_text():
                        yield part
                logprobs = _logprobs(event.logprobs)
                yield self._text_event("response.output_text.delta", delta=event.text, logprobs=logprobs)
                continue
            if isinstance(event, AnswerEnd) and event.refusal and not in_text and not output:
                in_text = True
                yield self._begin_item()
            if in_text:
                in_text = False
                output.append(self._message(answer, "stop" if isinstance(event, ToolCallEvent) else event.reason))
                for part in self._end_text(output[-1]):
                    yield part
            if isinstance(event, ToolCallEvent):
                for part in self._call(event, len(output)):
                    yield part
                output.append(self._call_item(event, event.arguments_json))
        response = self.finish(answer, output or self.items(answer))
        keep(response, answer)
        yield self._event(f"response.{response['status']}", response=response)

    def _begin_item(self) -> bytes:
        item = {**self._message(CollectedAnswer(), "stop"), "status": "in_progress", "content": []}
        return self._event("response.output_item.added", output_index=0, item=item)

    def _begin_text(self) -> list[bytes]:
        item = self._begin_item()
        added = self._text_event("response.content_part.added", part=_part(CollectedAnswer()))
        return [item, added]

    def _end_text(self, item: JsonMapping) -> list[bytes]:
        parts: list[bytes] = []
        for index, part in enumerate(item["content"]):
            if part["type"] == "refusal":
                parts += self._refusal(part, index)
            else:
                text = {"text": part["text"], "logprobs": part["logprobs"]}
                parts.append(self._text_event("response.output_text.done", **text))
            parts.append(self._text_event("response.content_part.done", index, part=part))
        return [*parts, self._event("response.output_item.done", output_index=0, item=item)]

    def _refusal(self, part: JsonMapping, index: int) -> list[bytes]:
        return [
            self._text_event("response.content_part.added", index, part={**part, "refusal": ""}),
            self._text_event("response.refusal.delta", index, delta=part["refusal"]),
            self._text_event("response.refusal.done", index, refusal=part["refusal"]),
        ]

    def _call(self, call: ToolCallEvent, index: int) -> list[bytes]:
        item, begun = self._call_item(call, call.arguments_json), self._call_item(call, "")
        position = {"item_id": item["id"], "output_index": index}
        if self._tools[call.name].is_custom:
            kind, whole = "response.custom_tool_call_input", {"input": item["input"]}
        else:
            kind, whole = "response.function_call_arguments", {"name": item["name"], "arguments": item["arguments"]}
        return [
            self._event("response.output_item.added", output_index=index, item={**begun, "status": "in_progress"}),
            self._event(f"{kind}.delta", **position, delta=item.get("input", call.arguments_json)),
            self._event(f"{kind}.done", **position, **whole),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _call_item(self, call: ToolCallEvent, arguments: str) -> JsonObject:
        """Return a call as an item, a custom tool's and one in a namespace as theirs."""
        tool = self._tools[call.name]
        named = {"call_id": call.id, "name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}
        number = call.id.removeprefix("call_")
        status = "completed" if call.arguments is not None else "incomplete"
        if tool.is_custom:
            given = tool.input_of(call) if arguments else ""
            return {"type": "custom_tool_call", "id": f"ctc_{number}", **named, "input": given, "status": status}
        return {"type": "function_call", "id": f"fc_{number}", **named, "arguments": arguments, "status": status}

    def _message(self, answer: CollectedAnswer, reason: str) -> JsonObject:
        return {
            "type": "message",
            "id": self._message_id,
            "status": "incomplete" if reason in _CUT else "completed",
            "role": "assistant",
            "content": _parts(answer),
        }

    def _text_event(self, kind: str, index: int = 0, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._message_id, output_index=0, content_index=index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **fields}, kind)


def _parts(answer: CollectedAnswer) -> list[JsonObject]:
    """Return what a message holds: its text, and why a guard refused the rest if it did."""
    if answer.refusal is None:
        return [_part(answer)]
    refusal = {"type": "refusal", "refusal": answer.refusal}
    return [_part(answer), refusal] if answer.text else [refusal]


def _part(answer: CollectedAnswer) -> JsonObject:
    return {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": _logprobs(answer.logprobs)}


def _logprobs(logprobs: Sequence[LogprobEntry]) -> list[JsonObject]:
    return [
        {**logprob_object(entry), "top_logprobs": [logprob_object(other) for other in entry.alternatives]}
        for entry in logprobs
    ]
