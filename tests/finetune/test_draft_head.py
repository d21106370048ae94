"""Training of a draft head: its loss against drafting step by step in PyTorch, and whole runs."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.cli import main
from llama3_mlx.convert import convert
from llama3_mlx.finetune import train, train_draft
from llama3_mlx.finetune.data.encoding import Example
from llama3_mlx.finetune.drafting.entry import build_draft
from llama3_mlx.finetune.drafting.vocabulary import choose_vocabulary, token_counts
from llama3_mlx.finetune.objectives.draft import HEAD, DraftObjective, DraftSteps
from llama3_mlx.finetune.objectives.supervised import RowShape
from llama3_mlx.finetune.settings import DraftSettings
from llama3_mlx.finetune.training.job import resumed_job
from llama3_mlx.finetune.training.running import run_job
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.speculation.eagle_head import EagleHead
from llama3_mlx.speculation.eagle_loading import load_head
from llama3_mlx.trees import flatten, unflatten

from ..support.eagle import head_config, random_head, reference_layer
from ..support.finetune_fixtures import SHORT_RUN, random_examples, value, write_lines
from ..support.small_chat import save_small_chat
from ..support.transformers_reference import llama3_rope, our_model, reference_model, small_config
from .test_run import Cancelled, losses

STEPS = DraftSteps(3, 0.8)
SHORT: dict[str, Any] = {
    "vocabulary": 64, "draft_steps": 2, "steps": 6, "learning_rate": 5e-3, "max_length": 96, "batch_size": 1,
    "row_length": 64, "save_every": 1, "report": False, "valid_share": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def dialogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short dialogs."""
    values = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} and {n * 7}"}]}
        for n in range(6)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "train.jsonl", values)


def taught() -> tuple[Any, LlamaForCausalLM, EagleHead]:
    """A target in transformers and in ours with a head in it; few of its likeliest tokens are not in the head's 256."""
    reference = reference_model(small_config(rope_parameters=llama3_rope(8.0)))
    model = our_model(reference)
    head = random_head(head_config(eagle_aux_hidden_state_layer_ids=[0, 1, 2]))
    model.freeze()
    model[HEAD] = head
    return reference, model, head


def objective(head: EagleHead, examples: list[Example], **options: Any) -> DraftObjective:
    longest = max(len(example.ids) for example in examples)
    assert head.token_ids is not None
    values: dict[str, Any] = {"token_ids": np.array(head.token_ids).tolist(), "steps": STEPS, "vocab_size": 320}
    return DraftObjective(examples, [], shape=RowShape(2, 64, longest), **{**values, **options})


def drafted_by_torch(reference: Any, head: EagleHead, example: Example) -> tuple[float, np.ndarray, np.ndarray]:
    """Draft from each position of an example, one token after another, with the data's tokens.

    Returns the weighted loss, and for each drafted token how many positions had their greedy drafts accepted up to
    there, and how many tried.
    """
    ids = torch.from_numpy(example.ids.astype(np.int64))[None]
    with torch.no_grad():
        output = reference(ids, output_hidden_states=True)
        # The last of transformers' hidden states is normed, and depth 2 is what enters that norm.
        blocks = reference.model.layers
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)[None, None]
        last = blocks[1](output.hidden_states[1], attention_mask=mask, position_embeddings=rotary(reference, ids))
        last = last[0] if isinstance(last, tuple) else last
        states = torch.cat([output.hidden_states[0], output.hidden_states[1], last], -1)
        features = states @ tensor(head.fc.weight).T
        embedded = reference.model.embed_tokens(ids)
        norm = LlamaRMSNorm(64, eps=1e-5)
        norm.load_state_dict({"weight": tensor(head.norm.weight)})
        likely = output.logits[0].argmax(-1)
        targets = torch.softmax(output.logits[0][:, :256], -1)
        total, accepted, tried = 0.0, np.zeros(STEPS.n), np.zeros(STEPS.n)
        for t in range(len(example.ids)):
            known, alive = features[:, : t + 1], True
            for k in range(1, STEPS.n + 1):
                if t + k + 1 >= len(example.ids):
                    break
                h = reference_layer(head, embedded[:, 1 : t + k + 1], known, before=False)
                known = torch.cat([known, h[:, -1:]], 1)
                if not example.is_target[t + k + 1]:
                    alive = False
                    continue
                logits = (norm(h[0, -1]) @ tensor(head.lm_head.weight).T).log_softmax(-1)
                if likely[t + k] < 256:
                    total -= STEPS.weight ** (k - 1) * float((targets[t + k] * logits).sum())
                tried[k - 1] += alive
                alive = alive and bool(logits.argmax() == likely[t + k])
                accepted[k - 1] += alive
    return total, accepted, tried


