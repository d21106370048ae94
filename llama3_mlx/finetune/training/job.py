"""One run from its inputs to its result, whatever the objective: check, plan, load, train or resume, finish."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...adapters.adapter import put_into
from ...adapters.mlx_lm_format import read_adapter
from ...adapters.rescaling import adapter_base
from ...chat.dialog import Dialog, load_dialog
from ...checkpoint.folder import ModelFolder
from ...checkpoint.loading import load_model
from ...device import bounded_cache, wired_memory
from ...errors import TrainingError
from ...files import disk_errors, save_json
from ...library.resolver import resolve_model
from ...model.config import ModelConfig
from ...model.transformer import LlamaForCausalLM
from ...model.unpacked import unpack_products
from ...tokenizer.loading import load_tokenizer
from ...tokenizer.tokenizer import Tokenizer
from ...trees import flatten
from .. import distributed
from ..data.encoding import Example
from ..layers.attach import attach, choose_full, unfreeze_full
from ..layers.dropout import Noise
from ..layers.targets import choose_paths, make_targets, read_ranks
from ..objectives.objective import Objective
from ..objectives.supervised import Supervised
from ..settings import TrainSettings
from .callbacks import Callback
from .loggers import make_loggers
from .report import write_png, write_report
from .run_folder import MetricsFile, Saves, clear_unfinished, read_run, start_folder
from .samples import Probe, answers, make_probes
from .state import load_state
from .trainer import Hooks, Trainer

BEFORE = "before.json"
# Settings that don't change what a step computes, and the length of the run, which may be extended.
_FREE = frozenset(
    (
        "steps",
        "epochs",
        "memory",
        "valid_every",
        "patience",
        "save_every",
        "samples",
        "sample_tokens",
        "report",
        "png",
        "loggers",
    )
)


@dataclass(frozen=True)
class TrainingJob:
    """What to train on what, and where the result goes."""

    kind: str
    model: str
    data: tuple[str, ...]
    valid: tuple[str, ...]
    out: Path
    settings: TrainSettings


@dataclass(frozen=True)
class TextSide:
    """All of a model but its weights."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    dialog: Dialog | None
    notes: tuple[str, ...] = ()
    """What was decided where the folder's files contradict one another."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `ended` is done, cancelled or early; losses are means over target tokens: the last
    step's and the best validation's.
    """

    folder: Path
    ended: str
    steps: int
    total_steps: int
    loss: float | None
    valid_loss: float | None
    best_step: int
    target_tokens: int
    seconds: float
    test_loss: float | None = None


@dataclass(frozen=True)
class Prepared:
    """An objective, the settings with all that was left open decided, and what to tell of the decisions."""

    objective: Objective
    settings: TrainSettings
    notes: tuple[str, ...] = ()
    shown: Sequence[Example] = ()


Build = Callable[[TrainingJob, TextSide], Prepared]


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
    prepared = build(job, text)
    objective, job = prepared.objective, replace(job, settings=prepared.settings)
    fingerprint = job_fingerprint(job, objective, text.config)
    if distributed.rank() == 0:
        _prepare_folder(job, fingerprint, resume=resume)
    for callback in callbacks:
        callback.on_plan((*text.notes, *prepared.notes))
    with bounded_cache(), wired_memory():
        model, noise = load_for_training(text, job.settings)
        bind = getattr(objective, "bind", None)
        if bind:
            bind(model)
        trainer = Trainer(model, objective, job.settings, noise)
        if resume:
            trainer.restore(*load_state(job.out, fingerprint))
        saves = Saves(job.out, fingerprint, base=base_name(job.model), validated=trainer.validates)
        listeners = list(callbacks)
        first = distributed.rank() == 0
        if first:
            loggers = make_loggers(job.settings.loggers, job.out)
            listeners = [MetricsFile(job.out, trainer.progress.step), *loggers, *listeners]
        trainer.hooks = Hooks(
            listeners,
            cancel.is_set if cancel else lambda: False,
            saves.save if first else lambda _: None,
            saves.save_best if first else lambda _: None,
        )
        plan = {
            "model": base_name(job.model),
            "settings": job.settings.to_dict(),
            "total_steps": trainer.total_steps,
            "step": trainer.progress.step,
            "trained_parameters": sum(array.size for _, array in flatten(trainer.params)),
            "notes": prepared.notes,
        }
        for callback in listeners:
            callback.on_start(plan)
        probes = make_probes(prepared.shown, text.tokenizer, job.settings.samples) if first else []
        if probes:
            _announce(listeners, "generating sample answers before training")
        before = _before(job, model, text, probes)
        ended = trainer.run()
        if ended != "cancelled":
            _announce(listeners, "testing and generating sample answers" if probes else "testing")
        test_loss = _test_loss(job, trainer) if ended != "cancelled" else None
        result = _result(job, trainer, ended, test_loss)
        if first:
            _write_reports(job, model, text, probes, before, result)
        for callback in listeners:
            callback.on_end(result)
    return result


def _announce(listeners: Sequence[Callback], stage: str) -> None:
    for callback in listeners:
        callback.on_stage(stage)


