"""SIGTERM, as a cloud sends it before it takes a machine away: training ends after the step that it is in, saved, with a status
that launchers start it again on."""

from collections.abc import Sequence
import contextlib
import os
import signal
import subprocess

from neuromas_jax.parallel.distributed import EXIT, any_of_all


class Preempted(Exception):
    """The run was told to end, and its state is saved."""


_state = {"training": False, "asked": False}


def listen(others: Sequence[subprocess.Popen] = ()) -> None:
    """From now on SIGTERM ends this run, and the processes it started: at once where nothing is being trained."""

    def terminate(*_):
        for process in others:
            process.terminate()
        if not _state["training"]:
            os._exit(EXIT)  # at once: unwinding through what XLA compiles or runs has crashed
        _state["asked"] = True

    signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def training():
    """A block that looks at `asked` after each step."""
    before = _state["training"]
    _state["training"] = True
    try:
        yield
    finally:
        _state["training"] = before


def asked() -> bool:
    """Whether SIGTERM has come, to whichever of a run's processes; all of them hear of it after the same step."""
    return any_of_all(_state["asked"])
