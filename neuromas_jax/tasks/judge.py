"""Verdicts from worker processes with a time limit: a verifier that hangs, or dies, costs its own message the reward and no more.

>>> with Judge(workers=2) as judge:
...     futures = [judge.submit("latex", message, "x^2") for message in messages]   # the device goes on meanwhile
...     verdicts = [future.result() for future in futures]
"""

import atexit
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import functools
import json
import os
import queue
import select
import subprocess
import sys

from neuromas_jax.tasks.verify import MAX_CHARACTERS, Verdict

TIMEOUT = Verdict(0.0, "timeout", "")


class Judge:
    """A few worker processes, each with one message at a time. Use it as a context, or `close` it.

    Args:
      workers: processes.
      limit: seconds for one message; after that its worker is killed, and the verdict is `timeout`.
    """

    def __init__(self, workers: int = 2, limit: float = 10.0):
        if workers < 1 or limit <= 0:
            raise ValueError(f"workers={workers}, limit={limit}; give 1 worker or more and a limit above 0 seconds")
        self._limit = limit
        self._free: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(workers):
            self._free.put(None)  # started when first needed
        self._threads = ThreadPoolExecutor(workers, "judge")

    def submit(self, kind: str, message, answer: str, facts: Mapping | None = None) -> Future:
        """A future of `verifiers.verify`'s verdict; what a worker raises (no cage for code, say) comes as RuntimeError."""
        return self._threads.submit(self._judge, {"kind": kind, "message": message, "answer": answer, "facts": facts or {}})

    def _judge(self, job: dict) -> Verdict:
        text = job["message"]
        if not isinstance(text, str) or len(text) > MAX_CHARACTERS:  # nothing that is not text has a verdict of its own
            job["message"] = None
        worker = self._free.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = _start()
            answer = _ask(worker, json.dumps(job), self._limit)
            if answer is None:
                worker.kill()
                worker.wait()
                return TIMEOUT
        finally:
            self._free.put(worker)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return Verdict(**answer)

    def close(self) -> None:
        """Waits for what was submitted, and ends the workers."""
        self._threads.shutdown()
        while not self._free.empty():
            worker = self._free.get()
            if worker is not None:
                worker.stdin.close()
                worker.stdout.close()
                worker.kill()
                worker.wait()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@functools.cache
def shared_judge() -> Judge:
    """The judge of this process, with a worker per core; it ends with the process."""
    judge = Judge(workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    atexit.register(judge.close)
    return judge


def _start() -> subprocess.Popen:
    """A worker that is ready. Its time limit begins after it has been started."""
    worker = subprocess.Popen([sys.executable, "-m", "neuromas_jax.tasks.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if not worker.stdout.readline():
        raise RuntimeError(f"a verifier process ended as it started (exit code {worker.wait()}); see its message above")
    return worker


def _ask(worker: subprocess.Popen, line: str, limit: float) -> dict | None:
    """What the worker answers; None if it took too long or died."""
    try:
        worker.stdin.write(line.encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    ready, _, _ = select.select([worker.stdout], [], [], limit)
    answer = worker.stdout.readline() if ready else b""
    return json.loads(answer) if answer.endswith(b"\n") else None
