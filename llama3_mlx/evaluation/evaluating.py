"""Runs benchmarks with lm-evaluation-harness on a loaded model."""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Llama3MLXError, MissingExtraError, RequestError
from ..llama import Llama
from .benchmarks import Benchmark, benchmarks_of, check_names
from .figures import Evaluation, Outcome, read_figures, read_samples
from .options import EvalOptions

if TYPE_CHECKING:
    from .language_model import HarnessModel

OutcomeCallback = Callable[[Outcome], None]
# Resamples for the errors of metrics that are no means.
_RESAMPLES = 1000


def check_harness() -> None:
    """Raise MissingExtraError where lm-evaluation-harness isn't installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError.of("benchmarks need lm-evaluation-harness", "eval")


def evaluate(
    llama: Llama,
    tasks: Sequence[str],
    options: EvalOptions | None = None,
    report: OutcomeCallback | None = None,
) -> Evaluation:
    """Run benchmarks on a model.

    Args:
        llama: The model; an adapter that it was loaded with is applied.
        tasks: Names of the harness' tasks and groups, and of presets: llama3-base, llama3-instruct.
        options: How they are run.
        report: Called with the outcome of each benchmark when it is done.

    Returns:
        The outcomes; a benchmark whose data can't be had, or that can't run, says why in its outcome's `problem`.

    Raises:
        RequestError: There is no such task, or a setting doesn't fit.
        MissingExtraError: lm-evaluation-harness isn't installed.
    """
    options = options or EvalOptions()
    check_harness()
    if options.data is not None and not options.data.expanduser().is_dir():
        raise RequestError(f"there is no folder {options.data} with data sets")
    benchmarks = benchmarks_of(tasks, options)
    with _quiet_harness():
        from .language_model import HarnessModel

        model = HarnessModel(llama, max_length=options.max_length)
        manager = _task_manager(*_task_files(options.tasks_folder))
        check_names(benchmarks, manager.all_tasks)
        outcomes = []
        for benchmark in benchmarks:
            outcomes.append(_outcome(model, manager, benchmark, options))
            if report is not None:
                report(outcomes[-1])
    return Evaluation(llama.folder.name, outcomes)


def _task_files(folder: Path | None) -> tuple[Path | None, frozenset[tuple[str, int]]]:
    """Return the folder of a user's tasks, and its files with the times of their last change."""
    if folder is None:
        return None, frozenset()
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder} with tasks")
    return folder, frozenset((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())


@lru_cache(2)
def _task_manager(folder: Path | None, files: frozenset[tuple[str, int]]) -> Any:  # noqa: ARG001  # for the cache
    """Return the harness' index of tasks, which takes seconds to make; `files` tell whether it still holds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if folder is None else str(folder))


def _outcome(model: "HarnessModel", manager: Any, benchmark: Benchmark, options: EvalOptions) -> Outcome:
    problem = _refusal(model, benchmark, options)
    if problem is not None:
        return Outcome(benchmark, problem=problem)
    import lm_eval

    try:
        with _data_folder(options.data):
            results = lm_eval.simple_evaluate(
                model=model,
                tasks=[benchmark.task],
                task_manager=manager,
                num_fewshot=benchmark.shots,
                limit=options.limit,
                apply_chat_template=benchmark.chat,
                fewshot_as_multiturn=benchmark.chat,
                system_instruction=options.system,
                bootstrap_iters=_RESAMPLES,
                confirm_run_unsafe_code=options.unsafe_code,
            )
    except OSError as error:
        return Outcome(benchmark, problem=_missing_data(error))
    except (ImportError, Llama3MLXError) as error:
        return Outcome(benchmark, problem=" ".join(str(error).split()))
    except (AssertionError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return Outcome(benchmark, problem=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Outcome(benchmark, read_figures(results), read_samples(results))


def _refusal(model: "HarnessModel", benchmark: Benchmark, options: EvalOptions) -> str | None:
    """Return why a benchmark isn't run at all, None if it is."""
    if benchmark.task is None:
        return "lm-evaluation-harness has no such task"
    if benchmark.unsafe and not options.unsafe_code:
        return "it runs the programs that the model writes: allow it with --unsafe-code, in a sandbox"
    if benchmark.chat and model.llama.dialog is None:
        return f"{model.llama.folder.name} is a base model without a chat template: evaluate it with --no-chat"
    return None


def _missing_data(error: OSError) -> str:
    words = " ".join(str(error).split())[:300]
    return (
        f"its data is neither on this machine nor could it be downloaded ({words}); with a network, get it by "
        "hf download --repo-type dataset OWNER/NAME --local-dir FOLDER/OWNER/NAME, then give --data FOLDER"
    )


def _data_folder(folder: Path | None) -> AbstractContextManager[None]:
    """Return what makes the names of data sets paths in a folder, as `datasets` reads them where they exist."""
    return nullcontext() if folder is None else chdir(folder.expanduser())


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Let the harness report errors alone, and start no processes: they would be forked from one that runs MLX."""
    logger = logging.getLogger("lm_eval")
    level, multiproc = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        logger.setLevel(level)
        if multiproc is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = multiproc
