"""`run`, `pull`, `models`, `serve` as processes or calls, and the plugin for `llm`."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import ollama
import pytest

from llama3_mlx import Llama
from llama3_mlx.cli import main
from llama3_mlx.cli.model_choice import choose_model
from llama3_mlx.cli.remote import request_body
from llama3_mlx.cli.serve import adapter_notes, served_name
from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.library.catalogue import Catalogue
from llama3_mlx.server.openai.schema import ChatRequest
from llama3_mlx.settings import Setting, settings_of

from ..support.fake_hub import running_hub
from ..support.server_fixtures import running_server, save_adapter

QUESTION = "What is the capital of France?"


class Piped(io.StringIO):
    """Standard input that is no terminal."""

    def isatty(self) -> bool:
        return False


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with no models, and a Hub cache with none."""
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sys, "stdin", Piped())
    return tmp_path / "home"


def add_model(home: Path, name: str, folder: Path) -> Path:
    target = home / "models" / name
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).symlink_to(path)
    return target


def test_run_asks_the_server_that_is_up(home: Path, smollm2_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server({"smollm2": smollm2_folder}) as running:
        assert main(["run", "smollm2", QUESTION, "--url", running.url, "--max-tokens", "5", "--temperature", "0"]) == 0
        out, err = capsys.readouterr()
        assert running.url in err
        assert main(["run", "smollm2", QUESTION, "--url", running.url, "--choices", "17 plums"]) == 0
        assert capsys.readouterr().out == "17 plums\n"
        assert "llama3_mlx_generated_tokens_total" in running.get("/metrics").text
    expected = Llama.load(smollm2_folder).chat([{"role": "user", "content": QUESTION}], max_tokens=5, temperature=0)
    assert out == expected.text + "\n"


@pytest.mark.parametrize(
    "entry",
    [entry for entry in settings_of(GenerationOptions).values() if entry.flag and entry.request],
    ids=lambda entry: entry.name,
)
def test_every_setting_of_run_is_one_that_the_server_takes(entry: Setting) -> None:
    if entry.name == "template_options":
        pytest.skip("it goes into the prompt, not into the settings of the answer")
    texts = {"stop": ["x"], "regex": "[0-9]+", "choices": ["red", "blue"]}
    value = texts.get(entry.name, True if isinstance(entry.default, bool) else 1)
    read = ChatRequest.model_validate(request_body("smollm2", [], {entry.name: value}))
    assert read.ignored() == []
    found = read.settings()[entry.name]
    assert (list(found) if isinstance(found, tuple) else found) == value


def test_run_loads_the_model_itself_where_no_server_is(
    home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_URL", "http://127.0.0.1:9")
    add_model(home, "tiny", tiny_folder)
    assert main(["run", "tiny", "Hi", "--max-tokens", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "server" not in err


def test_run_holds_a_dialog_through_the_server(
    home: Path, smollm2_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(f"{QUESTION}\n/stats\n/exit\n"))
    monkeypatch.setattr("llama3_mlx.cli.run._prompt", lambda _: None)
    with running_server({"smollm2": smollm2_folder}) as running:
        monkeypatch.setenv("LLAMA3_MLX_URL", running.url)
        assert main(["run", "--max-tokens", "12", "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert "Paris" in out
    assert "answer: 7 tokens" in err or "answer: 8 tokens" in err


def test_models_are_listed_and_removed(home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "llama3-mlx pull" in capsys.readouterr().err
    kept, doomed = add_model(home, "kept", tiny_folder), add_model(home, "owner/doomed", tiny_folder)
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == ["kept", "owner/doomed"]
    assert listed[0]["size_bytes"] == sum(path.stat().st_size for path in tiny_folder.iterdir())
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "DISK", "PARAMETERS", "WEIGHTS", "MODIFIED"]
    assert main(["models", "remove", "owner/doomed"]) == 0
    assert kept.exists()
    assert not doomed.exists()
    assert (tiny_folder / "config.json").exists()
    assert main(["models", "remove", "gone"]) == 2
    assert "no model 'gone'" in capsys.readouterr().err


def test_a_folder_that_is_no_whole_llama_is_listed_for_removal_and_served_to_nobody(
    home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_model(home, "good", tiny_folder)
    for name, config in (("broken", "{bad"), ("vision", '{"model_type": "mllama"}'), ("empty", None)):
        folder = home / "models" / "a-folder" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config or (tiny_folder / "config.json").read_text())
    with running_server({}, with_home=True) as running:
        assert [model["id"] for model in running.get("/v1/models").json()["data"]] == ["good"]
        assert [model["name"] for model in running.get("/api/tags").json()["models"]] == ["good:latest"]
        assert running.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).json()["model"] == "good"
        assert running.post("/v1/completions", {"model": "a-folder/vision", "prompt": "a"}).status_code == 404
    assert main(["models", "--json"]) == 0
    listed = {entry["name"]: entry.get("problem") for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == {"good", "a-folder/broken", "a-folder/vision", "a-folder/empty"}
    assert "mllama" in listed["a-folder/vision"]
    assert main(["models", "remove", "a-folder/broken"]) == 0
    assert not (home / "models" / "a-folder" / "broken").exists()


def test_pull_of_what_is_no_hub_id_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "not-an-id"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no model not-an-id: give a folder")


def test_ollamas_client_pulls_a_model_with_progress_and_uses_it(home: Path, tiny_folder: Path) -> None:
    """The real client, a server in a process of its own, a local Hub."""
    command = [sys.executable, "-m", "llama3_mlx", "serve", "-m", str(tiny_folder), "--port", "0"]
    with running_hub() as (hub, address):
        hub.repositories["owner/name"] = tiny_folder
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HUB_DISABLE_XET": "1"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            url = process.stderr.readline().split(" on ")[1].split()[0]
            with ollama.Client(host=url, timeout=60) as client:
                told = list(client.pull("owner/name", stream=True))
                answer = client.generate("owner/name", "a", raw=True, options={"num_predict": 2, "temperature": 0})
                listed = [model.model for model in client.list().models]
                with pytest.raises(ollama.ResponseError, match="no repository of that name on the Hub") as absent:
                    client.pull("owner/absent")
                assert absent.value.status_code == 404
                hub.repositories["owner/gated"] = tiny_folder
                hub.gated.add("owner/gated")
                with pytest.raises(ollama.ResponseError, match="owner/gated is gated: accept its license"):
                    list(client.pull("owner/gated", stream=True))
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    assert told[0].status == "pulling manifest"
    assert told[-1].status == "success"
    counted = [(part.completed, part.total) for part in told if part.total]
    assert counted
    assert counted[-1][0] == counted[-1][1]
    assert answer.eval_count == 2
    assert any("owner/name" in str(name) for name in listed)


def test_models_in_the_hubs_cache_are_found_by_their_id(tmp_path: Path, tiny_folder: Path, home: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc").symlink_to(tiny_folder)
    other = tmp_path / "hub" / "models--owner--vision"
    (other / "refs").mkdir(parents=True)
    (other / "refs" / "main").write_text("abc")
    (other / "snapshots" / "abc").mkdir(parents=True)
    (other / "snapshots" / "abc" / "config.json").write_text('{"model_type": "mllama"}')
    assert list(Catalogue({}, {}).models()) == ["owner/tiny"]


def test_a_server_gives_the_signals_back_to_the_program_that_ran_it(tiny_folder: Path) -> None:
    """After SIGTERM has ended the server, Ctrl-C interrupts the program as it did before."""
    program = f"""
import os, signal, threading, time, pathlib
from llama3_mlx.server.running import serve
from llama3_mlx.server.settings import ServerSettings
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
def stop():
    time.sleep(1)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        if ended.is_set(): break
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: None)
before[1] = signal.getsignal(signal.SIGTERM)
threading.Thread(target=stop, daemon=True).start()
assert serve(ServerSettings(port=0), {{"tiny": pathlib.Path({str(tiny_folder)!r})}}, {{}}) == 0
ended.set()
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["interrupted"], done.stderr


def test_serve_listens_answers_logs_and_stops_on_a_signal(home: Path, tiny_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "llama3_mlx",
        "serve",
        "-m",
        str(tiny_folder),
        "--port",
        "0",
        "--log-format",
        "json",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split(" on ")[1].split()[0]
        for _ in range(100):
            try:
                reply = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=60)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert reply.status_code == 200
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    events = [json.loads(text) for text in rest.splitlines()]
    assert {"model loaded", "request"} <= {event["event"] for event in events}
    request = next(event for event in events if event["event"] == "request")
    assert (request["status"], request["written_tokens"], request["path"]) == (200, 2, "/v1/completions")


def test_serve_notes_adapters_that_were_made_for_another_model_or_fit_none(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    add_model(home, "base", tiny_folder)
    adapters = {}
    for name, model, inputs in (("own", "base", 128), ("other", "owner/else", 128), ("wide", "base", 256)):
        (tmp_path / name).mkdir()
        adapters[name] = save_adapter(tmp_path / name, inputs, 64)
        values = json.loads((tmp_path / name / "adapter_config.json").read_text())
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**values, "model": model}))
    catalogue = Catalogue({"base": home / "models" / "base"}, adapters, with_home=False)
    assert list(adapter_notes(catalogue, adapters)) == [
        "base:other is offered, but other was made for owner/else: its answers may be worse",
        "the adapter wide fits none of the models that are served, so that no request can name it",
    ]


def test_an_answer_that_has_begun_is_finished_when_the_server_is_told_to_stop(home: Path, tiny_folder: Path) -> None:
    command = [sys.executable, "-m", "llama3_mlx", "serve", "-m", str(tiny_folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split(" on ")[1].split()[0]
        body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
        lines: list[str] = []
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                if not lines:
                    process.send_signal(signal.SIGTERM)
                lines += [line] if line else []
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "API key is required"),
        (["--port", "99999"], "port must be"),
        (["--log-format", "xml"], "log-format"),
        (["--adapter", "x=/nowhere"], "there is no adapter '/nowhere'"),
        (["-m", "no-such-model"], "no-such-model"),
    ],
)
def test_serve_refuses_what_it_cannot_do_in_one_line(
    home: Path, tiny_folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if "-m" in arguments else ["-m", str(tiny_folder)]
    assert main(["serve", *model, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_serve_refuses_folders_that_are_no_models_and_names_that_come_twice(
    home: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    assert main(["serve", "-m", str(tmp_path / "notes")]) == 2
    assert "config.json" in capsys.readouterr().err
    other = add_model(home, tiny_folder.name, tiny_folder)
    assert main(["serve", "-m", str(tiny_folder), "-m", str(other)]) == 2
    error = capsys.readouterr().err
    assert f"two models are called {tiny_folder.name}" in error
    assert error.count("\n") == 1


def test_serve_without_a_model_offers_those_of_this_machine(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(home, "mine", tiny_folder)
    monkeypatch.delenv("LLAMA3_MLX_MODEL", raising=False)
    command = [sys.executable, "-m", "llama3_mlx", "serve", "--port", "0"]
    environment = {**os.environ, "HF_HUB_CACHE": str(home / "hub")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("llama3-mlx serves mine on http://127.0.0.1:")
        reply = httpx.post(f"{line.split(' on ')[1].split()[0]}/v1/completions", json={"prompt": "a"}, timeout=60)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert reply.json()["model"] == "mine"


def test_a_link_is_served_under_its_own_name(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """A request calls a model as `models` lists it, or as the folder was called on the command line."""
    for link in (home / "models" / "owner" / "mine", tmp_path / "disk" / "llama", tmp_path / "style"):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tiny_folder)
    (tmp_path / "named").symlink_to(home / "models" / "owner" / "mine")
    for choice, name in (
        ("owner/mine", "owner/mine"),
        (str(home / "models" / "owner" / "mine"), "owner/mine"),
        (str(tmp_path / "disk" / "llama"), "llama"),
        (str(tmp_path / "disk" / ".." / "disk" / "llama"), "llama"),
        (str(tmp_path / "named"), "named"),
        (str(tiny_folder), tiny_folder.name),
    ):
        assert served_name(choice, choose_model(choice)) == (name, tiny_folder.resolve())


def test_a_port_that_is_taken_is_one_line(home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server({"tiny": tiny_folder}) as running:
        port = running.url.rpartition(":")[2]
        assert main(["serve", "-m", str(tiny_folder), "--port", port]) == 2
    assert f"can't listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_llm_answers_and_goes_on_with_the_plugin(
    home: Path, smollm2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = pytest.importorskip("llm")
    from llama3_mlx import llm_plugin

    add_model(home, "smollm2", smollm2_folder)
    models = []
    llm_plugin.register_models(lambda model, *_, **__: models.append(model))
    assert [model.model_id for model in models] == ["llama3-mlx:smollm2"]
    conversation = llm.Conversation(model=models[0])
    first = conversation.prompt(QUESTION, system="Be brief.", max_tokens=12, temperature=0)
    llama = Llama.load(smollm2_folder)
    dialog = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    expected = llama.chat(dialog, max_tokens=12, temperature=0)
    assert first.text() == expected.text
    assert first.usage().output == len(expected.token_ids)
    second = conversation.prompt("And of Italy?", max_tokens=4, temperature=0)
    dialog += [{"role": "assistant", "content": expected.text}, {"role": "user", "content": "And of Italy?"}]
    assert second.text() == llama.chat(dialog, max_tokens=4, temperature=0).text
