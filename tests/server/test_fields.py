"""Every field that the clients' own types have is honored, without effect, or refused: none is left to chance.

A new release of the openai, anthropic or ollama package with a new field fails here until the field is classified.
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import ollama._types as ollama_types
import pytest
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import (
    beta_content_block_param,
    beta_output_config_param,
    beta_tool_choice_param,
    beta_tool_param,
)
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import (
    chat,
    completion_create_params,
    embedding_create_params,
    moderation_create_params,
    responses,
    shared_params,
)
from openai.types.chat import (
    chat_completion_content_part_param,
    chat_completion_message_param,
    chat_completion_tool_choice_option_param,
    chat_completion_tool_union_param,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)
from openai.types.responses import (
    custom_tool_param,
    function_tool_param,
    input_token_count_params,
    namespace_tool_param,
    response_create_params,
    response_input_item_param,
    tool_param,
)
from openai.types.shared_params import function_definition

from llama3_mlx.server.anthropic import schema as anthropic_schema
from llama3_mlx.server.core.schema import Body
from llama3_mlx.server.ollama import schema as ollama_schema
from llama3_mlx.server.openai import dialog_schema, responses_schema, sampling_schema, schema

from ..support.server_fixtures import Running, running_server

# The client's type, and the body that takes it.
BODIES: list[tuple[Any, type[Body]]] = [
    (chat_create_params.CompletionCreateParamsBase, schema.ChatRequest),
    (chat_create_params.CompletionCreateParamsStreaming, schema.ChatRequest),
    (completion_create_params.CompletionCreateParamsBase, schema.CompletionRequest),
    (completion_create_params.CompletionCreateParamsStreaming, schema.CompletionRequest),
    (embedding_create_params.EmbeddingCreateParams, schema.EmbeddingRequest),
    (moderation_create_params.ModerationCreateParams, schema.ModerationRequest),
    (function_definition.FunctionDefinition, dialog_schema.FunctionSpec),
    (response_create_params.ResponseCreateParamsBase, responses_schema.ResponsesRequest),
    (response_create_params.ResponseCreateParamsStreaming, responses_schema.ResponsesRequest),
    (input_token_count_params.InputTokenCountParams, responses_schema.ResponseInput),
    (function_tool_param.FunctionToolParam, responses_schema.ResponseTool),
    (custom_tool_param.CustomToolParam, responses_schema.ResponseTool),
    (namespace_tool_param.NamespaceToolParam, responses_schema.ResponseTool),
    (message_create_params.MessageCreateParamsBase, anthropic_schema.MessagesRequest),
    (message_create_params.MessageCreateParamsStreaming, anthropic_schema.MessagesRequest),
    (beta_create_params.MessageCreateParamsBase, anthropic_schema.MessagesRequest),
    (message_count_tokens_params.MessageCountTokensParams, anthropic_schema.CountRequest),
    (beta_tool_param.BetaToolParam, anthropic_schema.AnthropicTool),
    (beta_output_config_param.BetaOutputConfigParam, anthropic_schema.OutputConfig),
    (ollama_types.GenerateRequest, ollama_schema.GenerateRequest),
    (ollama_types.ChatRequest, ollama_schema.OllamaChatRequest),
    (ollama_types.EmbedRequest, ollama_schema.EmbedRequest),
    (ollama_types.EmbeddingsRequest, ollama_schema.OldEmbedRequest),
    (ollama_types.Options, ollama_schema.Options),
    (ollama_types.CreateRequest, ollama_schema.CreateRequest),
    (ollama_types.PullRequest, ollama_schema.PullRequest),
    (ollama_types.CopyRequest, ollama_schema.CopyRequest),
    (ollama_types.ShowRequest, ollama_schema.Named),
    (ollama_types.Message, ollama_schema.OllamaMessage),
    # Types inside of these, which fields of them have.
    (chat.ChatCompletionStreamOptionsParam, sampling_schema.StreamOptions),
    (chat.ChatCompletionContentPartTextParam, dialog_schema.ContentPart),
    (chat.ChatCompletionFunctionToolParam, dialog_schema.ToolDefinition),
    (chat.ChatCompletionCustomToolParam, dialog_schema.ToolDefinition),
    (shared_params.ResponseFormatJSONSchema, schema.ResponseFormat),
    (responses.ResponseTextConfigParam, responses_schema.TextSettings),
    (responses.ResponseFormatTextJSONSchemaConfigParam, responses_schema.TextFormat),
    (responses.EasyInputMessageParam, responses_schema.InputItem),
    (responses.ResponseFunctionToolCallParam, responses_schema.InputItem),
    (responses.ResponseOutputMessageParam, responses_schema.InputItem),
    (beta.BetaTextBlockParam, anthropic_schema.ContentBlock),
    (beta.BetaToolUseBlockParam, anthropic_schema.ContentBlock),
    (beta.BetaToolResultBlockParam, anthropic_schema.ContentBlock),
    (beta.BetaSearchResultBlockParam, anthropic_schema.ContentBlock),
    (beta.BetaRequestDocumentBlockParam, anthropic_schema.ContentBlock),
    (beta.BetaToolChoiceAutoParam, anthropic_schema.AnthropicToolChoice),
    (beta.BetaToolChoiceToolParam, anthropic_schema.AnthropicToolChoice),
    (beta.BetaJSONOutputFormatParam, anthropic_schema.OutputFormat),
]
# What becomes of each kind of input item, tool, content.
ITEMS: dict[str, set[Any]] = {
    "read": {
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("item_reference", "additional_tools", None),
    },
    "left out": {"reasoning", "web_search_call", "mcp_list_tools", "program"},
    "refused": {
        *("apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger"),
        *("computer_call", "computer_call_output", "configuration_update", "file_search_call"),
        *("image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request"),
        *("mcp_approval_response", "mcp_call", "program_output", "shell_call", "shell_call_output"),
        *("tool_search_call", "tool_search_output"),
    },
}
BLOCKS: dict[str, set[str]] = {
    "read": {"text", "document", "search_result", "tool_use", "tool_result"},
    "left out": {"thinking", "redacted_thinking"},
    "refused": {
        *("advisor_tool_result", "bash_code_execution_tool_result", "code_execution_tool_result", "compaction"),
        *("container_upload", "fallback", "image", "mcp_tool_listing", "mcp_tool_result", "mcp_tool_use"),
        *("server_tool_use", "text_editor_code_execution_tool_result", "tool_addition", "tool_removal"),
        *("tool_search_tool_result", "web_fetch_tool_result", "web_search_tool_result"),
    },
}
TALK: list[Any] = [{"role": "user", "content": "Hi"}]
# Paths with a body each; what it asks for is one token.
PATHS: dict[str, tuple[type[Body], dict[str, Any]]] = {
    "/v1/chat/completions": (schema.ChatRequest, {"messages": TALK, "max_tokens": 1}),
    "/v1/completions": (schema.CompletionRequest, {"prompt": "Hi", "max_tokens": 1}),
    "/v1/embeddings": (schema.EmbeddingRequest, {"input": "Hi"}),
    "/v1/responses": (responses_schema.ResponsesRequest, {"input": "Hi", "max_output_tokens": 1}),
    "/v1/messages": (anthropic_schema.MessagesRequest, {"messages": TALK, "max_tokens": 1}),
    "/v1/messages/count_tokens": (anthropic_schema.CountRequest, {"messages": TALK}),
    "/api/chat": (ollama_schema.OllamaChatRequest, {"messages": TALK, "stream": False, "options": {"num_predict": 1}}),
    "/api/generate": (ollama_schema.GenerateRequest, {"prompt": "Hi", "stream": False, "options": {"num_predict": 1}}),
    "/api/embed": (ollama_schema.EmbedRequest, {"input": "Hi"}),
}


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}) as running:
        yield running


def plain(kind: Any) -> Any:
    """A type without what only marks it."""
    while get_origin(kind) in (Required, NotRequired, Annotated):
        kind = get_args(kind)[0]
    return kind


def members(union: Any) -> list[Any]:
    """The types that a union has in the end."""
    union = plain(union)
    if get_origin(union) in (Union, types.UnionType):
        return [member for each in get_args(union) for member in members(each)]
    return [union]


def kinds(union: Any) -> set[Any]:
    """The values of `type` in the dictionaries of a union; None where it may be left out."""
    dictionaries = [member for member in members(union) if hasattr(member, "__total__")]
    declared = [each for member in dictionaries for each in members(get_type_hints(member)["type"])]
    return {
        value
        for each in declared
        for value in (get_args(each) if get_origin(each) is Literal else (None if each is type(None) else each,))
    }


def fields(kind: Any) -> set[str]:
    """The names under which a client sends the fields of its type."""
    if hasattr(kind, "model_fields"):
        return {field.serialization_alias or field.alias or name for name, field in kind.model_fields.items()}
    return set(get_type_hints(kind))


@pytest.mark.parametrize(("theirs", "ours"), BODIES, ids=lambda kind: kind.__name__)
def test_every_field_of_a_clients_type_is_honored_without_effect_or_refused(theirs: Any, ours: type[Body]) -> None:
    assert {name for name in fields(theirs) if ours.effect(name) is None} == set()


def test_every_kind_of_message_part_tool_and_choice_of_a_chat_is_known() -> None:
    messages = [get_type_hints(each) for each in members(chat_completion_message_param.ChatCompletionMessageParam)]
    assert {name for each in messages for name in each if dialog_schema.ChatMessage.effect(name) is None} == set()
    parts = kinds(chat_completion_content_part_param.ChatCompletionContentPartParam)
    assert parts == {"text", "image_url", "input_audio", "file"}
    assert kinds(chat_completion_tool_union_param.ChatCompletionToolUnionParam) == {"function", "custom"}
    choices = kinds(chat_completion_tool_choice_option_param.ChatCompletionToolChoiceOptionParam)
    assert choices == {"function", "custom", "allowed_tools"}
    assert kinds(beta_tool_choice_param.BetaToolChoiceParam) == {"auto", "any", "tool", "none"}


def test_every_kind_of_input_item_is_known() -> None:
    assert kinds(response_input_item_param.ResponseInputItemParam) == set().union(*ITEMS.values())


def test_every_kind_of_content_block_is_known() -> None:
    assert kinds(beta_content_block_param.BetaContentBlockParam) == set().union(*BLOCKS.values())


def listed(effect: str) -> list[tuple[str, str]]:
    """Paths and the fields that have this effect there."""

    def names(body: type[Body]) -> set[str]:
        attribute = {"refused": "refused", "without effect": "without_effect"}[effect]
        return {name for base in body.__mro__ for name in base.__dict__.get(attribute, ())}

    return [(path, name) for path, (body, _) in PATHS.items() for name in sorted(names(body))]


def test_refused_fields_are_refused_by_name(server: Running) -> None:
    wrong = []
    for path, name in listed("refused"):
        reply = server.post(path, {**PATHS[path][1], name: {"any": "value"}})
        if reply.status_code != 400 or name not in reply.text:
            wrong.append((path, name, reply.status_code, reply.text[:200]))
    assert not wrong


def test_fields_without_effect_change_no_answer(server: Running) -> None:
    wrong = []
    for path, (_, body) in PATHS.items():
        sent = {name: "value" for at, name in listed("without effect") if at == path}
        reply = server.post(path, {**body, **sent})
        named = set(reply.headers.get("x-ignored-parameters", "").split(", ")) - {""}
        if reply.status_code != 200 or named != set(sent):
            wrong.append((path, reply.status_code, named ^ set(sent), reply.text[:200]))
    assert not wrong


def test_names_that_end_in_spaces_fit_into_headers(server: Running) -> None:
    """A header's value has no white space around it. Source: RFC 9110, section 5.5."""
    body = {"input": TALK, "max_output_tokens": 1, "odd ": 1, "tools": [{"type": "odd "}, {"type": " "}]}
    reply = server.post("/v1/responses", body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-ignored-parameters"] == "odd"
    assert reply.headers["x-notes"].endswith("odd ,")


@pytest.mark.parametrize("kind", sorted(ITEMS["refused"]))
def test_input_items_that_carry_dialog_and_cannot_be_read_are_refused(server: Running, kind: str) -> None:
    items = [*TALK, {"type": kind, "id": "x_1", "call_id": "c", "output": "o"}]
    reply = server.post("/v1/responses", {"input": items, "max_output_tokens": 1})
    assert reply.status_code == 400
    assert kind in reply.json()["error"]["message"]


def test_items_without_content_for_a_model_are_left_out(server: Running) -> None:
    items = [*TALK, *({"type": kind, "id": "x_1"} for kind in sorted(ITEMS["left out"]))]
    alone = server.post("/v1/responses/input_tokens", {"input": TALK}).json()
    assert server.post("/v1/responses/input_tokens", {"input": items}).json() == alone


@pytest.mark.parametrize("kind", sorted(BLOCKS["refused"]))
def test_content_blocks_that_cannot_be_read_are_refused(server: Running, kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": kind, "text": "x"}]}]
    reply = server.post("/v1/messages", {"messages": messages, "max_tokens": 1})
    assert reply.status_code == 400
    assert kind in reply.json()["error"]["message"]


def test_tools_that_run_elsewhere_are_left_out_with_a_note_and_the_others_used(server: Running) -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    others = kinds(tool_param.ToolParam) - {"function", "custom", "namespace"}
    body = {"input": "Hi", "tools": [*({"type": kind} for kind in sorted(others)), function], "tool_choice": "required"}
    reply = server.post("/v1/responses", {**body, "max_output_tokens": 60})
    assert reply.json()["output"][0]["name"] == "f"
    assert all(kind in reply.json()["notes"][0] for kind in others)


SAMPLING = [("repeat_penalty", 1.5, "repetition_penalty"), ("repeat_last_n", 5, "repetition_window")]


@pytest.mark.parametrize(("theirs", "value", "ours"), SAMPLING)
def test_settings_under_other_servers_names_are_obeyed(theirs: str, value: float, ours: str) -> None:
    body = schema.ChatRequest.model_validate({"messages": TALK, theirs: value})
    assert body.settings() == {ours: value}


CONSTRAINTS: list[tuple[str, Any, list[str]]] = [
    ("regex", "yes|no", ["yes", "no"]),
    ("guided_regex", "yes|no", ["yes", "no"]),
    ("guided_choice", ["yes", "no"], ["yes", "no"]),
    ("grammar", 'root ::= "yes" | "no"', ["yes", "no"]),
    ("json_schema", {"enum": ["yes", "no"]}, ['"yes"', '"no"']),
    ("format", {"enum": ["yes", "no"]}, ['"yes"', '"no"']),
]


@pytest.mark.parametrize(("name", "value", "texts"), CONSTRAINTS)
def test_output_constraints_under_other_servers_names_are_obeyed(
    server: Running, name: str, value: Any, texts: list[str]
) -> None:
    reply = server.post("/v1/chat/completions", {"messages": TALK, name: value, "max_tokens": 20})
    assert reply.json()["choices"][0]["message"]["content"] in texts


def test_two_output_constraints_are_refused(server: Running) -> None:
    body = {"messages": TALK, "regex": "a", "structured_outputs": {"choice": ["b"]}}
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 400
    assert "regex" in reply.json()["error"]["message"]


def test_sentinels_of_other_servers_mean_no_limit_all_and_random() -> None:
    body = schema.ChatRequest.model_validate({"messages": TALK, "max_tokens": -1, "top_k": -1, "seed": -1})
    assert body.settings() == {"top_k": 0}
    options = ollama_schema.Options.model_validate({"num_predict": -2, "top_k": -1, "seed": -1, "repeat_penalty": 1.2})
    assert options.settings() == {"top_k": 0, "repetition_penalty": 1.2}
    whole = ollama_schema.Options.model_validate({"repeat_penalty": 1.2, "repeat_last_n": -1}).settings()
    assert whole["repetition_window"] > 131072
    same = sampling_schema.with_our_names({"repeat_penalty": 1.2, "repeat_last_n": 0})
    assert same == {}
