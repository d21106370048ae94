"""GRPO: answers are drawn from the model as it is, judged against each other, and made more or less likely.

The advantage of an answer is its reward less the mean of its group, over the group's deviation; every token of an
answer has it, and all tokens of a batch count the same. One step is taken on each batch of answers, so that the ratio
of new to old probability is one and there is nothing to clip.
Sources: https://arxiv.org/abs/2402.03300, equation 3; the mean over tokens: https://arxiv.org/abs/2503.14476.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..dialog import Dialog
from ..errors import RequestError
from ..model import LlamaForCausalLM
from ..tokenizer import Tokenizer
from . import world
from .completions import Answer, Sampling, sample_answers
from .encode import Example
from .errors import DataError
from .formats import Question, read_questions
from .grpo_settings import GrpoSettings
from .head_loss import chunk_size
from .job import Job, Prepared, TextSide, TrainResult, run_job
from .memory import plan_memory
from .objective import Loss, TrainBatch
from .order import BatchOrder
from .packing import row_length
from .records import read_records
from .rewards import Reward, load_rewards, total_rewards
from .sequences import Arrays, sequence_arrays, token_logprobs
from .sft import Sources, listed, valid_records
from .supervised import RowShape

_LEAST_DEVIATION = 1e-4


class Grpo:
    """The policy-gradient objective; `batch` draws answers from the model it is bound to."""

    def __init__(
        self,
        questions: Sequence[Question],
        valid: Sequence[Question],
        rewards: Sequence[Reward],
        *,
        tokenizer: Tokenizer,
        dialog: Dialog,
        settings: GrpoSettings,
        shape: RowShape,
        vocab_size: int,
        keep: str,
    ) -> None:
        self.questions, self.valid_questions, self.rewards = questions, valid, rewards
        self.tokenizer, self.dialog, self.settings = tokenizer, dialog, settings
        self.shape, self.keep, self.chunk = shape, keep, chunk_size(vocab_size)
        self.sampling = Sampling(settings.answer_tokens, settings.temperature)
        self.model: LlamaForCausalLM | None = None
        self._first: Any = None
        size = settings.batch_size or 1
        parts = -(-len(questions) // size)
        self._order = BatchOrder(
            lambda rng: [part.tolist() for part in np.array_split(rng.permutation(len(questions)), parts)],
            settings.seed,
        )
        self.per_epoch = self._order.per_epoch

    def bind(self, model: LlamaForCausalLM) -> None:
        """Take the model that answers are drawn from, and remember its first values for beta."""
        self.model, self._first = model, model.trainable_parameters()

    def batch(self, index: int) -> TrainBatch:
        """Draw and judge the answers of a batch; the model holds the values that they are to be drawn with."""
        chosen = [(number, self.questions[number]) for number in self._order[index]][world.rank() :: world.size()]
        return self._judged(chosen, self.settings.seed * 1_000_003 + index)

    def validation(self) -> list[TrainBatch]:
        return []

    def validation_reward(self) -> float:
        """Return the mean reward of one answer drawn for each validation question."""
        groups = [self._answers(question, 1, number) for number, question in enumerate(self.valid_questions)]
        scores = [self._scores(q, group)[0] for q, group in zip(self.valid_questions, groups, strict=True)]
        return sum(scores) / max(1, len(scores))

    def _judged(self, chosen: Sequence[tuple[int, Question]], seed: int) -> TrainBatch:
        examples: list[Example] = []
        rewards: list[float] = []
        advantages: list[float] = []
        for number, question in chosen:
            answers = self._answers(question, self.settings.group_size, seed * 65_537 + number)
            scores = self._scores(question, answers)
            prompt = self.dialog.encode(question.messages)
            examples += [_example(prompt, answer, question.where) for answer in answers]
            rewards += scores
            advantages += group_advantages(scores)
        arrays = sequence_arrays(examples, self.shape.length, self.chunk)
        arrays |= {"advantages": np.array(advantages, np.float32), "rewards": np.array(rewards, np.float32)}
        count = sum(example.n_trained for example in examples)
        tokens = sum(example.length for example in examples)
        return TrainBatch(arrays, count, tokens, tuple(question.where for _, question in chosen))

    def _answers(self, question: Question, n: int, seed: int) -> list[Answer]:
        assert self.model is not None, "the objective is bound to its model before training"
        training = self.model.training
        self.model.eval()
        prompt = self.dialog.encode(question.messages)
        made = sample_answers(self.model, prompt, n, self.sampling, self.dialog.stop_ids, seed)
        self.model.train(training)
        return made

    def _scores(self, question: Question, answers: Sequence[Answer]) -> list[float]:
        texts = [self.tokenizer.decode(answer.ids, control=False) for answer in answers]
        columns = {key: [value] * len(texts) for key, value in question.columns.items()}
        return total_rewards(self.rewards, [question.messages] * len(texts), texts, columns)

    def loss(self, model: LlamaForCausalLM, arrays: Arrays) -> Loss:
        logprobs = self._logprobs(model, arrays)
        weights = arrays["weights"]
        ratio = mx.exp(logprobs - mx.stop_gradient(logprobs))
        losses = -arrays["advantages"][arrays["owners"]] * ratio
        count = weights.sum()
        more = {"reward": arrays["rewards"].mean() * count, "answer tokens": count * count / arrays["rewards"].size}
        if self.settings.beta:
            distance = self._distance(model, arrays, logprobs)
            losses = losses + self.settings.beta * distance
            more["distance"] = mx.stop_gradient((distance * weights).sum())
        return (losses * weights).sum(), more

    def _logprobs(self, model: LlamaForCausalLM, arrays: Arrays) -> mx.array:
        return token_logprobs(
            model, arrays, longest=self.shape.longest, keep=self.keep, chunk=self.chunk,
            temperature=self.settings.temperature,
        )  # fmt: skip

    def _distance(self, model: LlamaForCausalLM, arrays: Arrays, logprobs: mx.array) -> mx.array:
        """Return the estimate of the divergence from the first values at each token.

        Source: http://joschu.net/blog/kl-approx.html, k3.
        """
        current, training = model.trainable_parameters(), model.training
        model.update(self._first)
        model.eval()
        difference = mx.stop_gradient(self._logprobs(model, arrays)) - logprobs
        model.update(current)
        model.train(training)
        return mx.exp(difference) - difference - 1

    def fingerprint(self) -> str:
        values = [[q.messages, q.columns] for q in self.questions]
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Return (reward - mean) / (deviation + 1e-4) within a group; deviation with n - 1, as TRL."""
    values = np.array(rewards, np.float64)
    return list((values - values.mean()) / (values.std(ddof=1) + _LEAST_DEVIATION))


