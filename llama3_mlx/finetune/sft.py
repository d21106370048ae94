"""`train`: from a model and examples to an adapter folder, in one call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ..library.home import encoded_folder, prefix_cache_bytes
from .data.encoded_cache import EncodedCache
from .data.encoding import Example, ExampleEncoder, encode_all, end_token, keep_with_targets
from .data.formats import read_samples
from .data.loading import DataReader, column_notes, control_notes, split_note, split_off
from .data.packing import STEP, row_length
from .data.sources import Sources
from .keywords import TrainKeywords
from .objectives.supervised import RowShape, Supervised
from .settings import RunSettings, TrainSettings
from .training.callbacks import Callback
from .training.job import Prepared, TextSide, TrainingJob, TrainResult, make_job
from .training.length import length_notes, with_epochs
from .training.memory_plan import plan_memory
from .training.running import run_job
from .training.setup import AdapterProduct, check_modules

LEAST_ROW = 512
BATCH_SIZE = 4
# Batches that small data are divided into at least, and how often they are gone through at most.
BATCHES = 12
MAX_EPOCHS = 10


def train(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Unpack[TrainKeywords],
) -> TrainResult:
    """Fine-tune a model on examples and write an adapter folder.

    `model` is a folder or Hub id; `data` files, folders, Hub ids, a function, or examples in memory: a list of objects,
    a data set, anything with a length that can be read again (see docs/finetuning.md); `changes` are fields of
    TrainSettings. `cancel` may be set from another thread: the step ends, all is saved, and `resume` continues
    it later. Raises DataError, AdapterError, TrainingError or RequestError.
    """
    chosen = (settings or TrainSettings()).with_values(**changes)
    job = make_job("train", model, data, out, chosen, valid)
    return run_job(job, build_supervised, resume=resume, callbacks=callbacks, cancel=cancel)


def build_supervised(job: TrainingJob, text: TextSide) -> Prepared:
    """Read and encode the data; raises DataError with all that is wrong with them."""
    settings = job.settings
    assert isinstance(settings, TrainSettings), "the job is of this kind"
    check_modules(text.config, settings)
    encoder = make_encoder(text, settings)
    reader = DataReader(job.data, job.valid, settings)
    records = [reader.train(), reader.valid(), reader.test()]
    samples = [read_samples(part, settings.layout, reader.problems) for part in records]
    examples, valid, test = (encode_all(encoder, part, reader.problems, split_texts=True) for part in samples)
    notes = (
        *reader.notes(),
        *data_notes(examples, valid, test),
        *column_notes(records[0], settings.layout),
        *control_notes(encoder, samples[0]),
    )
    examples = keep_with_targets(examples, settings.max_length)
    if valid:
        valid = keep_with_targets(valid, settings.max_length)
    elif settings.valid_share:
        examples, valid = split_off(examples, settings.valid_share, settings.seed)
        notes += (split_note(valid),)
    test = keep_with_targets(test, settings.max_length) if test else []
    plan = plan_memory(text.config, settings, row_shapes([*examples, *valid, *test], settings, len(examples)))
    chosen = settings.with_values(
        batch_size=plan.batch_size,
        row_length=plan.length if settings.packing else settings.row_length,
        accumulate=plan.accumulate,
        checkpointing=plan.keep,
        memory=None,
    )
    objective = Supervised(
        examples,
        valid,
        test,
        batch_size=plan.batch_size,
        vocab_size=text.config.vocab_size,
        row=chosen.row_length,
        packing=settings.packing,
        keep=plan.keep,
        seed=settings.seed,
    )
    chosen = with_epochs(chosen, objective.per_epoch, MAX_EPOCHS)
    notes += (*plan.notes, *length_notes(chosen, objective.per_epoch))
    return Prepared(objective, AdapterProduct(text, chosen), chosen, notes, valid or examples)


def row_shapes(examples: Sequence[Example], settings: RunSettings, n_train: int) -> list[RowShape]:
    """Return the shapes of rows for the batch size requested and, where memory decides, for its halves.

    Small data make small batches, so that an epoch has several.
    """
    lengths = [example.length for example in examples]
    longest, tokens = max(lengths), sum(lengths)
    size, min_row = settings.batch_size or BATCH_SIZE, settings.row_length or LEAST_ROW
    if settings.packing:
        # Four examples or more make a batch.
        share = tokens / len(examples) * n_train / max(1, min(BATCHES, n_train // BATCH_SIZE))
        if settings.row_length is None:
            min_row = max(STEP, min(LEAST_ROW, -(-round(share) // STEP) * STEP))
        if settings.batch_size is None:
            size = max(1, min(BATCH_SIZE, round(share / row_length(longest, tokens, 1, min_row))))
    sizes = [size]
    while settings.batch_size is None and sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    row = min_row if settings.packing else None
    return [RowShape(n, row_length(longest, tokens, n, row), longest) for n in sizes]


def data_notes(examples: Sequence[Example], valid: Sequence[Example], test: Sequence[Example] = ()) -> tuple[str, ...]:
    """Return what to tell of the data: how many, how long, what was cut."""
    notes = []
    for name, part in (("train", examples), ("validate", valid), ("test", test)):
        if not part:
            continue
        cut = sum(example.truncated > 0 for example in part)
        lost = sum(example.n_targets == 0 for example in part)
        tokens, targets = sum(example.length for example in part), sum(example.n_targets for example in part)
        text = f"{name} on {len(part) - lost:,} examples, {tokens:,} tokens, {targets:,} of them targets"
        text += f"; {cut:,} cut to max_length" if cut else ""
        notes.append(text + (f"; {lost:,} left out, with no target tokens after the cut" if lost else ""))
    return tuple(notes)


def make_encoder(text: TextSide, settings: RunSettings) -> ExampleEncoder:
    """Return the encoder of a model's examples; no example is longer than the model's context."""
    choices = (min(settings.max_length, text.config.max_position_embeddings), settings.train_on, settings.plain)
    end_id, special = end_token(text.tokenizer, text.config.eos_token_ids), settings.parse_special
    encoder = ExampleEncoder(
        text.tokenizer,
        text.dialog,
        end_id,
        max_length=choices[0],
        train_on=settings.train_on,
        plain=settings.plain,
        parse_special=special,
    )
    encoder.progress = text.progress
    if prefix_cache_bytes():
        template = text.dialog.fingerprint if text.dialog else ()
        encoder.cache = EncodedCache(encoded_folder(), text.folder, (*template, end_id, *choices, special))
    return encoder
