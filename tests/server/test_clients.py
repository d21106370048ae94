"""Further clients, unmodified, against a real server on loopback: litellm, llm with llm-ollama, lm-eval."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llama3_mlx import Llama

from ..support.server_fixtures import Running, running_server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(smollm2_folder: Path) -> Iterator[Running]:
    with running_server({"smollm2": smollm2_folder}) as running:
        yield running


@pytest.fixture(scope="module")
def llama(smollm2_folder: Path) -> Llama:
    return Llama.load(smollm2_folder)


def in_process_of_its_own(script: str, *arguments: str) -> Any:
    """Run a script that prints JSON on its last line; its client's warnings are none of ours."""
    environment = {**os.environ, "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=240, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.strip().splitlines()[-1])


LITELLM = """
import json, sys, litellm
url, messages = sys.argv[1], [{"role": "user", "content": "What is the capital of France?"}]
settings = {"messages": messages, "max_tokens": 5, "temperature": 0}
openai = litellm.completion(model="openai/smollm2", api_base=url + "/v1", api_key="none", **settings)
chat = litellm.completion(model="ollama_chat/smollm2", api_base=url, **settings)
stream = litellm.completion(model="ollama_chat/smollm2", api_base=url, stream=True, **settings)
anthropic = litellm.completion(model="anthropic/smollm2", api_base=url, api_key="none", **settings)
texts = [reply.choices[0].message.content for reply in (openai, chat, anthropic)]
texts.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
print(json.dumps(texts))
"""


def test_litellm_reaches_all_three_protocols(server: Running, llama: Llama) -> None:
    pytest.importorskip("litellm")
    expected = llama.chat(QUESTION, max_tokens=5, temperature=0).text
    assert in_process_of_its_own(LITELLM, server.url) == [expected] * 4


def test_llm_with_its_ollama_plugin_finds_and_uses_the_model(server: Running, llama: Llama, tmp_path: Path) -> None:
    pytest.importorskip("llm_ollama")
    environment = {**os.environ, "OLLAMA_HOST": server.url, "LLM_USER_PATH": str(tmp_path)}
    environment["LLM_LOAD_PLUGINS"] = "llm-ollama"
    options = ["-o", "num_predict", "5", "-o", "temperature", "0", "--no-log"]
    # By search: newer releases of the plugin list the model as ollama/smollm2.
    run = subprocess.run(
        [Path(sys.executable).parent / "llm", "-q", "smollm2", *options, QUESTION[0]["content"]],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == llama.chat(QUESTION, max_tokens=5, temperature=0).text


TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
CAPITALS = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Egypt", "Cairo")]


def likelihoods(folder: Path) -> list[list[float]]:
    """What transformers gives for each question's choices."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def likelihood(context: str, choice: str) -> float:
        ids = tokenizer(context + choice, return_tensors="pt").input_ids
        start = tokenizer(context, return_tensors="pt").input_ids.shape[1]
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        return float(sum(logprobs[at - 1, ids[0, at]] for at in range(start, ids.shape[1])))

    return [[likelihood(f"The capital of {country} is", f" {city}") for _, city in CAPITALS] for country, _ in CAPITALS]


def test_lm_eval_finds_the_likelihoods_that_transformers_gives(
    server: Running, smollm2_folder: Path, llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's local-completions, which finds the server's tokenizer by itself, and our model of it in process."""
    pytest.importorskip("lm_eval")
    choices = [city for _, city in CAPITALS]
    documents = [{"country": name, "choices": choices, "answer": at} for at, (name, _) in enumerate(CAPITALS)]
    data, out = tmp_path / "capitals.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "capitals.yaml").write_text(TASK.format(data=data))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none"}
    arguments = f"model=smollm2,base_url={server.url}/v1/completions,num_concurrent=4"
    program = [str(Path(sys.executable).parent / "lm-eval"), "run", "--model", "local-completions"]
    options = ["--tasks", "capitals", "--include_path", str(tmp_path), "--output_path", str(out), "--log_samples"]
    run = subprocess.run(
        [*program, "--model_args", arguments, *options], capture_output=True, text=True, timeout=400, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (samples,) = out.rglob("samples_capitals_*.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    given = [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in found]
    expected = likelihoods(smollm2_folder)
    assert given == [pytest.approx(row, abs=2e-3) for row in expected]
    (results,) = out.rglob("results_*.json")
    right = [max(range(4), key=row.__getitem__) == at for at, row in enumerate(expected)]
    assert json.loads(results.read_text())["results"]["capitals"]["acc,none"] == sum(right) / 4 > 0.5
    import datasets

    from llama3_mlx.evaluation import EvalOptions, evaluate

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    in_process = evaluate(llama, ["capitals"], EvalOptions(tasks_folder=tmp_path)).outcomes[0]
    assert in_process.main is not None
    assert in_process.main.value == sum(right) / 4
