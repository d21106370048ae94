"""GRPO: answers are drawn from the model as it is, judged against each other, and made more or less likely.

The advantage of an answer is its reward less the mean of its group, over the group's deviation; every token of an
answer has it, and all tokens of a batch count the same. One step is taken on each batch of answers, so that the ratio
of new to old probability is one and there is nothing to clip.
Sources: https://arxiv.org/abs/2402.03300, equation 3; the mean over tokens: https://arxiv.org/abs/2503.14476.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import numpy as np

from ...chat.dialog import Dialog
from ...model.transformer import LlamaForCausalLM
from ...tokenizer.tokenizer import Tokenizer
from ...trees import Tree
from .. import distributed
from ..data.encoding import Example
from ..data.order import BatchOrder
from ..data.samples import Question
from ..kernels.chunked_loss import chunk_size
from ..settings import GrpoSettings
from .objective import Loss, Objective, TrainBatch
from .rewards import Reward, total_rewards
from .rollouts import Rollout, RolloutOptions, draw_rollouts
from .sequences import Arrays, sequence_arrays, target_logprobs
from .supervised import RowShape

_LEAST_DEVIATION = 1e-4


class Grpo(Objective):
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
        self.shape, self.keep, self.chunk = shape, keep, chunk_size(vocab_size, shape.length)
        self.sampling = RolloutOptions(settings.answer_tokens, settings.temperature)
        self.model: LlamaForCausalLM | None = None
        size = settings.batch_size or 1
        parts = -(-len(questions) // size)
        self._order = BatchOrder(
            lambda rng: [part.tolist() for part in np.array_split(rng.permutation(len(questions)), parts)],
            settings.seed,
        )
        self.per_epoch = self._order.per_epoch

    def bind(self, model: LlamaForCausalLM) -> None:
        """Take the model that answers are drawn from, and keep its first values for beta."""
        self.model = model
        if self.settings.beta:
            self.constants = model.trainable_parameters()

    def batch(self, index: int) -> TrainBatch:
        """Draw and judge the answers of a batch; the model holds the values that they are to be drawn with."""
        chosen = [(number, self.questions[number]) for number in self._order[index]]
        share = chosen[distributed.rank() :: distributed.size()]
        batch = self._judged(share or chosen[:1], self.settings.seed * 1_000_003 + index)
        return batch if share else replace(batch, count=0, n_tokens=0, n_targets=0, where=())

    @property
    def validates(self) -> bool:
        return bool(self.valid_questions)

    def validation_reward(self) -> float | None:
        """Return the mean reward of one answer drawn for each validation question; None without any."""
        if not self.valid_questions:
            return None
        share = list(enumerate(self.valid_questions))[distributed.rank() :: distributed.size()]
        scores = [self._scores(question, self._answers(question, 1, number))[0] for number, question in share]
        total, count = distributed.all_sum((mx.array(sum(scores, 0.0)), mx.array(float(len(scores)))))
        return float(cast(float, (total / count).item()))

    def _judged(self, chosen: Sequence[tuple[int, Question]], seed: int) -> TrainBatch:
        examples: list[Example] = []
        rewards: list[float] = []
        advantages: list[float] = []
        flat = 0
        for number, question in chosen:
            answers = self._answers(question, self.settings.group_size, seed * 65_537 + number)
            scores = self._scores(question, answers)
            prompt = self.dialog.encode(question.messages)
            examples += [answer_example(prompt, answer, question.where) for answer in answers]
            rewards += scores
            advantages += group_advantages(scores)
            flat += max(scores) == min(scores)
        arrays = sequence_arrays(examples, self.shape.length, self.chunk)
        arrays |= {
            "advantages": np.array(advantages, np.float32),
            "rewards": np.array(rewards, np.float32),
            "flat": np.array(flat / len(chosen), np.float32),
        }
        count = sum(example.n_targets for example in examples)
        tokens = sum(example.length for example in examples)
        return TrainBatch(arrays, count, tokens, count, tuple(question.where for _, question in chosen))

    def _answers(self, question: Question, n: int, seed: int) -> list[Rollout]:
        assert self.model is not None, "the objective is bound to its model before training"
        training = self.model.training
        self.model.eval()
        prompt = self.dialog.encode(question.messages)
        made = draw_rollouts(self.model, prompt, n, self.sampling, self.dialog.stop_ids, seed)
        self.model.train(training)
        return made

    def _scores(self, question: Question, answers: Sequence[Rollout]) -> list[float]:
        texts = [self.tokenizer.decode(answer.ids, control=False) for answer in answers]
        columns = {key: [value] * len(texts) for key, value in question.columns.items()}
        prompts = [question.messages] * len(texts)
        return total_rewards(self.rewards, prompts, texts, columns, self.settings.reward_weights)

    def loss(self, model: LlamaForCausalLM, arrays: Arrays, constants: Tree) -> Loss:
        logprobs = self._logprobs(model, arrays)
        weights = arrays["weights"]
        ratio = mx.exp(logprobs - mx.stop_gradient(logprobs))
        losses = -arrays["advantages"][arrays["owners"]] * ratio
        count = weights.sum()
        more = {
            "reward": arrays["rewards"].mean() * count,
            # Groups of answers with one reward teach nothing.
            "groups without spread": arrays["flat"] * count,
            "answer tokens": count * count / arrays["rewards"].size,
        }
        if self.settings.beta:
            distance = self._distance(model, arrays, logprobs, constants)
            losses = losses + self.settings.beta * distance
            more["distance"] = mx.stop_gradient((distance * weights).sum())
        return (losses * weights).sum(), more

    def _logprobs(self, model: LlamaForCausalLM, arrays: Arrays) -> mx.array:
        return target_logprobs(
            model,
            arrays,
            longest=self.shape.longest,
            keep=self.keep,
            chunk=self.chunk,
            temperature=self.settings.temperature,
        )

    def _distance(self, model: LlamaForCausalLM, arrays: Arrays, logprobs: mx.array, first: Any) -> mx.array:
        """Return the estimate of the divergence from the first values at each token.

        Source: http://joschu.net/blog/kl-approx.html, k3.
        """
        current, training = model.trainable_parameters(), model.training
        model.update(first)
        model.eval()
        difference = mx.stop_gradient(self._logprobs(model, arrays)) - logprobs
        model.update(current)
        model.train(training)
        return mx.exp(difference) - difference - 1

    def fingerprint(self) -> str:
        return questions_digest(self.questions)


def questions_digest(questions: Sequence[Question]) -> str:
    """Return a digest of prompts and columns."""
    values = [[question.messages, question.columns] for question in questions]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Return (reward - mean) / (deviation + 1e-4) within a group; deviation with n - 1, as TRL."""
    values = np.array(rewards, np.float64)
    return list((values - values.mean()) / (values.std(ddof=1) + _LEAST_DEVIATION))


def answer_example(prompt: Sequence[int], answer: Rollout, where: str) -> Example:
    """Return a prompt with its answer as an example whose target tokens are the answer's."""
    ids = np.array([*prompt, *answer.ids], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), where)
