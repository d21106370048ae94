"""`grpo`: training by GRPO on prompts and reward functions, from files to a run."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..chat.dialog import Dialog
from ..errors import DataError, DialogError, RequestError
from .data.encoding import end_token
from .data.formats import read_questions
from .data.loading import DataReader, split_off
from .data.packing import row_length
from .data.samples import Question
from .data.sources import Sources
from .objectives.grpo import Grpo, answer_example
from .objectives.rewards import Reward, load_rewards
from .objectives.rollouts import Rollout
from .objectives.supervised import RowShape
from .settings import GrpoSettings
from .training.callbacks import Callback
from .training.job import Prepared, TextSide, TrainingJob, TrainResult, make_job
from .training.length import length_notes, with_epochs
from .training.memory_plan import plan_memory
from .training.running import run_job
from .training.setup import AdapterProduct, check_modules

# Each question is answered anew, so small data are gone through more than once.
MAX_EPOCHS = 10


def grpo(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: GrpoSettings | None = None,
    *,
    rewards: Sequence[str | Reward] = (),
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Any,
) -> TrainResult:
    """Train by GRPO on prompts and reward functions, given as such or as FILE.py:FUNCTION; arguments as for `train`."""
    chosen = settings or GrpoSettings()
    chosen = chosen.with_values(**changes, **({"rewards": rewards} if rewards else {}))
    job = make_job("grpo", model, data, out, chosen, valid)
    return run_job(job, build_grpo, resume=resume, callbacks=callbacks, cancel=cancel)


def build_grpo(job: TrainingJob, text: TextSide) -> Prepared:
    """Read prompts and reward functions; raises DataError or RequestError."""
    settings = job.settings
    assert isinstance(settings, GrpoSettings), "the job is of this kind"
    check_modules(text.config, settings)
    if text.dialog is None:
        raise DataError("GRPO asks questions in dialogs, and this base model has no dialog format")
    if not settings.rewards:
        raise RequestError("GRPO needs a reward: --rewards FILE.py:FUNCTION")
    rewards = load_rewards(settings.rewards)
    if settings.reward_weights and len(settings.reward_weights) != len(rewards):
        raise RequestError(f"there are {len(rewards)} rewards and {len(settings.reward_weights)} weights for them")
    reader = DataReader(job.data, job.valid, settings)
    questions, valid = (
        encodable(text.dialog, read_questions(part, reader.problems), reader.problems)
        for part in (reader.train(), reader.valid())
    )
    notes = reader.notes()
    if not questions:
        raise DataError("there are no questions to train on")
    prompts = [text.dialog.encode(question.messages) for question in [*questions, *valid]]
    shown = prompts[len(questions) :] or prompts
    if not valid and settings.valid_share:
        questions, valid = split_off(questions, settings.valid_share, settings.seed)
    longest = max(map(len, prompts)) + settings.answer_tokens
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
        questions,
        valid,
        rewards,
        tokenizer=text.tokenizer,
        dialog=text.dialog,
        settings=chosen,
        shape=RowShape(size, length, longest),
        vocab_size=text.config.vocab_size,
        keep=plan.keep,
    )
    counts = f"train on {len(questions):,} questions" + (f", validate on {len(valid):,}" if valid else "")
    end = end_token(text.tokenizer, text.config.eos_token_ids)
    probes = [answer_example(prompt, Rollout((end,), stopped=True), "") for prompt in shown[: settings.samples]]
    chosen = with_epochs(chosen, objective.per_epoch, MAX_EPOCHS)
    return Prepared(
        objective,
        AdapterProduct(text, chosen),
        chosen,
        (*notes, counts, *plan.notes, *length_notes(chosen, objective.per_epoch)),
        probes,
    )


def encodable(dialog: Dialog, questions: Sequence[Question], problems: list[str]) -> list[Question]:
    """Return the questions that the dialog format takes; the others are added to `problems`."""
    kept = []
    for question in questions:
        try:
            dialog.encode(question.messages)
            kept.append(question)
        except DialogError as error:
            problems.append(f"{question.where}: {error}")
    return kept
