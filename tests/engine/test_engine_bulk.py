"""Batches that nobody follows: prompts first, then steps of all sequences."""

import threading
import time
from pathlib import Path

from llama3_mlx import Llama

PROMPTS = [[at + 1] * (10 + 7 * at) for at in range(6)]


def test_all_prompts_of_a_batch_are_run_before_its_steps(tiny_folder: Path) -> None:
    with Llama.load(tiny_folder) as llama:
        may_start = threading.Event()
        # The engine is held until every prompt has come in.
        holder = threading.Thread(target=lambda: llama.engine.call(may_start.wait))
        holder.start()
        answers: list[tuple[int, ...]] = []

        def run() -> None:
            done = llama.generate_batch(PROMPTS, max_tokens=9, temperature=0.0, ignore_eos=True, speculate=False)
            answers.extend(completion.token_ids for completion in done)

        runner = threading.Thread(target=run)
        runner.start()
        deadline = time.monotonic() + 60
        while llama.engine.waiting < len(PROMPTS) and time.monotonic() < deadline:
            time.sleep(0.01)
        may_start.set()
        holder.join()
        runner.join()
        assert llama.engine.counts.steps == 9
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            alone = llama.generate(prompt, max_tokens=9, temperature=0.0, ignore_eos=True, speculate=False)
            assert alone.token_ids == answer


def test_a_batch_larger_than_the_engine_takes_at_once_comes_through(tiny_folder: Path) -> None:
    with Llama.load(tiny_folder, max_sequences=2) as llama:
        done = llama.generate_batch(PROMPTS, max_tokens=4, temperature=0.0, ignore_eos=True)
    assert [len(completion.token_ids) for completion in done] == [4] * len(PROMPTS)
