"""Runs of many processes: when there are several, who writes, and where they wait for each other.

All processes run the same program on the same files of a shared folder, in the same order. The first one writes; nobody goes on
before it has, and it does not begin before all others have arrived, so that what is read decides alike everywhere.
"""

from collections.abc import Sequence
import json
import os
import re
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


EXIT = 75  # EX_TEMPFAIL of sysexits.h: the same command will go on


def start() -> bool:
    """Joins the other processes where the environment says that there are some, before JAX starts; returns whether it does.

    It says so by JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, by the number of tasks of a Slurm
    step or of Open MPI; by the list of workers or of slices of a TPU in GKE; or by NEUROMAS_PROCESSES=auto, where JAX can ask
    the machine itself, as on a Cloud TPU.

    Raises:
      ValueError: one of the three variables is missing or no number, or the others cannot be reached.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        try:
            count, own = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        except (KeyError, ValueError) as error:
            raise ValueError(f"JAX_COORDINATOR_ADDRESS is {address!r}, and with it JAX_NUM_PROCESSES and JAX_PROCESS_ID must be "
                             f"numbers ({error}); set all three, or none for a run of one process") from error
        options = dict(coordinator_address=address, num_processes=count, process_id=own)
    elif os.environ.get("NEUROMAS_PROCESSES", "auto") != "auto":
        raise ValueError(f"NEUROMAS_PROCESSES is {os.environ['NEUROMAS_PROCESSES']!r}; it must be 'auto', or not be set where "
                         "there is one process or another variable says how many")
    elif (any(int(os.environ.get(name) or 1) > 1
              for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES"))
          or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or os.environ.get("NEUROMAS_PROCESSES") == "auto"):
        options = {}  # JAX knows these clusters
    else:
        return False
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the other processes cannot be reached ({error}); start all of them, with the same "
                         "JAX_COORDINATOR_ADDRESS; where there are none, unset NEUROMAS_PROCESSES and what a scheduler left in "
                         "the environment") from error
    return True


def is_first() -> bool:
    return jax.process_index() == 0


def together(place: str = "here") -> None:
    """Waits until all processes are here; nothing where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def agreed(values: Sequence[int], most: int = 16) -> list[int]:
    """What the first process says, of up to `most` numbers from 0 on; the last ones if there are more."""
    if jax.process_count() == 1:
        return list(values)
    padded = np.full(most, -1, np.int32)
    padded[: len(values[-most:])] = values[-most:]
    return [int(value) for value in multihost_utils.broadcast_one_to_all(padded) if value >= 0]


def gathered(value: Any) -> list:
    """What each process has, in their order: anything that JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    return [json.loads(row[:size].tobytes()) for row, size in zip(multihost_utils.process_allgather(padded), sizes)]


def lost(error: Exception) -> bool:
    """Whether an error says that another process of the run is gone: the words with which XLA and Orbax report what became of a
    message to it, or of waiting for it."""
    told = re.search(r"Gloo|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|[Bb]arrier|heartbeat", str(error))
    return jax.distributed.is_initialized() and told is not None


def stop(error: Exception, status: int) -> None:
    """Says why a command ends, and ends it: with 75, to be started again, where another process is gone, else with `status`."""
    if lost(error):
        print(f"another process of this run is gone, its own log says why ({error}); the same command, given to all processes "
              "again, goes on from the last checkpoints", file=sys.stderr)
        end(EXIT)
    print(f"error: {error}", file=sys.stderr)
    end(status)


def end(status: int) -> None:
    """Ends the program. One of many processes goes at once: JAX's own way out waits for all, a minute for one that is gone, and
    then aborts."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def any_of_all(value: bool) -> bool:
    """Whether any process says so."""
    return bool(multihost_utils.process_allgather(np.asarray(value)).any()) if jax.process_count() > 1 else value


def on_host(x: Any) -> np.ndarray:
    """An array whole on this process, wherever its parts lie."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
