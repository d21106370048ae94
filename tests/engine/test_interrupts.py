"""What ends a generation from outside: Ctrl-C whose traceback is kept, a loop that is left, a forked process."""

import copy
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx import Llama

from ..support.byte_llama import byte_llama

LONG: dict[str, Any] = {"max_tokens": 100_000, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with byte_llama() as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def default_interrupts() -> Iterator[None]:
    """Whatever ran before in this process: Ctrl-C raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_until_idle(llama: Llama) -> None:
    end = time.monotonic() + 60
    while llama.engine.running or llama.engine.waiting:
        assert time.monotonic() < end, "the engine is still at work"
        time.sleep(0.01)


def follow(llama: Llama) -> None:
    stream = llama.stream("abc", **LONG)
    for _ in stream:
        pass


@pytest.mark.parametrize(
    "work",
    [
        follow,
        lambda llama: llama.generate("abc", **LONG),
        lambda llama: llama.samples("abc", 3, **LONG),
        lambda llama: llama.generate_batch(["abc", "def"], **LONG),
    ],
    ids=["for", "generate", "samples", "generate_batch"],
)
def test_ctrl_c_ends_the_generation_while_its_traceback_is_kept(llama: Llama, work: Callable[[Llama], Any]) -> None:
    """As in a REPL, which keeps the last traceback and with it the frames that hold the stream."""

    def interrupt() -> None:
        while not llama.engine.running:
            time.sleep(0.01)
        # A person interrupts a generation that goes on, not the moment in which it is handed over.
        time.sleep(0.3)
        # A signal, as the terminal sends it: it wakes a thread that waits, which _thread.interrupt_main doesn't.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as kept:
        work(llama)
    wait_until_idle(llama)
    assert kept.traceback


def test_an_error_in_a_loop_over_a_stream_ends_the_generation_while_its_traceback_is_kept(llama: Llama) -> None:
    def loop() -> None:
        stream = llama.stream("abc", **LONG)
        for piece in stream:
            raise ValueError(piece.text)

    with pytest.raises(ValueError) as kept:
        loop()
    wait_until_idle(llama)
    assert "stream" in kept.traceback[-1].frame.f_locals


def test_a_loop_that_is_left_ends_the_generation_with_what_is_there(llama: Llama) -> None:
    stream, texts = llama.stream("abc", **LONG), []
    for piece in stream:
        texts.append(piece.text)
        if len(texts) == 3:
            break
    done = stream.completion
    assert done.finish_reason == "cancelled"
    assert done.text.startswith("".join(texts))


_FORK = """
import os, sys
from llama3_mlx import ForkError, Llama

llama = Llama.load(sys.argv[1])
stream = None
if sys.argv[2] == "used":
    llama.generate("a", max_tokens=2)
    stream = llama.stream("a", max_tokens=2)
child = os.fork()
if child == 0:
    for work in (lambda: llama.generate("a", max_tokens=2), lambda: llama.logits([1, 2]), lambda: next(stream)):
        if stream is None and work.__code__.co_names == ("next", "stream"):
            continue
        try:
            work()
        except ForkError as error:
            print(error, flush=True)
        except TypeError:
            pass
    llama.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
print("child", status, "parent", len(llama.generate("a", max_tokens=2, ignore_eos=True).token_ids))
llama.close()
"""


@pytest.mark.parametrize("state", ["used", "fresh"])
def test_a_model_is_refused_in_a_forked_process_at_once_and_continues_in_its_own(tiny_folder: Path, state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, str(tiny_folder), state],
        capture_output=True,
        text=True,
        timeout=200,
    )
    *refused, last = done.stdout.splitlines()
    assert (len(refused), last) == (3 if state == "used" else 2, "child 0 parent 2"), done.stderr
    assert all("load it in each process" in line and "gunicorn: without --preload" in line for line in refused)


def test_pickling_says_what_to_do_instead(llama: Llama) -> None:
    for work in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"can't be pickled or copied.*call Llama\.load in the other process"):
            work(llama)
