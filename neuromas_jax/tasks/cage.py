"""Runs programs that a model wrote: in a process of its own, with nothing that it could harm. Linux alone.

>>> run_caged(["def add(a, b):\\n    return a + b", "assert add(1, 2) == 3"])
True

What the cage keeps out is said in `caged.py`. What it cannot know: whether a program that passes its tests does so honestly. It
runs in one process with them, so one that looks for its judge there, or answers with an object that equals everything, may fool
it; `verifiers` refuses programs that name the usual ways.
"""

import functools
import json
import os
from pathlib import Path
import secrets
import select
import subprocess
import sys
import time

INSIDE = Path(__file__).with_name("caged.py")
LOCKED, START = b"locked", 20.0  # what it says when it is locked in, and seconds to get there


def run_caged(texts: list[str], seconds: float = 5.0, memory: int = 2**30) -> bool:
    """Whether all texts ran one after another, as one module, without raising anything.

    Args:
      texts: Python programs, the tests last.
      seconds: of wall time, and of CPU time (rounded up).
      memory: most bytes of address space.

    Raises:
      RuntimeError: this system has no cage: nothing was run. No program can bring it about: it is read only behind the bars.
    """
    word = secrets.token_hex(16).encode()
    with subprocess.Popen([sys.executable, "-I", "-S", "-X", "utf8", str(INSIDE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, cwd="/", env={}, start_new_session=True) as child:
        try:
            _send(child, json.dumps({"seconds": int(seconds) + 1, "memory": memory}).encode() + b"\n")
            said = _read(child, len(LOCKED), START)
            if said != LOCKED:
                reason = (said + _read(child, 200, 1.0)).decode(errors="replace") or f"exit code {child.poll()}"
                raise RuntimeError(f"programs cannot be run safely here ({reason}): code tasks need Linux 6.2 or later with "
                                   "seccomp and Landlock, on x86-64 or arm64")
            if not _send(child, json.dumps(texts).encode() + b"\n" + word + b"\n"):
                return False
            return _read(child, len(word) + 1, seconds) == word
        finally:
            child.kill()


def _send(child: subprocess.Popen, data: bytes) -> bool:
    try:
        child.stdin.write(data)
        child.stdin.flush()
        return True
    except BrokenPipeError:
        return False


def _read(child: subprocess.Popen, most: int, seconds: float) -> bytes:
    """Up to so many bytes, less where the child ends or the time is over."""
    found, end = b"", time.monotonic() + seconds
    while len(found) < most and (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([child.stdout], [], [], left)
        part = os.read(child.stdout.fileno(), most - len(found)) if ready else b""
        if not part:
            break
        found += part
    return found


@functools.cache
def check_cage() -> None:
    """Raises RuntimeError where there is no cage, before any question is asked."""
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"programs cannot be run safely on {sys.platform}: code tasks need Linux 6.2 or later")
    if not run_caged(["x = 1 + 1", "assert x == 2"], seconds=20.0):
        raise RuntimeError("programs cannot be run safely here: a harmless one did not come back from the cage")
