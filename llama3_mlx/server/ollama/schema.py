"""Bodies of Ollama's requests; unknown fields are let through, as Ollama does.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and the types of the `ollama` package.
"""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from ...json_types import JsonObject
from ..core.schema import Body, KeepAlive


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE_CONTEXT = 2**31 - 1
# Go's JSON knows no whole numbers, so Ollama takes 40.0 for 40.
Whole = Annotated[int, BeforeValidator(_whole)]


class Options(Body):
    """`options`: settings of one generation."""

    refused: ClassVar = {
        "mirostat": "use top_p, min_p or typical_p",
        "tfs_z": "use top_p, min_p or typical_p",
    }
    harmless: ClassVar = {"tfs_z": (1,)}
    # How Ollama's own engine runs, and what belongs to refused settings.
    without_effect: ClassVar = frozenset(
        {
            "embedding_only",
            "f16_kv",
            "logits_all",
            "low_vram",
            "main_gpu",
            "mirostat_eta",
            "mirostat_tau",
            "num_batch",
            "num_ctx",
            "num_gpu",
            "num_keep",
            "num_thread",
            "numa",
            "penalize_newline",
            "use_mlock",
            "use_mmap",
            "vocab_only",
        }
    )
    num_predict: Whole | None = None
    temperature: float | None = Field(None, ge=0)
    top_k: Whole | None = None
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0)
    repeat_last_n: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Whole | None = None
    stop: str | list[str] | None = None
    parse_special: bool | None = Field(None, description="as beside `options`, for clients that send no other fields")

    def settings(self) -> JsonObject:
        """Return the settings by their names in GenerationOptions; values that switch a setting off are left out."""
        given: JsonObject = {}
        for name in ("temperature", "top_p", "min_p"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        # -1 and -2: as long as the model goes on, and to the end of the context.
        if self.num_predict is not None and self.num_predict >= 0:
            given["max_tokens"] = self.num_predict
        if self.top_k is not None:
            given["top_k"] = max(0, self.top_k)
        # Ollama's default, -1, is a seed by chance.
        if self.seed is not None and self.seed != -1:
            given["seed"] = self.seed % 2**64
        if self.stop:
            given["stop"] = tuple(text for text in ([self.stop] if isinstance(self.stop, str) else self.stop) if text)
        return given | self._penalties()

    def _penalties(self) -> JsonObject:
        given: JsonObject = {}
        if self.repeat_penalty not in (None, 1.0) and self.repeat_last_n != 0:
            given["repetition_penalty"] = self.repeat_penalty
            if self.repeat_last_n is not None:
                given["repetition_window"] = self.repeat_last_n if self.repeat_last_n > 0 else _WHOLE_CONTEXT
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                given[name] = getattr(self, name)
        if self.typical_p not in (None, 0.0, 1.0):
            given["typical_p"] = self.typical_p
        return given


class Generating(Body):
    """What generate and chat share."""

    without_effect: ClassVar = frozenset({"shift", "truncate"})
    model: str = ""
    stream: bool | None = None
    format: str | JsonObject | None = Field(None, description='"json", or a JSON schema')
    options: Options | None = None
    keep_alive: KeepAlive = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class GenerateRequest(Generating):
    """Body of /api/generate."""

    refused: ClassVar = {
        "suffix": "Llama models have no fill-in-the-middle form",
        "template": "the model's own dialog format is used; give raw for a prompt in a format of yours",
        "images": "these models read text",
        "width": "these models write text",
        "height": "these models write text",
        "steps": "these models write text",
    }
    prompt: str | None = None
    system: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    parse_special: bool | None = Field(None, description="with raw: recognize control tokens in the prompt")


class OllamaFunction(Body):
    """The function of a tool call, its arguments an object."""

    name: str
    arguments: JsonObject | None = None


class OllamaCall(Body):
    """A tool call in an assistant's message."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Body):
    """A message of a dialog."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaTool(Body):
    """A tool, in OpenAI's format."""

    type: str | None = None
    function: JsonObject


class OllamaChatRequest(Generating):
    """Body of /api/chat."""

    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None


class Named(Body):
    """A body that names a model, under the newer or the older key."""

    model: str | None = None
    name: str | None = None

    @property
    def chosen(self) -> str:
        """The name under whichever key."""
        return self.model or self.name or ""


class PullRequest(Named):
    """Body of /api/pull."""

    without_effect: ClassVar = frozenset({"insecure"})
    stream: bool | None = None


class CreateRequest(Named):
    """Body of /api/create."""

    refused: ClassVar = dict.fromkeys(
        ("adapters", "files", "modelfile", "system", "template", "parameters", "messages", "license"),
        "a model is made from a model, with quantize or without",
    )
    from_: str | None = Field(None, alias="from")
    quantize: str | None = None
    stream: bool | None = None
    force: bool | None = None


class CopyRequest(Body):
    """Body of /api/copy."""

    source: str
    destination: str


class EmbedRequest(Body):
    """Body of /api/embed."""

    # A text that is too long is refused: nothing is left out of it.
    without_effect: ClassVar = frozenset({"options", "truncate"})
    model: str = ""
    input: str | list[str] | None = None
    dimensions: int | None = Field(None, ge=1)
    keep_alive: KeepAlive = None


class OldEmbedRequest(Body):
    """Body of /api/embeddings, the older format."""

    without_effect: ClassVar = frozenset({"options"})
    model: str = ""
    prompt: str | None = None
    keep_alive: KeepAlive = None
