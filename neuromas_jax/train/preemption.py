"""SIGTERM, as a cloud sends it before it takes a machine away: training ends after the step that it is in, saved, with a status
that launchers start it again on."""

from collections.abc import Sequence
import contextlib
import os
import signal
import subprocess

import jax
from jax.experimental import multihost_utils
import numpy as np

EXIT = 75  # EX_TEMPFAIL of sysexits.h: the same command will go on


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
    if jax.process_count() == 1:
        return _state["asked"]
    return bool(multihost_utils.process_allgather(np.asarray(_state["asked"])).any())