def load_text_side(model: str) -> TextSide:
    """Return config, tokenizer and dialog format of a model."""
    folder = resolve_model(model)
    opened = ModelFolder(folder)
    tokenizer = load_tokenizer(opened)
    return TextSide(folder, opened.config, tokenizer, load_dialog(opened, tokenizer), opened.notes)


def base_name(model: str) -> str:
    """Return what an adapter calls its base: the Hub id, or the folder's name without where it lies."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def load_for_training(text: TextSide, settings: TrainSettings) -> tuple[LlamaForCausalLM, Noise]:
    """Return the model with trainable layers in it, and the source of their dropout."""
    model = load_model(text.folder, dtype=settings.dtype, join=False)
    # Asked for even without an adapter: what makes the model unfit for one must not show at the first save.
    base = adapter_base(model)
    start = read_adapter(Path(settings.start_from).expanduser(), base) if settings.start_from else None
    paths = choose_paths(model, settings.target_names, settings.layers)
    ranks = read_ranks(settings.rank_for)
    targets = make_targets(paths, settings.rank, settings.alpha, ranks, rslora=settings.rslora)
    noise = prepare_model(model, targets, settings)
    if start:
        put_into(model, start)
    return model, noise


def prepare_model(model: LlamaForCausalLM, targets: Sequence[Any], settings: TrainSettings) -> Noise:
    """Put trainable layers into a loaded model."""
    chosen = choose_full(model, settings.modules_to_save)
    kept = [target for target in targets if target.path not in chosen]
    unpack_products(model)
    noise = attach(model, kept, dropout=settings.dropout, dora=settings.dora, seed=settings.seed)
    unfreeze_full(model, chosen)
    if not model.trainable_parameters():
        raise TrainingError("nothing is to be trained: name targets or modules_to_save")
    return noise


def job_fingerprint(job: TrainingJob, objective: Objective, config: ModelConfig) -> str:
    """Return a digest of all that decides what a step computes."""
    settings = {name: value for name, value in job.settings.to_dict().items() if name not in _FREE}
    parts = [job.kind, settings, objective.fingerprint(), asdict(config), distributed.size()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def resumed_job(out: Path, changes: dict[str, Any], kind: type[TrainSettings] = TrainSettings) -> TrainingJob:
    """Return the job of a run's folder, with some settings changed."""
    values = read_run(out)
    settings = kind.from_dict({**values["settings"], **changes})
    return TrainingJob(values["kind"], values["model"], tuple(values["data"]), tuple(values["valid"]), out, settings)


def _prepare_folder(job: TrainingJob, fingerprint: str, *, resume: bool) -> None:
    values = {
        "kind": job.kind,
        "model": job.model,
        "data": list(job.data),
        "valid": list(job.valid),
        "settings": job.settings.to_dict(),
    }
    if resume:
        load_state(job.out, fingerprint)
        clear_unfinished(job.out)
    else:
        start_folder(job.out, values)


def _before(job: TrainingJob, model: LlamaForCausalLM, text: TextSide, probes: Sequence[Probe]) -> list[str]:
    """Return the answers of the model as training found it: a resumed run has them in a file."""
    path = job.out / BEFORE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if len(found) == len(probes) else [""] * len(probes)
    made = answers(model, probes, text.tokenizer, text.tokenizer.stop_ids, job.settings.sample_tokens)
    if made:
        with disk_errors(job.out):
            save_json(path, made)
    return made


def _write_reports(
    job: TrainingJob,
    model: LlamaForCausalLM,
    text: TextSide,
    probes: Sequence[Probe],
    before: Sequence[str],
    result: TrainResult,
) -> None:
    if not job.settings.report and not job.settings.png:
        return
    if result.ended == "cancelled":
        # Who stops a run doesn't want to wait.
        probes, before = (), ()
    after = answers(model, probes, text.tokenizer, text.tokenizer.stop_ids, job.settings.sample_tokens)
    samples = [
        {"prompt": probe.shown, "expected": probe.expected, "before": old, "after": new}
        for probe, old, new in zip(probes, before, after, strict=True)
    ]
    values = {name: value for name, value in asdict(result).items() if name != "folder"}
    with disk_errors(job.out):
        if job.settings.report:
            write_report(job.out, values, samples)
        if job.settings.png:
            write_png(job.out)


def _test_loss(job: TrainingJob, trainer: Trainer) -> float | None:
    """Return the loss on the test data of the adapter that is left in the folder, None without any.

    The trainer has that adapter's values afterwards.
    """
    batches = trainer.objective.test() if isinstance(trainer.objective, Supervised) else []
    # The folder is the first process's.
    if not batches or distributed.size() > 1:
        return None
    put_into(trainer.model, read_adapter(job.out, adapter_base(trainer.model)))
    trainer.params = trainer.model.trainable_parameters()
    return trainer.evaluate(batches)[0]


def _result(job: TrainingJob, trainer: Trainer, ended: str, test_loss: float | None) -> TrainResult:
    progress = trainer.progress
    return TrainResult(
        folder=job.out,
        ended=ended,
        steps=progress.step,
        total_steps=trainer.total_steps,
        loss=progress.last_loss,
        valid_loss=progress.best_loss,
        best_step=progress.best_step,
        target_tokens=progress.target_tokens,
        seconds=progress.seconds,
        test_loss=test_loss,
    )
