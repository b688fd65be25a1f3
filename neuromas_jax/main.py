"""Trains and evaluates what a config describes.

    python -m neuromas_jax.main --config=configs/quickstart.py --workdir=runs/quickstart [--config.test_questions=64 ...]

Running the same command again goes on where it stopped.
"""

import contextlib
import dataclasses
from pathlib import Path
import os
import signal
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from neuromas_jax.command import local_folder, parse_flags, use_compilation_cache
from neuromas_jax.parallel import distributed
from neuromas_jax.processes import end_with_parent

_CONFIG = config_flags.DEFINE_config_file(  # any key may be given, set by the file or not; `config.parse` knows the allowed ones
    "config", "configs/quickstart.py", "The experiment, as an ml_collections file.",
    lock_config=False, accept_new_attributes=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Local folder where everything is written, or a mounted one; a second call goes on there.")
_WORKER = flags.DEFINE_integer("worker", 0, "Number of this process; set by the first one for those it starts.")
_DRY = flags.DEFINE_bool("dry_run", False, "Print graphs, prompts, budgets and estimates of memory and operations; do nothing.")
_CACHE = flags.DEFINE_string(
    "compilation_cache", "~/.cache/neuromas_jax/xla", "Folder of compiled programs, gs:// too; empty for none.")


def backend() -> str:
    """Name of the backend that JAX runs on. Raises ValueError where it cannot start."""
    try:
        return jax.default_backend()
    except RuntimeError as error:
        raise ValueError(f"JAX cannot start its backend: {error}; name one that is there in the environment, such as "
                         "JAX_PLATFORMS=cpu, or install the extra tpu or cuda") from error


def share_machine(config, worker: int):
    """Keeps a process that works beside others to one core: processes share a machine better than threads.

    An accelerator is left to one process, which keeps all cores.

    Returns:
      The config, with as many workers as will run, and the cores that they share; no cores where the system cannot pin.
    """
    from neuromas_jax.experiments.run import CORES

    if config.workers == 1:
        return config, []
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    # Only a process that another one started reads the variable: a shell may still hold that of some other run.
    cores = [int(core) for core in os.environ.get(CORES, "").split()] if worker else allowed
    if cores:
        os.sched_setaffinity(0, {cores[worker % len(cores)]})  # before JAX counts the cores to start threads
    if backend() == "cpu":
        return config, cores
    for thread in Path("/proc/self/task").iterdir() if cores else ():
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.sched_setaffinity(int(thread.name), allowed)
    logging.warning("config.workers is %d and the backend is %s: this one process does all the work, since an accelerator such "
                    "as a TPU admits one process", config.workers, backend())
    return dataclasses.replace(config, workers=1), []


def main(arguments):
    from neuromas_jax.config import parse
    from neuromas_jax.experiments.check import check
    from neuromas_jax.experiments.run import run_experiment, run_workers
    from neuromas_jax.train import preemption

    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --workdir, or --config.name=value")
    try:
        workdir = local_folder(_WORKDIR.value)
        use_compilation_cache("" if _DRY.value else _CACHE.value)
        if _DRY.value:
            from neuromas_jax.experiments.dry_run import dry_run

            print(dry_run(parse(_CONFIG.value)))
            return
        config = parse(_CONFIG.value)
        if distributed.start():
            config, cores = dataclasses.replace(config, workers=1), []
        else:
            config, cores = share_machine(config, _WORKER.value)
        backend()  # an error before anything else, where it cannot start
        if _WORKER.value == 0:
            check(config, workdir)
    except (ValueError, OSError) as error:  # OSError: a file or folder that is missing or cannot be read
        distributed.stop(error, 2)
    except RuntimeError as error:
        if not distributed.lost(error):
            raise
        distributed.stop(error, 2)
    logging.info("jax %s on %s", jax.__version__, jax.devices())
    try:
        if _WORKER.value:
            end_with_parent(signal.SIGTERM)
            preemption.listen()
            run_experiment(config, workdir, _WORKER.value)
            return
        table = run_workers(config, workdir, sys.argv[1:], cores)
        if distributed.is_first():
            print(table)
    except preemption.Preempted as error:
        print(f"{error}; the same command goes on there", file=sys.stderr)
        sys.exit(distributed.EXIT)
    except Exception as error:  # a defect too: one of many processes must not wait for the others on its way out
        logging.exception("stopped")
        distributed.stop(error, 1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        distributed.end(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