def _example(prompt: Sequence[int], answer: Answer, where: str) -> Example:
    ids = np.array([*prompt, *answer.ids], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), where)


def grpo(
    model: str | Path, data: Sources, out: str | Path, settings: GrpoSettings, *, valid: Sources = (), **run: Any
) -> TrainResult:
    """Train by GRPO on prompts and the reward functions of the settings; `run` as for `train`."""
    job = Job("grpo", str(model), listed(data), listed(valid), Path(out).expanduser(), settings)
    return run_job(job, build_grpo, **run)


def build_grpo(job: Job, text: TextSide) -> Prepared:
    """Read prompts and reward functions; raises DataError or RequestError."""
    settings = job.settings
    assert isinstance(settings, GrpoSettings), "the job is of this kind"
    if text.dialog is None:
        raise DataError("GRPO asks questions in dialogs, and this base model has no dialog format")
    if not settings.rewards:
        raise RequestError("GRPO needs a reward: --rewards FILE.py:FUNCTION")
    rewards = load_rewards(settings.rewards)
    questions = read_questions(read_records(job.data))
    valid = read_questions(valid_records(job))
    longest = max(len(text.dialog.encode(question.messages)) for question in questions) + settings.answer_tokens
    if longest > text.config.max_position_embeddings:
        raise RequestError(
            f"the longest prompt with its answer may take {longest} tokens, and the model's context is "
            f"{text.config.max_position_embeddings}: lower answer_tokens"
        )
    size = settings.batch_size or 1
    length = row_length(longest, longest * settings.group_size * size, 1, settings.row_length or 512)
    rows = -(-longest * settings.group_size * size // length)
    plan = plan_memory(text.config, settings, [RowShape(rows, length, longest)])
    chosen = settings.with_values(batch_size=size, checkpointing=plan.keep, memory=None)
    objective = Grpo(
        questions, valid, rewards, tokenizer=text.tokenizer, dialog=text.dialog, settings=chosen,
        shape=RowShape(size, length, longest), vocab_size=text.config.vocab_size, keep=plan.keep,
    )  # fmt: skip
    return Prepared(objective, chosen, (f"train on {len(questions):,} questions", *plan.notes))


__all__ = ["Grpo", "GrpoSettings", "build_grpo", "grpo", "group_advantages"]
