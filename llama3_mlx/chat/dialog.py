"""Dialogs to token ids, by the checkpoint's own chat template or Llama 3's; content never becomes a control token.

The template runs on strings that injection_guard.py has broken up. The rendered text is cut at the control tokens
that are whole, which the template wrote, and the guarding character is taken out of the rest before it is encoded as
ordinary text.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..errors import DialogError
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..tokenizer.tokenizer import Tokenizer
from .assistant_mask import encode_marked, marked_by_prefixes
from .injection_guard import InjectionGuard, unused_characters
from .messages import MessageDict, MessageMapping, ToolDict, arguments_as_text, normalize, one_call_each
from .presence import calls_after_text, doubtful, lost
from .template import ChatTemplate
from .template_files import find_templates
from .template_traits import TemplateTraits, as_parts
from .tool_prompt import tools_as_text


@dataclass(frozen=True)
class _Prepared:
    """A dialog that has been checked and fitted to the template."""

    messages: list[MessageDict]
    tools: list[ToolDict] | None
    options: JsonMapping
    # What guards control tokens; what stands before and after the assistant's text; what shows that a text is written.
    marks: tuple[str, str, str, str] = field(default=("", "", "", ""))


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
        self._options: JsonObject = {}
        self._today: datetime | None = None
        # What was found out about a template by trying it.
        self._found_traits: dict[ChatTemplate, TemplateTraits] = {}
        self._proven_roles: dict[ChatTemplate, set[str]] = {}

    @property
    def writes_date(self) -> bool:
        """Whether a prompt depends on the day it is built on, as with Llama 3.2's template."""
        return self.template.writes_date or self._tool_template.writes_date

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """What the ids of a dialog depend on besides the tokenizer: templates, named tokens, options, and the day."""
        templates = (self.template.source, self._tool_template.source)
        day = str((self._today or datetime.now()).date()) if self.writes_date else ""
        return (*templates, repr(sorted(self._named_tokens.items())), repr(sorted(self._options.items())), day)

    def bound(self, *, today: date | str | None = None, **options: JsonValue) -> "Dialog":
        """Return this dialog format with a fixed day (a date, or its ISO text) and defaults of template options.

        With both a prompt built on another day has the same ids. Raises DialogError for what is no date.
        """
        other = copy.copy(self)
        other._options = {**self._options, **options}
        if today is not None:
            try:
                day = date.fromisoformat(today) if isinstance(today, str) else today
            except ValueError:
                raise DialogError(f"the date must be like 2026-11-26, not {today!r:.40}") from None
            other._today = datetime(day.year, day.month, day.day)
        return other

    def encode(
        self,
        messages: Sequence[MessageMapping],
        *,
        tools: Sequence[MessageMapping] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        **options: JsonValue,
    ) -> list[int]:
        """Return the ids of a dialog, by default up to where the assistant's next message begins.

        `continue_final` leaves the last message, an assistant's, open to be continued. `options` are the
        template's own, such as `date_string`. Raises DialogError.
        """
        text, sentinel = self._text(messages, tools, add_generation_prompt, continue_final, options)
        return self.tokenizer.encode_rendered(text, sentinel)

    def render(
        self,
        messages: Sequence[MessageMapping],
        *,
        tools: Sequence[MessageMapping] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        **options: JsonValue,
    ) -> str:
        """Return the text that the template writes, for programs that work on text; see `encode`.

        Control tokens in messages can't be told from those of the template any more.
        """
        text, sentinel = self._text(messages, tools, add_generation_prompt, continue_final, options)
        return text.replace(sentinel, "")

    def _text(
        self,
        messages: Sequence[MessageMapping],
        tools: Sequence[MessageMapping] | None,
        add_generation_prompt: bool,
        continue_final: bool,
        options: JsonMapping,
    ) -> tuple[str, str]:
        """Return what the template writes, and the character in it that breaks up control tokens of messages."""
        dialog = self._prepare(messages, tools, options)
        sentinel, mark, *_ = dialog.marks
        if not continue_final:
            return self._written(dialog, closed=not add_generation_prompt)[1], sentinel
        last = dialog.messages[-1]
        if last["role"] != "assistant":
            raise DialogError(f"only an assistant's message can be continued, not {last['role']!r}")
        last["content"] += f"{mark} "
        return _left_open(self._written(dialog, closed=True)[1], mark), sentinel

    def encode_with_mask(
        self, messages: Sequence[MessageMapping], *, tools: Sequence[MessageMapping] | None = None, **options: JsonValue
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a whole dialog and which of them the assistant wrote, ends of turn included.

        Exact for templates with `{% generation %}`; for others by comparing what the template writes before and
        after each of the assistant's messages. Raises DialogError where neither tells.
        """
        dialog = self._prepare(messages, tools, options)
        marked = self._template_for(dialog).marks_generation
        dialog, text = self._written(dialog, closed=True, marked=marked)
        if not marked:
            stops = [self.tokenizer.control_text(token) for token in self.stop_ids]
            text = marked_by_prefixes(dialog.messages, text, dialog.marks[1:3], stops, partial(self._render, dialog))
        return encode_marked(self.tokenizer, text, *dialog.marks[:3])

    def _prepare(
        self,
        messages: Sequence[MessageMapping],
        tools: Sequence[MessageMapping] | None,
        options: JsonMapping,
    ) -> _Prepared:
        checked = normalize(messages)
        listed = [dict(tool) for tool in tools] if tools else None
        template = self._tool_template if listed else self.template
        checked, listed = tools_as_text(
            checked, listed, takes_tools=template.takes_tools, takes_calls=template.takes_calls
        )
        calls = max(len(message.get("tool_calls", ())) for message in checked)
        if calls and not self._traits(self.template).takes_argument_objects:
            checked = arguments_as_text(checked)
        if calls > 1 and not self._traits(self.template).takes_several_calls:
            checked = one_call_each(checked)
        options = {**self._options, **options}
        marks = unused_characters(checked, listed, options, template.source)
        return _Prepared(checked, listed, options, marks)

    def _template_for(self, dialog: _Prepared) -> ChatTemplate:
        return self._tool_template if dialog.tools else self.template

    def _written(self, dialog: _Prepared, *, closed: bool, marked: bool = False) -> tuple[_Prepared, str]:
        """Return the text that the template writes, and the dialog as it takes it.

        Raises DialogError where the text of a message is lost.
        """
        self._check_named_tokens(self._template_for(dialog))
        text = self._render(dialog, closed=closed, marked=marked)
        gone = self._lost(dialog, text, closed=closed)
        if any(dialog.messages[index].get("tool_calls") for index in gone):
            dialog = replace(dialog, messages=calls_after_text(dialog.messages, gone))
            text = self._render(dialog, closed=closed, marked=marked)
            gone = self._lost(dialog, text, closed=closed)
        if gone:
            message = dialog.messages[gone[0]]
            raise DialogError(
                f"the chat template writes nothing of message {gone[0]}, which is by the role {message['role']!r}: "
                f"{message['content'].strip()[:40]!r}; leave the message out, or put its text into another one"
            )
        return dialog, text

    def _check_named_tokens(self, template: ChatTemplate) -> None:
        """Raise DialogError where the template writes a named token that the tokenizer doesn't have."""
        for name, text in self._named_tokens.items():
            if name not in template.variables or not text or text in self.tokenizer.control_tokens:
                continue
            if len(self.tokenizer.encode(text)) != 1:
                raise DialogError(
                    f"the chat template writes {name} {text!r}, which the tokenizer doesn't have: set {name} in "
                    "tokenizer_config.json to the token that the model was trained with"
                )

    def _lost(self, dialog: _Prepared, text: str, *, closed: bool) -> list[int]:
        for mark in dialog.marks[:3]:
            text = text.replace(mark, "") if mark else text
        proven = self._proven_roles.setdefault(self._template_for(dialog), set())
        messages = [{**each, "content": each["content"].replace(dialog.marks[1], "")} for each in dialog.messages]
        suspects = doubtful(messages, text, proven)
        if not suspects:
            return []
        gone = lost(
            messages, suspects, dialog.marks[3], lambda made: self._render(dialog, closed=closed, messages=made)
        )
        proven |= {messages[index]["role"] for index in suspects if index not in gone}
        return gone

    def _render(
        self, dialog: _Prepared, *, closed: bool, marked: bool = False, messages: list[MessageDict] | None = None
    ) -> str:
        sentinel, begin, end, _ = dialog.marks
        template = self._template_for(dialog)
        messages = dialog.messages if messages is None else messages
        values = {
            **self._named_tokens,
            **{name: self._injection_guard.value(value, sentinel) for name, value in dialog.options.items()},
            "messages": [self._guarded(template, message, sentinel) for message in messages],
            "tools": self._injection_guard.value(dialog.tools, sentinel),
            "documents": None,
            "add_generation_prompt": not closed,
        }
        return template.render(values, (begin, end) if marked else ("", ""), self._today)

    def _guarded(self, template: ChatTemplate, message: MessageDict, sentinel: str) -> MessageDict:
        """Return a message for the template: control tokens in it broken up, its content in the form that is read."""
        guarded = self._injection_guard.message(message, sentinel)
        content = guarded["content"]
        if isinstance(content, str) and content and self._traits(template).reads_parts(message["role"]):
            guarded["content"] = as_parts(content)
        return guarded

    def _traits(self, template: ChatTemplate) -> TemplateTraits:
        if template not in self._found_traits:

            def render(messages: list[MessageDict]) -> str:
                values = {**self._named_tokens, **self._options, "messages": messages, "tools": None, "documents": None}
                return template.render({**values, "add_generation_prompt": False}, today=self._today)

            self._found_traits[template] = TemplateTraits(render)
        return self._found_traits[template]


def load_dialog(folder: Path | ModelFolder, tokenizer: Tokenizer) -> Dialog | None:
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
