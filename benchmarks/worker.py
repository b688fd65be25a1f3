"""One side of a comparison as a process of its own: pinned to one core, told what to do line by line."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable


def one_thread() -> None:
    """Pins this process to one core, before a library has counted the cores. Where the system cannot, the flags that
    `compare` sets keep the libraries to one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def serve(commands: dict[str, Callable[[], dict]]) -> None:
    """Answers each line of the standard input, the name of a command, by a JSON line: what the command returned, with its
    wall and CPU seconds (all threads of the process) added. Ends with the input. A command may print what it likes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            wall, cpu = time.perf_counter(), time.process_time()
            found = commands[line.strip()]()
            cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(found | cost), file=answers, flush=True)
