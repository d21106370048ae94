"""GRPO and the drawing of answers: advantages, gradients, and that a reward goes up."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.errors import DataError
from llama3_mlx.finetune import grpo
from llama3_mlx.finetune.data.samples import Question
from llama3_mlx.finetune.layers.dropout import Noise
from llama3_mlx.finetune.objectives.grpo import Grpo, group_advantages
from llama3_mlx.finetune.objectives.rewards import load_rewards, total_rewards
from llama3_mlx.finetune.objectives.rollouts import RolloutOptions, draw_rollouts
from llama3_mlx.finetune.objectives.supervised import RowShape
from llama3_mlx.finetune.settings import GrpoSettings
from llama3_mlx.finetune.training.trainer import Trainer

from ..support.finetune_fixtures import VOCABULARY, adapted_model, small_model, value, write_lines


class Letters:
    """A tokenizer and dialog whose tokens are numbers: what GRPO asks of the two, and no more."""

    stop_ids = (1,)

    def encode(self, messages: Any) -> list[int]:
        return [int(word) for word in messages[0]["content"].split()]

    def decode(self, ids: Any, *, control: bool = True) -> str:
        return " ".join(str(token) for token in ids if control or token != 1)


def objective(reward: Any, **changes: Any) -> Grpo:
    """GRPO on four questions of random tokens."""
    settings = GrpoSettings(**{"group_size": 8, "answer_tokens": 6, "batch_size": 2, "rewards": ("r.py:r",), **changes})
    rng = np.random.default_rng(0)
    questions = [
        Question(f"question {n}", [{"role": "user", "content": " ".join(map(str, rng.integers(10, 300, 5)))}], {"n": n})
        for n in range(4)
    ]
    letters: Any = Letters()
    return Grpo(
        questions, questions, [reward], tokenizer=letters, dialog=letters, settings=settings,
        shape=RowShape(2, 128, 11), vocab_size=VOCABULARY, keep="light",
    )  # fmt: skip


def count_of_sevens(prompts: Any, completions: list[str], n: list[int]) -> list[float]:
    """Rewards answers for the tokens below 160 in them."""
    assert len(prompts) == len(completions) == len(n)
    return [sum(int(word) < 160 for word in text.split()) / 6 for text in completions]


def test_greedy_answers_are_those_of_single_generation() -> None:
    model = small_model()
    prompt = [5, 9, 200, 33]
    alone: list[int] = []
    for _ in range(12):
        alone.append(int(np.array(model(mx.array([[*prompt, *alone]]))[0, -1]).argmax()))
    stop = alone[6]
    for answer in draw_rollouts(model, prompt, 3, RolloutOptions(12, 0), (stop,), 0):
        assert list(answer.ids) == alone[: alone.index(stop) + 1]
        assert answer.stopped


def test_drawn_answers_follow_the_models_probabilities_and_the_seed() -> None:
    model = small_model()
    prompt = [5, 9, 200, 33]
    answers = draw_rollouts(model, prompt, 4000, RolloutOptions(1, 1.0), (), 3)
    drawn = np.bincount([answer.ids[0] for answer in answers], minlength=VOCABULARY) / 4000
    logits = np.array(model(mx.array([prompt]))[0, -1]).astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert np.abs(drawn - expected).max() < 0.03
    assert draw_rollouts(model, prompt, 5, RolloutOptions(8), (), 1) == draw_rollouts(
        model, prompt, 5, RolloutOptions(8), (), 1
    )
    assert draw_rollouts(model, prompt, 5, RolloutOptions(8), (), 1) != draw_rollouts(
        model, prompt, 5, RolloutOptions(8), (), 2
    )


def test_answers_that_outlive_the_others_go_on_as_before() -> None:
    model = small_model()
    stops = tuple(range(0, VOCABULARY, 3))
    answers = draw_rollouts(model, [5, 9, 200], 16, RolloutOptions(30), stops, 0)
    assert len({len(answer.ids) for answer in answers}) > 2
    for answer in answers:
        assert all(token not in stops for token in answer.ids[:-1])
        # A token drawn after rows were dropped must still be likely in its own context.
        logits = model(mx.array([[5, 9, 200, *answer.ids]]))[0]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        assert all(value(logprobs[2 + at, token]) > -16 for at, token in enumerate(answer.ids))


def test_advantages_are_rewards_less_the_mean_over_the_deviation() -> None:
    rewards = [1.0, 2.0, 3.0, 6.0]
    assert group_advantages(rewards) == pytest.approx((np.array(rewards) - 3) / (np.std(rewards, ddof=1) + 1e-4))
    assert group_advantages([2.0, 2.0]) == [0, 0]


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_the_gradient_is_that_of_the_advantage_times_the_log_probability(beta: float) -> None:
    model = adapted_model(small_model())
    made = objective(count_of_sevens, beta=beta)
    made.bind(model)
    batch = made.batch(0)
    arrays = {name: mx.array(array) for name, array in batch.arrays.items()}
    params = model.trainable_parameters()

    def loss(params: Any) -> mx.array:
        model.update(params)
        return made.loss(model, arrays, made.constants)[0]

    def plain(params: Any) -> mx.array:
        model.update(params)
        total = mx.array(0.0)
        owners = batch.arrays["owners"][: int(batch.count)]
        logprobs = made._logprobs(model, arrays)
        for n, advantage in enumerate(batch.arrays["advantages"]):
            mine = [at for at, owner in enumerate(owners) if owner == n]
            total = total - float(advantage) * logprobs[mx.array(mine)].sum()
        return total

    from llama3_mlx.trees import flatten

    # At the first step the divergence's gradient is zero, whatever beta is.
    expected = dict(flatten(mx.grad(plain)(params)))
    for name, grad in flatten(mx.grad(loss)(params)):
        assert value(mx.abs(grad - expected[name]).max()) < 1e-4


def test_training_raises_the_reward() -> None:
    model = adapted_model(small_model())
    made = objective(
        count_of_sevens, learning_rate=3e-2, steps=40, warmup=0, group_size=16, batch_size=4, valid_every=40
    )
    made.bind(model)
    before = made.validation_reward()
    assert before is not None
    rewards: list[float] = []

    from llama3_mlx.finetune.training.callbacks import Callback, StepReport
    from llama3_mlx.finetune.training.trainer import Hooks

    class Rewards(Callback):
        def on_step(self, report: StepReport) -> None:
            rewards.append(report.more["reward"])

    Trainer(model, made, made.settings, Noise(), Hooks([Rewards()])).run()
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2
    after = made.validation_reward()
    assert after is not None and after > before


def test_rewards_add_up_and_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(
        "def length(prompts, completions, **columns):\n    return [len(text) for text in completions]\n"
        "def some(prompts, completions, wanted, **columns):\n    return [1 if w else None for w in wanted]\n"
        "def wrong(prompts, completions, **columns):\n    return [float('nan') for _ in completions]\n"
        "def short(prompts, completions, **columns):\n    return []\n"
    )
    found = load_rewards([f"{file}:length", f"{file}:some"])
    assert total_rewards(found, [None, None], ["ab", "abc"], {"wanted": [True, False]}) == [3, 3]
    with pytest.raises(DataError, match="wrong gave nan"):
        total_rewards(load_rewards([f"{file}:wrong"]), [None], ["a"], {})
    with pytest.raises(DataError, match="short gave 0 rewards for 1"):
        total_rewards(load_rewards([f"{file}:short"]), [None], ["a"], {})
    with pytest.raises(DataError, match="no function 'absent'"):
        load_rewards([f"{file}:absent"])
    with pytest.raises(DataError, match=r"FILE\.py:FUNCTION"):
        load_rewards(["nothing"])


def test_held_out_questions_are_answered_and_judged_on_the_way(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def half(completions, **_):\n    return [0.5] * len(completions)\n")
    data = write_lines(tmp_path / "prompts.jsonl", [{"prompt": f"{n}?"} for n in range(3)])
    result = grpo(
        tiny_folder, data, tmp_path / "run", rewards=(f"{tmp_path}/r.py:half",), valid=data, group_size=2, steps=1,
        answer_tokens=2, layers=1, sample_tokens=2, samples=1,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines if line["kind"] == "validation"] == [0.5]
    assert result.valid_loss == -0.5
    assert (tmp_path / "run" / "last" / "adapters.safetensors").exists()
    assert "<h2>Before and after</h2>" in (tmp_path / "run" / "report.html").read_text()


def test_an_error_in_a_reward_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "r.py"
    file.write_text("def narrow(prompts, completions):\n    return [0]\ndef broken(**_):\n    return 1 / 0\n")
    with pytest.raises(DataError, match=r"r\.py, line 4: ZeroDivisionError"):
        total_rewards(load_rewards([f"{file}:broken"]), [None], ["a"], {})
    with pytest.raises(DataError, match=r"r\.py: TypeError: .*'wanted'"):
        total_rewards(load_rewards([f"{file}:narrow"]), [None], ["a"], {"wanted": [1]})
