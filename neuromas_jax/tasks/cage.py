"""Runs programs that a model wrote: in a process of its own, with nothing that it could harm. Linux alone.

>>> run_caged(["def add(a, b):\\n    return a + b", "assert add(1, 2) == 3"])
True

What the cage keeps out is said in `caged.py`. What it cannot know: whether a program that passes its tests does so honestly. It
runs in one process with them, so one that looks for its judge there (an object that equals everything, say) may fool it.
"""

import functools
import json
from pathlib import Path
import secrets
import subprocess
import sys
import tempfile

INSIDE = Path(__file__).with_name("caged.py")


def run_caged(texts: list[str], seconds: float = 5.0, memory: int = 2**30, size: int = 2**20) -> bool:
    """Whether all texts ran one after another, in one namespace, without raising anything.

    Args:
      texts: Python programs, the tests last.
      seconds: of wall time, and of CPU time (rounded up).
      memory: most bytes of address space.
      size: most bytes of a file.

    Raises:
      RuntimeError: this system has no cage: nothing was run.
    """
    word = secrets.token_hex(16)
    job = {"texts": texts, "word": word, "seconds": int(seconds) + 1, "memory": memory, "size": size}
    with tempfile.TemporaryDirectory(prefix="caged") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-X", "utf8", str(INSIDE)], input=json.dumps(job).encode(), capture_output=True,
                cwd=folder, env={}, timeout=seconds, start_new_session=True)
        except subprocess.TimeoutExpired:  # it has been killed; it cannot have started others
            return False
    if done.stdout.startswith(b"uncaged") or (done.returncode not in (0, 1) and not done.stdout and done.stderr):
        reason = (done.stdout or done.stderr).decode(errors="replace")[-200:]
        raise RuntimeError(f"programs cannot be run safely here ({reason}): "
                           "code tasks need Linux 5.13 or later with seccomp and Landlock, on x86-64 or arm64")
    return done.returncode == 0 and done.stdout == word.encode()


@functools.cache
def check_cage() -> None:
    """Raises RuntimeError where there is no cage, before any question is asked."""
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"programs cannot be run safely on {sys.platform}: code tasks need Linux 5.13 or later")
    if not run_caged(["x = 1 + 1", "assert x == 2"], seconds=20.0):
        raise RuntimeError("programs cannot be run safely here: a harmless one did not come back from the cage")
