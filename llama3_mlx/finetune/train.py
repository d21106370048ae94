"""`train`: from a model and examples to an adapter folder, in one call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .callbacks import Callback
from .encode import Encoder, Example, encode_all, end_token, keep_trainable
from .formats import read_samples
from .job import Job, TextSide, TrainResult, run_job
from .records import Record, read_file, read_records
from .settings import TrainSettings
from .supervised import Supervised

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
    TrainSettings. `cancel` may be set from another thread: the step ends, all is saved, and `resume` goes on later.
    Raises DataError, AdapterError, TrainingError or RequestError.
    """
    chosen = (settings or TrainSettings()).with_values(**changes)
    job = Job("train", str(model), listed(data), listed(valid), Path(out).expanduser(), chosen)
    return run_job(job, build_supervised, resume=resume, callbacks=callbacks, cancel=cancel)


def listed(sources: Sources) -> tuple[str, ...]:
    """Return the sources as a tuple of texts."""
    if isinstance(sources, str | Path):
        return (str(sources),)
    return tuple(map(str, sources))


def build_supervised(job: Job, text: TextSide) -> Supervised:
    """Read and encode the data; raises DataError with all that is wrong with them."""
    settings = job.settings
    encoder = make_encoder(text, settings)
    examples = encode_all(encoder, read_samples(read_records(job.data), settings.layout))
    valid = encode_all(encoder, read_samples(valid_records(job), settings.layout))
    examples, _ = keep_trainable(examples, settings.max_length)
    if valid:
        valid, _ = keep_trainable(valid, settings.max_length)
    elif settings.valid_share:
        examples, valid = split_off(examples, settings.valid_share, settings.seed)
    return Supervised(
        examples,
        valid,
        batch_size=settings.batch_size or BATCH_SIZE,
        vocab_size=text.config.vocab_size,
        row=settings.row_length or LEAST_ROW,
        packing=settings.packing,
        keep="light" if settings.checkpointing == "auto" else settings.checkpointing,
        seed=settings.seed,
    )


def make_encoder(text: TextSide, settings: TrainSettings) -> Encoder:
    """Return the encoder of a model's examples; no example is longer than the model's context."""
    return Encoder(
        text.tokenizer,
        text.dialog,
        end_token(text.tokenizer, text.config.eos_token_ids),
        max_length=min(settings.max_length, text.config.max_position_embeddings),
        train_on=settings.train_on,
        plain=settings.plain,
    )


def valid_records(job: Job) -> list[Record]:
    """Return the validation data: of the files named for it, else of the data's folders."""
    if not job.valid:
        return read_records(job.data, "valid")
    files = [source for source in job.valid if Path(source).expanduser().is_file()]
    folders = [source for source in job.valid if source not in files]
    return [record for file in files for record in read_file(Path(file).expanduser())] + read_records(folders, "valid")


def split_off(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return examples and those set apart for validation: at least one, at most all but one."""
    order = np.random.default_rng([seed, 1]).permutation(len(examples)).tolist()
    n_valid = min(max(1, round(share * len(examples))), len(examples) - 1)
    return [examples[i] for i in sorted(order[n_valid:])], [examples[i] for i in sorted(order[:n_valid])]
