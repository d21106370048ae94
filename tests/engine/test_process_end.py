"""The interpreter ends while threads that used the library are still there: no abort.

MLX's random key of a thread takes the interpreter's lock when the thread ends (ml-explore/mlx#4110); a daemon thread
ends as soon as it asks for the lock of an interpreter that is ending.
"""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys, threading, time
from llama3_mlx import Llama

done = threading.Event()

def work():
    with Llama.load(sys.argv[1]) as llama:
        llama.generate("a", max_tokens=4)
    done.set()
    while True:
        time.sleep(0.0005)

threading.Thread(target=work, daemon=True).start()
assert done.wait(120)
"""


def test_a_thread_that_used_a_model_may_outlive_the_interpreter(tiny_folder: Path) -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(tiny_folder)], capture_output=True, text=True, timeout=200
        )
        assert (done.returncode, done.stderr) == (0, "")
