"""The code shield on answers: their fenced code is scanned before an answer that holds it is whole."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ...safety.shield import Shield
from ...safety.shield.stream import Mode, ShieldedText
from ..http.metrics import Metrics
from .events import AnswerEnd, Event, LogprobEntry, TextDelta, ToolCallEvent


@dataclass
class _Shielded:
    text: ShieldedText
    logprobs: list[LogprobEntry] = field(default_factory=list)

    async def add(self, event: TextDelta) -> str:
        self.logprobs += event.logprobs
        if "\n" not in event.text:
            return self.text.add(event.text)
        # A block may end: the event loop serves others while it is scanned.
        return await asyncio.to_thread(self.text.add, event.text)


async def shielded(
    events: AsyncIterator[Event], count: int, shield: Shield, mode: Mode, metrics: Metrics
) -> AsyncIterator[Event]:
    """Pass on the events of `count` answers with their fenced code annotated or blocked.

    Log-probabilities come with the text that they belong to; those of a block that is left out are left out.
    """
    answers = [_Shielded(ShieldedText(shield, mode)) for _ in range(count)]
    async for event in events:
        answer = answers[event.choice]
        if isinstance(event, TextDelta):
            began = time.perf_counter()
            text = await answer.add(event)
            _count(answer, metrics, began)
            if text == event.text and tuple(answer.logprobs) == event.logprobs:
                answer.logprobs = []
                yield event
                continue
        elif isinstance(event, AnswerEnd | ToolCallEvent):
            began = time.perf_counter()
            text = await asyncio.to_thread(answer.text.finish)
            _count(answer, metrics, began)
        else:
            yield event
            continue
        if answer.text.removed:
            answer.logprobs = []
        if text or (answer.logprobs and not isinstance(event, TextDelta)):
            yield TextDelta(event.choice, text, tuple(answer.logprobs))
            answer.logprobs = []
        if not isinstance(event, TextDelta):
            yield event


def _count(answer: _Shielded, metrics: Metrics, began: float) -> None:
    for scan in answer.text.scans:
        metrics.shield_scans.add(status=scan.status)
    if answer.text.scans:
        metrics.shield_scan.observe(time.perf_counter() - began)
        answer.text.scans.clear()
