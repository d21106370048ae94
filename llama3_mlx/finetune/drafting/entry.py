"""`draft train`: from a model and examples to the folder of an EAGLE-3 draft head, in one call."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from ...errors import DataError, RequestError
from ...library.resolver import resolve_adapter, resolve_draft
from ...llama import Llama
from ...speculation.eagle_head import EagleHead
from ...speculation.eagle_loading import load_head
from ..data.encoding import Example, encode_all, keep_with_targets
from ..data.formats import read_samples
from ..data.loading import DataReader, column_notes, control_notes, split_note, split_off
from ..data.sources import Sources, as_sources
from ..keywords import DraftKeywords
from ..objectives.draft import DraftObjective, DraftSteps
from ..objectives.supervised import RowShape
from ..settings import DraftSettings
from ..sft import data_notes, make_encoder, row_shapes
from ..training.callbacks import Callback
from ..training.job import Prepared, TextSide, TrainingJob, TrainResult, base_name, make_job
from ..training.length import length_notes, with_epochs
from ..training.memory_plan import plan_memory
from ..training.run_folder import refuse_run
from ..training.running import run_job
from .head import HeadProduct, head_config
from .memory import head_memory
from .regeneration import regenerate
from .vocabulary import choose_vocabulary, token_counts, vocabulary_note

KIND = "draft train"
ANSWERS = "answers"
MAX_EPOCHS = 10


def train_draft(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: DraftSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Unpack[DraftKeywords],
) -> TrainResult:
    """Train an EAGLE-3 draft head for a model and write its folder, to be given as `draft` to `Llama.load`.

    Arguments are those of `train`; `changes` are fields of DraftSettings. With `regenerate`, the model first answers
    the prompts of the data itself, into the folder `answers` in `out`. Raises DataError, TrainingError or RequestError.
    """
    chosen = (settings or DraftSettings()).with_values(**changes)
    job = make_job(KIND, model, data, out, chosen, valid)
    if chosen.regenerate:
        job = answered_job(job, resume=resume)
    return run_job(job, build_draft, resume=resume, callbacks=callbacks, cancel=cancel)


def answered_job(
    job: TrainingJob, *, resume: bool = False, progress: Callable[[int, int], None] = lambda *_: None
) -> TrainingJob:
    """Return the job with data that the model has answered, which are made unless a resumed run has them."""
    settings, folder = job.settings, job.out / ANSWERS
    assert isinstance(settings, DraftSettings), "the job is of this kind"
    if not resume:
        refuse_run(job.out)
        adapter = resolve_adapter(settings.adapter) if settings.adapter else None
        with Llama.load(job.model, adapter=adapter, dtype=settings.dtype, disk_cache=False) as llama:
            regenerate(llama, job.data, job.valid, folder, settings, progress)
    # Of the data, only where they lie and what they were called has changed.
    answered = settings.with_values(columns=(), layout="auto")
    return TrainingJob(job.kind, job.model, as_sources(folder), (), job.out, answered)


def build_draft(job: TrainingJob, text: TextSide) -> Prepared:
    """Read and encode the data, choose vocabulary and batches; raises DataError with all that is wrong with the data.

    Raises RequestError or TrainingError for settings that don't fit.
    """
    settings = job.settings
    assert isinstance(settings, DraftSettings), "the job is of this kind"
    start = _started(settings, text)
    encoder = make_encoder(text, settings)
    reader = DataReader(job.data, job.valid, settings)
    records = [reader.train(), reader.valid(), reader.test()]
    samples = [read_samples(part, settings.layout, reader.problems) for part in records]
    parts = [encode_all(encoder, part, reader.problems, split_texts=True) for part in samples]
    notes = (*reader.notes(), *data_notes(*parts), *column_notes(records[0], settings.layout))
    notes += control_notes(encoder, samples[0])
    examples, valid, test = (keep_with_targets(part, settings.max_length) if part else [] for part in parts)
    if not valid and settings.valid_share:
        examples, valid = split_off(examples, settings.valid_share, settings.seed)
        notes += (split_note(valid),)
    examples = _draftable(examples)
    counts = token_counts(examples, text.config.vocab_size)
    ids = _vocabulary(start) if start else choose_vocabulary(counts, settings.vocabulary)
    config = start.config if start else head_config(text.config, len(ids), base_name(job.model))
    plan = plan_memory(
        text.config,
        settings,
        row_shapes([*examples, *valid, *test], settings, len(examples)),
        head_memory(config),
        ("none", "full"),
    )
    chosen = settings.with_values(
        batch_size=plan.batch_size,
        row_length=plan.length if settings.packing else settings.row_length,
        accumulate=plan.accumulate,
        checkpointing=plan.keep,
        vocabulary=len(ids),
        memory=None,
    )
    longest = max(len(example.ids) for example in [*examples, *valid, *test])
    objective = DraftObjective(
        examples,
        valid,
        test,
        token_ids=ids,
        steps=DraftSteps(settings.draft_steps, settings.step_weight),
        shape=RowShape(plan.batch_size, max(plan.length, longest), longest),
        vocab_size=text.config.vocab_size,
        packing=settings.packing,
        keep=plan.keep,
        seed=settings.seed,
    )
    chosen = with_epochs(chosen, objective.per_epoch, MAX_EPOCHS)
    notes += (vocabulary_note(counts, ids), *plan.notes, *length_notes(chosen, objective.per_epoch))
    return Prepared(objective, HeadProduct(text, chosen, config, ids, start), chosen, notes)


def _started(settings: DraftSettings, text: TextSide) -> EagleHead | None:
    """Return the head that training starts from; raises RequestError for one that can't be trained."""
    if not settings.start_from:
        return None
    head = load_head(resolve_draft(settings.start_from), text.config, dtype="float32")
    if head.config.layer.quantization is not None:
        raise RequestError(f"{settings.start_from} is quantized: start from the draft head that it was made of")
    if settings.vocabulary not in (None, head.config.draft_vocab_size):
        raise RequestError(
            f"the draft head to start from drafts {head.config.draft_vocab_size} tokens: leave out vocabulary"
        )
    return head


def _vocabulary(head: EagleHead) -> list[int]:
    ids = head.token_ids
    if ids is None:
        return list(range(head.config.layer.vocab_size))
    found: list[int] = ids.tolist()  # type: ignore[assignment]
    return found


def _draftable(examples: Sequence[Example]) -> list[Example]:
    """Return the examples in which a token is learned that can be drafted: not the second one or before."""
    kept = [example for example in examples if example.is_target[2:].any()]
    if not kept:
        raise DataError("no example has a token that can be drafted: they are too short")
    return kept
