"""What is the same in every run of the harness is done once."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.tasks._index import TaskIndex


@pytest.fixture(scope="session", autouse=True)
def cheap_harness() -> Iterator[None]:
    """Index the harness' own tasks once, and start no programs that tell of the machine: each takes seconds."""
    build, own = TaskIndex.build, Path(lm_eval.__file__).parent / "tasks"

    @cache
    def own_index() -> dict[str, Any]:
        return build([own])

    def index(paths: Iterable[Path]) -> dict[str, Any]:
        others = [path for path in paths if path != own]
        return {**(own_index() if own in paths else {}), **build(others)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskIndex, "build", staticmethod(index))
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield
