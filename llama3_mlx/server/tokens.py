"""/tokenize, /detokenize, /apply-template, /tokenizer_info, in the shapes of vLLM's and llama.cpp's servers.

Source: https://docs.vllm.ai (tokenizer API); https://github.com/ggml-org/llama.cpp (tools/server/README.md).
"""

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..json_types import JsonObject
from .core.chat import Chat, prompt_of
from .core.completion import prompt_ids, text_ids
from .core.loaded_model import LoadedModel
from .core.request_context import RequestContext
from .core.schema import Body, options_of
from .http.errors import ApiError
from .openai.chat import tools_of
from .openai.dialog_schema import ChatMessage, ToolDefinition

router = APIRouter(tags=["tokens"])


class TemplateRequest(Body):
    """Body of /apply-template."""

    model: str | None = None
    messages: list[ChatMessage]
    tools: list[ToolDefinition] | None = None
    chat_template_kwargs: JsonObject | None = None
    add_generation_prompt: bool | None = Field(None, description="up to where the answer begins: the default")
    continue_final_message: bool | None = None


class TokenizeRequest(Body):
    """Body of /tokenize: a text, under vLLM's or llama.cpp's name, or a dialog."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ToolDefinition] | None = None
    chat_template_kwargs: JsonObject | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = Field(None, description="begin a text with its control token: the default")
    add_special: bool | None = Field(None, description="the same, as llama.cpp calls it")
    parse_special: bool | None = Field(None, description="recognize control tokens in a text")
    return_token_strs: bool | None = None
    with_pieces: bool | None = Field(None, description="give tokens as objects with their id and text")


class DetokenizeRequest(Body):
    """Body of /detokenize."""

    model: str | None = None
    tokens: list[int]


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Give the token ids of a text, or of a dialog up to where the answer begins."""
    text = body.prompt if body.prompt is not None else body.content
    if (text is None) == (body.messages is None):
        raise ApiError(400, "give either a prompt or messages", param="prompt")
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model)
        if body.messages is not None:
            chat = _chat(body)
            ids = await loaded.prepare(lambda: prompt_of(chat, loaded))
        else:
            bos = body.add_special_tokens is not False and body.add_special is not False
            special = bool(body.parse_special)
            ids = await loaded.prepare(lambda: text_ids(text or "", loaded, bos=bos, parse_special=special))
        texts = [loaded.llama.tokenizer.decode([token]) for token in ids]
        reply: JsonObject = {
            "tokens": ids,
            "count": len(ids),
            "max_model_len": loaded.llama.config.max_position_embeddings,
        }
        if body.with_pieces:
            reply["tokens"] = [{"id": token, "piece": text} for token, text in zip(ids, texts, strict=True)]
        if body.return_token_strs:
            reply["token_strs"] = texts
        return context.reply(reply)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """Give the text of token ids, control tokens included."""
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model)
        text = loaded.llama.tokenizer.decode(prompt_ids(body.tokens, loaded))
        return context.reply({"prompt": text, "content": text})


@router.post("/apply-template")
async def apply_template(body: TemplateRequest, request: Request) -> Response:
    """Give the text of a dialog as the model gets to see it."""
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model)
        chat = _chat(body)
        ids = await loaded.prepare(lambda: prompt_of(chat, loaded))
        return context.reply({"prompt": loaded.llama.tokenizer.decode(ids), "tokens": ids})


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """Give the tokenizer's special tokens and the chat template."""
    async with RequestContext(request) as context:
        loaded = await context.use(model)
        dialog = loaded.llama.dialog
        return context.reply(
            {
                "tokenizer_class": "llama3_mlx",
                "bos_token": _text(loaded, loaded.llama.tokenizer.bos_id),
                "eos_token": _text(loaded, next(iter(loaded.end_of_turn or loaded.llama.tokenizer.stop_ids), None)),
                "pad_token": None,
                "chat_template": dialog.template.source if dialog else None,
            }
        )


def _text(loaded: LoadedModel, token: int | None) -> str | None:
    return None if token is None else loaded.llama.tokenizer.control_text(token)


def _chat(body: TemplateRequest | TokenizeRequest) -> Chat:
    return Chat(
        messages=[message.as_message() for message in body.messages or ()],
        options=options_of({}, tools=tools_of(body.tools or ()).specs(), template=body.chat_template_kwargs),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final=bool(body.continue_final_message),
    )
