"""`grpo`: training by GRPO on prompts and reward functions, from files to a run."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..chat.dialog import Dialog
from ..errors import DataError, DialogError, RequestError
from .data.encoding import end_token
from .data.formats import Question, read_questions
from .data.packing import row_length
from .data.records import collected, read_records
from .objectives.grpo import Grpo, answer_example
from .objectives.rewards import load_rewards
from .objectives.rollouts import Rollout
from .objectives.supervised import RowShape
from .settings import GrpoSettings
from .sft import Sources, listed, split_off, valid_records
from .training.callbacks import Callback
from .training.job import Prepared, TextSide, TrainingJob, TrainResult, run_job
from .training.memory_plan import plan_memory


def grpo(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: GrpoSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Any,
) -> TrainResult:
    """Train by GRPO on prompts and the reward functions of the settings; arguments as for `train`."""
    chosen = (settings or GrpoSettings()).with_values(**changes)
    job = TrainingJob("grpo", str(model), listed(data), listed(valid), Path(out).expanduser(), chosen)
    return run_job(job, build_grpo, resume=resume, callbacks=callbacks, cancel=cancel)


def build_grpo(job: TrainingJob, text: TextSide) -> Prepared:
    """Read prompts and reward functions; raises DataError or RequestError."""
    settings = job.settings
    assert isinstance(settings, GrpoSettings), "the job is of this kind"
    if text.dialog is None:
        raise DataError("GRPO asks questions in dialogs, and this base model has no dialog format")
    if not settings.rewards:
        raise RequestError("GRPO needs a reward: --rewards FILE.py:FUNCTION")
    rewards = load_rewards(settings.rewards)
    with collected() as problems:
        questions, valid = (
            read_questions(records, problems)
            for records in (read_records(job.data, problems=problems), valid_records(job, problems))
        )
        prompts = encode_prompts(text.dialog, [*questions, *valid], problems)
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
        questions, valid, rewards, tokenizer=text.tokenizer, dialog=text.dialog, settings=chosen,
        shape=RowShape(size, length, longest), vocab_size=text.config.vocab_size, keep=plan.keep,
    )  # fmt: skip
    counts = f"train on {len(questions):,} questions" + (f", validate on {len(valid):,}" if valid else "")
    end = end_token(text.tokenizer, text.config.eos_token_ids)
    probes = [answer_example(prompt, Rollout((end,), stopped=True), "") for prompt in shown[: settings.samples]]
    return Prepared(objective, chosen, (counts, *plan.notes), probes)


def encode_prompts(dialog: Dialog, questions: Sequence[Question], problems: list[str]) -> list[list[int]]:
    """Return the token ids of the questions; those that the dialog format refuses are added to `problems`."""
    prompts = []
    for question in questions:
        try:
            prompts.append(dialog.encode(question.messages))
        except DialogError as error:
            problems.append(f"{question.where}: {error}")
    return prompts