def rotary(reference: Any, ids: torch.Tensor) -> Any:
    return reference.model.rotary_emb(reference.model.embed_tokens(ids), torch.arange(ids.shape[1])[None])


def tensor(array: mx.array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


@pytest.mark.parametrize("keep", ["none", "full"])
def test_the_loss_is_that_of_drafting_token_by_token(keep: str) -> None:
    reference, model, head = taught()
    examples = random_examples(3, 5, 11)
    made = objective(head, examples, keep=keep)
    expected = [drafted_by_torch(reference, head, example) for example in examples]
    batches = [made.batch(index) for index in range(made.per_epoch)]
    assert sum(batch.count for batch in batches) == sum(example.n_targets for example in examples)
    total, sums = 0.0, Counter[str]()
    for batch in batches:
        loss, more = made.loss(model, {name: mx.array(a) for name, a in batch.arrays.items()}, made.constants)
        total += value(loss)
        sums.update({name: value(array) for name, array in more.items()})
    assert total == pytest.approx(sum(loss for loss, _, _ in expected), rel=1e-4)
    for k in range(STEPS.n):
        assert sums[f"greedy {k}"] == sum(accepted[k] for _, accepted, _ in expected)
        assert 0 < sums[f"sampled {k}"] < (sums[f"sampled tried {k}"] if k else total)


@pytest.mark.parametrize("keep", ["none", "full"])
def test_the_gradient_is_the_slope_of_the_loss(keep: str) -> None:
    _, model, head = taught()
    made = objective(head, random_examples(4, 8, 20), keep=keep)
    arrays = {name: mx.array(array) for name, array in made.batch(0).arrays.items()}

    def loss(params: Any) -> mx.array:
        model.update(params)
        return made.loss(model, arrays, made.constants)[0]

    params = model.trainable_parameters()
    grads = dict(flatten(mx.grad(loss)(params)))
    # A draft head's parts all matter.
    assert {name for name, _ in flatten(params)} == set(grads)
    rng = np.random.default_rng(0)
    for name, array in flatten(params):
        direction = mx.array(rng.normal(size=array.shape).astype(np.float32))
        direction = direction / mx.sqrt(mx.square(direction).sum())
        slopes = []
        for sign in (1, -1):
            moved = {**dict(flatten(params)), name: array + sign * 2e-2 * direction}
            slopes.append(value(loss(tree(moved))))
        expected = value((grads[name] * direction).sum())
        assert (slopes[0] - slopes[1]) / 4e-2 == pytest.approx(expected, rel=0.05, abs=0.02), name
    model.update(params)


def tree(named: dict[str, mx.array]) -> Any:
    return unflatten(list(named.items()))


def test_the_vocabulary_has_the_most_frequent_tokens_of_the_answers() -> None:
    examples = random_examples(40, 5, 30, vocabulary=50)
    counted = Counter(
        int(t) for e in examples for t, is_target in zip(e.ids[1:], e.is_target[1:], strict=True) if is_target
    )
    ids = choose_vocabulary(token_counts(examples, 320), 20)
    assert ids == sorted(set(ids))
    rarest = min(counted[token] for token in ids)
    assert all(counted[token] <= rarest for token in range(320) if token not in ids)
    # Those that never occur fill it up, lower ids first.
    assert choose_vocabulary(token_counts(examples, 320), 60)[-10:] == list(range(50, 60))
    assert len(choose_vocabulary(token_counts(examples, 320), None)) == 320


def test_a_trained_head_drafts_and_texts_stay(small_chat: Path, dialogs: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    result = train_draft(small_chat, dialogs, out, **{**SHORT, "steps": 12, "valid_share": 0.2})
    course = [loss for _, loss in losses(out)]
    assert np.mean(course[-3:]) < 0.9 * np.mean(course[:3])
    assert result.valid_loss is not None
    head = load_head(out, load_config(small_chat))
    ids = np.array(head.token_ids)
    assert len(ids) == 64
    assert {int(byte) for byte in b"0123456789 and"} - {ord(" ")} <= {*ids.tolist(), *range(256)}
    prompt = [{"role": "user", "content": "Say 3."}]
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    with Llama.load(small_chat, draft=out) as drafting, Llama.load(small_chat) as plain:
        expected = plain.chat(prompt, speculate=False, **settings)
        assert drafting.chat(prompt, **settings).token_ids == expected.token_ids
    written = json.loads((out / "config.json").read_text())
    # What vLLM's `validate_speculators_config` asks for.
    assert written["speculators_model_type"] == "eagle3"
    assert written["speculators_config"]["proposal_methods"][0]["speculative_tokens"] > 0
    assert written["speculators_config"]["verifier"]["name_or_path"] == small_chat.name
    assert isinstance(written["transformer_layer_config"], dict)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if line["kind"] == "validation")
    shares = [last[f"greedy acceptance {k}"] for k in (1, 2)]
    assert last["greedy tokens a pass"] == pytest.approx(1 + shares[0] + shares[0] * shares[1])


def test_info_of_a_trained_head_counts_its_weights_alone(
    small_chat: Path, dialogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head"
    train_draft(small_chat, dialogs, out, **{**SHORT, "steps": 1})
    assert main(["info", "--json", str(out)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file_bytes"] == (out / "model.safetensors").stat().st_size
    assert facts["target"] == small_chat.name
    assert facts["draft_vocab_size"] == 64


def test_a_resumed_run_comes_to_the_same_bytes(small_chat: Path, dialogs: Path, tmp_path: Path) -> None:
    train_draft(small_chat, dialogs, tmp_path / "whole", **SHORT)
    event = threading.Event()
    broken = train_draft(
        small_chat, dialogs, tmp_path / "broken", **SHORT, cancel=event, callbacks=[Cancelled(event, 2)]
    )
    assert (broken.ended, broken.steps) == ("cancelled", 2)
    run_job(resumed_job(tmp_path / "broken", {}, DraftSettings), build_draft, resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


def test_a_quantized_target_with_an_adapter(small_chat: Path, dialogs: Path, tmp_path: Path) -> None:
    convert(small_chat, tmp_path / "q4", bits=4, group_size=32)
    train(tmp_path / "q4", dialogs, tmp_path / "adapter", **{**SHORT_RUN, "max_length": 96, "steps": 2})
    plain = train_draft(tmp_path / "q4", dialogs, tmp_path / "plain", **{**SHORT, "steps": 1})
    adapted = train_draft(
        tmp_path / "q4", dialogs, tmp_path / "head", **{**SHORT, "steps": 1}, adapter=str(tmp_path / "adapter")
    )
    assert plain.loss is not None
    # The target says something else with its adapter.
    assert adapted.loss != plain.loss
    more = train_draft(
        tmp_path / "q4", dialogs, tmp_path / "more", **{**SHORT, "steps": 1, "vocabulary": None},
        start_from=str(tmp_path / "plain"),
    )  # fmt: skip
    assert more.loss != plain.loss
    first, second = (load_head(tmp_path / name, load_config(small_chat)) for name in ("plain", "more"))
    assert np.array_equal(np.array(first.token_ids), np.array(second.token_ids))


def test_the_model_answers_the_prompts_itself(
    small_chat: Path, dialogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head"
    values = {**SHORT, "steps": 1, "answer_tokens": 8, "temperature": 0, "max_length": 128, "row_length": 128}
    flags = [f"--{name.replace('_', '-')}={v}" for name, v in values.items() if not isinstance(v, bool)]
    command = ["draft", "train", "-m", str(small_chat), "-d", str(dialogs), "-o", str(out), "--regenerate", *flags]
    assert main([*command, "--no-report", "--quiet"]) == 0
    lines = (out / "answers" / "train.jsonl").read_text().splitlines()
    with Llama.load(small_chat) as llama:
        for number, line in enumerate(lines):
            question, answer = json.loads(line)["messages"]
            assert question["content"] == f"Say {number}."
            made = llama.chat([question], max_tokens=8, temperature=0, speculate=False)
            assert answer["content"] == made.text
    # What was there before an interruption is kept.
    (out / "answers" / "train.jsonl").write_text(
        "\n".join([lines[0].replace("Say", "said"), *lines[1:3], lines[3][:9]])
    )
    for name in ("model.safetensors", "resume.safetensors"):
        (out / name).unlink()
    assert main([*command, "--no-report", "--quiet"]) == 0
    again = (out / "answers" / "train.jsonl").read_text().splitlines()
    assert again[0] == lines[0].replace("Say", "said")
    assert again[1:] == lines[1:]
    (out / "model.safetensors").unlink()
    (out / "resume.safetensors").unlink()
    assert main([*command, "--no-report", "--quiet", "--temperature=1"]) == 2
    assert "answers that were given with another temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "flags", "words"),
    [
        ([{"messages": [{"role": "user", "content": "a"}]}], [], "there is no assistant's turn to learn from"),
        ([{"text": "a text"}], ["--regenerate"], "a text has no prompt to answer"),
        (None, ["--vocabulary", "321"], "vocabulary must be at most 320"),
        (None, ["--draft-steps", "0"], "draft_steps must be"),
        (None, ["--max-length", "40"], "target tokens lie beyond max_length 40"),
        (None, ["--memory", "1MB"], "training needs"),
        (None, ["--start-from", "OTHER"], "is for another model"),
        (None, ["--start-from", "QUANTIZED"], "is quantized"),
        (None, ["--adapter", "nowhere"], "nowhere"),
    ],
)
def test_what_can_not_be_trained_is_one_line(
    small_chat: Path,
    dialogs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: Any,
    flags: Any,
    words: str,
) -> None:
    if "OTHER" in flags:
        other = save_small_chat(tmp_path / "other", hidden_size=32, head_dim=8)
        train_draft(other, dialogs, tmp_path / "OTHER", **{**SHORT, "steps": 1})
    if "QUANTIZED" in flags:
        train_draft(small_chat, dialogs, tmp_path / "plain", **{**SHORT, "steps": 1})
        convert(tmp_path / "plain", tmp_path / "QUANTIZED", bits=4, group_size=32)
    flags = [str(tmp_path / flag) if flag in ("OTHER", "QUANTIZED") else flag for flag in flags]
    source = dialogs if data is None else write_lines(tmp_path / "data.jsonl", data)
    command = ["draft", "train", "-m", str(small_chat), "-d", str(source), "-o", str(tmp_path / "head"), "--quiet"]
    capsys.readouterr()
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_resumed_run_is_of_the_same_kind_and_a_folder_has_one_run(
    small_chat: Path, dialogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_draft(small_chat, dialogs, tmp_path / "head", **{**SHORT, "steps": 1})
    run = str(tmp_path / "head")
    assert main(["train", "--resume", run]) == 2
    assert "is a run of draft train" in capsys.readouterr().err
    assert main(["draft", "train", "-m", str(small_chat), "-d", str(dialogs), "-o", run]) == 2
    assert "holds a training run" in capsys.readouterr().err
    assert main(["draft", "train", "--resume", run, "--vocabulary", "32"]) == 2
    assert "aren't those that" in capsys.readouterr().err


def test_a_compiled_step_comes_to_the_same_losses(
    small_chat: Path, dialogs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {**SHORT, "steps": 3, "valid_share": 0.2, "checkpointing": "full"}
    plain = train_draft(small_chat, dialogs, tmp_path / "plain", **settings)
    request.getfixturevalue("gpu_branches")
    compiled = train_draft(small_chat, dialogs, tmp_path / "compiled", **settings)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-3)
    assert compiled.valid_loss == pytest.approx(plain.valid_loss, rel=1e-3)
