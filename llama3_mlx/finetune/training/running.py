"""One run from its inputs to its result, whatever the objective: check, plan, load, train or resume, finish."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...device import bounded_cache, wired_memory
from ...errors import DataError, Llama3MLXError, RequestError
from ...trees import flatten
from .. import distributed
from ..settings import TrainSettings
from .callbacks import Callback
from .finish import samples_before, write_reports
from .job import Build, Prepared, TextSide, TrainingJob, TrainResult, base_name, dated, job_fingerprint, load_text_side
from .loggers import check_loggers, make_loggers
from .product import Product
from .report import check_png
from .run_folder import MetricsFile, Saves, clear_unfinished, start_folder
from .state import load_state
from .trainer import Hooks, Trainer


def run_job(
    job: TrainingJob,
    build: Build,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    cancel: threading.Event | None = None,
) -> TrainResult:
    """Run a job to its end; `build` makes the objective before the weights are loaded, so that bad data are cheap."""
    text = load_text_side(job.model)
    check_loggers(job.settings.loggers)
    if job.settings.png:
        check_png()
    job, text = dated(job, text, resume=resume)
    for callback in callbacks:
        callback.on_stage("reading and encoding the data")
    prepared = build(job, replace(text, progress=lambda *counts: _tell_encoding(callbacks, *counts)))
    job = replace(job, settings=prepared.settings)
    fingerprint = job_fingerprint(job, prepared.objective, text.config)
    if distributed.rank() == 0:
        _prepare_folder(job, fingerprint, resume=resume)
    for callback in callbacks:
        callback.on_plan((*text.notes, *prepared.notes))
    with bounded_cache(), wired_memory():
        model, noise = prepared.product.load()
        trainer = Trainer(model, prepared.objective, job.settings, noise)
        if resume:
            trainer.restore(*load_state(job.out, fingerprint))
        trainer.hooks = _hooks(job, fingerprint, prepared.product, trainer, callbacks, cancel)
        return _train(job, text, prepared, trainer)


def _tell_encoding(callbacks: Sequence[Callback], done: int, total: int) -> None:
    for callback in callbacks:
        callback.on_encoding(done, total)


def _train(job: TrainingJob, text: TextSide, prepared: Prepared, trainer: Trainer) -> TrainResult:
    plan = {
        "model": base_name(job.model),
        "settings": job.settings.to_dict(),
        "total_steps": trainer.total_steps,
        "step": trainer.state.step,
        "trained_parameters": sum(array.size for _, array in flatten(trainer.params)),
        "notes": prepared.notes,
    }
    for callback in trainer.hooks.callbacks:
        callback.on_start(plan)
    first = distributed.rank() == 0
    shown = prepared.shown if first and isinstance(job.settings, TrainSettings) and job.settings.samples else ()
    samples = bool(shown)
    if samples:
        _announce(trainer, "generating sample answers before training")
    before = samples_before(job, trainer.model, text, shown, trainer.hooks.cancelled)
    ended = _run(trainer, job.out)
    if ended != "cancelled":
        _announce(trainer, "testing and generating sample answers" if samples else "testing")
    test_loss = _test_loss(job, prepared.product, trainer) if ended != "cancelled" else None
    result = _result(job, trainer, ended, test_loss)
    if first:
        write_reports(job, trainer.model, text, before, result)
    for callback in trainer.hooks.callbacks:
        callback.on_end(result)
    return result


def _announce(trainer: Trainer, stage: str) -> None:
    for callback in trainer.hooks.callbacks:
        callback.on_stage(stage)


def _hooks(
    job: TrainingJob,
    fingerprint: str,
    product: Product,
    trainer: Trainer,
    callbacks: Sequence[Callback],
    cancel: threading.Event | None,
) -> Hooks:
    """Return what the loop tells and needs; of several processes the first one alone writes."""
    cancelled = cancel.is_set if cancel else lambda: False
    if distributed.rank():
        return Hooks(callbacks, cancelled)
    saves = Saves(job.out, fingerprint, product, base=base_name(job.model), validated=trainer.objective.validates)
    loggers = make_loggers(job.settings.loggers, job.out)
    listeners = [MetricsFile(job.out, trainer.state.step), *loggers, *callbacks]
    return Hooks(listeners, cancelled, saves.save, saves.save_best)


def _run(trainer: Trainer, folder: Path) -> str:
    """Train; an error on the way that leaves good steps says that they are saved and how to resume."""
    try:
        return trainer.run()
    except (DataError, RequestError) as error:
        if not trainer.saved_step:
            raise
        raise type(error)(f"{error}. {_saved(trainer, folder)}") from error
    except Llama3MLXError:
        raise
    except Exception as error:
        if trainer.saved_step:
            error.add_note(_saved(trainer, folder))
        raise


def _saved(trainer: Trainer, folder: Path) -> str:
    return f"The state of step {trainer.saved_step} is saved: mend this, then resume the run in {folder} (--resume)"


def _prepare_folder(job: TrainingJob, fingerprint: str, *, resume: bool) -> None:
    if resume:
        load_state(job.out, fingerprint)
        clear_unfinished(job.out)
    else:
        start_folder(job.out, job.to_dict())


def _test_loss(job: TrainingJob, product: Product, trainer: Trainer) -> float | None:
    """Return the loss on the test data of what is left in the folder, None without any.

    The trainer has those values afterwards.
    """
    batches = trainer.objective.test()
    # The folder is the first process's.
    if not batches or distributed.size() > 1:
        return None
    product.restore(trainer.model, job.out)
    trainer.params = trainer.model.trainable_parameters()
    return trainer.losses.evaluate(trainer.params, batches)[0]


def _result(job: TrainingJob, trainer: Trainer, ended: str, test_loss: float | None) -> TrainResult:
    state = trainer.state
    return TrainResult(
        folder=job.out,
        ended=ended,
        steps=state.step,
        total_steps=trainer.total_steps,
        loss=state.last_loss,
        valid_loss=state.best_loss,
        best_step=state.best_step,
        target_tokens=state.target_tokens,
        seconds=state.seconds,
        test_loss=test_loss,
    )
