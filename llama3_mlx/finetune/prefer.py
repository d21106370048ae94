"""`dpo`, `orpo` and `kto`: from a model and judged answers to an adapter folder, in one call."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .callbacks import Callback
from .encode import Encoder, Example, encode_all
from .errors import DataError
from .formats import Labelled, Pair, Sample, read_labelled, read_pairs
from .job import Job, Prepared, TextSide, TrainResult, run_job
from .memory import plan_memory
from .preference import Preference, Unit, UnitLoss, dpo_loss, kto_loss, mismatched, orpo_loss, row_shape
from .preference_settings import DpoSettings, KtoSettings, OrpoSettings
from .records import Record, read_records
from .settings import TrainSettings
from .sft import BATCH_SIZE, LEAST_ROW, Sources, listed, make_encoder, valid_records
from .supervised import RowShape

KINDS: dict[str, type[TrainSettings]] = {"dpo": DpoSettings, "orpo": OrpoSettings, "kto": KtoSettings}


def dpo(
    model: str | Path, data: Sources, out: str | Path, settings: DpoSettings | None = None, **run: Any
) -> TrainResult:
    """Train on pairs of a preferred and a rejected answer by DPO; arguments as for `train`."""
    return prefer("dpo", model, data, out, settings, **run)


def orpo(
    model: str | Path, data: Sources, out: str | Path, settings: OrpoSettings | None = None, **run: Any
) -> TrainResult:
    """Train on pairs of a preferred and a rejected answer by ORPO; arguments as for `train`."""
    return prefer("orpo", model, data, out, settings, **run)


def kto(
    model: str | Path, data: Sources, out: str | Path, settings: KtoSettings | None = None, **run: Any
) -> TrainResult:
    """Train on answers that are wanted or not by KTO; arguments as for `train`."""
    return prefer("kto", model, data, out, settings, **run)


def prefer(
    kind: str,
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
    """Train by the preference loss of that name."""
    chosen = (settings or KINDS[kind]()).with_values(**changes)
    job = Job(kind, str(model), listed(data), listed(valid), Path(out).expanduser(), chosen)
    return run_job(job, build_preference, resume=resume, callbacks=callbacks, cancel=cancel)


def build_preference(job: Job, text: TextSide) -> Prepared:
    """Read and encode the data of a preference job; raises DataError with all that is wrong with them."""
    settings = job.settings
    encoder = make_encoder(text, settings)
    make_units = _kto_units if job.kind == "kto" else _pair_units
    units = make_units(read_records(job.data), encoder, settings)
    valid = make_units(valid_records(job), encoder, settings)
    if not valid and settings.valid_share:
        units, valid = _split_off(units, settings.valid_share, settings.seed)
    asked = settings.row_length or LEAST_ROW
    wanted = settings.batch_size or BATCH_SIZE
    sizes = [wanted] if settings.batch_size else [n for n in (wanted, wanted // 2, 1) if n]
    # Memory goes by rows, of which a unit's sequences may need one each at the worst.
    each = len(units[0].sequences)
    shapes = {n: row_shape([*units, *valid], n, asked) for n in sizes}
    rows = [RowShape(_rows(units, shapes[n], each), shapes[n].length, shapes[n].longest) for n in sizes]
    plan = plan_memory(text.config, settings, rows)
    size = sizes[[row.batch_size for row in rows].index(plan.batch_size)]
    chosen = settings.with_values(
        batch_size=size, accumulate=settings.accumulate * -(-wanted // size), checkpointing=plan.keep, memory=None
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
    notes = (f"train on {len(units):,}" + (f", validate on {len(valid):,}" if valid else ""), *plan.notes)
    return Prepared(objective, chosen, notes)


def unit_loss(settings: TrainSettings) -> UnitLoss:
    """Return the loss that the settings describe."""
    if isinstance(settings, DpoSettings):
        return dpo_loss(settings.beta, settings.loss, settings.label_smoothing)
    if isinstance(settings, OrpoSettings):
        return orpo_loss(settings.beta)
    assert isinstance(settings, KtoSettings), "the three kinds have settings of their own"
    return kto_loss(settings.beta, settings.wanted_weight, settings.unwanted_weight)


def _pair_units(records: Sequence[Record], encoder: Encoder, _settings: TrainSettings) -> list[Unit]:
    pairs: list[Pair] = read_pairs(records)
    sides = [_last_turn(encode_all(encoder, [get(pair) for pair in pairs])) for get in (_chosen, _rejected)]
    units = [Unit((a, b), where=a.where) for a, b in zip(*sides, strict=True)]
    return _with_targets(units)


def _kto_units(records: Sequence[Record], encoder: Encoder, settings: TrainSettings) -> list[Unit]:
    labelled: list[Labelled] = read_labelled(records)
    examples = _last_turn(encode_all(encoder, [item.sample for item in labelled]))
    others = mismatched(examples, settings.seed)
    units = [
        Unit((example, other), 1.0 if item.wanted else -1.0, example.where)
        for item, example, other in zip(labelled, examples, others, strict=True)
    ]
    return _with_targets(units)


def _chosen(pair: Pair) -> Sample:
    return pair.chosen


def _rejected(pair: Pair) -> Sample:
    return pair.rejected


def _last_turn(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with only the last run of trained tokens marked: the answer that was judged."""
    made = []
    for example in examples:
        marks = example.trained.copy()
        ends = np.flatnonzero(marks[:-1] & ~marks[1:])
        stretches = [end for end in ends if marks[end + 1 :].any()]
        if stretches:
            marks[: stretches[-1] + 1] = False
        made.append(Example(example.ids, marks, example.where, example.truncated))
    return made


def _with_targets(units: Sequence[Unit]) -> list[Unit]:
    kept = [unit for unit in units if all(sequence.n_trained for sequence in unit.sequences)]
    if units and not kept:
        raise DataError("the answers of all examples lie beyond max_length: raise it or shorten the prompts")
    return kept


def _rows(units: Sequence[Unit], shape: RowShape, each: int) -> int:
    """Return how many rows a batch takes at most."""
    longest = sorted((sum(sequence.length for sequence in unit.sequences) for unit in units), reverse=True)
    total = sum(longest[: shape.batch_size])
    return min(shape.batch_size * each, -(-total // shape.length) + 1)


def _split_off(units: Sequence[Unit], share: float, seed: int) -> tuple[list[Unit], list[Unit]]:
    order = np.random.default_rng([seed, 1]).permutation(len(units)).tolist()
    n_valid = min(max(1, round(share * len(units))), len(units) - 1)
    return [units[i] for i in sorted(order[n_valid:])], [units[i] for i in sorted(order[:n_valid])]


__all__ = ["build_preference", "dpo", "kto", "orpo", "prefer"]
