"""Dialogs to token ids, by the checkpoint's own chat template or Llama 3's; content never becomes a control token.

The template runs on content in which every control token's text is broken up by a character that occurs nowhere in
the dialog. The rendered text is cut at the control tokens that are whole, which the template wrote, and that
character is taken out of the rest before it is encoded as ordinary text.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from .chat_template import ChatTemplate
from .config import load_config, load_json_object
from .errors import ConfigError, DialogError, TokenizerError
from .llama3_templates import LLAMA_3, LLAMA_3_1
from .messages import normalise
from .tokenizer import Tokenizer

_PRIVATE_USE = range(0xE000, 0xF8FF)


class Dialog:
    """Renders and encodes the dialogs of one model."""

    def __init__(self, tokenizer: Tokenizer, template: str, named_tokens: Mapping[str, str]) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(template)
        self._named_tokens = dict(named_tokens)
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
        checked = normalise(messages)
        sentinel = _unused(checked, tools)[0]
        if continue_final:
            if checked[-1]["role"] != "assistant":
                raise DialogError(f"only an assistant's message can be continued, not {checked[-1]['role']!r}")
            text = self._render(checked, tools, sentinel, False, options)
            return self.tokenizer.encode_rendered(_left_open(text, self._guarded(checked[-1], sentinel)), sentinel)
        return self.tokenizer.encode_rendered(
            self._render(checked, tools, sentinel, add_generation_prompt, options), sentinel
        )

    def encode_with_spans(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a whole dialog and which of them the assistant wrote, ends of turn included.

        Exact for templates with `{% generation %}`; for others by comparing what the template writes before and
        after each of the assistant's messages. Raises DialogError where neither tells.
        """
        checked = normalise(messages)
        sentinel, begin, end = _unused(checked, tools)
        if self.template.marks_generation:
            text = self._render(checked, tools, sentinel, False, options, (begin, end))
        else:
            text = self._marked_by_prefixes(checked, tools, (sentinel, begin, end), options)
        return self._encode_marked(text, sentinel, begin, end)

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        sentinel: str,
        add_generation_prompt: bool,
        options: Mapping[str, Any],
        marks: tuple[str, str] = ("", ""),
    ) -> str:
        values = {
            **self._named_tokens,
            **options,
            "messages": self._guarded(messages, sentinel),
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            values["tools"] = self._guarded([dict(tool) for tool in tools], sentinel)
        return self.template.render(values, marks)

    def _guarded(self, value: Any, sentinel: str) -> Any:
        """Return `value` with every control token's text in it broken up, roles excepted: they are checked words."""
        if isinstance(value, str):
            return self._guarded_text(value, sentinel)
        if isinstance(value, Mapping):
            return {
                self._guarded(key, sentinel): item if key == "role" else self._guarded(item, sentinel)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._guarded(item, sentinel) for item in value]
        return value

    def _guarded_text(self, text: str, sentinel: str) -> str:
        for token in self.tokenizer.control_tokens:
            if token in text:
                text = text.replace(token, token[0] + sentinel + token[1:])
        # What follows in the rendered text must not complete a control token that begins at the end of this one.
        longest = max(
            (n for token in self.tokenizer.control_tokens for n in range(1, len(token)) if text.endswith(token[:n])),
            default=0,
        )
        return text[: len(text) - longest + 1] + sentinel + text[len(text) - longest + 1 :] if longest else text

    def _marked_by_prefixes(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        marks: tuple[str, str, str],
        options: Mapping[str, Any],
    ) -> str:
        sentinel, begin, end = marks
        whole = self._render(messages, tools, sentinel, False, options)
        pieces, at = [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], tools, sentinel, True, options)
            after = self._render(messages[: index + 1], tools, sentinel, False, options)
            if not (after.startswith(before) and whole.startswith(after) and len(before) >= at):
                raise DialogError(
                    f"this chat template doesn't show which part of message {index} the assistant wrote: give it a "
                    "{% generation %} block"
                )
            stop = len(before) + self._end_of_turn(after[len(before) :])
            pieces += [whole[at : len(before)], begin, whole[len(before) : stop], end]
            at = stop
        return "".join([*pieces, whole[at:]])

    def _end_of_turn(self, text: str) -> int:
        """Return where the last stop token of `text` ends, else where the text does."""
        stops = [self.tokenizer.control_text(token) for token in self.stop_ids]
        ends = [text.rfind(stop) + len(stop) for stop in stops if stop and stop in text]
        return max(ends, default=len(text))

    def _encode_marked(self, text: str, sentinel: str, begin: str, end: str) -> tuple[list[int], list[bool]]:
        """Encode the text as if the marks weren't there; a token counts as written if it begins within them."""
        spans: list[tuple[int, int]] = []
        plain: list[str] = []
        at = 0
        for part in text.split(begin):
            inside, found, rest = part.partition(end)
            size = len(_plain(inside, sentinel).encode())
            if found:
                spans.append((at, at + size))
                inside += rest
            plain.append(inside)
            at += len(_plain(inside, sentinel).encode())
        ids = self.tokenizer.encode_rendered("".join(plain), sentinel)
        return ids, _in_spans(self.tokenizer, ids, spans)


def load_dialog(folder: Path, tokenizer: Tokenizer) -> Dialog | None:
    """Return the dialog format of a model folder, None for a base model that has none.

    A checkpoint's own template goes first; Llama 3's is for checkpoints with its header tokens and no template.
    """
    values = _json(folder / "tokenizer_config.json")
    named = {name: _token_text(values.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    tokens = {name: text for name, text in named.items() if text is not None}
    template = stored_template(folder)
    if template is None:
        if not {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= tokenizer.control_tokens.keys():
            return None
        scaled = load_config(folder).rope_scaling.rope_type == "llama3"
        template = LLAMA_3_1 if scaled else LLAMA_3
        tokens.setdefault("bos_token", "<|begin_of_text|>")
    return Dialog(tokenizer, template, tokens)


def stored_template(folder: Path) -> str | None:
    """Return the chat template that a model folder brings along, None if it has none."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _json(folder / name).get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return load_json_object(path)
    except ConfigError as error:
        raise TokenizerError(str(error)) from None


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(_strings(part) for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_strings, value))


def _unused(*values: Any) -> tuple[str, str, str]:
    """Return three characters that occur nowhere in the values."""
    used = set().union(*map(set, _strings(values)))
    free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
    try:
        return next(free), next(free), next(free)
    except StopIteration:
        raise DialogError("the dialog uses every private-use character of Unicode") from None


def _left_open(text: str, message: Mapping[str, Any]) -> str:
    """Cut the rendered text after the last message's content. Source: transformers `continue_final_message`."""
    content = message["content"].strip()
    at = text.rfind(content)
    if not content or at < 0:
        raise DialogError("the last message can't be continued: the chat template changes its content or it is empty")
    kept = message["content"].rstrip() if message["content"].lstrip() == content else content
    return text[: at + len(kept.lstrip())]


def _plain(text: str, sentinel: str) -> str:
    return text.replace(sentinel, "")


def _in_spans(tokenizer: Tokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Return for each id whether it begins within one of the spans, in bytes of the rendered text."""
    marks, at, remaining = [], 0, list(spans)
    for token in ids:
        while remaining and remaining[0][1] <= at:
            remaining.pop(0)
        marks.append(bool(remaining) and remaining[0][0] <= at < remaining[0][1])
        at += len(tokenizer.token_bytes(token) or (tokenizer.control_text(token) or "").encode())
    return marks
