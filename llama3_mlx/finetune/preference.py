"""`dpo`, `orpo` and `kto`: from a model and judged answers to an adapter folder, in one call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ..errors import DataError, DialogError
from .data.encoding import Example, ExampleEncoder, last_turn
from .data.formats import read_labeled, read_pairs
from .data.loading import DataReader, column_notes, split_note, split_off
from .data.records import Record
from .data.samples import Sample
from .data.sources import Sources
from .keywords import DpoKeywords, KtoKeywords, OrpoKeywords
from .objectives.preference import Preference, Unit, UnitLoss, dpo_loss, kto_loss, mismatched, orpo_loss, row_shape
from .objectives.supervised import RowShape
from .settings import DpoSettings, KtoSettings, OrpoSettings, TrainSettings
from .sft import BATCH_SIZE, LEAST_ROW, make_encoder
from .training.callbacks import Callback
from .training.job import Prepared, TextSide, TrainingJob, TrainResult, make_job
from .training.length import length_notes, with_epochs
from .training.memory_plan import plan_memory
from .training.running import run_job
from .training.setup import AdapterProduct, check_modules

# How often small data are gone through at most: preferences are soon learned by heart.
MAX_EPOCHS = 3


def dpo(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: DpoSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Unpack[DpoKeywords],
) -> TrainResult:
    """Train on pairs of a preferred and a rejected answer by DPO; arguments as for `train`."""
    chosen = (settings or DpoSettings()).with_values(**changes)
    job = make_job("dpo", model, data, out, chosen, valid)
    return run_job(job, build_preference, resume=resume, callbacks=callbacks, cancel=cancel)


def orpo(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: OrpoSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Unpack[OrpoKeywords],
) -> TrainResult:
    """Train on pairs of a preferred and a rejected answer by ORPO; arguments as for `train`."""
    chosen = (settings or OrpoSettings()).with_values(**changes)
    job = make_job("orpo", model, data, out, chosen, valid)
    return run_job(job, build_preference, resume=resume, callbacks=callbacks, cancel=cancel)


def kto(
    model: str | Path,
    data: Sources,
    out: str | Path,
    settings: KtoSettings | None = None,
    *,
    valid: Sources = (),
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
    **changes: Unpack[KtoKeywords],
) -> TrainResult:
    """Train on desirable and undesirable answers by KTO; arguments as for `train`."""
    chosen = (settings or KtoSettings()).with_values(**changes)
    job = make_job("kto", model, data, out, chosen, valid)
    return run_job(job, build_preference, resume=resume, callbacks=callbacks, cancel=cancel)


def build_preference(job: TrainingJob, text: TextSide) -> Prepared:
    """Read and encode the data of a preference job; raises DataError with all that is wrong with them."""
    settings = job.settings
    assert isinstance(settings, TrainSettings), "the job is of this kind"
    check_modules(text.config, settings)
    encoder = make_encoder(text, settings)
    make_units = _kto_units if job.kind == "kto" else _pair_units
    reader = DataReader(job.data, job.valid, settings)
    records = [reader.train(), reader.valid()]
    units, valid = (make_units(part, encoder, settings, reader.problems) for part in records)
    notes = (*reader.notes(), *unit_notes(units, valid), *column_notes(records[0]))
    units, valid = keep_judged(units, settings.max_length), keep_judged(valid, settings.max_length) if valid else []
    if not valid and settings.valid_share:
        units, valid = split_off(units, settings.valid_share, settings.seed)
        notes += (split_note(valid),)
    min_row = settings.row_length or LEAST_ROW
    requested = settings.batch_size or BATCH_SIZE
    sizes = [requested] if settings.batch_size else [n for n in (requested, requested // 2, 1) if n]
    # Memory goes by rows, of which a unit's sequences may need one each at the worst.
    each = len(units[0].sequences)
    shapes = {n: row_shape([*units, *valid], n, min_row) for n in sizes}
    rows = [RowShape(_rows(units, shapes[n], each), shapes[n].length, shapes[n].longest) for n in sizes]
    plan = plan_memory(text.config, settings, rows)
    size = sizes[[row.batch_size for row in rows].index(plan.batch_size)]
    chosen = settings.with_values(
        batch_size=size, accumulate=settings.accumulate * -(-requested // size), checkpointing=plan.keep, memory=None
    )
    objective = Preference(
        units,
        valid,
        unit_loss(chosen),
        shape=shapes[size],
        vocab_size=text.config.vocab_size,
        keep=plan.keep,
        seed=settings.seed,
        referenced=job.kind != "orpo",
    )
    chosen = with_epochs(chosen, objective.per_epoch, MAX_EPOCHS)
    shown = [unit.sequences[0] for unit in valid or units if unit.sign > 0]
    return Prepared(
        objective,
        AdapterProduct(text, chosen),
        chosen,
        (*notes, *plan.notes, *length_notes(chosen, objective.per_epoch)),
        shown,
    )


def unit_loss(settings: TrainSettings) -> UnitLoss:
    """Return the loss that the settings describe."""
    if isinstance(settings, DpoSettings):
        return dpo_loss(settings.beta, settings.loss, settings.label_smoothing)
    if isinstance(settings, OrpoSettings):
        return orpo_loss(settings.beta)
    assert isinstance(settings, KtoSettings), "the three kinds have settings of their own"
    return kto_loss(settings.beta, settings.desirable_weight, settings.undesirable_weight)


def _pair_units(
    records: Sequence[Record], encoder: ExampleEncoder, _settings: TrainSettings, problems: list[str]
) -> list[Unit]:
    """Return the pairs; what is wrong with others is added to `problems`."""
    units = []
    for pair in read_pairs(records, problems):
        sides = _judged(encoder, (pair.chosen, pair.rejected), problems)
        if sides:
            units.append(Unit(sides, where=pair.where))
    return units


def _kto_units(
    records: Sequence[Record], encoder: ExampleEncoder, settings: TrainSettings, problems: list[str]
) -> list[Unit]:
    labeled = read_labeled(records, problems)
    judged = [(item, sides[0]) for item in labeled if (sides := _judged(encoder, (item.sample,), problems))]
    if not judged:
        return []
    others = mismatched([example for _, example in judged], settings.seed)
    return [
        Unit((example, other), 1.0 if item.desirable else -1.0, example.where)
        for (item, example), other in zip(judged, others, strict=True)
    ]


def _judged(encoder: ExampleEncoder, samples: Sequence[Sample], problems: list[str]) -> tuple[Example, ...]:
    """Return the sequences with only the judged answers marked; none where one of them can't be encoded."""
    try:
        return tuple(last_turn([encoder(sample) for sample in samples]))
    except (DataError, DialogError) as error:
        problems.append(f"{samples[0].where}: {error}")
        return ()


