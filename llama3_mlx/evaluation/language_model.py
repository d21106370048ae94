"""lm-evaluation-harness' model on ours: what it asks for, scored and generated in batches.

Every figure is that of the harness' own `hf` model in the same dtype: token ids, truncation and stops follow it.

Source: https://github.com/EleutherAI/lm-evaluation-harness (lm_eval/api/model.py, lm_eval/models/huggingface.py).
"""

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from ..errors import DialogError, RequestError
from ..generation.options import GenerationOptions
from ..json_types import JsonMapping, JsonObject
from ..llama import Llama
from .scoring import score_continuations
from .sharing import Continuation

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

NAME = "llama3-mlx"
_MAX_GEN_TOKS = 256
# Names that tasks give the limit of an answer, by their precedence in the harness.
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What tasks may set beside; names are transformers'.
_SAMPLING = ("top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "seed")
# Encoded contexts that are kept: requests with the same context come one after the other.
_KEPT_ENCODINGS = 64


@register_model(NAME)
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A loaded model as the harness takes it.

    `--model llama3-mlx --model_args pretrained=FOLDER,…` gives the keyword arguments.
    """

    def __init__(
        self,
        pretrained: str | Llama,
        *,
        adapter: str | None = None,
        dtype: str | None = None,
        memory_gb: float | None = None,
        max_length: int | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
    ) -> None:
        """Load a model, or take a loaded one.

        Args:
            pretrained: Folder, name of the library or Hub id; or a `Llama`.
            adapter: LoRA adapter to apply.
            dtype: float32, float16 or bfloat16; by default what suits the device.
            memory_gb: A bound on weights and KV cache together.
            max_length: Cut contexts from the left beyond so many tokens; by default the model's context.
            batch_size: Not read, as `max_batch_size` and `device`: batches are as large as memory suggests.
            max_batch_size: Not read.
            device: Not read.
        """
        super().__init__()
        if isinstance(pretrained, str):
            pretrained = Llama.load(pretrained, adapter=adapter, dtype=dtype, memory_gb=memory_gb, disk_cache=False)
        self.llama = pretrained
        context = self.llama.config.max_position_embeddings
        if max_length is not None and not 2 <= max_length <= context:
            raise RequestError(f"max_length must be from 2 to the model's context of {context}, not {max_length}")
        self.max_length = max_length or context
        self._encode = lru_cache(_KEPT_ENCODINGS)(self._encoded)

    @property
    def eot_token_id(self) -> int:
        """A token that ends the text."""
        return self.llama.tokenizer.stop_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        bos = self.llama.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls the tokenizer in its cache of requests."""
        return self.llama.folder.name

    def get_model_info(self) -> JsonObject:
        """Return what the harness writes of the model into its results."""
        return {"model_name": self.llama.folder.name, "model_dtype": str(self.llama.model.dtype)}

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the source of the chat template, None where none is applied."""
        return self._dialog.template.source if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[JsonMapping], add_generation_prompt: bool = True) -> str:
        """Return a dialog as text; without the generation prompt its last message is left open to be continued."""
        return self._dialog.render(
            chat_history, add_generation_prompt=add_generation_prompt, continue_final=not add_generation_prompt
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text, in which control tokens are recognized."""
        return list(self._encode(string, add_special_tokens is not False))

    def loglikelihood_rolling(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the model's context."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            for context, tokens in map(make_disjoint_window, windows):
                pairs.append((None, context, tokens))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(pairs, disable_tqdm), strict=True):
            totals[number] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, up to one of the task's stop texts."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        found = [""] * len(requests)
        with self._bar(len(requests), "generating", disable_tqdm) as bar:
            for numbers in groups.values():
                settings = requests[numbers[0]].args[1]
                texts = self._generate([requests[number].args[0] for number in numbers], settings, bar)
                for number, text in zip(numbers, texts, strict=True):
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        continuations = [self._continuation(context, tokens) for _, context, tokens in requests]
        with self._bar(len(requests), "scoring", disable_tqdm) as bar:
            found = [tuple(score) for score in score_continuations(self.llama, continuations, bar.update)]
        for (texts, _, _), score in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, score)
        return found  # type: ignore[return-value]

    def _continuation(self, context: list[int], tokens: list[int]) -> Continuation:
        if not 0 < len(tokens) <= self.max_length:
            raise RequestError(
                f"a text of {len(tokens)} tokens is to be scored at once: there must be 1 to {self.max_length}"
            )
        whole = [*context, *tokens][-(self.max_length + 1) :]
        return Continuation(tuple(whole[: -len(tokens)]), tuple(tokens))

    def _generate(self, contexts: Sequence[str], settings: JsonMapping, bar: "tqdm[Any]") -> list[str]:
        options, stop = _generation(settings)
        room = self.max_length - (options["max_tokens"] or 0)
        if room < 1:
            raise RequestError(
                f"{options['max_tokens']} tokens are to be generated in a context of {self.max_length}: none is left "
                "for the prompt"
            )
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        # Prompts that begin alike follow each other, while what they share is in the prefix cache.
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        completions = self.llama.generate_batch(
            [prompts[number] for number in order], **options, stop=stop, progress=lambda *_: bar.update(1)
        )
        texts = dict(zip(order, (completion.text for completion in completions), strict=True))
        return [_cut(texts[number], stop) for number in range(len(prompts))]

    def _encoded(self, string: str, bos: bool) -> tuple[int, ...]:
        return tuple(self.llama.prompts.text(string, special=True, bos=bos))

    @property
    def _dialog(self) -> Any:
        if self.llama.dialog is None:
            raise DialogError(f"{self.llama.folder.name} is a base model without a chat template: evaluate it without")
        return self.llama.dialog

    def _bar(self, total: int, what: str, disabled: bool) -> "tqdm[Any]":
        return tqdm(total=total, desc=what, unit=" requests", disable=disabled or not sys.stderr.isatty(), leave=False)


def _generation(settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of a task's generation and its stop texts; raises RequestError for what isn't supported."""
    known = {*_LIMITS, *_SAMPLING, "until", "do_sample", "temperature"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise RequestError(f"the task sets {', '.join(unknown)} for generation, which isn't supported")
    until = settings.get("until") or []
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    limits = [settings[name] for name in _LIMITS if settings.get(name) is not None]
    sampled, temperature = settings.get("do_sample"), settings.get("temperature")
    if sampled is None:
        sampled = bool(temperature)
    options = {name: settings[name] for name in _SAMPLING if sampled and settings.get(name) is not None}
    options["temperature"] = float(1.0 if temperature is None else temperature) if sampled else 0.0
    options["max_tokens"] = int(limits[0] if limits else _MAX_GEN_TOKS)
    GenerationOptions(**options, stop=stop)
    return options, stop


def _cut(text: str, stop: Sequence[str]) -> str:
    for each in stop:
        text = text.partition(each)[0]
    return text
