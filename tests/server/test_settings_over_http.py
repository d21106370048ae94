"""Settings of requests on a small random model of bytes: limits, sentinels, stops, what is checked afterwards."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from llama3_mlx import Llama, StructureError
from llama3_mlx.cli import main

from ..support.server_fixtures import Running, running_server
from ..support.small_chat import EOT, SPECIAL, save_small_chat

CONTEXT = 200
TALK: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_chat(tmp_path_factory.mktemp("short") / "small", max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running_server({"small": folder}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("limit", [10**7, -1])
def test_an_answer_ends_with_the_context_where_the_limit_is_beyond_it(client: openai.OpenAI, limit: int) -> None:
    extra: Any = {"extra_body": {"ignore_eos": True}}
    chat = client.chat.completions.create(model="small", messages=TALK, max_tokens=limit, **extra)
    text = client.completions.create(model="small", prompt="Hi", max_tokens=limit, **extra)
    for reply in (chat, text):
        assert reply.usage is not None
        assert (reply.choices[0].finish_reason, reply.usage.total_tokens) == ("length", CONTEXT)
    response = client.responses.create(model="small", input="Hi", max_output_tokens=limit)
    assert response.usage is not None
    assert response.usage.total_tokens == CONTEXT or response.status == "completed"


def test_truncation_changes_nothing_while_the_dialog_fits(client: openai.OpenAI) -> None:
    asked: Any = {"model": "small", "max_output_tokens": 8, "temperature": 0}
    plain = client.responses.create(input="Hi", **asked)
    assert client.responses.create(input="Hi", truncation="auto", **asked).output_text == plain.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="long " * 100, truncation="auto", **asked)
    assert caught.value.code == "context_length_exceeded"


def test_an_answer_stops_at_a_control_token_by_its_text_and_by_its_id(client: openai.OpenAI) -> None:
    """The bias makes the model write the token that ends a turn, which by itself ends nothing with `ignore_eos`."""

    def ask(**more: Any) -> tuple[str | None, str, int]:
        extra = {"ignore_eos": True, **more.pop("extra", {})}
        reply = client.chat.completions.create(
            model="small",
            messages=TALK,
            max_tokens=3,
            temperature=0,
            logit_bias={str(EOT): 100},
            extra_body=extra,
            **more,
        )
        assert reply.usage is not None
        return reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage.completion_tokens

    assert ask() == ("", "length", 3)
    assert ask(stop=[SPECIAL[4]]) == ask(extra={"stop_token_ids": [EOT]}) == ("", "stop", 0)
    assert ask(extra={"skip_special_tokens": False}) == (SPECIAL[4] * 3, "length", 3)


@pytest.mark.parametrize(("seed", "different"), [(-1, True), (7, False)])
def test_ollamas_seed_of_minus_one_is_by_chance(server: Running, seed: int, different: bool) -> None:
    """Ollama itself sends it where nothing is set: https://github.com/ollama/ollama, api/types.go, DefaultOptions."""
    options = {"seed": seed, "temperature": 1.5, "num_predict": 20}
    body = {"model": "small", "prompt": "a", "raw": True, "stream": False, "options": options}
    texts = {server.post("/api/generate", body).json()["response"] for _ in range(3)}
    assert (len(texts) > 1) == different


def test_values_of_the_template_are_those_of_transformers_in_python_and_over_http(
    folder: Path, client: openai.OpenAI
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with Llama.load(folder, disk_cache=False) as llama:
        for date in ("1 Jan 2001", "Thursday, 1 January 2001"):
            values = {"date_string": date}
            ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False, **values)
            assert llama.encode_chat(TALK, template_options=values) == ids
            assert llama.chat(TALK, max_tokens=1, template_options=values).prompt_tokens == len(ids)
            reply = client.chat.completions.create(
                model="small", messages=TALK, max_tokens=1, extra_body={"chat_template_kwargs": values}
            )
            assert reply.usage is not None
            assert reply.usage.prompt_tokens == len(ids)


SCHEMA = {"const": 3, "not": {"minimum": 2}}
FORM = {"type": "json_schema", "name": "f", "schema": SCHEMA}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": TALK,
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": FORM},
    },
    "/v1/responses": {"input": "Hi", "max_output_tokens": 60, "text": {"format": FORM}},
    "/v1/messages": {"messages": TALK, "max_tokens": 60, "output_config": {"format": FORM}},
    "/api/chat": {"messages": TALK, "options": {"num_predict": 60}, "format": SCHEMA, "stream": False},
}
SAID = "the answer is 3, which is excluded"


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_outside_of_what_no_grammar_holds_is_an_error_in_every_protocol(server: Running, path: str) -> None:
    """The verdict on 3 is JSON Schema's: https://json-schema.org/draft/2020-12/json-schema-core, not."""
    reply = server.post(path, ASKED[path])
    assert reply.status_code == 422
    assert f"the model's answer doesn't fit the schema: {SAID}" in reply.text


def test_such_an_answer_is_the_same_error_in_python_and_on_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Llama.load(folder, disk_cache=False) as llama, pytest.raises(StructureError, match=SAID):
        llama.chat(TALK, schema=SCHEMA, max_tokens=60)
    command = ["generate", "-m", str(folder), "Hi", "--schema", json.dumps(SCHEMA), "--max-tokens", "60"]
    assert main(command) == 2
    assert SAID in capsys.readouterr().err


def test_control_tokens_of_a_raw_prompt_are_read_by_a_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ids are those of transformers, which always reads them."""
    text = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    command = ["generate", "-m", str(folder), "-p", text, "--max-tokens", "1", "--json"]
    counts = []
    for flags in (["--raw", "--special"], ["--raw"]):
        assert main([*command, *flags]) == 0
        counts.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert counts == [len(ids), 1 + len(text)], "without it: the beginning of the text, and a token for each byte"
    assert main([*command, "--special"]) == 2
    assert "--special belongs to --raw" in capsys.readouterr().err
