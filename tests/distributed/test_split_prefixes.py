"""The prefix cache on disk over several processes: a warm start says what a cold one does, and all must agree."""

from pathlib import Path

import pytest

from .conftest import Ask


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_prefixes_are_what_all_processes_have_of_them(split: str, small_chat: Path, ask: Ask) -> None:
    found = ask(2, "prefixes_worker", "kept", split=split, folder=str(small_chat))
    assert len({tuple(tokens) for tokens, _ in found.values()}) == 1
    blocks = {name: tokens // 128 for name, (_, tokens) in found.items()}
    # Nothing comes from one process's own prefixes or another split's; what rank 1 lacks, none takes.
    assert blocks == {
        "one": 0,
        "cold": 0,
        "warm": 3,
        "other split": 0,
        "one block": 1,
        "damaged": 0,
        "written again": 3,
    }
