"""DPO, ORPO and KTO: values against numpy, the reference, and that they teach what they should."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.cli import main
from llama3_mlx.finetune.data.encoding import Example
from llama3_mlx.finetune.layers.dropout import Noise
from llama3_mlx.finetune.objectives.preference import (
    Preference,
    Unit,
    dpo_loss,
    kto_loss,
    mismatched,
    orpo_loss,
    row_shape,
)
from llama3_mlx.finetune.preference import build_preference
from llama3_mlx.finetune.settings import DpoSettings, TrainSettings
from llama3_mlx.finetune.training.job import TrainingJob, load_text_side
from llama3_mlx.finetune.training.trainer import Trainer
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.finetune_fixtures import VOCABULARY, adapted_model, random_examples, small_model, value, write_lines


def numpy_logprobs(model: LlamaForCausalLM, example: Example) -> np.ndarray:
    """Log-probabilities of the trained tokens in float64, by the model's plain forward pass."""
    logits = np.array(model(mx.array(example.ids[None, :-1]))[0]).astype(np.float64)
    normalized = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return normalized[np.arange(len(logits)), example.ids[1:]][example.is_target[1:]]


def pairs(n: int, seed: int = 0) -> list[Unit]:
    """Pairs of random answers to the same random prompt."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        prompt = rng.integers(0, VOCABULARY, 8)
        sides = [np.concatenate([prompt, rng.integers(0, VOCABULARY, rng.integers(3, 9))]) for _ in range(2)]
        made.append(
            Unit(
                tuple(Example(ids.astype(np.int32), np.arange(len(ids)) >= 8) for ids in sides), where=f"pair {number}"
            )
        )
    return made


def preference(units: list[Unit], loss: Any, *, referenced: bool = True, valid: Any = (), **options: Any) -> Preference:
    """The objective over batches of four units."""
    shape = row_shape(units, options.pop("batch_size", 4), 64)
    return Preference(
        units, valid, loss, shape=shape, vocab_size=VOCABULARY, keep="light", seed=0, referenced=referenced, **options
    )


def loss_of(made: Preference, model: LlamaForCausalLM, index: int = 0) -> tuple[float, dict[str, float]]:
    """The summed loss of a batch and what is reported with it."""
    arrays = {name: mx.array(array) for name, array in made.batch(index).arrays.items()}
    loss, more = made.loss(model, arrays, made.constants)
    return value(loss), {name: value(array) for name, array in more.items()}


def moved_model(model: LlamaForCausalLM, made: Preference) -> LlamaForCausalLM:
    """The model, bound as it is, then with other adapter values."""
    made.bind(model)
    for layer in model.model.layers:
        layer.self_attn.q_proj.lora_b = layer.self_attn.q_proj.lora_b * 3
    return model


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def gains(units: list[Unit], model: LlamaForCausalLM, first: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sums of log-probabilities (units, 2) of the model and of its first values."""
    now = np.array([[numpy_logprobs(model, s).sum() for s in unit.sequences] for unit in units])
    current = model.trainable_parameters()
    model.update(first)
    then = np.array([[numpy_logprobs(model, s).sum() for s in unit.sequences] for unit in units])
    model.update(current)
    return now, then


@pytest.mark.parametrize(("kind", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0)])
def test_dpo_is_what_its_formula_says(kind: str, smoothing: float) -> None:
    units = pairs(4)
    made = preference(units, dpo_loss(0.1, kind, smoothing))
    model = moved_model(adapted_model(small_model()), made)
    now, then = gains(units, model, made.constants)
    gain = now - then
    tokens = np.array([[s.n_targets for s in unit.sequences] for unit in units])
    h = 0.1 * (gain[:, 0] - gain[:, 1])
    if kind == "ipo":
        expected = (((gain / tokens)[:, 0] - (gain / tokens)[:, 1]) - 5) ** 2
    else:
        expected = -(1 - smoothing) * np.log(sigmoid(h)) - smoothing * np.log(sigmoid(-h))
    loss, more = loss_of(made, model)
    assert loss == pytest.approx(expected.sum(), rel=1e-4)
    assert more["margin"] == pytest.approx(h.sum(), rel=1e-3, abs=1e-4)
    assert more["accuracy"] == (h > 0).sum()


def test_orpo_is_what_its_formula_says() -> None:
    units = pairs(4)
    made = preference(units, orpo_loss(0.25), referenced=False)
    model = adapted_model(small_model())
    means = np.array([[numpy_logprobs(model, s).mean() for s in unit.sequences] for unit in units])
    odds = np.exp(means) / (1 - np.exp(means))
    expected = -means[:, 0] - 0.25 * np.log(sigmoid(np.log(odds[:, 0] / odds[:, 1])))
    assert loss_of(made, model)[0] == pytest.approx(expected.sum(), rel=1e-4)


def test_kto_is_what_its_formula_says() -> None:
    examples = [unit.sequences[0] for unit in pairs(4)]
    units = [
        Unit((example, other), sign)
        for example, other, sign in zip(examples, mismatched(examples, 0), (1.0, -1.0, 1.0, -1.0), strict=True)
    ]
    made = preference(units, kto_loss(0.1, 1.5, 0.5))
    model = moved_model(adapted_model(small_model()), made)
    now, then = gains(units, model, made.constants)
    gain = now - then
    moved = max(0.0, gain[:, 1].mean())
    signs = np.array([1, -1, 1, -1])
    weights = np.where(signs > 0, 1.5, 0.5)
    expected = weights * (1 - sigmoid(signs * 0.1 * (gain[:, 0] - moved)))
    assert loss_of(made, model)[0] == pytest.approx(expected.sum(), rel=1e-4)


def test_a_mismatched_answer_keeps_the_prompt_and_swaps_the_answer() -> None:
    examples = [unit.sequences[0] for unit in pairs(3)]
    for example, other in zip(examples, mismatched(examples, 0), strict=True):
        assert other.ids[:8].tolist() == example.ids[:8].tolist()
        assert any(other.ids[8:].tolist() == unit.ids[8:].tolist() for unit in examples)
        assert other.ids[8:].tolist() != example.ids[8:].tolist()


def test_the_first_loss_of_dpo_is_that_of_a_coin() -> None:
    made = preference(pairs(4), dpo_loss(0.1))
    model = adapted_model(small_model())
    made.bind(model)
    assert loss_of(made, model)[0] == pytest.approx(4 * np.log(2), rel=1e-5)


@pytest.mark.parametrize(("loss", "referenced"), [(dpo_loss(0.1), True), (orpo_loss(0.5), False)])
def test_preference_training_raises_margin_and_accuracy(loss: Any, referenced: bool) -> None:
    rng = np.random.default_rng(0)

    def pair() -> Unit:
        prompt = rng.integers(10, 300, 6)
        # What is preferred ends in token 5, what is rejected in token 6.
        sides = [np.array([*prompt, token], np.int32) for token in (5, 6)]
        return Unit(tuple(Example(ids, np.arange(7) >= 6) for ids in sides))

    model = adapted_model(small_model())
    made = preference([pair() for _ in range(32)], loss, referenced=referenced, valid=[pair() for _ in range(16)])
    made.bind(model)
    settings = TrainSettings(steps=30, learning_rate=5e-3, warmup=0)
    trainer = Trainer(model, made, settings, Noise())
    _, before = trainer.losses.evaluate(trainer.params, made.validation())
    trainer.run()
    _, after = trainer.losses.evaluate(trainer.params, made.validation())
    assert after["accuracy"] > 0.9
    assert after["margin"] > before["margin"] + 0.1


def test_the_reference_has_no_dropout_and_leaves_the_model_as_it_was() -> None:
    made = preference(pairs(4), dpo_loss(0.1))
    model = adapted_model(small_model(), dropout=0.5)
    made.bind(model)
    arrays = {name: mx.array(array) for name, array in made.batch(0).arrays.items()}
    first, second = (made._reference(model, arrays, 8, made.constants) for _ in range(2))
    assert mx.array_equal(first, second).item()
    assert model.model.layers[0].self_attn.q_proj.training


def test_only_the_last_answer_of_a_dialog_is_judged() -> None:
    from llama3_mlx.finetune.data.encoding import last_turn

    marks = np.array([0, 1, 1, 0, 0, 1, 1, 1], bool)
    assert last_turn([Example(np.arange(8, dtype=np.int32), marks)])[0].is_target.tolist() == [False] * 5 + [True] * 3
    assert last_turn(random_examples(1))[0].is_target.sum() == random_examples(1)[0].is_target.sum()


def test_pairs_whose_answers_are_cut_off_are_told(tiny_folder: Path, tmp_path: Path) -> None:
    pair = {"prompt": "Say it.", "chosen": "please", "rejected": "NOW"}
    data = write_lines(tmp_path / "pairs.jsonl", [pair, {**pair, "prompt": "word " * 90}, pair])
    settings = DpoSettings(max_length=64)
    prepared = build_preference(
        TrainingJob("dpo", str(tiny_folder), (str(data),), (), tmp_path / "run", settings),
        load_text_side(str(tiny_folder)),
    )
    assert (
        prepared.notes[0] == "train on 2 examples; 1 cut to max_length; 1 left out, with no answer left after the cut"
    )
    made = prepared.objective
    assert isinstance(made, Preference)
    assert made.batch(0).n_targets == sum(side.n_targets for unit in made.units for side in unit.sequences)
    assert len(prepared.shown) == 2


PAIR = {"prompt": "Say it.", "chosen": "please do", "rejected": "NOW do"}
LABELLED = {"prompt": "Say it.", "completion": "please do", "label": True}


@pytest.mark.parametrize(
    ("command", "line", "first_loss"),
    # Where nothing was learned yet, a pair is a coin to DPO and KTO's value is that of no gain.
    [("dpo", PAIR, np.log(2)), ("orpo", PAIR, None), ("kto", PAIR, 0.5), ("kto", LABELLED, 0.5)],
)
def test_every_preference_trains_from_a_file(
    command: str, line: dict[str, Any], first_loss: float | None, tiny_folder: Path, tmp_path: Path
) -> None:
    data, out = write_lines(tmp_path / "data.jsonl", [line] * 3), tmp_path / "run"
    arguments = [command, "-m", str(tiny_folder), "-d", str(data), "-o", str(out), "--steps", "1", "--layers", "1"]
    assert main([*arguments, "--samples", "1", "--sample-tokens", "2", "--batch-size", "2", "--quiet"]) == 0
    step = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first_loss is None or step["loss"] == pytest.approx(first_loss, rel=1e-5)
    assert np.isfinite(step["loss"])
    assert "please do" in (out / "report.html").read_text()
