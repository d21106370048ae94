"""Dialogs to token ids, by the checkpoint's own chat template or Llama 3's; content never becomes a control token.

The template runs on strings that injection_guard.py has broken up. The rendered text is cut at the control tokens
that are whole, which the template wrote, and the guarding character is taken out of the rest before it is encoded as
ordinary text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DialogError
from ..tokenizer.tokenizer import Tokenizer
from .assistant_mask import encode_marked
from .injection_guard import InjectionGuard, unused_characters
from .messages import arguments_as_text, normalize, one_call_each
from .template import ChatTemplate
from .template_files import find_templates
from .tool_prompt import tools_as_text


@dataclass(frozen=True)
class _Prepared:
    """A dialog that has been checked and fitted to the template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    options: Mapping[str, Any]
    marks: tuple[str, str, str] = field(default=("", "", ""))


class Dialog:
    """Renders and encodes the dialogs of one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        named_tokens: Mapping[str, str],
        *,
        tool_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(template)
        self._tool_template = ChatTemplate(tool_template) if tool_template else self.template
        self._named_tokens = dict(named_tokens)
        self._injection_guard = InjectionGuard(tokenizer.control_tokens)
        self.stop_ids = tokenizer.stop_ids

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        **options: Any,
    ) -> list[int]:
        """Return the ids of a dialog, by default up to where the assistant's next message begins.

        `continue_final` leaves the last message, an assistant's, open to be continued. `options` are the
        template's own, such as `date_string`. Raises DialogError.
        """
        dialog = self._prepare(messages, tools, options)
        sentinel, mark, _ = dialog.marks
        if not continue_final:
            return self.tokenizer.encode_rendered(self._render(dialog, closed=not add_generation_prompt), sentinel)
        last = dialog.messages[-1]
        if last["role"] != "assistant":
            raise DialogError(f"only an assistant's message can be continued, not {last['role']!r}")
        last["content"] += f"{mark} "
        return self.tokenizer.encode_rendered(_left_open(self._render(dialog, closed=True), mark), sentinel)

    def encode_with_mask(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a whole dialog and which of them the assistant wrote, ends of turn included.

        Exact for templates with `{% generation %}`; for others by comparing what the template writes before and
        after each of the assistant's messages. Raises DialogError where neither tells.
        """
        dialog = self._prepare(messages, tools, options)
        if self._template_for(dialog).marks_generation:
            text = self._render(dialog, closed=True, marked=True)
        else:
            text = self._marked_by_prefixes(dialog)
        return encode_marked(self.tokenizer, text, *dialog.marks)

    def _prepare(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        options: Mapping[str, Any],
    ) -> _Prepared:
        checked = normalize(messages)
        listed = [dict(tool) for tool in tools] if tools else None
        template = self._tool_template if listed else self.template
        checked, listed = tools_as_text(
            checked, listed, takes_tools=template.takes_tools, takes_calls=template.takes_calls
        )
        calls = max(len(message.get("tool_calls", ())) for message in checked)
        if calls and not self._takes_argument_objects:
            checked = arguments_as_text(checked)
        if calls > 1 and not self._takes_several_calls:
            checked = one_call_each(checked)
        marks = unused_characters(checked, listed, options, template.source)
        return _Prepared(checked, listed, options, marks)

    def _template_for(self, dialog: _Prepared) -> ChatTemplate:
        return self._tool_template if dialog.tools else self.template

    def _render(
        self, dialog: _Prepared, *, closed: bool, marked: bool = False, messages: list[dict[str, Any]] | None = None
    ) -> str:
        sentinel, begin, end = dialog.marks
        messages = dialog.messages if messages is None else messages
        values = {
            **self._named_tokens,
            **{name: self._injection_guard.value(value, sentinel) for name, value in dialog.options.items()},
            "messages": [self._injection_guard.message(message, sentinel) for message in messages],
            "tools": self._injection_guard.value(dialog.tools, sentinel),
            "documents": None,
            "add_generation_prompt": not closed,
        }
        return self._template_for(dialog).render(values, (begin, end) if marked else ("", ""))

    @cached_property
    def _takes_several_calls(self) -> bool:
        """Whether the template writes two tool calls of one message; Llama 3.1's refuses."""
        arguments: Any = {} if self._takes_argument_objects else "{}"
        return self._renders_calls(arguments, arguments)

    @cached_property
    def _takes_argument_objects(self) -> bool:
        """Whether the template takes a call's arguments as an object; some, as DeepSeek's, want them as text."""
        return self._renders_calls({}) or not self._renders_calls("{}")

    def _renders_calls(self, *arguments: Any) -> bool:
        calls = [{"id": "0", "type": "function", "function": {"name": "f", "arguments": value}} for value in arguments]
        probe: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
        probe.append({"role": "assistant", "content": "", "tool_calls": calls})
        try:
            self._render(_Prepared(probe, None, {}), closed=True)
        except DialogError:
            return False
        return True

    def _marked_by_prefixes(self, dialog: _Prepared) -> str:
        _, begin, end = dialog.marks
        whole = self._render(dialog, closed=True)
        pieces, at = [], 0
        for index, message in enumerate(dialog.messages):
            if message["role"] != "assistant":
                continue
            before = self._before(dialog, index)
            after = self._render(dialog, closed=True, messages=dialog.messages[: index + 1])
            if not (after.startswith(before) and whole.startswith(after) and len(before) >= at):
                raise DialogError(
                    f"this chat template doesn't show which part of message {index} the assistant wrote: give it a "
                    "{% generation %} block"
                )
            stop = len(before) + self._end_of_turn(after[len(before) :])
            pieces += [whole[at : len(before)], begin, whole[len(before) : stop], end]
            at = stop
        return "".join([*pieces, whole[at:]])

    def _before(self, dialog: _Prepared, index: int) -> str:
        """Return what the template writes before the content of an assistant's message."""
        if index:
            return self._render(dialog, closed=False, messages=dialog.messages[:index])
        # Templates look at the first message: there is none before the one that opens the dialog.
        _, begin, _ = dialog.marks
        first = {**dialog.messages[0], "content": begin + dialog.messages[0]["content"]}
        return self._render(dialog, closed=True, messages=[first]).partition(begin)[0]

    def _end_of_turn(self, text: str) -> int:
        """Return where the last stop token of `text` ends, else where the text does."""
        stops = [self.tokenizer.control_text(token) for token in self.stop_ids]
        ends = [text.rfind(stop) + len(stop) for stop in stops if stop and stop in text]
        return max(ends, default=len(text))


def load_dialog(folder: Path, tokenizer: Tokenizer) -> Dialog | None:
    """Return the dialog format of a model folder, None for a base model that has none.

    Raises DialogError or TokenizerError for a template that is not valid Jinja or a file that can't be read.
    """
    templates, named_tokens = find_templates(folder, tokenizer)
    if not templates:
        return None
    default = templates.get("default") or next(iter(templates.values()))
    return Dialog(tokenizer, default, named_tokens, tool_template=templates.get("tool_use"))


def _left_open(text: str, mark: str) -> str:
    """Cut the rendered text where the mark shows that the last message's content ends.

    A space stands behind the mark: where it is gone the template trims. Source: transformers
    `continue_final_message`.
    """
    at = text.rfind(mark)
    if at < 0:
        raise DialogError("the last message can't be continued: the chat template doesn't write its content")
    return text[:at] if text[at : at + 2] == f"{mark} " else text[:at].rstrip()
