"""In a pipeline, each process has a batch's pass at hand while the others have those of other batches."""

import pytest

from ..support.small_chat import save_small_chat
from .conftest import Ask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small_chat(tmp_path_factory.mktemp("model") / "small", num_hidden_layers=4))


@pytest.mark.parametrize("size", [2, 3])
def test_rank_0_runs_a_pass_for_each_process_while_the_others_stand(size: int, model: str, ask: Ask) -> None:
    found = ask(size, "groups_worker", "stopped", folder=model)
    assert found["count"] == size + 1
    assert found["difference"] < 1e-5


@pytest.mark.parametrize("size", [2, 3])
def test_groups_take_turns_and_as_many_passes_are_under_way_as_processes(size: int, model: str, ask: Ask) -> None:
    found = ask(size, "groups_worker", "engine", folder=model)
    assert found["all"] == found["one"]
    begun = [cache for what, cache in found["events"] if what == "begin"]
    completed = [cache for what, cache in found["events"] if what == "complete"]
    # What comes back comes in the order of what was sent.
    assert completed == begun
    depths, depth = [], 0
    for what, _ in found["events"]:
        depth += 1 if what == "begin" else -1
        depths.append(depth)
    assert max(depths) == size
    assert depths.count(size) >= 8 * size
    turns = [begun[at : at + size] for at in range(len(begun))]
    assert sum(len(set(turn)) == size for turn in turns) >= 8 * size
    assert len(set(begun)) == size


def test_mixed_requests_over_three_processes_answer_as_in_one(model: str, ask: Ask) -> None:
    found = ask(3, "engine_worker", "compare", split="pipeline", folder=model, count=60)
    assert not found["differing"]
    assert found["cached"][1] > 256


def test_a_preempted_sequence_goes_on_in_whatever_group(model: str, ask: Ask) -> None:
    found = ask(2, "groups_worker", "preempted", folder=model)
    assert found["preempted"] > 0
    assert found["all"] == found["one"]
