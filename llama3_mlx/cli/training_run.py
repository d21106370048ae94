"""What the training commands share: inputs to a job, progress on stderr, Ctrl-C, the result on stdout."""

import argparse
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..errors import RequestError
from ..finetune import distributed
from ..finetune.data.sources import anchored, as_sources
from ..finetune.settings import RunSettings, TrainSettings
from ..finetune.training.callbacks import Callback, StepReport, ValidationReport
from ..finetune.training.job import Build, TrainingJob, TrainResult, make_job, resumed_job
from ..finetune.training.run_folder import read_run
from ..finetune.training.running import run_job
from ..json_types import JsonMapping
from ..units import size_text
from .model_choice import choose_model
from .terminal import show, tell
from .training_inputs import gather

INTERRUPT_CODE = 130


def run_training(
    args: argparse.Namespace, kind: str, build: Build, settings_kind: type[RunSettings] = TrainSettings
) -> int:
    """Run a training command; its exit code is 130 if Ctrl-C ended it, 143 for SIGTERM, with all saved."""
    return run_prepared(args, job_of(args, kind, settings_kind), build)


def run_prepared(args: argparse.Namespace, job: TrainingJob, build: Build) -> int:
    """Run a job and report; its exit code as that of `run_training`."""
    # Of several processes the first one speaks.
    first = distributed.rank() == 0
    with cancel_on_interrupt() as cancel:
        shown = [TrainingProgress()] if first and not args.quiet else []
        try:
            result = run_job(job, build, resume=bool(args.resume), callbacks=shown, cancel=cancel)
        finally:
            for progress in shown:
                progress.close()
    if first:
        show(result_line(result))
    if result.ended == "cancelled" and first:
        tell(f"stopped at step {result.steps}; resume with: llama3-mlx {job.kind} --resume {result.folder}")
    return cancel.exit_code if result.ended == "cancelled" else 0


def job_of(args: argparse.Namespace, kind: str, settings_kind: type[RunSettings]) -> TrainingJob:
    """Return the job that the arguments describe."""
    inputs, values = gather(args, settings_kind)
    if args.resume:
        folder = Path(args.resume).expanduser()
        known = read_run(folder)["kind"]
        if known != kind:
            raise RequestError(f"{args.resume} is a run of {known}: resume it with llama3-mlx {known} --resume")
        job = resumed_job(folder, values, settings_kind)
        own = {"model": job.model, "data": job.data, "valid": job.valid, "out": job.out}
        inputs["out"] = inputs["out"] and Path(inputs["out"]).expanduser().absolute()
        inputs["model"] = inputs["model"] and anchored(str(inputs["model"]))
        inputs |= {name: as_sources(inputs[name]) for name in ("data", "valid")}
        others = [f"--{name}" for name, value in inputs.items() if value and value != own[name]]
        if others:
            raise RequestError(
                f"{' and '.join(others)} can't change in a resumed run: leave it out, or start a new run with "
                "--start-from"
            )
        return job
    settings = settings_kind.from_dict(values)
    model = str(choose_model(inputs["model"])) if inputs["model"] is None else inputs["model"]
    return make_job(kind, model, inputs["data"], inputs["out"], settings, inputs["valid"])


@contextmanager
def cancel_on_interrupt() -> Iterator["Cancellation"]:
    """Give an event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    cancel = Cancellation()

    def interrupted(number: int, _frame: FrameType | None) -> None:
        if cancel.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        cancel.exit_code = 128 + number
        cancel.set()
        sys.stderr.write("\nfinishing this step and saving; Ctrl-C again to stop at once\n")

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Cancellation(threading.Event):
    """Set by a signal; `exit_code` is what the shell expects of a process that it ended."""

    exit_code = INTERRUPT_CODE


def result_line(result: TrainResult) -> str:
    """Return the result in one line."""
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    valid = "" if result.valid_loss is None else f", validation {result.valid_loss:.4f} (step {result.best_step})"
    test = "" if result.test_loss is None else f", test {result.test_loss:.4f}"
    return (
        f"{result.folder}: {result.steps} of {result.total_steps} steps{loss}{valid}{test}, "
        f"{result.target_tokens:,} target tokens in {result.seconds:.1f} s"
    )


class TrainingProgress(Callback):
    """Live on a terminal; elsewhere ten lines or so."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._seconds: list[float] = []
        self._every = 1
        # What stands in the line that the cursor is in: nothing, what may be written over, or what stays.
        self._open = self._passing = False

    def on_plan(self, notes: Sequence[str]) -> None:
        for line in notes:
            self._line(line)

    def on_start(self, plan: JsonMapping) -> None:
        self._every = 1 if self.live else max(1, plan["total_steps"] // 10)
        if self.live:
            # The first step may take its time.
            self._line(f"step {plan['step']}/{plan['total_steps']}", "", passing=True)

    def on_step(self, report: StepReport) -> None:
        self._seconds = [*self._seconds[-19:], report.seconds]
        if report.step % self._every and report.step not in (1, report.total_steps):
            return
        last = report.step == report.total_steps
        left = (report.total_steps - report.step) * sum(self._seconds) / len(self._seconds)
        more = _shown(report.more)
        text = (
            f"step {report.step}/{report.total_steps}: loss {report.loss:.4f}{more}, "
            f"{report.tokens_per_second:.0f} tokens/s, {size_text(report.peak_bytes)}"
            + ("" if last else f", {_clock(left)} left")
        )
        self._line(text, "" if self.live else "\n")

    def on_stage(self, name: str) -> None:
        self.close()
        self._line(f"{name} …", "" if self.live else "\n", passing=self.live)

    def on_encoding(self, done: int, total: int) -> None:
        if self.live:
            self._line(f"encoding example {done:,} of {total:,}", "", passing=True)

    def on_validation(self, report: ValidationReport) -> None:
        more = _shown(report.more)
        best = ", the best so far" if report.best else ""
        self.close()
        self._line(f"step {report.step}: validation loss {report.loss:.4f}{more}{best}")

    def _line(self, text: str, end: str = "\n", *, passing: bool = False) -> None:
        """Write a line over the one that the cursor is in; a passing one leaves nothing behind."""
        if end:
            sys.stderr.write("\r\x1b[K" if self.live else "")
            tell(text)
        else:
            # A line that the terminal wraps can't be written over.
            sys.stderr.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stderr.flush()
        self._open, self._passing = not end, passing

    def close(self) -> None:
        """End the line that is being written over, so that what follows has one of its own, or take it away."""
        if self._open:
            sys.stderr.write("\r\x1b[K" if self._passing else "\n")
            self._open = False


def _shown(more: Mapping[str, float]) -> str:
    """Return further figures, without those that are numbered: the report has them all."""
    return "".join(f", {name} {value:.3f}" for name, value in more.items() if not name[-1].isdigit())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
