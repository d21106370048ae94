"""`train`: from a model and examples to an adapter folder, in one call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError
from .data.encoding import Example, ExampleEncoder, encode_all, end_token, keep_with_targets
from .data.formats import read_samples
from .data.packing import row_length
from .data.records import Record, collected, read_file, read_records
from .objectives.supervised import RowShape, Supervised
from .settings import TrainSettings
from .training.callbacks import Callback
from .training.job import Prepared, TextSide, TrainingJob, TrainResult, run_job
from .training.memory_plan import plan_memory

T = TypeVar("T")
Sources = str | Path | Sequence[str | Path]
LEAST_ROW = 512
BATCH_SIZE = 4


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
    **changes: Any,
) -> TrainResult:
    """Fine-tune a model on examples and write an adapter folder.

    `model` is a folder or Hub id; `data` files, folders or Hub ids (see docs/finetuning.md); `changes` are fields of
    TrainSettings. `cancel` may be set from another thread: the step ends, all is saved, and `resume` continues
    it later. Raises DataError, AdapterError, TrainingError or RequestError.
    """
    chosen = (settings or TrainSettings()).with_values(**changes)
    job = TrainingJob("train", str(model), listed(data), listed(valid), Path(out).expanduser(), chosen)
    return run_job(job, build_supervised, resume=resume, callbacks=callbacks, cancel=cancel)


def listed(sources: Sources) -> tuple[str, ...]:
    """Return the sources as a tuple of texts."""
    if isinstance(sources, str | Path):
        return (str(sources),)
    return tuple(map(str, sources))


def build_supervised(job: TrainingJob, text: TextSide) -> Prepared:
    """Read and encode the data; raises DataError with all that is wrong with them."""
    settings = job.settings
    encoder = make_encoder(text, settings)
    with collected() as problems:
        records, checks = read_records(job.data, problems=problems), valid_records(job, problems)
        examples, valid, test = (
            encode_all(encoder, read_samples(part, settings.layout, problems), problems)
            for part in (records, checks, read_records(job.data, "test", problems))
        )
    notes = data_notes(examples, valid, test)
    examples = keep_with_targets(examples, settings.max_length)
    if valid:
        valid = keep_with_targets(valid, settings.max_length)
    elif settings.valid_share:
        examples, valid = split_off(examples, settings.valid_share, settings.seed)
        notes += (split_note(valid),)
    test = keep_with_targets(test, settings.max_length) if test else []
    plan = plan_memory(text.config, settings, row_shapes([*examples, *valid, *test], settings))
    chosen = settings.with_values(
        batch_size=plan.batch_size, accumulate=plan.accumulate, checkpointing=plan.keep, memory=None
    )
    objective = Supervised(
        examples,
        valid,
        test,
        batch_size=plan.batch_size,
        vocab_size=text.config.vocab_size,
        row=settings.row_length or LEAST_ROW,
        packing=settings.packing,
        keep=plan.keep,
        seed=settings.seed,
    )
    return Prepared(objective, chosen, (*notes, *plan.notes), valid or examples)


def row_shapes(examples: Sequence[Example], settings: TrainSettings) -> list[RowShape]:
    """Return the shapes of rows for the batch size requested and, where memory decides, for its halves."""
    size = settings.batch_size or BATCH_SIZE
    sizes = [size]
    while settings.batch_size is None and sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    lengths = [example.length for example in examples]
    min_row = (settings.row_length or LEAST_ROW) if settings.packing else None
    return [RowShape(n, row_length(max(lengths), sum(lengths), n, min_row), max(lengths)) for n in sizes]


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


def split_note(valid: Sequence[object]) -> str:
    """Return what to tell of examples that were set apart."""
    return f"{len(valid):,} of them are set apart to validate on"


def make_encoder(text: TextSide, settings: TrainSettings) -> ExampleEncoder:
    """Return the encoder of a model's examples; no example is longer than the model's context."""
    return ExampleEncoder(
        text.tokenizer,
        text.dialog,
        end_token(text.tokenizer, text.config.eos_token_ids),
        max_length=min(settings.max_length, text.config.max_position_embeddings),
        train_on=settings.train_on,
        plain=settings.plain,
    )


def valid_records(job: TrainingJob, problems: list[str]) -> list[Record]:
    """Return the validation data: of the files named for it, else of the data's folders.

    Bad lines are added to `problems`; raises DataError where what was named for it gives nothing.
    """
    if not job.valid:
        return read_records(job.data, "valid", problems)
    files = [source for source in job.valid if Path(source).expanduser().is_file()]
    folders = [source for source in job.valid if source not in files]
    records = [record for file in files for record in read_file(Path(file).expanduser(), problems)]
    records += read_records(folders, "valid", problems)
    if not records and not problems:
        raise DataError(f"{', '.join(job.valid)}: there are no examples to validate on (valid.jsonl) in it")
    return records


def split_off(examples: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Return examples and those set apart for validation: at least one, at most all but one."""
    order = np.random.default_rng([seed, 1]).permutation(len(examples)).tolist()
    n_valid = min(max(1, round(share * len(examples))), len(examples) - 1)
    return [examples[i] for i in sorted(order[n_valid:])], [examples[i] for i in sorted(order[:n_valid])]
