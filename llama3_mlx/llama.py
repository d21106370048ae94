"""The `Llama` object: a loaded model with its tokenizer and dialog format, ready to generate and to chat."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx

from .completion import Completion, FinishReason, Piece, Stream
from .config import load_json_object
from .device import wired_memory
from .dialog import Dialog, load_dialog
from .errors import DialogError, RequestError
from .generation import PrefillProgress, Timing, check_length, generate_tokens
from .hub import resolve_model
from .model import LlamaForCausalLM
from .options import GenerationOptions, Settings, make_options
from .stopping import StopTexts
from .tokenizer import Tokenizer
from .tokenizer_files import load_tokenizer
from .weights import load_model

Message = Mapping[str, Any]


class Llama:
    """A model of the Llama family in memory.

    Make one with `Llama.load`. `generate` and `stream` continue a text, `chat` and `stream_chat` answer a dialog.
    """

    def __init__(self, folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, dialog: Dialog | None) -> None:
        self.folder, self.model, self.tokenizer, self.dialog = folder, model, tokenizer, dialog
        self.config = model.config
        self.stop_ids = frozenset((*tokenizer.stop_ids, *(dialog.stop_ids if dialog else ())))
        path = folder / "generation_config.json"
        self._defaults = load_json_object(path) if path.exists() else {}

    @classmethod
    def load(cls, path_or_id: str | Path, *, adapter: str | Path | None = None, dtype: str | None = None) -> "Llama":
        """Load a folder or a Hub id (`owner/name`), with a LoRA adapter if one is given.

        `dtype` is float32, float16 or bfloat16; by default what suits the device. Raises ConfigError,
        CheckpointError, TokenizerError or HubError.
        """
        folder = resolve_model(path_or_id)
        model = load_model(folder, dtype=dtype, join=adapter is None)
        if adapter is not None:
            from .finetune.adapters import load_adapter

            load_adapter(model, Path(adapter))
        tokenizer = load_tokenizer(folder)
        return cls(folder, model, tokenizer, load_dialog(folder, tokenizer))

    def generate(self, prompt: str | Sequence[int], **settings: Unpack[Settings]) -> Completion:
        """Continue a text (or token ids, taken as they are) and return the completion."""
        return _drain(self.stream(prompt, **settings))

    def stream(self, prompt: str | Sequence[int], **settings: Unpack[Settings]) -> Stream:
        """Continue a text, piece by piece."""
        return self._start(self._prompt_ids(prompt), make_options(settings))

    def chat(self, messages: Sequence[Message], **settings: Unpack[Settings]) -> Completion:
        """Answer a dialog of `{"role", "content"}` messages and return the completion."""
        return _drain(self.stream_chat(messages, **settings))

    def stream_chat(self, messages: Sequence[Message], **settings: Unpack[Settings]) -> Stream:
        """Answer a dialog, piece by piece."""
        return self._start(self.encode_chat(messages), make_options(settings))

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a dialog up to the beginning of the next answer."""
        if self.dialog is None:
            raise DialogError(f"{self.folder.name} is a base model without a dialog format: use generate or --raw")
        return self.dialog.encode(messages)

    def logits(self, token_ids: Sequence[int]) -> mx.array:
        """Return the logits after each token, (L, V) float32."""
        check_length(token_ids, 0, self.config.max_position_embeddings + 1)
        return self.model(mx.array([list(token_ids)], mx.int32))[0].astype(mx.float32)

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("the prompt is empty: give a text or token ids")
            return self.tokenizer.encode(prompt, bos=True)
        wrong = [token for token in prompt if not 0 <= token < self.config.vocab_size]
        if wrong:
            raise RequestError(f"token id {wrong[0]} is outside the vocabulary of {self.config.vocab_size}")
        return list(prompt)

    def _start(self, prompt: list[int], options: GenerationOptions, progress: PrefillProgress | None = None) -> Stream:
        options = options.with_defaults(self._defaults)
        limit = check_length(prompt, options.max_tokens, self.config.max_position_embeddings)
        run = _Run(self, prompt, replace(options, max_tokens=limit), progress)
        return Stream(run.pieces(), run.completion)


class _Run:
    """One generation: tokens to text, stop tokens, stop texts, counts."""

    def __init__(
        self, llama: Llama, prompt: list[int], options: GenerationOptions, progress: PrefillProgress | None
    ) -> None:
        self.llama, self.prompt, self.options, self.progress = llama, prompt, options, progress
        self.text: list[str] = []
        self.tokens: list[int] = []
        self.timing = Timing()
        self.finish_reason: FinishReason = "length"

    def pieces(self) -> Generator[Piece, None, None]:
        llama, pending = self.llama, []
        cache = llama.model.make_cache()
        detokenizer, stops = llama.tokenizer.make_detokenizer(), StopTexts(self.options.stop)
        mx.reset_peak_memory()
        with wired_memory():
            for token in generate_tokens(
                llama.model, cache, self.prompt, self.options, timing=self.timing, progress=self.progress
            ):
                if token in llama.stop_ids:
                    self.finish_reason = "stop"
                    break
                self.tokens.append(token)
                pending.append(token)
                text = stops.add(detokenizer.add(token))
                if text:
                    self.text.append(text)
                    yield Piece(text, tuple(pending))
                    pending.clear()
                if stops.found is not None:
                    self.finish_reason = "stop"
                    return
        rest = stops.add(detokenizer.finish())
        if stops.found is None:
            rest += stops.finish()
        if rest or pending:
            self.text.append(rest)
            yield Piece(rest, tuple(pending))

    def completion(self) -> Completion:
        written, timing = len(self.tokens), self.timing
        return Completion(
            text="".join(self.text),
            token_ids=tuple(self.tokens),
            finish_reason=self.finish_reason,
            prompt_tokens=len(self.prompt),
            cached_tokens=0,
            prompt_tokens_per_second=len(self.prompt) / timing.prompt_s if timing.prompt_s else 0.0,
            tokens_per_second=(written - 1) / timing.decode_s if timing.decode_s and written > 1 else 0.0,
            peak_memory_bytes=mx.get_peak_memory(),
        )


def _drain(stream: Stream) -> Completion:
    for _ in stream:
        pass
    return stream.completion