def keep_judged(units: Sequence[Unit], max_length: int) -> list[Unit]:
    """Return the units of whose every sequence something is left to judge; raises DataError if there is none."""
    kept = [unit for unit in units if _is_judged(unit)]
    if not kept:
        raise DataError(
            f"in all {len(units)} examples the answers lie beyond max_length {max_length}: raise it or shorten the "
            "prompts"
        )
    return kept


def _is_judged(unit: Unit) -> bool:
    return all(sequence.n_targets for sequence in unit.sequences)


def unit_notes(units: Sequence[Unit], valid: Sequence[Unit]) -> tuple[str, ...]:
    """Return what to tell of the data: how many, and what was cut."""
    notes = []
    for name, part in (("train", units), ("validate", valid)):
        if part:
            lost = sum(not _is_judged(unit) for unit in part)
            cut = sum(any(sequence.truncated for sequence in unit.sequences) for unit in part)
            text = f"{name} on {len(part) - lost:,} examples" + (f"; {cut:,} cut to max_length" if cut else "")
            notes.append(text + (f"; {lost:,} left out, with no answer left after the cut" if lost else ""))
    return tuple(notes)


def _rows(units: Sequence[Unit], shape: RowShape, each: int) -> int:
    """Return how many rows a batch takes at most."""
    longest = sorted((sum(sequence.length for sequence in unit.sequences) for unit in units), reverse=True)
    total = sum(longest[: shape.batch_size])
    return min(shape.batch_size * each, -(-total // shape.length) + 1)


__all__ = ["build_preference", "dpo", "kto", "orpo"]
