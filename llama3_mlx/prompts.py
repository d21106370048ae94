"""Prompts in token ids: of texts, of token ids taken as they are, and of dialogs."""

import operator
from collections.abc import Iterable, Mapping, Sequence

from .chat.dialog import Dialog
from .chat.messages import MessageMapping
from .errors import DialogError, RequestError
from .generation.options import GenerationOptions
from .json_types import JsonMapping
from .tokenizer.tokenizer import Tokenizer
from .tools.functions import Tool, tool_specs

Prompt = str | Sequence[int] | Sequence[MessageMapping]

# What a chat template gets from the dialog itself.
RESERVED = ("add_generation_prompt", "continue_final", "messages", "self", "tools")


class PromptBuilder:
    """Builds the prompts of one model, for Python, the command line and the server alike."""

    def __init__(self, tokenizer: Tokenizer, dialog: Dialog | None, vocab_size: int, name: str) -> None:
        """`name` is what the model is called in errors."""
        self._tokenizer, self._dialog, self._vocab_size, self._name = tokenizer, dialog, vocab_size, name

    def text(self, prompt: str | Sequence[int], *, special: bool = False, bos: bool = True) -> list[int]:
        """Return the ids of a text after the beginning-of-text token (`bos`), or the ids given, checked.

        `special` reads control tokens in the text, which must then come from a trusted source. Raises RequestError.
        """
        if not isinstance(prompt, str):
            return self._checked(prompt)
        if not special:
            return self._tokenizer.encode(prompt, bos=bos)
        ids, begin = self._tokenizer.encode_rendered(prompt), self._tokenizer.encode("", bos=bos)
        return ids if ids[: len(begin)] == begin else [*begin, *ids]

    def chat(
        self,
        messages: Sequence[MessageMapping],
        *,
        tools: Iterable[Tool] = (),
        template_options: JsonMapping | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> list[int]:
        """Return the ids of a dialog up to where the next answer begins. Raises DialogError or RequestError.

        Args:
            messages: The dialog, as `{"role", "content"}` objects.
            tools: Functions or specifications that the answer may call.
            template_options: Values for the checkpoint's chat template, such as `date_string`.
            add_generation_prompt: Whether the header of the next answer ends the prompt.
            continue_final: Whether the last message, an assistant's, is left open to be continued.
        """
        if self._dialog is None:
            raise DialogError(f"{self._name} is a base model without a dialog format: use generate or --raw")
        options = dict(template_options or {})
        reserved = [name for name in RESERVED if name in options]
        if reserved:
            raise RequestError(f"template_options can't set {', '.join(reserved)}: the dialog itself says so")
        return self._dialog.encode(
            messages,
            tools=tool_specs(tools) or None,
            add_generation_prompt=add_generation_prompt,
            continue_final=continue_final,
            **options,
        )

    def of_text(self, prompt: str | Sequence[int], options: GenerationOptions) -> list[int]:
        """Return the ids of a raw prompt that is to be answered with these options."""
        if isinstance(prompt, str) and not prompt:
            raise RequestError("the prompt is empty: give a text or token ids")
        if options.template_options:
            raise RequestError("template_options are for dialogs: use chat, or leave them out")
        return self.text(prompt, special=options.special)

    def of_chat(self, messages: Sequence[MessageMapping], options: GenerationOptions) -> list[int]:
        """Return the ids of a dialog that is to be answered with these options."""
        if options.special:
            raise RequestError("special is for raw prompts: no text of a dialog becomes a control token")
        tools = options.tools if options.calls_tools else ()
        return self.chat(messages, tools=tools, template_options=options.template_options)

    def of_either(self, prompt: Prompt, options: GenerationOptions) -> list[int]:
        """Return the ids of a raw prompt or of a dialog, whichever it is."""
        if is_dialog(prompt):
            return self.of_chat(prompt, options)  # type: ignore[arg-type]
        return self.of_text(prompt, options)  # type: ignore[arg-type]

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        if is_dialog(prompt):
            raise RequestError("the prompt is a list of messages: answer a dialog with chat, stream_chat or achat")
        try:
            ids = [operator.index(token) for token in prompt]
        except TypeError:
            raise RequestError(f"the prompt must be text or token ids, not {prompt!r:.80}") from None
        wrong = [token for token in ids if not 0 <= token < self._vocab_size]
        if wrong:
            raise RequestError(f"token id {wrong[0]} is outside the vocabulary of {self._vocab_size}")
        return ids


def is_dialog(prompt: object) -> bool:
    """Return whether a prompt is a list of messages."""
    return isinstance(prompt, Sequence) and not isinstance(prompt, str) and bool(prompt) and hasattr(prompt[0], "keys")


def prompt_list(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return several prompts as a list; raises RequestError for what is one prompt, or none."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise RequestError(f"prompts must be a list of prompts, not one prompt: {prompts!r:.80}")
    listed = list(prompts)
    if listed and all(isinstance(each, int) and not isinstance(each, bool) for each in listed):
        raise RequestError("prompts must be a list of prompts, not the token ids of one: put it into a list")
    if is_dialog(listed):
        raise RequestError("prompts must be a list of dialogs, not the messages of one: put it into a list")
    return listed
