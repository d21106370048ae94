"""A process that leads some others for the checks of many tests: it is started once.

Run as `python -m tests.distributed.node_host SIZE`. A request is a line on standard input in JSON: module, function and
arguments; the answer is a line on standard output. Checks get the number of processes before their arguments.

A check that hangs, be it in MLX with Python's lock held, ends the process with the stacks of all threads on stderr. The
processes that it leads end with it.
"""

import faulthandler
import importlib
import json
import os
import sys
import traceback

# Below the time limit of a test.
CHECK_S = 200.0
_LEAVE_S = 30.0


def main() -> None:
    size = int(sys.argv[1])
    # The engine's tests, which run here, too, lay their models on these processes; see support/byte_llama.py.
    os.environ["LLAMA3_MLX_TEST_NODES"] = str(size)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        module, function, arguments = json.loads(line)
        faulthandler.dump_traceback_later(CHECK_S, exit=True)
        try:
            check = getattr(importlib.import_module(module), function)
            answer = {"found": check(size, **arguments)}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    # The others are let go by what runs at exit.
    faulthandler.dump_traceback_later(_LEAVE_S, exit=True)


if __name__ == "__main__":
    main()
