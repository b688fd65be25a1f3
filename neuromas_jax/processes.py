"""Processes that others start."""

import ctypes
import signal
import sys


def end_with_parent(sent: signal.Signals) -> None:
    """Has the system send this process a signal when the one that started it ends, even by `kill -9`; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, sent)  # PR_SET_PDEATHSIG
