"""Verdicts from worker processes with a time limit: a verifier that hangs, or dies, costs its own message the reward and no more.

>>> with Judge(workers=2) as judge:
...     futures = [judge.submit("latex", message, "x^2") for message in messages]   # the device goes on meanwhile
...     verdicts = [future.result() for future in futures]
"""

from collections.abc import Mapping
from concurrent.futures import Future
import functools
import json
import os
import queue
import subprocess
import sys
import threading

from neuromas_jax.tasks.verify import MAX_CHARACTERS, Verdict

TIMEOUT = Verdict(0.0, "timeout", "")


class Judge:
    """A few worker processes, each with one message at a time. Use it as a context, or `close` it; it keeps no process alive.

    Args:
      workers: processes.
      limit: seconds for one message; after that its worker is killed, and the verdict is `timeout`.
    """

    def __init__(self, workers: int = 2, limit: float = 10.0):
        if workers < 1 or limit <= 0:
            raise ValueError(f"workers={workers}, limit={limit}; give 1 worker or more and a limit above 0 seconds")
        self._limit = limit
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, kind: str, message, answer: str, facts: Mapping | None = None) -> Future:
        """A future of `verifiers.verify`'s verdict; what a worker raises (no cage for code, say) comes as RuntimeError."""
        known = message if isinstance(message, str) and len(message) <= MAX_CHARACTERS else None  # all others are alike
        future: Future = Future()
        self._jobs.put(({"kind": kind, "message": known, "answer": answer, "facts": facts or {}}, future))
        return future

    def _serve(self) -> None:
        worker = None
        while (job := self._jobs.get()) is not None:
            asked, future = job
            try:
                worker = worker if worker and worker.poll() is None else _start()
                found = _ask(worker, json.dumps(asked).encode() + b"\n", self._limit)
                if found is None:
                    worker = _end(worker)
                    future.set_result(TIMEOUT)
                elif "error" in found:
                    future.set_exception(RuntimeError(found["error"]))
                else:
                    future.set_result(Verdict(**found))
            except Exception as error:
                future.set_exception(error)
        _end(worker)

    def close(self) -> None:
        """Waits for what was submitted, and ends the workers."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@functools.cache
def shared_judge() -> Judge:
    """The judge of this process, with a worker per core."""
    return Judge(workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _start() -> subprocess.Popen:
    """A worker that is ready. Its time limit begins after it has been started."""
    worker = subprocess.Popen([sys.executable, "-m", "neuromas_jax.tasks.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if not worker.stdout.readline():
        raise RuntimeError(f"a verifier process ended as it started (exit code {worker.wait()}); see its message above")
    return worker


def _end(worker: subprocess.Popen | None) -> None:
    if worker is not None:
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            try:
                stream.close()
            except BrokenPipeError:  # what it was not sent any more
                pass


def _ask(worker: subprocess.Popen, line: bytes, limit: float) -> dict | None:
    """What the worker answers; None if it took too long or died."""
    timer = threading.Timer(limit, worker.kill)
    timer.start()
    try:
        worker.stdin.write(line)
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        return None
    finally:
        timer.cancel()
    return json.loads(answer) if answer.endswith(b"\n") else None
